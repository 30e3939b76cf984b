"""What searches measure in benchmarks: each genome once for all of them, and counted for each of them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from benchmarks.search_quality import Stored
from evo_mpq.measure.executors import InProcess
from evo_mpq.measure.measurements import Measurements
from evo_mpq.optimize.searcher import genome_keys
from evo_mpq.optimize.surrogate_search.models import Cost
from evo_mpq.predict.factored import FactoredFunction
from evo_mpq.predict.tables.options import Estimates
from evo_mpq.problem import Problem
from evo_mpq.typing import FloatMatrix, FloatVector, Genomes

CHUNK = 64
"""Genomes that are measured at once."""


class Source(Protocol):
    """Where the losses of genomes come from."""

    @property
    def seconds_each(self) -> float:
        """CPU seconds of a measurement, on average."""

    @property
    def sketch_seconds_each(self) -> float:
        """CPU seconds of a measurement on a part of the samples, on average."""

    def search(self, genomes: Genomes, share: float = 1.0) -> Estimates:
        """Losses that are searched on; on a part of the samples."""

    def test(self, genomes: Genomes) -> FloatVector:
        """``(n,)`` the same losses on samples that are not searched."""

    def test_kl(self, genomes: Genomes) -> FloatVector:
        """``(n,)`` plain KL on these."""


class Cached:
    """Losses of a network, each measured once and kept in a file: of its first objective, and plain KL on test samples.

    Args:
        problem: of the network.
        file: that is read now and written by `save`; None to keep nothing.
    """

    def __init__(self, problem: Problem, file: Path | None = None) -> None:
        self._problem = problem
        self._file = file
        self._executor = InProcess(problem.compressor, problem.quantities, 1 << 29)
        names = [quantity.name for quantity in problem.quantities]
        self._columns = [names.index(name) for name in (problem.objectives[0].name, "kl_divergence")]
        self._known: dict[str, dict[bytes, tuple[float, float]]] = {"search": {}, "test": {}}
        self._genomes: dict[bytes, np.ndarray] = {}
        self._seconds, self._n = 0.0, 0
        self._sketch_seconds, self._n_sketched = 0.0, 0
        if file is not None and file.exists():
            with np.load(file) as arrays:
                self._read({name: arrays[name] for name in arrays.files})

    @property
    def seconds_each(self) -> float:
        """CPU seconds of a measurement on the search split, on average."""
        return self._seconds / max(1, self._n)

    @property
    def sketch_seconds_each(self) -> float:
        return self._sketch_seconds / max(1, self._n_sketched)

    @property
    def genomes(self) -> Genomes:
        """All that were measured on the search split."""
        return np.array([self._genomes[key] for key in self._known["search"]], dtype=np.int64)

    def search(self, genomes: Genomes, share: float = 1.0) -> Estimates:
        found = self._values(genomes, "search", share)
        return Estimates(found[:, 0], found[:, 1])

    def test(self, genomes: Genomes) -> FloatVector:
        return self._values(genomes, "test")[:, 0]

    def test_kl(self, genomes: Genomes) -> FloatVector:
        return self._values(genomes, "test")[:, 1]

    def save(self) -> None:
        """Writes all that is known."""
        if self._file is None:
            return
        keys = list(self._known["search"])
        values = np.array([self._known["search"][key] for key in keys])
        test = np.array([self._known["test"].get(key, (np.nan, np.nan)) for key in keys])
        self._file.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(
            self._file,
            genomes=self.genomes.astype(np.int8),
            losses=values[:, 0],
            errors=values[:, 1],
            test=test,
            spent=np.array([self._seconds, self._n]),
        )

    def _read(self, arrays: dict[str, np.ndarray]) -> None:
        genomes = arrays["genomes"].astype(np.int64)
        keys = genome_keys(genomes)
        self._genomes = dict(zip(keys, genomes, strict=True))
        rows = zip(keys, arrays["losses"], arrays["errors"], arrays["test"], strict=True)
        for key, loss, error, test in rows:
            self._known["search"][key] = (float(loss), float(error))
            if np.isfinite(test).all():
                self._known["test"][key] = (float(test[0]), float(test[1]))
        self._seconds, self._n = float(arrays["spent"][0]), int(arrays["spent"][1])

    def _values(self, genomes: Genomes, split: str, share: float = 1.0) -> FloatMatrix:
        """``(n, 2)`` losses with their standard errors, or, on the test split, with plain KLs."""
        keys = genome_keys(genomes)
        known = self._known.setdefault(split if share == 1 else f"{split}, {share:g}", {})
        new = {key: row for key, row in zip(keys, genomes, strict=True) if key not in known}
        order = sorted(new, key=lambda key: tuple(new[key]))  # neighbors share computation
        for start in range(0, len(order), CHUNK):
            some = order[start : start + CHUNK]
            self._measure([new[key] for key in some], some, split, share)
        return np.array([known[key] for key in keys]).reshape(len(keys), 2)

    def _measure(self, genomes: Sequence[np.ndarray], keys: Sequence[bytes], split: str, share: float) -> None:
        began = time.process_time()
        found = self._executor.measure(self._problem.space.decode(np.array(genomes)), split, share=share).values
        seconds = time.process_time() - began
        if share < 1:
            self._sketch_seconds += seconds
            self._n_sketched += len(keys)
        elif split == "search":
            self._seconds += seconds
            self._n += len(keys)
        losses, kls = found.values[:, self._columns].T
        others = kls if split == "test" else found.standard_errors[:, self._columns[0]]
        known = self._known[split if share == 1 else f"{split}, {share:g}"]
        known.update(zip(keys, zip(losses.tolist(), others.tolist(), strict=True), strict=True))
        self._genomes.update(zip(keys, genomes, strict=True))


class FromTable:
    """Losses of a space of which everything was measured.

    Args:
        stored: the space.
        seconds_each: CPU seconds that a measurement takes.
    """

    sketch_seconds_each = 0.0

    def __init__(self, stored: Stored, seconds_each: float) -> None:
        self._stored = stored
        self.seconds_each = seconds_each

    def search(self, genomes: Genomes, share: float = 1.0) -> Estimates:
        assert share == 1, "a table is of all samples"
        rows, table = self._stored.rows(genomes), self._stored.table
        return Estimates(table.search_loss[rows], table.search_loss_error[rows])

    def test(self, genomes: Genomes) -> FloatVector:
        return self.test_kl(genomes)

    def test_kl(self, genomes: Genomes) -> FloatVector:
        return self._stored.table.test_kl[self._stored.rows(genomes)]


class World:
    """A problem whose first objective is measured, and the others are computed.

    Args:
        name: of the problem.
        problem: with the loss first and bytes second among its objectives.
        source: of losses.
        costs: of the other objectives, bytes first.
        programs: the same as sums of factors, as far as they are ones; bytes first.
        everything: all genomes of the space, where that many were measured.
        samples: that a measurement takes.
    """

    def __init__(
        self,
        name: str,
        problem: Problem,
        source: Source,
        costs: Sequence[Cost],
        programs: Sequence[FactoredFunction],
        everything: Genomes | None = None,
        samples: int = 1,
    ) -> None:
        self.name = name
        self.samples = samples
        self.problem = problem
        self.source = source
        self.space = problem.space
        self.costs = tuple(costs)
        self.programs = tuple(programs)
        self.everything = everything
        self.measuring = 0.0
        """CPU seconds spent on measuring, which are not the searcher's."""

    def on(self, source: Source) -> World:
        """The same problem with other losses."""
        return World(self.name, self.problem, source, self.costs, self.programs, self.everything, self.samples)

    def measure(self, genomes: Genomes, share: float = 1.0) -> Measurements:
        """As a run would; on a part of the samples."""
        began = time.process_time()
        found = self.source.search(genomes, share)
        computed = self.computed(genomes)
        self.measuring += time.process_time() - began
        unknown = np.full(computed.shape, np.nan)
        return Measurements(
            np.column_stack([found.losses, computed]),
            np.zeros((len(genomes), 0)),
            np.column_stack([found.standard_errors, unknown]),
            (None,) * len(genomes),
        )

    def computed(self, genomes: Genomes) -> FloatMatrix:
        """``(n, m - 1)`` costs."""
        return np.stack([cost(genomes) for cost in self.costs], axis=1)


