"""How good are the choices of pairwise interactions, and what does shrinking them do?

The protocol of CLADO's probe in the reference: digits_mlp, 6 layers of 2, 3, 4 or 8 bits, weights only, 256 search
samples, all 4,096 genomes measured; nine budgets. Regret is the measured loss of a model's choice over that of the best
genome within the budget, alone (top 1) or the best of the eight that the model puts first, measured again.
"""

from __future__ import annotations

import argparse
import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.exact_front import TABLES, measure_all
from benchmarks.presenting import show
from benchmarks.problems import built_in
from evo_mpq.costs import cost_of
from evo_mpq.optimize.programs.integer import integer_programs
from evo_mpq.predict.factored import Factor, FactoredFunction
from evo_mpq.predict.tables.interactions import (
    InteractionTable,
    measured_interactions,
    quadratic,
)
from evo_mpq.predict.tables.options import Estimates, OptionTable, additive
from evo_mpq.predict.tables.sensitivities import measured_sensitivities
from evo_mpq.space.building import SpaceLayer, build_space
from evo_mpq.space.search_space import SearchSpace
from evo_mpq.typing import FloatVector, Genomes

BITS = (2, 3, 4, 8)
N_LAYERS = 6
N_BUDGETS = 9
N_REMEASURED = 8
SETTINGS: dict[str, dict[str, Any]] = {
    "reference": {"correction": "none", "quantizer": {"weights": {"rounding": "nearest", "granularity": "tensor"}}},
    "per channel": {"correction": "none", "quantizer": {"weights": {"rounding": "nearest"}}},
    "defaults": {},
}
"""Of the quantizer: one scale a tensor and nearest rounding as in the reference; one a channel; ours."""

Model = Callable[[SearchSpace, OptionTable, InteractionTable], FactoredFunction]


def trusting(shrinkage: float, *, psd: bool = False) -> Model:
    """The pairwise model with a fixed factor of interactions."""
    return lambda space, table, pairs: quadratic(space, table, pairs.shrunk(shrinkage), psd=psd)


MODELS: dict[str, Model] = {
    "diagonal": lambda space, table, _: additive(space, table),
    "pairwise raw": trusting(1.0),
    "half-shrunk": trusting(0.5),
    "chosen shrinkage": quadratic,
    "psd-clipped": trusting(1.0, psd=True),
}


@dataclass(frozen=True, eq=False)
class Measured:
    """Every genome of a space, in lexicographic order.

    Attributes:
        losses: ``(n,)`` KL on the search split, in nats.
        errors: ``(n,)`` standard errors.
        sizes: ``(n,)`` bytes.
    """

    losses: FloatVector
    errors: FloatVector
    sizes: FloatVector

    @property
    def space(self) -> SearchSpace:
        return build_space([SpaceLayer(f"layers.{i}") for i in range(N_LAYERS)], defaults={"weight_bits": list(BITS)})

    @functools.cached_property
    def genomes(self) -> Genomes:
        return np.concatenate(list(self.space.enumerate()))

    @property
    def cost(self) -> FactoredFunction:
        """Bytes: the rest of the file, and what options add to it."""
        rows = self.sizes.reshape((len(BITS),) * N_LAYERS)
        axes = [rows[(0,) * gene + (slice(None),) + (0,) * (N_LAYERS - 1 - gene)] for gene in range(N_LAYERS)]
        factors = [Factor((gene,), axis - axis[0]) for gene, axis in enumerate(axes)]
        cost = FactoredFunction((Factor((), np.array(float(axes[0][0]))), *factors))
        assert np.array_equal(cost(self.genomes), self.sizes), "bytes are a sum over layers"
        return cost

    @property
    def budgets(self) -> FloatVector:
        """``(9,)`` bytes between the smallest and the largest genome, without these."""
        return np.geomspace(self.sizes.min(), self.sizes.max(), N_BUDGETS + 2)[1:-1]

    def measure(self, genomes: Genomes) -> Estimates:
        rows = np.ravel_multi_index(genomes.T, (len(BITS),) * N_LAYERS)
        return Estimates(self.losses[rows], self.errors[rows])


