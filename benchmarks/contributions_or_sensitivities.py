"""Do contributions choose better policies than sensitivities, pairs, or parameters of a differentiable mixture?

SMPQ (arXiv 2508.03002) says so of contributions and parameters. Every method gets the same number of measurements:
as many as its tables leave are budgets over the whole range that it chooses for. Of all that a method measured the best
network within a budget is handed over. Five trainings of a network, with and without the correction.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from benchmarks.allocation_methods import Counted
from benchmarks.efficiency.worlds import Cached
from benchmarks.judging import oracle
from benchmarks.presenting import show, spread
from benchmarks.problems import built_in
from evo_mpq import plugins
from evo_mpq.costs import cost_of
from evo_mpq.predict.shapley.estimators import MEASUREMENTS_PER_GENE
from evo_mpq.predict.tables.tables import Tables
from evo_mpq.problem import Problem

METHODS = ("differentiable", "smpq", "sensitivity", "shapley", "clado")
CORRECTIONS = ("scale_bias", "none")
BITS = (2, 3, 4, 6, 8)


class Arm:
    """Everything that a method measured of a problem within a number of measurements.

    Args:
        problem: of bits.
        source: measures.
        method: its name.
        measurements: of its tables and its choices together.
        seed: of the method.
    """

    def __init__(self, problem: Problem, source: Cached, method: str, measurements: int, seed: int) -> None:
        space = problem.space
        _, cost = cost_of(problem, "size")
        counted = Counted(source)
        table = 1 + sum(gene.cardinality - 1 for gene in space.genes)
        # half of what the table leaves, but contributions take four measurements per gene
        allowance = max((measurements - table) // 2, MEASUREMENTS_PER_GENE * space.n_genes)
        tables = Tables(space, cost, counted, problem.compressor, seed, methods_allowance=allowance)
        seeder = plugins.resolve(method, "seeders", None)
        lowest, highest = cost(np.stack([space.cheapest(), space.most_expensive()]))
        seeder(space, tables, np.array([highest]))  # measures what the method needs
        left = measurements - counted.measurements
        budgets = np.append(np.geomspace(1.001 * lowest, highest, left)[:-1], highest)
        counted(np.unique(seeder(space, tables, budgets), axis=0))
        self.genomes = counted.genomes
        found = source.search(self.genomes)
        self.losses, self.errors = found.losses, found.standard_errors
        self.held_out, self.sizes = source.test_kl(self.genomes), cost(self.genomes)
        self.measurements = counted.measurements


def results(network: str, correction: str, seed: int, measurements: int) -> dict[str, tuple[float, float, int]]:
    """Share, held-out regret and measurements of each method."""
    settings: dict[str, Any] = {"correction": correction, "search": {"fitness": {"seeds": []}}}
    problem = built_in(network, BITS, seed=seed, **settings)
    source = Cached(problem)
    arms = {method: Arm(problem, source, method, measurements, seed) for method in METHODS}
    parts = [
        np.concatenate([getattr(arm, part) for arm in arms.values()])
        for part in ("losses", "held_out", "sizes", "errors")
    ]
    best = oracle(*parts)
    return {
        method: (
            best.share(arm.losses, arm.sizes),
            best.held_out_regret(arm.losses, arm.held_out, arm.sizes),
            arm.measurements,
        )
        for method, arm in arms.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=["digits_mlp", "digits_resnet"])
    parser.add_argument("--measurements", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=5, help="of training, split and method together")
    arguments = parser.parse_args()
    rows = []
    for network in arguments.networks:
        for correction in CORRECTIONS:
            found = [results(network, correction, seed, arguments.measurements) for seed in range(arguments.seeds)]
            for method in METHODS:
                shares, regrets, measurements = np.array([result[method] for result in found]).T
                worse = regrets / np.array([result["sensitivity"][1] for result in found])
                rows.append(
                    [
                        network,
                        correction,
                        method,
                        spread(shares),
                        spread(regrets, ".2f"),
                        spread(worse, ".2f"),
                        spread(measurements, ".0f"),
                    ]
                )
    show(
        "Do contributions choose better policies than sensitivities, pairs, or a differentiable mixture?",
        ["network", "correction", "method", "share", "held-out regret", "over sensitivity's", "measurements"],
        rows,
        f"Weights 2, 3, 4, 6 or 8 bits; at most {arguments.measurements} measurements a method; against the front of "
        f"all that was measured. {arguments.seeds} seeds of training, split and method together; medians and ranges.",
    )


if __name__ == "__main__":
    main()
