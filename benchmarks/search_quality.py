"""How much of the exact front of digits_resnet does a search without a surrogate find?

Every arm is the search of `evo-mpq run`, from the reference and the uniform ladder on, with the table of
`exact_front.py` in the place of the network.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.exact_front import Table, table_file
from benchmarks.judging import Oracle, oracle
from benchmarks.presenting import show, spread
from evo_mpq.measure.measurements import Values
from evo_mpq.measure.objectives import Quantity
from evo_mpq.optimize.archive import Archive
from evo_mpq.optimize.budget import Budget
from evo_mpq.optimize.loop import Recorded, Spending, Start, run_search
from evo_mpq.optimize.nsga2 import NSGA2
from evo_mpq.optimize.pareto import HypervolumeBox
from evo_mpq.optimize.random_search import RandomSearch
from evo_mpq.optimize.searcher import Searcher
from evo_mpq.optimize.starts import uniform_ladder
from evo_mpq.results.journal import Journal
from evo_mpq.space.search_space import SearchSpace
from evo_mpq.typing import Genomes

BUDGETS = (100, 200, 400)
LOG_SCALE = (True, False)
QUANTITIES = (
    Quantity("soft_kl_divergence", "nats", "minimize", "measured", True, None, "outputs"),
    Quantity("size", "B", "minimize", "exact", False, None, "free"),
)
ARMS: Mapping[str, Callable[[SearchSpace, int], Searcher]] = {
    "nsga2, population 40": lambda space, seed: NSGA2(space, 40, seed, log_scale=LOG_SCALE),
    "nsga2, population 20": lambda space, seed: NSGA2(space, 20, seed, log_scale=LOG_SCALE),
    "nsga2, population 10": lambda space, seed: NSGA2(space, 10, seed, log_scale=LOG_SCALE),
    "random": lambda space, seed: RandomSearch(space, 10, seed),
}


class Stored:
    """A space whose every genome was measured before."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self.space: SearchSpace = table.space
        self._places = {genome.tobytes(): place for place, genome in enumerate(table.genomes.astype(np.int8))}
        self.oracle: Oracle = oracle(table.search_loss, table.test_kl, table.size, table.search_loss_error)

    def rows(self, genomes: Genomes) -> np.ndarray:
        """``(n,)`` places of genomes in the table, which is in lexicographic order."""
        return np.array([self._places[genome.tobytes()] for genome in np.asarray(genomes).astype(np.int8)], dtype=int)

    def measure(self, genomes: Genomes) -> tuple[Values, float, int]:
        """As `evo_mpq.measure.measurer.Measurer` would."""
        rows = self.rows(genomes)
        values = np.stack([self.table.search_loss[rows], self.table.size[rows]], axis=1)
        errors = np.stack([self.table.search_loss_error[rows], np.full(len(rows), np.nan)], axis=1)
        return Values(values, errors, (None,) * len(rows)), 0.0, 0

    def search(self, searcher: Searcher, evaluations: int) -> Archive:
        """What a run with this searcher and budget measures."""
        reference = np.array([[0.0, float(self.table.float_size)]])
        spending = Spending()
        spending.count("reference")
        ladder = np.array([genome for _, genome in uniform_ladder(self.space)])

        def measured(start: Start) -> None:
            start.measure(ladder)

        with tempfile.TemporaryDirectory() as folder, Journal.open(Path(folder) / "journal", {}, {}) as journal:
            evaluate = Recorded(self.measure, journal, QUANTITIES, QUANTITIES, spending=spending, least_chunk=4)
            result = run_search(
                self.space,
                searcher,
                evaluate,
                journal=journal,
                budgets=[Budget(evaluations=evaluations)],
                box=lambda losses: HypervolumeBox.around(np.concatenate([reference, losses]), LOG_SCALE),
                begin=measured,
            )
        return result.archive

    def judged(self, archive: Archive) -> tuple[float, float]:
        """Share and held-out regret."""
        rows = self.rows(archive.genomes)
        losses, held_out, size = self.table.search_loss[rows], self.table.test_kl[rows], self.table.size[rows]
        return self.oracle.share(losses, size), self.oracle.held_out_regret(losses, held_out, size)


def judged_arm(
    stored: Stored, arm: Callable[[SearchSpace, int], Searcher], evaluations: int, seeds: Sequence[int]
) -> np.ndarray:
    """``(2, n_seeds)`` shares and held-out regrets."""
    found = [stored.search(arm(stored.space, seed), evaluations) for seed in seeds]
    return np.array([stored.judged(archive) for archive in found]).T


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tables", type=int, nargs="+", default=[0], help="training seeds of the stored tables")
    parser.add_argument("--seeds", type=int, default=5, help="number of search seeds")
    parser.add_argument("--space", default="bits", choices=["bits", "joint"])
    arguments = parser.parse_args()
    for table in arguments.tables:
        if not table_file(table, arguments.space).exists():
            how = f"--spaces {arguments.space} --seeds {table}"
            parser.error(f"there is no table yet: python -m benchmarks.exact_front {how} (some minutes)")
    rows, remarks = [], []
    for table in arguments.tables:
        stored = Stored(Table.read(table_file(table, arguments.space)))
        remarks.append(f"Table {table}: front of {len(stored.oracle.losses)}, floor {stored.oracle.floor:.2g} nats.")
        for name, arm in ARMS.items():
            judged = [judged_arm(stored, arm, budget, range(arguments.seeds)) for budget in BUDGETS]
            rows.append(
                [table, name, *(spread(shares) for shares, _ in judged), *(spread(r, ".2f") for _, r in judged)]
            )
    show(
        "How much of the exact front of digits_resnet does a search without a surrogate find?",
        [
            "table",
            "search",
            *(f"share at {budget}" for budget in BUDGETS),
            *(f"held-out regret at {budget}" for budget in BUDGETS),
        ],
        rows,
        f"Medians and ranges of {arguments.seeds} search seeds.",
        *remarks,
    )


if __name__ == "__main__":
    main()
