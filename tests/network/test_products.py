"""Products of two activations inside attention: found, named, counted, and quantized only where asked."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from networks import compressor_of, network_of, same_splits
from torch import Tensor, nn
from torch.nn import functional

from evo_mpq.compress.compressor import Compressor
from evo_mpq.measure.candidate import Candidate
from evo_mpq.network.network import Network, trace_network
from evo_mpq.network.products import attention_weights, shared_heads
from evo_mpq.objectives.bops import BOPs
from evo_mpq.objectives.macs import MACs
from evo_mpq.space.policy import LayerPolicy, Policy

HEADS, TOKENS, FEATURES = 2, 5, 4
WIDTH = HEADS * FEATURES


class Attention(nn.Module):
    """Attention with projections of its own, fused or written out."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def forward(self, tokens: Tensor) -> Tensor:
        q, k, v = (
            part(tokens).unflatten(-1, (HEADS, FEATURES)).transpose(1, 2) for part in (self.query, self.key, self.value)
        )
        mask = torch.ones(TOKENS, TOKENS, dtype=torch.bool).tril()
        if self.how == "fused":
            mixed = functional.scaled_dot_product_attention(q, k, v)
        elif self.how == "causal":
            mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        elif self.how == "masked":
            mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=0.3)
        elif self.how == "grouped":
            mixed = functional.scaled_dot_product_attention(q, k[:, :1], v[:, :1], enable_gqa=True)
        else:
            scores = (q / 2) @ k.transpose(-2, -1)
            mixed = scores.masked_fill(~mask, -1e9).softmax(-1) @ v
        return mixed.transpose(1, 2).flatten(2)


class Net(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Attention(how) for _ in range(2))
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, tokens: Tensor) -> Any:
        for block in self.blocks:
            tokens = tokens + block(tokens)
        return self.head(tokens.mean(1))


HOW = ("fused", "causal", "masked", "grouped", "written out")


def traced(how: str) -> Network:
    torch.manual_seed(0)
    return trace_network(Net(how), same_splits([(torch.randn(TOKENS, WIDTH), i % 3) for i in range(16)]))


def policy_of(network: Network, bits: int) -> Policy:
    names = [site.name for site in network.sites()]
    products = {product.name for product in network.products}
    return Policy({name: LayerPolicy(32, bits if name in products else 32) for name in names})


@pytest.mark.parametrize("how", HOW)
def test_both_products_of_every_attention_are_found_in_the_order_of_the_graph(how: str) -> None:
    network = traced(how)
    assert [product.name for product in network.products] == [
        f"blocks.{i}.attention_{part}" for i in range(2) for part in ("qk", "av")
    ]
    assert [site.name for site in network.sites()][3:5] == ["blocks.0.attention_qk", "blocks.0.attention_av"]
    macs = HEADS * TOKENS * TOKENS * FEATURES
    assert [product.macs for product in network.products] == [macs] * 4
    assert network.other_macs == 0


@pytest.mark.parametrize("how", HOW)
def test_rounding_the_operands_is_what_it_says_and_float_is_left_alone(how: str) -> None:
    network = traced(how)
    compressor = Compressor(network, correction="none", edges=None)
    inputs = network.splits.search.whole().inputs
    expected = network.float_outputs(inputs)
    assert torch.equal(compressor.apply(policy_of(network, 32))(inputs), expected)
    errors = [
        float((compressor.apply(policy_of(network, bits))(inputs) - expected).abs().max()) for bits in (2, 4, 6, 8)
    ]
    assert errors[0] > errors[-1] > 0
    assert errors[-1] < 0.05 * float(expected.abs().max())


@pytest.mark.parametrize("how", HOW[:4])
def test_attention_that_is_written_out_is_the_fused_one(how: str) -> None:
    torch.manual_seed(1)
    q, k, v = (torch.randn(3, HEADS, TOKENS, FEATURES) for _ in range(3))
    mask = torch.rand(TOKENS, TOKENS) < 0.7
    mask.fill_diagonal_(True)
    every: dict[str, dict[str, Any]] = {
        "fused": {},
        "causal": {"is_causal": True},
        "masked": {"attn_mask": mask, "scale": 0.3},
        "grouped": {"enable_gqa": True},
    }
    options = every[how]
    if how == "grouped":
        k, v = k[:, :1], v[:, :1]
    expected = functional.scaled_dot_product_attention(q, k, v, **options)
    weights = attention_weights(
        q, shared_heads(k, q), options.get("attn_mask"), options.get("is_causal", False), options.get("scale")
    )
    torch.testing.assert_close(weights @ shared_heads(v, q), expected)
    torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
    numbers = torch.randn(TOKENS, TOKENS)
    expected = functional.scaled_dot_product_attention(q, k, v, attn_mask=numbers, enable_gqa=how == "grouped")
    torch.testing.assert_close(attention_weights(q, shared_heads(k, q), numbers) @ shared_heads(v, q), expected)


def test_bit_operations_of_products_follow_their_bits_and_macs_do_not() -> None:
    network = network_of("digits_vit")
    compressor = compressor_of("digits_vit")
    products = sum(product.macs for product in network.products)
    candidates = {bits: Candidate(policy_of(network, bits), compressor) for bits in (4, 8, 32)}
    assert len({MACs()(candidate) for candidate in candidates.values()}) == 1
    values = {bits: BOPs()(candidate) for bits, candidate in candidates.items()}
    assert values[8] - values[4] == products * (64 - 16)
    assert values[32] - values[8] == products * (32**2 - 64)


def test_other_products_of_activations_are_none() -> None:
    class Gram(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.into, self.out = nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, rows: Tensor) -> Any:
            rows = self.into(rows)
            return self.out((rows @ rows.transpose(1, 2) @ rows).mean(1))

    network = trace_network(Gram(), same_splits([(torch.randn(3, 4), 0) for _ in range(8)]))
    assert network.products == ()
    assert network.other_macs > 0
