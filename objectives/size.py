"""Bytes of the file that would be deployed."""

from __future__ import annotations

from dataclasses import dataclass

from evo_mpq.measure.candidate import Candidate


@dataclass(frozen=True)
class Size:
    """Length of the packed file in bytes: codes, scales, zero points, affines, everything else it holds."""

    name = "size"
    unit = "B"
    direction = "minimize"

    def __call__(self, candidate: Candidate) -> float:
        """Bytes, from the policy alone."""
        return float(candidate.packed_bytes)
