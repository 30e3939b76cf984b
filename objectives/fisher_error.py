"""Squared errors of weights, each weighted by its Fisher information."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from evo_mpq.objectives.second_order import SecondOrderObjective, half_squares
from evo_mpq.predict.statistics.fisher import PROBES, fisher_diagonal
from evo_mpq.predict.statistics.layer_losses import LayerLosses


@dataclass(frozen=True)
class FisherError(SecondOrderObjective):
    """``½ sum of F ΔW²`` with the Fisher diagonal of every weight, in nats; modelled: from the policy alone.

    The score of the allocation method ``fisher``, see there; `SecondOrderObjective` tells what it counts.

    Attributes:
        probes: random gradients per calibration sample.
    """

    probes: int = PROBES

    name = "fisher_error"

    def layer_losses(self) -> LayerLosses[Any]:
        """The quadratic form of the diagonal."""
        return LayerLosses(partial(fisher_diagonal, probes=self.probes, seed=self.seed), half_squares)
