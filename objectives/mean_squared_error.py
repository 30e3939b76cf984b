"""Squared distance from the float network's outputs."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from evo_mpq.measure.objectives import Batch, SampleMean
from evo_mpq.objectives.classes import sample_means


@dataclass(frozen=True)
class MeanSquaredError:
    """Mean squared difference to the float network's outputs of any shape, in the square of their unit.

    Needs no labels. Not finite where the outputs are not: such a candidate fails.
    """

    name = "mean_squared_error"
    unit = ""
    direction = "minimize"
    log_scale = True

    def start(self) -> SampleMean:
        """An empty accumulator for one candidate."""
        return SampleMean(self.per_sample)

    def per_sample(self, outputs: Tensor, batch: Batch) -> Tensor:
        """``(n,)`` mean over a sample's outputs."""
        return sample_means(outputs.double().sub(batch.reference).square_())
