"""Kullback-Leibler divergence of the compressed network from the float one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from evo_mpq.measure.objectives import Batch
from evo_mpq.objectives.classes import ClassObjective, sample_means


@dataclass(frozen=True)
class KLDivergence(ClassObjective):
    """KL(float ‖ compressed) in nats, mean over samples; needs no labels.

    ``sum_c p_c (log p_c - log q_c)`` with the float network's probabilities ``p`` and the candidate's ``q``,
    both softmax of outputs in float64, at least 0 in every sample. Not finite where the outputs are not:
    such a candidate fails.
    """

    name = "kl_divergence"
    unit = "nats"
    direction = "minimize"
    log_scale = True

    def per_sample(self, outputs: Tensor, batch: Batch) -> Tensor:
        """``(n,)`` mean over a sample's predictions."""
        dim = self.class_dim(outputs)
        probabilities, negative_entropy = batch.memo(
            (KLDivergence, dim), lambda: _probabilities_and_negative_entropy(batch.reference, dim)
        )
        # sum p log p - sum p log q: one pass less over the classes per candidate, exact enough in float64
        cross = torch.log_softmax(outputs, dim, dtype=torch.float64).mul_(probabilities).sum(dim)
        return sample_means(negative_entropy - cross).clamp_(min=0)


def _probabilities_and_negative_entropy(reference: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    log_probabilities = torch.log_softmax(reference, dim, dtype=torch.float64)
    probabilities = log_probabilities.exp()
    return probabilities, log_probabilities.mul_(probabilities).sum(dim)
