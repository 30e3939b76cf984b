"""How exact are Shapley contributions at four measurements per gene?

Relative L2 errors of the contributions of whole genes (totals) and of single steps (increments) against the average of
many lattice walks, on a synthetic game with known interactions and on built-in networks, bits of weights only.
"""

from __future__ import annotations

import argparse
import math
from typing import Any

import numpy as np

from benchmarks.presenting import show, spread
from benchmarks.problems import built_in
from evo_mpq.measure.executors import InProcess
from evo_mpq.predict.shapley.contributions import Contributions
from evo_mpq.predict.shapley.estimators import ESTIMATORS
from evo_mpq.predict.tables.options import Estimates, Measure, OptionTable
from evo_mpq.predict.tables.sensitivities import measured_sensitivities
from evo_mpq.space.building import SpaceLayer, build_space
from evo_mpq.space.search_space import SearchSpace
from evo_mpq.typing import FloatVector, Genomes

SYNTHETIC = "pair"
NETWORKS = ("digits_resnet", "digits_mobilenet", "digits_mlp", "digits_vit")
SYNTHETIC_BITS = (2, 3, 4, 5, 6, 8)
BITS = (2, 3, 4, 6, 8)
MEBIBYTES = 1 << 20
NOISE = "noise of the reference"


def pair_game(n_layers: int, seed: int) -> tuple[SearchSpace, Measure]:
    """A network's loss as rounding errors that interfere, saturating: 70 (1 - exp(-e'Ce)) percent of accuracy.

    e_i = sqrt(s_i r_ib) 2^-b_i, with sensitivities s that are log-normal and larger for small layers, 15 % of roughness
    r over bits, and C of diagonal one: a third each of nothing, four common directions, and neighbors. 2 bits
    everywhere lose 19.7 %, 4 bits 1.4 %.
    """
    rng = np.random.default_rng(seed)
    space = build_space([SpaceLayer(f"layer{i}") for i in range(n_layers)], defaults={"weight_bits": SYNTHETIC_BITS})
    sizes = rng.lognormal(0.0, 1.0, n_layers)
    sensitivities = rng.lognormal(0.0, 0.8, n_layers) / np.sqrt(sizes)
    roughness = rng.lognormal(0.0, 0.15, (n_layers, len(SYNTHETIC_BITS)))
    amplitudes = np.sqrt(sensitivities[:, None] * roughness) * 2.0 ** -np.array(SYNTHETIC_BITS)
    directions = rng.normal(size=(n_layers, 4))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    neighbors = np.eye(n_layers) + 0.5 * (np.eye(n_layers, k=1) + np.eye(n_layers, k=-1))
    interference = 0.35 * np.eye(n_layers) + 0.35 * directions @ directions.T + 0.3 * neighbors
    scale = -np.log(1 - 19.7 / 70) / (amplitudes[:, 0] @ interference @ amplitudes[:, 0])

    def measure(genomes: Genomes) -> Estimates:
        e = amplitudes[np.arange(n_layers), genomes]
        losses = 70 * (1 - np.exp(-scale * np.einsum("ni,ij,nj->n", e, interference, e)))
        return Estimates(losses, np.full(len(losses), np.nan))

    return space, measure


def network_game(network: str, seed: int) -> tuple[SearchSpace, Measure]:
    """What a run contributes to: the default objective, a softened divergence from the float network."""
    problem = built_in(network, BITS, seed=seed)
    executor = InProcess(problem.compressor, problem.quantities, 256 * MEBIBYTES)
    column = problem.quantities.index(problem.objectives[0])

    def measure(genomes: Genomes) -> Estimates:
        found = executor.measure(problem.space.decode(genomes), "search").values
        return Estimates(found.values[:, column], found.standard_errors[:, column])

    return problem.space, remembering(measure)


def remembering(measure: Measure) -> Measure:
    """The same, with each genome measured once for all estimators, as a journal does."""
    known: dict[bytes, tuple[float, float]] = {}

    def remembered(genomes: Genomes) -> Estimates:
        new = np.array([row for row in genomes if row.tobytes() not in known]).reshape(-1, genomes.shape[1])
        if len(new):
            found = measure(new)
            keys = (row.tobytes() for row in new)
            known.update(zip(keys, zip(found.losses, found.standard_errors, strict=True), strict=True))
        losses, errors = np.array([known[row.tobytes()] for row in genomes]).T
        return Estimates(losses, errors)

    return remembered


Found = tuple[int, FloatVector, FloatVector]
"""Measurements, totals of genes, and increments of all steps."""