class Exhausted(Exception):  # noqa: N818 - no error: there is a budget
    """The budget does not reach for all that was to be measured; what it reaches for was."""


class Ledger:
    """What one search measures, each genome counted once, and its own CPU seconds until then.

    Args:
        world: that is measured.
        budget: measurements.
    """

    def __init__(self, world: World, budget: int) -> None:
        self.world = world
        self.space = world.space
        self.budget = budget
        self._rows: dict[bytes, np.ndarray] = {}
        self._own: list[float] = []
        self._extra = 0
        self._sketched: set[bytes] = set()
        self.part = 0.0
        """Of the samples that `sketch` measures on."""
        self._began = time.process_time() - world.measuring

    @property
    def left(self) -> int:
        """Measurements that the budget still allows."""
        return int(self.budget - len(self._rows) - self._extra - self.part * len(self._sketched) + 1e-9)

    @property
    def n_sketched(self) -> int:
        """Genomes measured on a part of the samples, besides."""
        return len(self._sketched)

    @property
    def own_seconds(self) -> float:
        """CPU seconds that were spent on anything but measuring."""
        return time.process_time() - self.world.measuring - self._began

    @property
    def genomes(self) -> Genomes:
        """``(n, n_genes)`` in the order of measuring."""
        return np.array(list(self._rows.values()), dtype=np.int64).reshape(-1, self.space.n_genes)

    @property
    def own(self) -> FloatVector:
        """``(n,)`` own CPU seconds before each was measured."""
        return np.array(self._own)

    def count(self) -> None:
        """Counts something that is no genome of the space: the uncompressed network."""
        self._extra += 1

    def measure(self, genomes: Genomes) -> Measurements:
        """Measurements of canonical genomes.

        Raises:
            Exhausted: the budget reaches only for some of them.
        """
        own = self.own_seconds
        for key, row in zip(genome_keys(genomes), genomes, strict=True):
            if key not in self._rows:
                if self.left < 1:
                    raise Exhausted
                self._rows[key] = np.array(row)
                self._own.append(own)
        return self.world.measure(genomes)

    def sketch(self, genomes: Genomes, share: float) -> Measurements:
        """Measurements on a part of the samples, each counted as that part; always the same one."""
        self.part = share
        self._sketched.update(genome_keys(genomes))
        return self.world.measure(genomes, share)

    def estimates(self, genomes: Genomes) -> Estimates:
        """The measured loss alone."""
        found = self.measure(genomes)
        return Estimates(found.losses[:, 0], found.standard_errors[:, 0])
