"""How optimistic are search values, and how much does the size of the search split matter?

Bits and pruned channels of canvas_resnet, NSGA-II with its defaults on search splits of different sizes. The members
of each front are measured again on test images that decide nothing: a good optimizer fits the noise of its search
split, and the ratio says by how much.
"""

from __future__ import annotations

import argparse

import numpy as np

from benchmarks.judging import oracle
from benchmarks.presenting import show, spread
from benchmarks.problems import joint
from benchmarks.searching import Found, searched

SIZES = (200, 400, 1000, 3000)


def found_with(n: int, seed: int, evaluations: int) -> Found:
    problem = joint(
        "canvas_resnet",
        prune={"ratios": [0.0, 0.25, 0.5]},
        data={"search": n, "test": 5000},
        search={"evaluations": evaluations},
    )
    return searched(problem, seed, evaluations)


def ratio(found: Found) -> float:
    """Geometric mean over the front of test KL to search KL."""
    return float(np.exp(np.mean(np.log(found.held_out / found.losses))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5, help="of the search; one training")
    parser.add_argument("--evaluations", type=int, default=400)
    arguments = parser.parse_args()
    found = {n: [found_with(n, seed, arguments.evaluations) for seed in range(arguments.seeds)] for n in SIZES}
    union = Found.union([front for fronts in found.values() for front in fronts])
    # of the test values: what was handed over is compared, not what was hoped for
    best = oracle(union.held_out, union.held_out, union.sizes, union.errors)
    rows = [
        [
            n,
            spread([ratio(front) for front in fronts], ".2f"),
            spread([best.held_out_regret(front.losses, front.held_out, front.sizes) for front in fronts], ".2f"),
            spread([float(np.median(front.errors / front.losses)) for front in fronts], ".0%"),
            spread([front.cpu_seconds for front in fronts], ".0f"),
        ]
        for n, fronts in found.items()
    ]
    show(
        "How optimistic are search values, and how much does the size of the search split matter?",
        ["search images", "test KL / search KL", "held-out regret", "standard error of the KL", "CPU s"],
        rows,
        f"{arguments.evaluations} measurements, {arguments.seeds} search seeds, 5,000 test images; regret against the "
        "best test values that any of these searches found. Medians and ranges.",
    )


if __name__ == "__main__":
    main()