def of(contributions: Contributions) -> Found:
    return contributions.n_measurements, contributions.totals, np.concatenate(contributions.increments)


def of_table(table: OptionTable, n: int) -> Found:
    """The one-at-a-time table read as contributions."""
    totals = np.array([row[0] for row in table.losses])
    return n, totals, np.concatenate([-np.diff(row) for row in table.losses])


def arms(space: SearchSpace, measure: Measure, per_gene: int, draw: int) -> dict[str, Found]:
    """What every estimator finds with ``per_gene`` measurements a gene, and the ``draw``-th random numbers."""
    table = measured_sensitivities(space, measure)
    n_table, n = 1 + int(np.sum(space.cardinalities - 1)), per_gene * space.n_genes

    def estimated(name: str, levels: OptionTable | None = None, **options: Any) -> Found:
        return of(ESTIMATORS[name](space, measure, n, np.random.default_rng(draw), levels=levels, **options))

    profiled = estimated("kernel", table)
    return {
        "kernel, measured levels": (profiled[0] + n_table, *profiled[1:]),
        "kernel, 4^-b": estimated("kernel"),
        "permutation, 4^-b": estimated("permutation"),
        "permutation, no reverse, 4^-b": estimated("permutation", antithetic=False),
        "lattice": estimated("lattice"),
        "one at a time": of_table(table, n_table),
    }


def relative(found: FloatVector, true: FloatVector) -> float:
    return float(np.linalg.norm(found - true) / np.linalg.norm(true))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--games", nargs="+", default=[SYNTHETIC, *NETWORKS], choices=[SYNTHETIC, *NETWORKS])
    parser.add_argument("--per-gene", type=int, nargs="+", default=[4], help="measurements")
    parser.add_argument("--seeds", type=int, nargs="+", default=range(5), help="of the game: of training and split")
    parser.add_argument("--draws", type=int, default=3, help="of what estimators choose at random, per seed")
    parser.add_argument("--walks", type=int, default=150, help="of the reference on networks")
    parser.add_argument("--synthetic-walks", type=int, default=3000)
    arguments = parser.parse_args()
    rows: list[list[object]] = []
    for game in arguments.games:
        errors: dict[tuple[int, str], list[tuple[int, float, float, float]]] = {}
        noises: list[tuple[float, float]] = []
        for seed in arguments.seeds:
            space, measure = pair_game(20, seed) if game == SYNTHETIC else network_game(game, seed)
            walks = arguments.synthetic_walks if game == SYNTHETIC else arguments.walks
            budget = 2 + walks * (int(np.sum(space.cardinalities - 1)) - 1)
            reference = ESTIMATORS["lattice"](space, measure, budget, np.random.default_rng(1000 + seed))
            _, totals, increments = of(reference)
            noises.append(
                (
                    float(np.linalg.norm(reference.total_errors) / np.linalg.norm(totals)),
                    float(np.linalg.norm(np.concatenate(reference.standard_errors)) / np.linalg.norm(increments)),
                )
            )
            for per_gene in arguments.per_gene:
                for draw in range(arguments.draws):
                    for arm, (n, *found) in arms(space, measure, per_gene, 100 * seed + draw).items():
                        error = relative(found[0], totals)
                        less = math.sqrt(max(error**2 - noises[-1][0] ** 2, 0.0))
                        errors.setdefault((per_gene, arm), []).append((n, error, less, relative(found[1], increments)))
        name = f"{game}, {space.n_genes} genes"
        for (per_gene, arm), some in errors.items():
            percent = 100 * np.array(some)[:, 1:]
            rows.append([name, per_gene, arm, some[0][0], *(spread(column.tolist(), ".1f") for column in percent.T)])
        percent = 100 * np.array(noises)
        of_totals, of_increments = (spread(column.tolist(), ".1f") for column in percent.T)
        rows.append([name, "", NOISE, budget, of_totals, "", of_increments])
    show(
        "How exact are Shapley contributions at four measurements per gene?",
        ["game", "a gene", "estimator", "measurements", "totals, %", "less noise, %", "increments, %"],
        rows,
        f"Relative L2 errors against lattice walks (antithetic; {arguments.synthetic_walks} on the synthetic game, "
        f"{arguments.walks} on networks), whose standard errors are the last rows; less noise: the reference's taken "
        f"off in squares. Medians (and ranges) of {len(arguments.seeds)} seeds of the game by {arguments.draws} draws.",
        "The measurements of the measured levels contain those of the one-at-a-time table.",
    )


if __name__ == "__main__":
    main()
