"""How good is what each allocation method hands over, and what does it cost?

Every method proposes a genome for each of 24 budgets. On digits_resnet everything was measured before, so that shares
and regrets are against the exact front: bits alone, and a joint space (see exact_front). On canvas_resnet and tiny_gpt
the front of all that any method proposed takes its place.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from benchmarks.exact_front import Table, problem_of, table_file
from benchmarks.judging import Oracle, oracle
from benchmarks.mixed_pairs import seconds_each
from benchmarks.presenting import show, spread
from benchmarks.problems import joint
from benchmarks.search_quality import Stored
from evo_mpq import plugins
from evo_mpq.costs import cost_of
from evo_mpq.errors import ConfigError
from evo_mpq.measure.executors import InProcess
from evo_mpq.predict.tables.options import Estimates
from evo_mpq.predict.tables.tables import Tables
from evo_mpq.problem import Problem
from evo_mpq.typing import FloatVector, Genomes

N_BUDGETS = 24
RATIOS = [0.0, 0.25, 0.5]


class Source(Protocol):
    """Where the losses of genomes come from."""

    def search(self, genomes: Genomes) -> Estimates:
        """KL on the search split."""

    def test(self, genomes: Genomes) -> FloatVector:
        """``(n,)`` KL on the test split."""


class FromTable:
    """Losses that were measured before."""

    def __init__(self, stored: Stored) -> None:
        self._stored = stored

    def search(self, genomes: Genomes) -> Estimates:
        rows, table = self._stored.rows(genomes), self._stored.table
        return Estimates(table.search_kl[rows], table.search_kl_error[rows])

    def test(self, genomes: Genomes) -> FloatVector:
        return self._stored.table.test_kl[self._stored.rows(genomes)]


class Measured:
    """Losses that are measured, each once for all methods."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._executor = InProcess(problem.compressor, problem.quantities, 1 << 28)
        self._column = [quantity.name for quantity in problem.quantities].index("kl_divergence")
        self._known: dict[tuple[str, bytes], tuple[float, float]] = {}

    def search(self, genomes: Genomes) -> Estimates:
        found = self._values(genomes, "search")
        return Estimates(found[:, 0], found[:, 1])

    def test(self, genomes: Genomes) -> FloatVector:
        return self._values(genomes, "test")[:, 0]

    def _values(self, genomes: Genomes, split: str) -> np.ndarray:
        keys = [(split, row.tobytes()) for row in np.ascontiguousarray(genomes)]
        new = {key: row for key, row in zip(keys, genomes, strict=True) if key not in self._known}
        if new:
            order = sorted(new, key=lambda key: tuple(new[key]))  # neighbors share computation
            policies = self._problem.space.decode(np.array([new[key] for key in order]))
            values = self._executor.measure(policies, split).values
            pairs = zip(values.values[:, self._column], values.standard_errors[:, self._column], strict=True)
            self._known.update(zip(order, pairs, strict=True))
        return np.array([self._known[key] for key in keys])


class Counted:
    """What a method measures, counted once each, and the CPU seconds it would take were nothing known before."""

    def __init__(self, source: Source, seconds_each: float) -> None:
        self._source = source
        self._seconds_each = seconds_each
        self._seen: dict[bytes, np.ndarray] = {}

    def __call__(self, genomes: Genomes) -> Estimates:
        self._seen.update((row.tobytes(), row) for row in np.ascontiguousarray(genomes))
        return self._source.search(genomes)

    @property
    def genomes(self) -> Genomes:
        """Everything that was measured, in order."""
        return np.array(list(self._seen.values()))

    @property
    def measurements(self) -> int:
        return len(self._seen)

    @property
    def seconds(self) -> float:
        return self._seconds_each * self.measurements


