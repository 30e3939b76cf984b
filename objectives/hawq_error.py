"""Squared errors of weights, weighted by the average curvature of their layers."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from evo_mpq.objectives.second_order import SecondOrderObjective, half_squares
from evo_mpq.predict.statistics.layer_losses import LayerLosses
from evo_mpq.predict.statistics.traces import PROBES, average_traces


@dataclass(frozen=True)
class HAWQError(SecondOrderObjective):
    """``½ sum of tr(H)/n |ΔW|²`` over layers (HAWQ-V2, arXiv 1911.03852), in nats; modelled: from the policy alone.

    The expected divergence if errors had no preferred direction. The score of the allocation method ``hawq``, see
    there; `SecondOrderObjective` tells what it counts.

    Attributes:
        probes: random vectors of Hutchinson's estimate, per 32 calibration samples.
    """

    probes: int = PROBES

    name = "hawq_error"

    def layer_losses(self) -> LayerLosses[Any]:
        """The squared error times the average trace."""
        return LayerLosses(partial(average_traces, probes=self.probes, seed=self.seed), half_squares)
