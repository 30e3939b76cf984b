"""Share of wrong predictions."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from evo_mpq.measure.objectives import Batch
from evo_mpq.objectives.classes import ClassObjective, labels, predictions, sample_means


@dataclass(frozen=True)
class ErrorRate(ClassObjective):
    """Share of predictions that differ from the label, in 0…1: 1 - accuracy.

    NaN where the outputs hold NaN or ``inf``; such a candidate fails.
    """

    name = "error_rate"
    unit = ""
    direction = "minimize"

    def per_sample(self, outputs: Tensor, batch: Batch) -> Tensor:
        """``(n,)`` share of a sample's predictions."""
        dim = self.class_dim(outputs)
        predicted, undefined = predictions(outputs, dim)
        return sample_means(predicted.ne(labels(batch, dim)) + undefined)
