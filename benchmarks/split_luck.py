"""Over random splits of the images: does the exact front hand over better networks than sensitivity + program?

Every network of a space is known on every image, by the softened divergence and by the plain one. Each of many random
splits has 400 images that are searched; the others judge what is handed over at nine sizes.
"""

from __future__ import annotations

import argparse

import numpy as np
from scipy.stats import t

from benchmarks.efficiency.splits import drawn_split
from benchmarks.every_image import N_SEARCHED, EveryImage
from benchmarks.judging import LOWEST_FLOOR, N_BUDGETS
from benchmarks.presenting import show
from benchmarks.softening import chosen
from evo_mpq.costs import cost_of
from evo_mpq.optimize.pareto import non_dominated
from evo_mpq.optimize.programs.elimination import pareto_program
from evo_mpq.predict.tables.options import Estimates, additive, one_at_a_time_genomes
from evo_mpq.predict.tables.sensitivities import measured_sensitivities
from evo_mpq.typing import FloatVector, Genomes

N_SPLITS = 20


def program(every: EveryImage, losses: FloatVector) -> np.ndarray:
    """Rows of the one-at-a-time table of these losses, and of the front of its exact program."""
    space, cost = every.problem.space, cost_of(every.problem, "size")[1]

    def estimates(genomes: Genomes) -> Estimates:
        return Estimates(losses[every.rows(genomes)], np.full(len(genomes), np.nan))

    front = pareto_program(space, additive(space, measured_sensitivities(space, estimates)), cost).genomes
    return every.rows(np.unique(np.concatenate([one_at_a_time_genomes(space), front]), axis=0))


def log_ratio(every: EveryImage, searched: np.ndarray, judging: np.ndarray, seed: int) -> float:
    """Logarithm of held-out losses of the exact front over those of sensitivity + program.

    Args:
        every: every network on every image.
        searched: ``(n, n_images)`` divergences that are searched by.
        judging: those that judge.
        seed: of the split.
    """
    images, others = drawn_split(every.groups, N_SEARCHED, seed)
    losses = searched[:, images].mean(axis=1, dtype=np.float64)
    held_out = judging[:, others].mean(axis=1, dtype=np.float64)
    sizes, rows = every.sizes, program(every, losses)
    front = non_dominated(np.stack([losses, sizes], axis=1))
    budgets = np.geomspace(1.02 * sizes[front].min(), sizes[front].max(), N_BUDGETS)
    exact, ours = chosen(losses, sizes, budgets), rows[chosen(losses[rows], sizes[rows], budgets)]
    judged = np.log(np.maximum(held_out, LOWEST_FLOOR))
    return float((judged[exact] - judged[ours]).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--spaces", nargs="+", default=["bits", "joint"], choices=["bits", "joint"])
    arguments = parser.parse_args()
    rows = []
    for space in arguments.spaces:
        every = EveryImage(space)
        for name, searched, judging in (
            ("softened", every.softened, every.softened),
            ("softened", every.softened, every.plain),
            ("plain", every.plain, every.plain),
        ):
            logs = np.array([log_ratio(every, searched, judging, seed) for seed in range(N_SPLITS)])
            error = t.ppf(0.975, N_SPLITS - 1) * logs.std(ddof=1) / np.sqrt(N_SPLITS)
            low, mean, high = np.exp([logs.mean() - error, logs.mean(), logs.mean() + error])
            rows.append(
                [
                    space,
                    name,
                    "plain" if judging is every.plain else "softened",
                    f"{mean:.3f} ({low:.3f}–{high:.3f})",
                    f"{np.exp(logs.min()):.3f}–{np.exp(logs.max()):.3f}",
                ]
            )
    show(
        "Over random splits: does the exact front hand over better networks than sensitivity + program?",
        ["space", "searched by", "judged by", "held-out ratio (95 %)", "range"],
        rows,
        f"What is handed over at nine sizes, geometric means; {N_SPLITS} splits of {every.plain.shape[1]} images, "
        f"{N_SEARCHED} of them searched. The whole table and front of the program are measured.",
    )


if __name__ == "__main__":
    main()
