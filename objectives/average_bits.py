"""Average bits of a weight."""

from __future__ import annotations

from dataclasses import dataclass

from evo_mpq.measure.candidate import Candidate


@dataclass(frozen=True)
class AverageBits:
    """Mean bits over all weights of layers; what is left untouched counts 32."""

    name = "average_bits"
    unit = "bits"
    direction = "minimize"

    def __call__(self, candidate: Candidate) -> float:
        """Bits per weight."""
        bits = sum(layer.n_parameters * layer.weight_bits for layer in candidate.layers)
        return bits / sum(layer.n_parameters for layer in candidate.layers)
