"""Multiply-accumulate operations."""

from __future__ import annotations

from dataclasses import dataclass

from evo_mpq.measure.candidate import Candidate


@dataclass(frozen=True)
class MACs:
    """Multiply-accumulate operations per sample, whatever their bits, products inside attention included."""

    name = "macs"
    unit = "MACs"
    direction = "minimize"

    def __call__(self, candidate: Candidate) -> float:
        """Operations for one sample."""
        return float(sum(layer.macs for layer in candidate.layers) + candidate.other_macs)
