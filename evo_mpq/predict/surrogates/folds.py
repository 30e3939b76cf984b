"""Folds for cross-validation that do not depend on the order of measuring."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from evo_mpq.predict.surrogates.surrogate import Features
from evo_mpq.typing import BoolVector


def folds(features: Features, n_folds: int) -> Iterator[BoolVector]:
    """Per fold ``(n,)`` which genomes are left out of fitting; each is left out once.

    Genomes are dealt at random, after sorting them: the same ones fall into the same folds in whatever order they come.
    """
    n = len(features)
    dealt = np.empty(n, dtype=np.int64)
    dealt[features.order()] = np.random.default_rng(n).permutation(n) % n_folds
    for fold in range(n_folds):
        yield dealt == fold
