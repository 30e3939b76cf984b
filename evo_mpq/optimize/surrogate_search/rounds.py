"""How well batches were predicted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from evo_mpq.typing import FloatMatrix, FloatVector

Proposer: TypeAlias = Literal["surrogate", "nsga2"]


@dataclass(frozen=True, eq=False)
class Round:
    """One batch, and how well it was predicted.

    Attributes:
        n_measured: genomes known before it.
        proposer: who chose it.
        predicted: ``(n, k)`` means of the measured objectives, on the scale on which they are compared.
        measured: ``(n, k)`` what they are; NaN in failed rows.
        tau: Kendall's rank correlation of the first of them; NaN for fewer than two rows.
    """

    n_measured: int
    proposer: Proposer
    predicted: FloatMatrix
    measured: FloatMatrix
    tau: float

    @classmethod
    def of(cls, n_measured: int, proposer: Proposer, predicted: FloatMatrix, measured: FloatMatrix) -> Round:
        """A round with its rank correlation."""
        return cls(n_measured, proposer, predicted, measured, kendall_tau(predicted[:, 0], measured[:, 0]))


def kendall_tau(predicted: FloatVector, measured: FloatVector) -> float:
    """Kendall's rank correlation of the rows that have both; NaN for fewer than two.

    >>> round(kendall_tau(np.array([1.0, 2.0, 3.0, np.nan]), np.array([10.0, 30.0, 20.0, 0.0])), 3)
    0.333
    """
    from scipy.stats import kendalltau  # SciPy takes a moment to import

    known = np.isfinite(predicted) & np.isfinite(measured)
    if known.sum() < 2:
        return float("nan")
    return float(kendalltau(predicted[known], measured[known]).statistic)


def recent_tau(rounds: list[Round], n: int) -> float:
    """Rank correlation over the latest ``n`` predictions; NaN for fewer than half as many."""
    if sum(len(each.predicted) for each in rounds) < n // 2:
        return float("nan")
    predicted = np.concatenate([each.predicted[:, 0] for each in rounds])[-n:]
    measured = np.concatenate([each.measured[:, 0] for each in rounds])[-n:]
    return kendall_tau(predicted, measured)
