"""Perplexity of a language model."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from evo_mpq.measure.objectives import Batch
from evo_mpq.objectives.classes import ClassObjective, ExponentialMean
from evo_mpq.objectives.cross_entropy import CrossEntropy


@dataclass(frozen=True)
class Perplexity(ClassObjective):
    """Exponential of the mean cross-entropy to the labels: of how many equally likely ones the network is in doubt.

    Outputs and targets are those of ``cross_entropy``, whose mean over all samples comes before the exponential.
    Standard errors come by the delta method (see `ExponentialMean`). Not finite where the outputs are not, or where the
    cross-entropy is above 709 nats: such a candidate fails.
    """

    name = "perplexity"
    unit = ""
    direction = "minimize"
    log_scale = True

    def start(self) -> ExponentialMean:
        """An empty accumulator for one candidate."""
        return ExponentialMean(self.per_sample)

    def per_sample(self, outputs: Tensor, batch: Batch) -> Tensor:
        """``(n,)`` cross-entropy in nats, mean over a sample's labels."""
        return CrossEntropy(self.dim).per_sample(outputs, batch)
