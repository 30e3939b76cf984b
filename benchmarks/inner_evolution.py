"""Does evolving candidates on what is expected pay, beside exact programs and relatives of the front?

The surrogate search alone, from its own table on, with 0, 5 or 20 generations of NSGA-II on its expectations before
each batch: with exact programs, without them (a cost that is no sum over layers has none), and with three objectives.
"""

from __future__ import annotations

import argparse
import contextlib

import numpy as np

from benchmarks.efficiency.problems import world
from benchmarks.efficiency.worlds import Exhausted, Ledger, World
from benchmarks.presenting import show, spread
from benchmarks.search_efficiency import judge
from evo_mpq.optimize.surrogate_search.search import SurrogateSearch

GENERATIONS = (0, 5, 20)
BUDGETS = (60, 100, 200)
CASES = {
    "bits": ("bits", True),
    "bits, no program": ("bits", False),
    "joint": ("joint", True),
    "joint, no program": ("joint", False),
    "three objectives": ("kernel_switches", True),
    "three objectives, no program": ("kernel_switches", False),
}


def searched(place: World, generations: int, seed: int, *, program: bool) -> tuple[np.ndarray, float]:
    """Genomes in the order of measuring, and the searcher's own CPU seconds."""
    # a plain function is a cost like any other, but no exact program can be made of it
    costs = [cost if program else cost.__call__ for cost in place.costs]
    log_scale = [True, *(False for _ in costs)]
    searcher = SurrogateSearch(
        place.space, [None, *costs], generations=generations, seed=seed, log_scale=log_scale, batch_size=10
    )
    ledger = Ledger(place, max(BUDGETS))
    with contextlib.suppress(Exhausted):
        while ledger.left and len(genomes := searcher.ask(ledger.left)):
            searcher.tell(ledger.measure(genomes))
    return ledger.genomes, ledger.own_seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    rows = []
    for case, (name, program) in CASES.items():
        place = world(name)
        best, _ = judge(place)
        for generations in GENERATIONS:
            runs = [searched(place, generations, seed, program=program) for seed in range(arguments.seeds)]
            shares = [
                [
                    best.share(place.source.search(genomes[:n]).losses, place.computed(genomes[:n]))
                    for genomes, _ in runs
                ]
                for n in BUDGETS
            ]
            rows.append(
                [case, generations, *(spread(each) for each in shares), spread([own for _, own in runs], ".1f")]
            )
    show(
        "Does evolving candidates on what is expected pay?",
        ["problem", "generations", *(f"share at {n}" for n in BUDGETS), "own CPU s"],
        rows,
        f"Medians and ranges of {arguments.seeds} search seeds, on stored tables of digits_resnet.",
    )


if __name__ == "__main__":
    main()
