"""A journal in memory, and a small problem, for the tests of measuring and of the loop."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import numpy as np

from evo_mpq.measure.measurements import Values
from evo_mpq.measure.objectives import Quantity
from evo_mpq.space.building import SpaceLayer, build_space
from evo_mpq.space.search_space import SearchSpace
from evo_mpq.typing import Genomes

T = TypeVar("T")


class Row(NamedTuple):
    values: list[float | None]
    standard_errors: list[float | None]
    failure: str | None


class MemoryJournal:
    """Replays the records it is given and appends to them."""

    def __init__(self, records: Sequence[tuple[Any, ...]] = ()) -> None:
        self.records = list(records)
        self.diverged = False
        self._asked = [record[1:] for record in records if record[0] == "asked"]
        self._decisions: dict[str, list[Any]] = defaultdict(list)
        self._rows: dict[str, dict[tuple[int, ...], Row]] = defaultdict(dict)
        for kind, *rest in records:
            if kind == "decision":
                self._decisions[rest[0]].append(rest[1])
            elif kind == "measured":
                self._take(*rest)

    def reopened(self) -> MemoryJournal:
        """As the next process finds it."""
        return MemoryJournal(self.records)

    def known(self, genome: tuple[int, ...], fidelity: str = "search") -> Row | None:
        return self._rows[fidelity].get(genome)

    def rows(self, fidelity: str = "search") -> tuple[Genomes, Values]:
        rows = self._rows[fidelity]
        return np.array(list(rows)), Values(
            np.array([row.values for row in rows.values()], dtype=float),
            np.array([row.standard_errors for row in rows.values()], dtype=float),
            tuple(row.failure for row in rows.values()),
        )

    def asked(self, generation: int, genomes: Genomes) -> None:
        now = (generation, genomes.tolist())
        if self._asked:
            self.diverged |= self._asked.pop(0) != now
        else:
            self.records.append(("asked", *now))

    def measured(
        self,
        genomes: Genomes,
        values: Values,
        *,
        cpu_seconds: float,
        samples: int,
        fidelity: str = "search",
    ) -> None:
        record = (fidelity, [tuple(row) for row in genomes.tolist()], values)
        assert all(self.known(key, fidelity) is None for key in record[1]), "measured twice"
        self.records.append(("measured", *record))
        self._take(*record)

    def decision(self, key: str, decide: Callable[[], T]) -> T:
        if self._decisions[key]:
            recorded: T = self._decisions[key].pop(0)
            return recorded
        self.records.append(("decision", key, decide()))
        made: T = self.records[-1][2]
        return made

    def _take(self, fidelity: str, keys: list[tuple[int, ...]], values: Values) -> None:
        for key, numbers, errors, failure in zip(
            keys, values.values.tolist(), values.standard_errors.tolist(), values.failures, strict=True
        ):
            row = [None if np.isnan(number) else number for number in numbers]
            self._rows[fidelity][key] = Row(row, errors, failure)


SIZE = Quantity("size", "B", "minimize", "exact", False, None, "free")
ACCURACY = Quantity("accuracy", "", "maximize", "measured", False, None, "outputs")
KL = Quantity("kl_divergence", "nat", "minimize", "measured", True, None, "outputs")
QUANTITIES = [SIZE, ACCURACY, KL]


class Clock:
    """Time that passes only when something is measured."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@dataclass
class Problem:
    """Sizes, accuracies and KL divergences of the genomes of a chain of layers.

    Attributes:
        failing: genomes whose index sum is in here fail.
        measured: all genomes that were measured, in order, chunk by chunk.
    """

    space: SearchSpace
    clock: Clock = field(default_factory=Clock)
    seconds_per_genome: float = 0.0
    failing: tuple[int, ...] = ()
    seed: int = 0
    measured: list[Genomes] = field(default_factory=list)

    def __call__(self, genomes: Genomes) -> tuple[Values, float, int]:
        self.measured.append(genomes.copy())
        self.clock.seconds += self.seconds_per_genome * len(genomes)
        failed = np.isin(genomes.sum(axis=1), self.failing)
        values = np.where(failed[:, None], np.nan, self.values(genomes))
        failures = tuple(
            f"{genome} is out of memory" if failure else None
            for genome, failure in zip(genomes.tolist(), failed, strict=True)
        )
        return Values(values, 0.1 * values, failures), 0.5 * len(genomes), 100 * len(genomes)

    def values(self, genomes: Genomes) -> np.ndarray:
        weights = np.exp(np.random.default_rng(self.seed).normal(size=(2, self.space.n_genes)))
        # row by row the same in any batch, which a matrix product is not
        size = ((genomes + 1) * weights[0]).sum(axis=1)
        kl = (4.0**-genomes * weights[1]).sum(axis=1) + 0.1 * (genomes[:, 0] != genomes[:, -1])
        return np.stack([size, np.exp(-kl), kl], axis=1)

    @property
    def n_measured(self) -> int:
        return sum(map(len, self.measured))


def chain(n_genes: int, n_values: int = 3) -> SearchSpace:
    layers = [SpaceLayer(f"layer{i}") for i in range(n_genes)]
    return build_space(layers, defaults={"weight_bits": [2, 3, 4, 5, 6, 7, 8][:n_values]})
