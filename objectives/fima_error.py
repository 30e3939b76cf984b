"""Errors of layers' outputs in a low-rank Fisher metric."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from evo_mpq.compress.channels import WeightForm
from evo_mpq.compress.compressor import Compressor
from evo_mpq.objectives.second_order import SecondOrderObjective
from evo_mpq.predict.statistics.layer_losses import Forms, LayerLosses
from evo_mpq.predict.statistics.output_fisher import PROBES, OutputFisher, output_fishers, output_losses


@dataclass(frozen=True)
class FIMAError(SecondOrderObjective):
    """``½ E d' F d`` of the errors ``d = ΔW x`` of layers' outputs (FIMA-Q, arXiv 2506.11543), in nats; modelled.

    ``F`` is a diagonal plus a low rank, over the channels of each output; ``x`` is what the float network feeds the
    layer. The score of the allocation method ``fima``, see there; `SecondOrderObjective` tells what it counts. A layer
    in a dropped block loses its whole output but for the bias, as with a zero weight: ``d = -W x``.

    Attributes:
        probes: random gradients per calibration sample.
        rank: of the Fisher beyond its diagonal; 0 for the diagonal alone.
    """

    probes: int = PROBES
    rank: int = 15

    name = "fima_error"

    def layer_losses(self) -> LayerLosses[Any]:
        """The quadratic form of errors of outputs."""
        return LayerLosses(partial(output_fishers, rank=self.rank, probes=self.probes, seed=self.seed), _losses)


def _losses(
    compressor: Compressor, forms: Forms, fishers: Mapping[str, OutputFisher]
) -> dict[tuple[str, WeightForm], float]:
    return output_losses(compressor, fishers, forms)
