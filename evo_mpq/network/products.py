"""Products of two activations inside attention: what can be quantized there are their operands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from evo_mpq.network.graph import Graph, Node, Ref

FUSED = "aten.scaled_dot_product_attention.default"
"""Attention as one operation: it holds both products."""

_PRODUCTS = ("aten.matmul.default", "aten.bmm.default", "aten.baddbmm.default")
_SOFTMAX = ("aten.softmax", "aten._softmax")
# What may stand between a product and the softmax, or between the softmax and a product.
_BETWEEN = (
    "aten.add.Tensor",
    "aten.mul.Tensor",
    "aten.div.Tensor",
    "aten.mul.Scalar",
    "aten.div.Scalar",
    "aten.view.default",
    "aten.reshape.default",
    "aten.unsqueeze.default",
    "aten.expand.default",
    "aten.transpose.int",
    "aten.masked_fill.Scalar",
    "aten.where.self",
    "aten.where.ScalarOther",
    "aten.to.dtype",
    "aten._to_copy.default",
    "aten.clone.default",
)

Part = Literal["qk", "av"]


@dataclass(frozen=True)
class Product:
    """One of the two matrix products of an attention.

    Attributes:
        name: ``"<module path>.attention_qk"`` or ``"….attention_av"``, with ``_1``, ``_2``, … where one repeats.
        node: the operation; that of a fused attention has two products.
        part: queries with keys, or attention weights with values.
        operands: names of the two activations; for the attention weights of a fused operation, which are no node, the
            operation's name with ``@weights`` behind.
        macs: multiply-accumulate operations per sample.
        fused: whether the operation holds the whole attention.
    """

    name: str
    node: str
    part: Part
    operands: tuple[str, str]
    macs: int
    fused: bool = False

    @property
    def kind(self) -> str:
        """``"product"``, beside the kinds of layers."""
        return "product"

    @property
    def keys(self) -> tuple[str, str]:
        """Names for the grids of its two operands."""
        return f"{self.name}@0", f"{self.name}@1"


def find_products(graph: Graph, macs: Mapping[str, int]) -> tuple[Product, ...]:
    """The products of all attentions of a network, in graph order.

    An attention is the fused operation, or two products with a softmax between them. Other products of activations
    are none, and stay float.

    Args:
        graph: the traced network.
        macs: per sample, of every node that has any.
    """
    found: list[Product] = []
    for node in graph:
        if node.target == FUSED:
            found += _fused(graph, node, macs.get(node.name, 0))
        elif node.target in _PRODUCTS and (operands := _activations(graph, node)) is not None:
            part = _part(graph, node, operands)
            if part is not None:
                found.append(Product(_name(node, part), node.name, part, operands, macs.get(node.name, 0)))
    names = [product.name for product in found]
    return tuple(
        replace(product, name=f"{product.name}_{names[:place].count(product.name) + 1}")
        if names.count(product.name) > 1
        else product
        for place, product in enumerate(found)
    )


def _name(node: Node, part: Part) -> str:
    return f"{node.module}.attention_{part}" if node.module else f"attention_{part}"


def _fused(graph: Graph, node: Node, macs: int) -> list[Product]:
    query, key, value = (arg.node for arg in node.args[:3])
    # The products have as many operations per pair of tokens as a head's keys, and its values, have features.
    features = [int(graph[name].shape[-1] or 0) for name in (key, value)]
    of_scores = macs * features[0] // max(1, sum(features))
    return [
        Product(_name(node, "qk"), node.name, "qk", (query, key), of_scores, fused=True),
        Product(_name(node, "av"), node.name, "av", (f"{node.name}@weights", value), macs - of_scores, fused=True),
    ]


def _activations(graph: Graph, node: Node) -> tuple[str, str] | None:
    """The two operands of a product, if both depend on the network's inputs."""
    operands = node.args[-2:] if node.target != "aten.baddbmm.default" else node.args[1:3]
    names = [operand.node for operand in operands if isinstance(operand, Ref) and operand.node in graph.of_samples]
    return (names[0], names[1]) if len(names) == 2 else None


def _part(graph: Graph, node: Node, operands: tuple[str, str]) -> Part | None:
    if _comes_from_softmax(graph, operands[0]):
        return "av"
    return "qk" if _goes_to_softmax(graph, node.name) else None


def _comes_from_softmax(graph: Graph, name: str) -> bool:
    node = graph[name]
    while node.target in _BETWEEN and isinstance(node.args[0], Ref):
        node = graph[node.args[0].node]
    return node.target.startswith(_SOFTMAX)


def _goes_to_softmax(graph: Graph, name: str) -> bool:
    for reader in graph.consumers[name]:
        target = graph[reader].target
        if target.startswith(_SOFTMAX) or (target in _BETWEEN and _goes_to_softmax(graph, reader)):
            return True
    return False


def attention_weights(
    query: torch.Tensor,
    key: torch.Tensor,
    mask: torch.Tensor | None = None,
    is_causal: bool = False,
    scale: float | None = None,
) -> torch.Tensor:
    """``(..., queries, keys)`` what `torch.nn.functional.scaled_dot_product_attention` multiplies the values with.

    Args:
        query: ``(..., queries, features)``.
        key: ``(..., keys, features)``.
        mask: True where a key counts, or numbers that are added to the scores.
        is_causal: whether a query sees only keys up to its own position.
        scale: of the scores; by default one over the square root of the features.
    """
    scores = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        seen = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        scores = scores.masked_fill(~seen, -torch.inf)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    return scores.softmax(-1)


@dataclass(frozen=True)
class FusedArguments:
    """The arguments of a fused attention, by name.

    Attributes:
        query: node's name.
        key: likewise.
        value: likewise.
        mask: likewise, or None.
        is_causal: see `attention_weights`.
        scale: likewise.
        grouped: whether several heads of queries share one of keys and values.
    """

    query: str
    key: str
    value: str
    mask: str | None
    is_causal: bool
    scale: float | None
    grouped: bool

    @property
    def of_weights(self) -> tuple[str, ...]:
        """What the attention weights are computed from."""
        return (self.query, self.key) if self.mask is None else (self.query, self.key, self.mask)

    @classmethod
    def of(cls, node: Node) -> FusedArguments:
        """The arguments of a node whose target is `FUSED`."""
        given: Sequence[Any] = node.args
        named = dict(node.kwargs or {})
        mask = given[3] if len(given) > 3 else named.get("attn_mask")
        return cls(
            given[0].node,
            given[1].node,
            given[2].node,
            mask.node if isinstance(mask, Ref) else None,
            bool(given[5] if len(given) > 5 else named.get("is_causal", False)),
            given[6] if len(given) > 6 else named.get("scale"),
            bool(given[7] if len(given) > 7 else named.get("enable_gqa", False)),
        )


def shared_heads(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Keys or values with each head repeated for the heads of queries that share it (axis -3)."""
    return tensor.repeat_interleave(like.shape[-3] // tensor.shape[-3], dim=-3)
