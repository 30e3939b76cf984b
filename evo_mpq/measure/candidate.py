"""One way to compress a network, as objectives see it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

from evo_mpq.space.policy import UNTOUCHED, Policy

if TYPE_CHECKING:
    from torch import nn


class Layer(Protocol):
    """What a candidate reads of a layer of the network, or of a product of two activations inside attention."""

    @property
    def name(self) -> str:
        """Path of the weight in the user's network, without ``.weight``."""

    @property
    def kind(self) -> str:
        """``"conv1d"``, ``"conv2d"``, ``"linear"``, ``"embedding"`` or ``"product"``."""

    @property
    def macs(self) -> int:
        """Multiply-accumulate operations per sample."""


class Network(Protocol):
    """What a candidate reads of the network."""

    @property
    def layers(self) -> Sequence[Layer]:
        """Layers whose weights can be quantized, in graph order."""

    @property
    def other_macs(self) -> int:
        """Multiply-accumulate operations per sample outside the layers, e.g. products inside attention."""

    @property
    def other_parameters(self) -> int:
        """Number of parameters that are no layer's weight: biases, normalizations."""


class Active(Protocol):
    """What is left of a layer under a policy."""

    @property
    def layer(self) -> Layer:
        """As it is in the network."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of its weight without removed channels."""

    @property
    def n_parameters(self) -> int:
        """Number of weights that remain."""

    @property
    def macs(self) -> int:
        """Multiply-accumulate operations per sample."""


class Compressor(Protocol):
    """What a candidate asks of the compressor."""

    @property
    def network(self) -> Network:
        """The network that is compressed; never modified."""

    def apply(self, policy: Policy) -> nn.Module:
        """The standalone compressed network."""

    def packed_bytes(self, policy: Policy) -> int:
        """Length of the packed file in bytes, from the policy alone."""

    def active_layers(self, policy: Policy) -> Sequence[Active]:
        """What is left of every layer that is computed, in graph order."""

    def other_macs(self, policy: Policy) -> int:
        """Multiply-accumulate operations per sample that are left outside of layers."""

    def other_parameters(self, policy: Policy) -> int:
        """Number of parameters that are left and are no layer's weight."""


@dataclass(frozen=True, slots=True)
class CandidateLayer:
    """One active layer of a candidate, as it is after compression; layers of dropped blocks are not active.

    Attributes:
        name: path of the weight in the user's network, without ``.weight``.
        kind: ``"conv1d"``, ``"conv2d"``, ``"linear"``, ``"embedding"``, or ``"product"`` for a matrix product of two
            activations inside attention.
        shape: of the weight, without pruned channels.
        n_parameters: number of weights that remain.
        macs: multiply-accumulate operations per sample that remain.
        weight_bits: bits of a weight, or of the second operand of a product; 32 is float.
        activation_bits: bits of an element of the layer's input; 32 is float.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    n_parameters: int
    macs: int
    weight_bits: int
    activation_bits: int


class Candidate:
    """A policy and what it makes of the network; everything is computed on first use.

    An objective that only reads `policy`, `layers`, `network`, `compressor` and `packed_bytes` is free: it builds
    nothing, so it is computed for every genome that the search thinks of. One that calls `module` is measured.

    Args:
        policy: what is done to every layer.
        compressor: what does it.
    """

    def __init__(self, policy: Policy, compressor: Compressor) -> None:
        self.policy = policy
        self._compressor = compressor

    @property
    def network(self) -> Network:
        """The network that is compressed."""
        return self._compressor.network

    @property
    def compressor(self) -> Compressor:
        """What compresses the network, the same for all candidates: for what is computed from single weights."""
        return self._compressor

    @cached_property
    def layers(self) -> tuple[CandidateLayer, ...]:
        """The active layers in graph order."""
        return tuple(map(self._layer, self._compressor.active_layers(self.policy)))

    def _layer(self, active: Active) -> CandidateLayer:
        layer = active.layer
        is_product = layer.kind == "product"  # which a policy need not name
        choice = self.policy.layers.get(layer.name, UNTOUCHED) if is_product else self.policy.layers[layer.name]
        return CandidateLayer(
            layer.name,
            layer.kind,
            active.shape,
            active.n_parameters,
            active.macs,
            choice.activation_bits if is_product else choice.weight_bits,
            choice.activation_bits,
        )

    @cached_property
    def other_macs(self) -> int:
        """Multiply-accumulate operations per sample that remain outside of layers, e.g. products inside attention."""
        return self._compressor.other_macs(self.policy)

    @cached_property
    def other_parameters(self) -> int:
        """Number of parameters that remain and are no layer's weight: biases, normalizations."""
        return self._compressor.other_parameters(self.policy)

    @cached_property
    def packed_bytes(self) -> int:
        """Length of the packed file in bytes."""
        return self._compressor.packed_bytes(self.policy)

    def module(self) -> nn.Module:
        """The compressed network, which runs on its own; built once, so copy it before you change it."""
        return self._module

    @cached_property
    def _module(self) -> nn.Module:
        return self._compressor.apply(self.policy)

    def __reduce__(self) -> tuple[type[Candidate], tuple[Policy, Compressor]]:
        # without what was built: it is large, and made again where it is needed
        return Candidate, (self.policy, self._compressor)

    def __repr__(self) -> str:
        return f"Candidate({self.policy})"
