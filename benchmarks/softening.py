"""By how much better are networks that a softened divergence chooses on few samples, and at which temperature?

Candidates are the front of sensitivities and program, and relatives that are expected within 30 % of it, so that no
divergence chose them. Of parts of the search split each divergence chooses the best candidate for 14 sizes; they are
compared by their plain KL on the test split with what the plain divergence chooses.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.efficiency.problems import MLP_BITS, network_problem, residual_mlp
from benchmarks.gene_kinds import RATIOS, SETTINGS
from benchmarks.presenting import show
from benchmarks.problems import built_in
from evo_mpq.costs import cost_of
from evo_mpq.measure.executors import InProcess
from evo_mpq.measure.objectives import Quantity, as_quantity
from evo_mpq.objectives.kl_divergence import KLDivergence
from evo_mpq.objectives.mean_squared_error import MeanSquaredError
from evo_mpq.objectives.soft_kl_divergence import SoftKLDivergence
from evo_mpq.optimize.pareto import non_dominated
from evo_mpq.optimize.programs.elimination import pareto_program
from evo_mpq.optimize.surrogate_search.proposals import relatives
from evo_mpq.predict.tables.options import Estimates, additive
from evo_mpq.predict.tables.sensitivities import measured_sensitivities
from evo_mpq.problem import Problem
from evo_mpq.typing import FloatMatrix, FloatVector, Genomes

TEMPERATURES = (1.5, 2.0, 3.0, 5.0)
N_RELATIVES = 60_000
SLACK = 1.3
CHUNK = 64
N_SIZES = 14
N_DRAWS = 20


@dataclass(frozen=True)
class Case:
    """A network whose candidates are compared.

    Attributes:
        problem: made when it is compared.
        n_candidates: besides the program's front.
        samples: sizes of the parts of its search split.
    """

    problem: Callable[[], Problem]
    n_candidates: int
    samples: tuple[int, ...]


CASES: Mapping[str, Case] = {
    "digits_resnet": Case(lambda: built_in("digits_resnet", (2, 3, 4, 6, 8)), 2000, (100, 200, 400)),
    "digits_vit": Case(lambda: built_in("digits_vit", (2, 3, 4, 6, 8)), 2000, (100, 200, 400)),
    "digits_mobilenet": Case(lambda: built_in("digits_mobilenet", (2, 3, 4, 6, 8)), 2000, (100, 200, 400)),
    "residual_mlp": Case(
        lambda: built_in("digits_mlp", MLP_BITS, model={"kind": residual_mlp()}), 2000, (100, 200, 400)
    ),
    "canvas_resnet": Case(
        lambda: network_problem("canvas_resnet", data={**SETTINGS["canvas_resnet"].data, "search": 3000}),
        1000,
        (200, 400, 1000, 3000),
    ),
    "tiny_gpt": Case(
        lambda: network_problem("tiny_gpt", prune={"ratios": RATIOS}, drop=list(SETTINGS["tiny_gpt"].drop)),
        150,
        (20, 78),
    ),
}


def divergences() -> dict[str, Quantity]:
    """The plain one first, the limit of high temperatures last."""
    soft = {f"T {t:g}": as_quantity(SoftKLDivergence(temperature=t), name=f"soft {t:g}") for t in TEMPERATURES}
    return {"plain": as_quantity(KLDivergence()), **soft, "squared error": as_quantity(MeanSquaredError())}


def near_the_front(problem: Problem, n: int) -> Genomes:
    """The program's front, and ``n`` random ones of the relatives that are expected near it, in the space's order."""
    space, (_, cost) = problem.space, cost_of(problem, "size")
    executor = InProcess(problem.compressor, [as_quantity(KLDivergence())], 1 << 29)

    def estimates(genomes: Genomes) -> Estimates:
        found = executor.measure(space.decode(genomes), "search").values
        return Estimates(found.values[:, 0], found.standard_errors[:, 0])

    expected = additive(space, measured_sensitivities(space, estimates))
    front = pareto_program(space, expected, cost).genomes
    front = front[np.argsort(cost(front))]
    rng = np.random.default_rng(0)
    others = np.unique(relatives(space, front, N_RELATIVES, rng), axis=0)
    place = np.searchsorted(cost(front), cost(others), side="right") - 1
    near = others[(place >= 0) & (expected(others) < SLACK * expected(front)[place])]
    return np.unique(np.concatenate([front, near[rng.permutation(len(near))[:n]]]), axis=0)


def per_sample(problem: Problem, quantities: Sequence[Quantity], genomes: Genomes, split: str) -> np.ndarray:
    """``(n, n_quantities, n_samples)`` values."""
    executor = InProcess(problem.compressor, quantities, 1 << 29)
    found = []
    for start in range(0, len(genomes), CHUNK):
        policies = problem.space.decode(genomes[start : start + CHUNK])
        samples = executor.measure(policies, split, keep_samples=True).per_sample
        found += [np.stack([each[place] for place in range(len(quantities))]) for each in samples]
    return np.array(found)


def chosen(losses: FloatVector, sizes: FloatVector, budgets: FloatVector) -> np.ndarray:
    """Per budget the row of the lowest loss within it."""
    return np.array([np.argmin(np.where(sizes <= budget, losses, np.inf)) for budget in budgets])


def gains(values: np.ndarray, held_out: FloatVector, sizes: FloatVector, n: int) -> FloatMatrix:
    """``(n_draws, n_divergences + 1)`` logarithms of held-out KL over that of the plain choice; the last by test KL."""
    n_samples, rng = values.shape[2], np.random.default_rng(0)
    rows = []
    for _ in range(N_DRAWS if n < n_samples else 1):
        losses = values[:, :, rng.permutation(n_samples)[:n]].mean(axis=2)
        front = non_dominated(np.stack([losses[:, 0], sizes], axis=1))
        budgets = np.geomspace(1.02 * sizes[front].min(), sizes[front].max(), N_SIZES + 1)[:-1]
        picks = [chosen(column, sizes, budgets) for column in (*losses.T, held_out)]
        logs = np.array([np.log(held_out[rows]).mean() for rows in picks])
        rows.append(logs - logs[0])
    return np.array(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=list(CASES), choices=list(CASES))
    arguments = parser.parse_args()
    rows = []
    for name in arguments.networks:
        case, kinds = CASES[name], divergences()
        problem = case.problem()
        genomes = near_the_front(problem, case.n_candidates)
        sizes = cost_of(problem, "size")[1](genomes)
        values = per_sample(problem, list(kinds.values()), genomes, "search")
        held_out = per_sample(problem, [kinds["plain"]], genomes, "test")[:, 0].mean(axis=1)
        for n in case.samples:
            logs = gains(values, held_out, sizes, n)
            cells = [f"{np.exp(mean):.3f}" for mean in logs.mean(axis=0)[1:]]
            rows.append([name, f"{n:,}", *cells])
    show(
        "By how much better are networks that a softened divergence chooses on few samples?",
        ["network", "search samples", *list(divergences())[1:], "the best"],
        rows,
        f"Plain KL on the test split over that of the plain choice, geometric means over {N_SIZES} sizes and "
        f"{N_DRAWS} draws of the samples (one where they are all). The best: chosen by the test split itself.",
    )


if __name__ == "__main__":
    main()
