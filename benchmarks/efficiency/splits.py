"""Losses on random splits of samples: seeds then vary what is searched and what judges, not the search alone."""

from __future__ import annotations

import time
from typing import Protocol

import numpy as np

from benchmarks.efficiency.worlds import CHUNK
from evo_mpq.measure.executors import InProcess
from evo_mpq.measure.objectives import as_quantity
from evo_mpq.measure.statistics import standard_error
from evo_mpq.network.data.thinning import thinned_positions
from evo_mpq.objectives.kl_divergence import KLDivergence
from evo_mpq.objectives.soft_kl_divergence import SoftKLDivergence
from evo_mpq.optimize.searcher import genome_keys
from evo_mpq.predict.tables.options import Estimates
from evo_mpq.problem import Problem
from evo_mpq.typing import FloatVector, Genomes

SOFTENED, PLAIN = 0, 1
"""Divergences: what is searched by, and what is reported beside."""


class EverySample(Protocol):
    """Divergences of networks on samples that nothing was trained on."""

    genomes: Genomes
    """All that are known."""

    @property
    def groups(self) -> np.ndarray:
        """``(n_samples,)`` labels from 0 on, of samples that stay on one side of a split."""

    @property
    def seconds_a_sample(self) -> float:
        """CPU seconds of a measurement on one of them, on average."""

    def divergences(self, genomes: Genomes, kind: int) -> np.ndarray:
        """``(n, n_samples)`` nats."""


class Measured:
    """The samples of a problem's search and test splits, on which each genome is measured once.

    Args:
        problem: whose networks are measured.
    """

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        quantities = [as_quantity(SoftKLDivergence()), as_quantity(KLDivergence())]
        self._executor = InProcess(problem.compressor, quantities, 1 << 29)
        self._known: dict[bytes, np.ndarray] = {}
        self.genomes: Genomes = np.zeros((0, problem.space.n_genes), dtype=np.int64)
        self._seconds = 0.0
        splits = problem.network.splits.search, problem.network.splits.test
        labels = [split.groups for split in splits if split.groups is not None]
        self.groups = np.arange(sum(map(len, splits)))
        if len(labels) == len(splits):
            self.groups = np.unique(np.concatenate(labels), return_inverse=True)[1]

    @property
    def seconds_a_sample(self) -> float:
        return self._seconds / max(1, len(self._known) * len(self.groups))

    def divergences(self, genomes: Genomes, kind: int) -> np.ndarray:
        keys = genome_keys(genomes)
        new = {key: row for key, row in zip(keys, genomes, strict=True) if key not in self._known}
        order = sorted(new, key=lambda key: tuple(new[key]))  # neighbors share computation
        began = time.process_time()
        for start in range(0, len(order), CHUNK):
            some = order[start : start + CHUNK]
            self._measure(some, np.array([new[key] for key in some]))
        self._seconds += time.process_time() - began
        return np.array([self._known[key][kind] for key in keys])

    def _measure(self, keys: list[bytes], genomes: Genomes) -> None:
        policies = self._problem.space.decode(genomes)
        parts = [self._executor.measure(policies, split, keep_samples=True).per_sample for split in ("search", "test")]
        for key, searched, tested in zip(keys, *parts, strict=True):
            rows = [np.concatenate([searched[kind], tested[kind]]) for kind in (SOFTENED, PLAIN)]
            self._known[key] = np.array(rows, dtype=np.float32)
        self.genomes = np.concatenate([self.genomes, genomes])


class Redrawn:
    """A random part of the samples that is searched; the others judge.

    Args:
        samples: all of them.
        n_searched: how many are searched.
        seed: of the split.
    """

    def __init__(self, samples: EverySample, n_searched: int, seed: int) -> None:
        self._samples = samples
        self._n = n_searched
        self._n_sketched = 0  # samples of the last measurement on a part
        self._searched, self._others = drawn_split(samples.groups, n_searched, seed)

    def again(self, seed: int) -> Redrawn:
        """The same samples, split anew."""
        return Redrawn(self._samples, self._n, seed)

    @property
    def genomes(self) -> Genomes:
        """All whose losses are known."""
        return self._samples.genomes

    @property
    def seconds_each(self) -> float:
        return self._n * self._samples.seconds_a_sample

    @property
    def sketch_seconds_each(self) -> float:
        return self._n_sketched * self._samples.seconds_a_sample

    def search(self, genomes: Genomes, share: float = 1.0) -> Estimates:
        some = self._searched[thinned_positions(self._n, share)]
        if share < 1:
            self._n_sketched = len(some)
        values, groups = self._samples.divergences(genomes, SOFTENED)[:, some].astype(np.float64), self._samples.groups
        if len(np.unique(groups[some])) == len(some):
            errors = values.std(axis=1, ddof=1) / np.sqrt(len(some))
        else:
            errors = np.array([standard_error(row, groups[some]) for row in values])
        return Estimates(values.mean(axis=1), errors)

    def test(self, genomes: Genomes) -> FloatVector:
        return self._held_out(genomes, SOFTENED)

    def test_kl(self, genomes: Genomes) -> FloatVector:
        return self._held_out(genomes, PLAIN)

    def _held_out(self, genomes: Genomes, kind: int) -> FloatVector:
        means: FloatVector = self._samples.divergences(genomes, kind)[:, self._others].mean(axis=1, dtype=np.float64)
        return means


def drawn_split(groups: np.ndarray, n_searched: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Ascending positions of samples that are searched, and of those of other groups.

    Args:
        groups: ``(n,)`` labels from 0 on.
        n_searched: of the first; what is left of their last group is on neither side.
        seed: of the order of groups.
    """
    order = np.random.default_rng(seed).permutation(int(groups.max()) + 1)
    places = np.argsort(order)[groups]  # of each sample's group in that order
    last = np.sort(places)[n_searched - 1]
    return np.sort(np.argsort(places, kind="stable")[:n_searched]), np.flatnonzero(places > last)
