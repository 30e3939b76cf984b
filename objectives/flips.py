"""Share of predictions that compression changes."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from evo_mpq.measure.objectives import Batch
from evo_mpq.objectives.classes import ClassObjective, predictions, reference_predictions, sample_means


@dataclass(frozen=True)
class Flips(ClassObjective):
    """Share of predictions that differ from the float network's, in 0…1; needs no labels.

    Accuracy can stay while errors move from some samples to others; this sees it (Dutta et al. 2024,
    "Accuracy is not all you need"). NaN where the outputs hold NaN or ``inf``; such a candidate fails.
    """

    name = "flips"
    unit = ""
    direction = "minimize"

    def per_sample(self, outputs: Tensor, batch: Batch) -> Tensor:
        """``(n,)`` share of a sample's predictions."""
        dim = self.class_dim(outputs)
        predicted, undefined = predictions(outputs, dim)
        return sample_means(predicted.ne(reference_predictions(batch, dim)) + undefined)
