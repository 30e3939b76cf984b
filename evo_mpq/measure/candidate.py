"""One way to compress a network, as objectives see it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

from evo_mpq.space.policy import Policy

if TYPE_CHECKING:
    from torch import nn


class Layer(Protocol):
    """What a candidate reads of a layer of the network."""

    @property
    def name(self) -> str:
        """Path of the weight in the user's network, without ``.weight``."""

    @property
    def kind(self) -> str:
        """``"conv1d"``, ``"conv2d"``, ``"linear"`` or ``"embedding"``."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the weight."""

    @property
    def n_parameters(self) -> int:
        """Number of weights."""

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


class Compressor(Protocol):
    """What a candidate asks of the compressor."""

    @property
    def network(self) -> Network:
        """The network that is compressed; never modified."""

    def apply(self, policy: Policy) -> nn.Module:
        """The standalone compressed network."""

    def packed_bytes(self, policy: Policy) -> int:
        """Length of the packed file in bytes, from the policy alone."""


@dataclass(frozen=True, slots=True)
class CandidateLayer:
    """One active layer of a candidate, as it is after compression.

    Attributes:
        name: path of the weight in the user's network, without ``.weight``.
        kind: ``"conv1d"``, ``"conv2d"``, ``"linear"`` or ``"embedding"``.
        shape: of the weight.
        n_parameters: number of weights.
        macs: multiply-accumulate operations per sample.
        weight_bits: bits of a weight; 32 is float.
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

    An objective that only reads `policy`, `layers`, `network` and `packed_bytes` is free: it builds nothing,
    so it is computed for every genome that the search thinks of. One that calls `module` is measured.

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

    @cached_property
    def layers(self) -> tuple[CandidateLayer, ...]:
        """The active layers in graph order."""
        return tuple(map(self._layer, self.network.layers))

    def _layer(self, layer: Layer) -> CandidateLayer:
        choice = self.policy.layers[layer.name]
        return CandidateLayer(
            layer.name,
            layer.kind,
            layer.shape,
            layer.n_parameters,
            layer.macs,
            choice.weight_bits,
            choice.activation_bits,
        )

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
