"""Share of right predictions."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from evo_mpq.measure.objectives import Batch
from evo_mpq.objectives.classes import ClassObjective, labels, predictions, sample_means


@dataclass(frozen=True)
class Accuracy(ClassObjective):
    """Share of predictions that equal the label, in 0…1.

    NaN where the outputs hold NaN or ``inf``; such a candidate fails.
    """

    name = "accuracy"
    unit = ""
    direction = "maximize"

    def per_sample(self, outputs: Tensor, batch: Batch) -> Tensor:
        """``(n,)`` share of a sample's predictions."""
        dim = self.class_dim(outputs)
        predicted, undefined = predictions(outputs, dim)
        return sample_means(predicted.eq(labels(batch, dim)) + undefined)
