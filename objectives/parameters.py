"""Number of parameters."""

from __future__ import annotations

from dataclasses import dataclass

from evo_mpq.measure.candidate import Candidate


@dataclass(frozen=True)
class Parameters:
    """Number of parameters, whatever their bits: weights of layers, biases, normalizations."""

    name = "parameters"
    unit = ""
    direction = "minimize"

    def __call__(self, candidate: Candidate) -> float:
        """Number of parameters."""
        return float(sum(layer.n_parameters for layer in candidate.layers) + candidate.other_parameters)
