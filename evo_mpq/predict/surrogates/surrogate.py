"""What every surrogate offers, and what models of residuals see of a genome."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from evo_mpq.space.search_space import SearchSpace
from evo_mpq.typing import BoolMatrix, BoolVector, FloatMatrix, FloatVector, Genomes

RowNumbers: TypeAlias = npt.NDArray[np.int64]
"""``(n,)`` positions of rows."""

RowSelection: TypeAlias = RowNumbers | BoolVector
"""``(k,)`` positions of rows, or ``(n,)`` truth values."""


class Prediction(NamedTuple):
    """What a surrogate expects of ``n`` genomes, on the scale of the losses that it was fitted to.

    Attributes:
        means: ``(n,)``.
        deviations: ``(n,)`` standard deviations.
    """

    means: FloatVector
    deviations: FloatVector


class Surrogate(Protocol):
    """Predicts one loss of genomes from those that were measured."""

    def fit(self, genomes: Genomes, losses: FloatVector, errors: FloatVector) -> None:
        """Learn from everything that was measured so far.

        Args:
            genomes: ``(n, n_genes)`` canonical, each once.
            losses: ``(n,)`` finite, on the scale on which they are compared.
            errors: ``(n,)`` their standard errors on that scale; NaN where unknown.
        """

    def predict(self, genomes: Genomes) -> Prediction:
        """What to expect of ``(n, n_genes)`` canonical genomes."""


@dataclass(frozen=True, eq=False)
class Features:
    """What models of residuals see of ``n`` genomes.

    Attributes:
        levels: ``(n, n_genes)`` positions of the options in [0, 1]; inactive genes stand at 0.
        shares: ``(n, 1 + n_genes)`` fractions of the additive model's loss: of the most expensive genome, and of what
            each gene adds to it. Every row sums to 1. Zeros where losses are not on a logarithmic scale.
    """

    levels: FloatMatrix
    shares: FloatMatrix

    def __len__(self) -> int:
        return len(self.levels)

    def rows(self, which: RowSelection) -> Features:
        """Those of some genomes, in the order given."""
        return Features(self.levels[which], self.shares[which])

    def order(self) -> RowNumbers:
        """``(n,)`` rows sorted by levels: the same order of the same genomes, whenever each was measured."""
        return np.lexsort(self.levels.T[::-1])


class ResidualModel(Protocol):
    """Predicts what an additive model leaves unexplained."""

    def fit(self, features: Features, residuals: FloatVector, errors: FloatVector) -> None:
        """Learn from ``(n,)`` residuals with their standard errors, of which none is NaN."""

    def predict(self, features: Features) -> Prediction:
        """What to expect of the residuals of other genomes."""


def active_genes(space: SearchSpace, genomes: Genomes) -> BoolMatrix:
    """``(n, n_genes)`` which genes decide something: those that do not lie in dropped blocks only."""
    active = np.ones(genomes.shape, dtype=bool)
    for gene, homes in enumerate(space.homes):
        if blocks := sorted(homes - {gene}):
            active[:, gene] = np.any(genomes[:, blocks] > 0, axis=1)
    return active