def measured(how: str, seed: int) -> Measured:
    """All genomes of a problem, from a file where they were measured before."""
    file = Path(TABLES) / f"digits_mlp_{how.replace(' ', '_')}_seed{seed}.npz"
    if not file.exists():
        problem = built_in(
            "digits_mlp",
            BITS,
            seed=seed,
            data={"kind": "digits", "seed": seed, "search": 256},
            search={"fitness": {"seeds": []}},
            **SETTINGS[how],
        )
        values, errors, _ = measure_all(problem, "search")
        column = [quantity.name for quantity in problem.quantities].index("kl_divergence")
        sizes = cost_of(problem, "size")[1](np.concatenate(list(problem.space.enumerate())))
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(file, losses=values[:, column], errors=errors[:, column], sizes=sizes)
    with np.load(file) as arrays:
        return Measured(**{name: arrays[name] for name in arrays.files})


def regrets(truth: Measured, predicted: FactoredFunction) -> tuple[FloatVector, FloatVector]:
    """``(9,)`` regrets of the model's first genome within each budget, and of the best of its first eight."""
    predictions = predicted(truth.genomes)
    first, best_of = [], []
    for budget in truth.budgets:
        legal = np.flatnonzero(truth.sizes <= budget)
        order = legal[np.argsort(predictions[legal], kind="stable")[:N_REMEASURED]]
        oracle = truth.losses[legal].min()
        first.append(truth.losses[order[0]] / oracle)
        best_of.append(truth.losses[order].min() / oracle)
    return np.array(first), np.array(best_of)


def is_exact(truth: Measured, predicted: FactoredFunction) -> bool:
    """Whether the integer program finds the best predicted genome within every budget."""
    found = predicted(integer_programs(truth.space, predicted, truth.cost, truth.budgets))
    everything = predicted(truth.genomes)
    best = [everything[truth.sizes <= budget].min() for budget in truth.budgets]
    return bool(np.allclose(found, best, rtol=1e-6, atol=1e-12))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(8)), help="of training and split")
    parser.add_argument("--settings", nargs="+", default=["reference", "defaults"], choices=list(SETTINGS))
    parser.add_argument("--allowances", type=int, nargs="+", default=[60], help="pairs of options, besides all of them")
    parser.add_argument("--program", action="store_true", help="solve the integer programs, too, and say if exactly")
    parser.add_argument("--measure-only", action="store_true", help="keep tables of all genomes for later")
    arguments = parser.parse_args()
    rows = []
    for how in arguments.settings:
        truths = [measured(how, seed) for seed in arguments.seeds]
        if arguments.measure_only:
            continue
        tables = [measured_sensitivities(truth.space, truth.measure) for truth in truths]
        for allowance in [None, *arguments.allowances]:
            pairs = [
                measured_interactions(truth.space, truth.measure, table, allowance=allowance)
                for truth, table in zip(truths, tables, strict=True)
            ]
            factors = [found.shrinkage for found in pairs]
            for name, model in MODELS.items():
                if name == "diagonal" and allowance is not None:
                    continue
                predicted = [
                    model(truth.space, *known)
                    for truth, known in zip(truths, zip(tables, pairs, strict=True), strict=True)
                ]
                exact = "–"
                if arguments.program:
                    exact = f"{sum(itertools.starmap(is_exact, zip(truths, predicted, strict=True)))}/{len(truths)}"
                found = np.array([regrets(*each) for each in zip(truths, predicted, strict=True)])
                top, best = found[:, 0].ravel(), found[:, 1].ravel()
                rows.append(
                    [
                        how,
                        name + (f" ({min(factors):.2f}–{max(factors):.2f})" if name == "chosen shrinkage" else ""),
                        0 if name == "diagonal" else pairs[0].n_measurements,
                        f"{np.exp(np.log(top).mean()):.3f} ({np.quantile(top, 0.9):.2f})",
                        f"{np.exp(np.log(best).mean()):.3f} ({np.quantile(best, 0.9):.2f})",
                        exact,
                    ]
                )
    if rows:
        show(
            "How good are the choices of pairwise interactions, and what does shrinking them do?",
            ["quantizer", "model", "pairs", "top 1", f"best of {N_REMEASURED}", "program exact"],
            rows,
            f"Measured search KL over that of the best genome within the budget: geometric mean (90th percentile) of "
            f"{len(arguments.seeds)} networks and {N_BUDGETS} budgets, spaced geometrically between the smallest and "
            "the largest genome.",
        )


if __name__ == "__main__":
    main()
