"""Cross-entropy to the labels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from evo_mpq.measure.objectives import Batch
from evo_mpq.objectives.classes import ClassObjective, labels, sample_means


@dataclass(frozen=True)
class CrossEntropy(ClassObjective):
    """Mean negative log-likelihood of the labels in nats.

    Outputs are logits ``(n, C)``, ``(n, T, C)`` or ``(n, C, H, W)``, targets class indices ``(n,)``,
    ``(n, T)`` or ``(n, H, W)``. NaN where the outputs hold NaN or ``inf``; such a candidate fails.
    """

    name = "cross_entropy"
    unit = "nats"
    direction = "minimize"
    log_scale = True

    def per_sample(self, outputs: Tensor, batch: Batch) -> Tensor:
        """``(n,)`` mean over a sample's labels."""
        dim = self.class_dim(outputs)
        log_probabilities = torch.log_softmax(outputs, dim, dtype=torch.float64)
        likelihoods = log_probabilities.gather(dim, labels(batch, dim).unsqueeze(dim)).squeeze(dim)
        return sample_means(likelihoods).neg()
