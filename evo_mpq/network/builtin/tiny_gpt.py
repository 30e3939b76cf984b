"""The built-in language model: a causal transformer on bytes, trained on ``stdlib_text``."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from evo_mpq.network.data.text import CONTEXT

N_BYTES = 256
"""What a token can be."""


class CausalAttention(nn.Module):
    """A normalization and attention to this and earlier tokens: one branch of a block."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        assert width % heads == 0, f"width {width} is no multiple of heads {heads}"
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, features: Tensor) -> Tensor:
        """``(n, n_tokens, width)`` to the same shape."""
        normed = self.norm(features)
        query, key, value = (
            project(normed).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (n, heads, n_tokens, width / heads)
            for project in (self.query, self.key, self.value)
        )
        attended = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.out(attended.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class Perceptron(nn.Module):
    """A normalization and two Linear layers, token by token: the other branch of a block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, 4 * width)
        self.gelu = nn.GELU()
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, features: Tensor) -> Tensor:
        """``(n, n_tokens, width)`` to the same shape."""
        return self.fc2(self.gelu(self.fc1(self.norm(features))))  # type: ignore[no-any-return]


class Block(nn.Module):
    """Two branches that are added to what they read (pre-norm; Radford et al. 2019)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = CausalAttention(width, heads)
        self.mlp = Perceptron(width)

    def forward(self, features: Tensor) -> Tensor:
        """``(n, n_tokens, width)`` to the same shape."""
        features = features + self.attention(features)
        return features + self.mlp(features)  # type: ignore[no-any-return]


class TinyGPT(nn.Module):
    """A language model whose embedding is the head's weight, too.

    Layers ``embedding``, ``positions``, ``blocks.0.attention.query``, …, ``blocks.3.mlp.fc2``.
    """

    def __init__(self, width: int, depth: int, heads: int, context: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(N_BYTES, width)
        self.positions = nn.Embedding(context, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        for table in (self.embedding, self.positions):  # as a head, unit variance would begin with logits of tens
            nn.init.normal_(table.weight, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        """``(n, n_tokens)`` bytes, at most ``context`` of them, to ``(n, n_tokens, 256)`` logits of the next ones."""
        places = torch.arange(tokens.shape[1], device=tokens.device)
        features = self.embedding(tokens) + self.positions(places)
        return functional.linear(self.norm(self.blocks(features)), self.embedding.weight)


def tiny_gpt(width: int = 128, depth: int = 4, heads: int = 4, context: int = CONTEXT) -> nn.Module:
    """A causal transformer on bytes with a tied head: 26 layers, 842 thousand parameters.

    Args:
        width: features of a token, a multiple of ``heads``.
        depth: transformer blocks.
        heads: attention heads.
        context: tokens that it can be called with at most.
    """
    return TinyGPT(width, depth, heads, context)
