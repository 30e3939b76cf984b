"""Over random splits of the images: does the exact front hand over better networks than sensitivity + program?

A stored table has the luck of one split. Here every network of a space is measured on every image, plain and softened;
each of many random splits has 400 images that are searched, by the softened divergence or the plain one, and the others
judge by the plain one what is handed over at nine sizes.
"""

from __future__ import annotations

import argparse

import numpy as np
from scipy.stats import t

from benchmarks.exact_front import CHUNK, MEBIBYTES, problem_of
from benchmarks.judging import LOWEST_FLOOR, N_BUDGETS
from benchmarks.presenting import show
from benchmarks.softening import chosen
from evo_mpq.costs import cost_of
from evo_mpq.measure.executors import InProcess
from evo_mpq.measure.objectives import as_quantity
from evo_mpq.objectives.kl_divergence import KLDivergence
from evo_mpq.objectives.soft_kl_divergence import SoftKLDivergence
from evo_mpq.optimize.pareto import non_dominated
from evo_mpq.optimize.programs.elimination import pareto_program
from evo_mpq.predict.tables.options import Estimates, additive, one_at_a_time_genomes
from evo_mpq.predict.tables.sensitivities import measured_sensitivities
from evo_mpq.problem import Problem
from evo_mpq.typing import FloatVector, Genomes

N_SEARCHED = 400
N_SPLITS = 20


class Measured:
    """Every network of a space on every image of the search and test splits.

    Args:
        problem: of the space.
    """

    def __init__(self, problem: Problem) -> None:
        self.space = problem.space
        self.cost = cost_of(problem, "size")[1]
        self.genomes = np.concatenate(list(self.space.enumerate()))
        self.sizes = self.cost(self.genomes)
        self._places = {genome.tobytes(): place for place, genome in enumerate(self.genomes)}
        parts = [_per_sample(problem, split) for split in ("search", "test")]
        self.plain, self.softened = np.concatenate(parts, axis=2)

    def rows(self, genomes: Genomes) -> np.ndarray:
        """``(n,)`` places of genomes."""
        return np.array([self._places[genome.tobytes()] for genome in np.ascontiguousarray(genomes)])

    def program(self, losses: FloatVector) -> np.ndarray:
        """Rows of the one-at-a-time table of these losses, and of the front of its exact program."""

        def estimates(genomes: Genomes) -> Estimates:
            return Estimates(losses[self.rows(genomes)], np.full(len(genomes), np.nan))

        table = measured_sensitivities(self.space, estimates)
        front = pareto_program(self.space, additive(self.space, table), self.cost).genomes
        return self.rows(np.unique(np.concatenate([one_at_a_time_genomes(self.space), front]), axis=0))


def _per_sample(problem: Problem, split: str) -> np.ndarray:
    """``(2, n, n_samples)`` plain and softened divergences of all genomes."""
    quantities = [as_quantity(KLDivergence()), as_quantity(SoftKLDivergence())]
    executor = InProcess(problem.compressor, quantities, 256 * MEBIBYTES)
    found = []
    for rows in problem.space.enumerate(CHUNK):
        samples = executor.measure(problem.space.decode(rows), split, keep_samples=True).per_sample
        found.append(np.array([[each[0], each[1]] for each in samples], dtype=np.float32))
    return np.moveaxis(np.concatenate(found), 1, 0)


def log_ratio(measured: Measured, searched: np.ndarray, order: np.ndarray) -> float:
    """Logarithm of held-out losses of the exact front over those of sensitivity + program.

    Args:
        measured: every network.
        searched: per-sample divergences that are searched by.
        order: of the images; the first are searched, and the others judge.
    """
    losses = searched[:, order[:N_SEARCHED]].mean(axis=1, dtype=np.float64)
    held_out = measured.plain[:, order[N_SEARCHED:]].mean(axis=1, dtype=np.float64)
    sizes, rows = measured.sizes, measured.program(losses)
    front = non_dominated(np.stack([losses, sizes], axis=1))
    budgets = np.geomspace(1.02 * sizes[front].min(), sizes[front].max(), N_BUDGETS)
    exact, program = chosen(losses, sizes, budgets), rows[chosen(losses[rows], sizes[rows], budgets)]
    judged = np.log(np.maximum(held_out, LOWEST_FLOOR))
    return float((judged[exact] - judged[program]).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--spaces", nargs="+", default=["bits", "joint"], choices=["bits", "joint"])
    arguments = parser.parse_args()
    rows = []
    for space in arguments.spaces:
        measured = Measured(problem_of(space, 0))
        for name, searched in (("softened", measured.softened), ("plain", measured.plain)):
            rng = np.random.default_rng(0)
            n_images = searched.shape[1]
            logs = np.array([log_ratio(measured, searched, rng.permutation(n_images)) for _ in range(N_SPLITS)])
            error = t.ppf(0.975, N_SPLITS - 1) * logs.std(ddof=1) / np.sqrt(N_SPLITS)
            low, mean, high = np.exp([logs.mean() - error, logs.mean(), logs.mean() + error])
            rows.append(
                [
                    space,
                    name,
                    f"{mean:.3f} ({low:.3f}–{high:.3f})",
                    f"{np.exp(logs.min()):.3f}–{np.exp(logs.max()):.3f}",
                ]
            )
    show(
        "Over random splits: does the exact front hand over better networks than sensitivity + program?",
        ["space", "searched by", "held-out ratio (95 %)", "range"],
        rows,
        f"Plain KL of what is handed over at nine sizes, geometric means; {N_SPLITS} splits of {n_images} images, "
        f"{N_SEARCHED} of them searched. The whole table and front of the program are measured.",
    )


if __name__ == "__main__":
    main()
