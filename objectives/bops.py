"""Bit operations."""

from __future__ import annotations

from dataclasses import dataclass

from evo_mpq.measure.candidate import Candidate

_FLOAT_BITS = 32


@dataclass(frozen=True)
class BOPs:
    """Bit operations per sample: multiply-accumulates times weight bits times activation bits.

    What is left untouched counts 32 x 32, products of two activations (inside attention) too. Accumulators
    are not counted, so this is smaller than the formula of Baskin et al. 2018 (UNIQ), and it is no latency.
    """

    name = "bops"
    unit = "BOPs"
    direction = "minimize"

    def __call__(self, candidate: Candidate) -> float:
        """Bit operations for one sample."""
        layers = sum(layer.macs * layer.weight_bits * layer.activation_bits for layer in candidate.layers)
        return float(layers + candidate.other_macs * _FLOAT_BITS**2)
