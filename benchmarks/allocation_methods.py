"""How good is what each allocation method hands over, and what does it cost?

Every method proposes a genome for each of 24 budgets. On digits_resnet everything was measured before, so that shares
and regrets are against the exact front: bits alone, and a joint space (see exact_front). On canvas_resnet and tiny_gpt
the front of all that any method proposed takes its place.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import numpy as np

from benchmarks.efficiency.worlds import Cached, FromTable, Source
from benchmarks.exact_front import TABLES, Table, problem_of, table_file
from benchmarks.judging import Oracle, oracle
from benchmarks.mixed_pairs import seconds_each
from benchmarks.presenting import show, spread
from benchmarks.problems import joint
from benchmarks.search_quality import Stored
from evo_mpq import plugins
from evo_mpq.costs import cost_of
from evo_mpq.errors import ConfigError
from evo_mpq.predict.tables.options import Estimates
from evo_mpq.predict.tables.tables import Tables
from evo_mpq.problem import Problem
from evo_mpq.typing import Genomes

N_BUDGETS = 24
RATIOS = [0.0, 0.25, 0.5]


class Counted:
    """What a method measures, counted once each.

    Attributes:
        measuring: CPU seconds that were spent on measuring, which others may have done before.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._seen: dict[bytes, np.ndarray] = {}
        self.measuring = 0.0

    def __call__(self, genomes: Genomes) -> Estimates:
        self._seen.update((row.tobytes(), row) for row in np.ascontiguousarray(genomes))
        began = time.process_time()
        found = self._source.search(genomes)
        self.measuring += time.process_time() - began
        return found

    @property
    def genomes(self) -> Genomes:
        """Everything that was measured, in order."""
        return np.array(list(self._seen.values()))

    @property
    def measurements(self) -> int:
        return len(self._seen)

    @property
    def seconds(self) -> float:
        """CPU seconds that all of it takes where nothing is known before."""
        return self._source.seconds_each * self.measurements


class Proposed:
    """What one method proposed for one problem."""

    def __init__(self, problem: Problem, source: Source, name: str, seed: int, allowance: int | None) -> None:
        _, cost = cost_of(problem, "size")
        space = problem.space
        lowest, highest = cost(np.stack([space.cheapest(), space.most_expensive()]))
        budgets = np.geomspace(1.001 * lowest, highest, N_BUDGETS)
        budgets[-1] = highest
        counted = Counted(source)
        tables = Tables(space, cost, counted, problem.compressor, seed, methods_allowance=allowance)
        seeder = plugins.resolve(name, "seeders", None)
        began = time.process_time()
        self.genomes = np.unique(seeder(space, tables, budgets), axis=0)
        found = counted(self.genomes)
        self.own_seconds = time.process_time() - began - counted.measuring
        self.name = name
        self.losses, self.errors = found.losses, found.standard_errors
        self.held_out = source.test_kl(self.genomes)
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


def problem_and_source(name: str, seed: int) -> tuple[Problem, Source, Oracle | None]:
    """What is allocated, where losses come from, and the exact front if it is known."""
    if name in ("bits", "joint"):
        stored = Stored(Table.read(table_file(seed, name)))
        problem = problem_of(name, seed)
        assert [g.name for g in problem.space.genes] == [g.name for g in stored.space.genes]
        return problem, FromTable(stored, seconds_each(problem)), stored.oracle
    if name == "canvas_resnet":
        data = {"search": 1000, "test": 5000, "train": 4000}
        problem = joint(name, prune={"ratios": RATIOS}, drop=["stage*.*"], data=data)
    else:
        data = {"calibration": 64, "search": 78, "test": 156, "train": 500}
        problem = joint(name, prune={"ratios": RATIOS}, drop=["blocks.*.attention", "blocks.*.mlp"], data=data)
    return problem, Cached(problem, TABLES / f"allocation_{name}.npz"), None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problems", nargs="+", default=["bits", "joint", "canvas_resnet", "tiny_gpt"])
    parser.add_argument("--methods", nargs="+", default=list(plugins.available("seeders")))
    parser.add_argument("--seeds", type=int, default=5, help="of the methods; one training")
    parser.add_argument("--allowance", type=int, help="measurements beside tables, of pairs; without it all")
    arguments = parser.parse_args()
    rows = []
    for name in arguments.problems:
        problem, source, exact = problem_and_source(name, 0)
        found = []
        for seed in range(arguments.seeds):
            proposed = []
            for method in arguments.methods:
                try:
                    proposed.append(Proposed(problem, source, method, seed, arguments.allowance))
                except ConfigError as error:
                    print(f"{name}, {method}: {error}", flush=True)
            if isinstance(source, Cached):
                source.save()
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
        "the others against the front of all methods.",
    )


if __name__ == "__main__":
    main()