class Proposed:
    """What one method proposed for one problem."""

    def __init__(self, problem: Problem, source: Source, name: str, seed: int, seconds_each: float) -> None:
        _, cost = cost_of(problem, "size")
        space = problem.space
        lowest, highest = cost(np.stack([space.cheapest(), space.most_expensive()]))
        budgets = np.geomspace(1.001 * lowest, highest, N_BUDGETS)
        budgets[-1] = highest
        counted = Counted(source, seconds_each)
        tables = Tables(space, cost, counted, problem.compressor, seed)
        seeder = plugins.resolve(name, "seeders", None)
        began = time.process_time()
        self.genomes = np.unique(seeder(space, tables, budgets), axis=0)
        found = counted(self.genomes)
        self.own_seconds = time.process_time() - began
        self.name = name
        self.losses, self.errors = found.losses, found.standard_errors
        self.held_out = source.test(self.genomes)
        self.sizes = cost(self.genomes)
        self.measurements, self.seconds = counted.measurements, self.own_seconds + counted.seconds


def judged(proposed: Sequence[Proposed], best: Oracle) -> dict[str, tuple[float, float, int, float]]:
    """Share, held-out regret, measurements and CPU seconds of each method."""
    return {
        one.name: (
            best.share(one.losses, one.sizes),
            best.held_out_regret(one.losses, one.held_out, one.sizes),
            one.measurements,
            one.seconds,
        )
        for one in proposed
    }


def best_known(proposed: Sequence[Proposed]) -> Oracle:
    """The front of everything that any method proposed."""
    parts = [
        np.concatenate([getattr(one, part) for one in proposed]) for part in ("losses", "held_out", "sizes", "errors")
    ]
    return oracle(*parts)


def problem_and_source(name: str, seed: int) -> tuple[Problem, Source, Oracle | None, float]:
    """What is allocated, where losses come from, the exact front if it is known, and CPU seconds of a measurement."""
    if name in ("bits", "joint"):
        stored = Stored(Table.read(table_file(seed, name)))
        problem = problem_of(name, seed)
        assert [g.name for g in problem.space.genes] == [g.name for g in stored.space.genes]
        return problem, FromTable(stored), stored.oracle, seconds_each(problem)
    if name == "canvas_resnet":
        data = {"search": 1000, "test": 5000, "train": 4000}
        problem = joint(name, prune={"ratios": RATIOS}, drop=["stage*.*"], data=data)
    else:
        data = {"calibration": 64, "search": 78, "test": 156, "train": 500}
        problem = joint(name, prune={"ratios": RATIOS}, drop=["blocks.*.attention", "blocks.*.mlp"], data=data)
    return problem, Measured(problem), None, 0.0  # measured in the method's own time


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problems", nargs="+", default=["bits", "joint", "canvas_resnet", "tiny_gpt"])
    parser.add_argument("--methods", nargs="+", default=list(plugins.available("seeders")))
    parser.add_argument("--seeds", type=int, default=5, help="of the methods; one training")
    arguments = parser.parse_args()
    rows = []
    for name in arguments.problems:
        problem, source, exact, each = problem_and_source(name, 0)
        found = []
        for seed in range(arguments.seeds):
            proposed = []
            for method in arguments.methods:
                try:
                    proposed.append(Proposed(problem, source, method, seed, each))
                except ConfigError as error:
                    print(f"{name}, {method}: {error}", flush=True)
            found.append(judged(proposed, exact or best_known(proposed)))
        for method in found[0]:
            shares, regrets, measurements, seconds = np.array([result[method] for result in found]).T
            rows.append(
                [
                    name,
                    method,
                    spread(shares),
                    spread(regrets, ".2f"),
                    spread(measurements, ".0f"),
                    spread(seconds, ".1f"),
                ]
            )
    show(
        "How good is what each allocation method hands over, and what does it cost?",
        ["problem", "method", "share", "held-out regret", "measurements", "CPU s"],
        rows,
        f"{N_BUDGETS} budgets; measurements include those of the choices. {arguments.seeds} seeds of the methods, one "
        "training; methods without chance have no spread. bits and joint: against the exact fronts of digits_resnet; "
        "the others against the front of all methods, CPU seconds of a first method include what later ones reuse.",
    )


if __name__ == "__main__":
    main()
