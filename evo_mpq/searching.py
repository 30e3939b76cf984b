"""Which searcher the settings name, and what it is told of a problem before it searches."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from evo_mpq.costs import computed_costs, computed_screen, lead_objective
from evo_mpq.errors import ConfigError, Mistake
from evo_mpq.measure.measurements import Measurements
from evo_mpq.measure.objectives import Quantity
from evo_mpq.optimize.budget import Budget
from evo_mpq.optimize.exhaustive import Exhaustive
from evo_mpq.optimize.loop import Result
from evo_mpq.optimize.nsga2 import NSGA2
from evo_mpq.optimize.random_search import RandomSearch
from evo_mpq.optimize.searcher import Searcher
from evo_mpq.optimize.surrogate_search.predicted_front import PredictedFront
from evo_mpq.optimize.surrogate_search.rounds import Round
from evo_mpq.optimize.surrogate_search.search import SurrogateSearch
from evo_mpq.predict.surrogates.kinds import residual_model
from evo_mpq.predict.tables.tables import Tables
from evo_mpq.problem import Problem
from evo_mpq.results.front import GenomeKey
from evo_mpq.typing import FloatMatrix, FloatVector, Genomes

TABLE = "table of single options"
"""What a table is measured for; see `Seeding.asked`."""

SHARING_BATCH = 20
"""Candidates of a batch where computing is what counts, unless the user says otherwise: more of them share more."""

TABLE_SHARE = 1 / 8
"""Of the search split's samples that tables are measured on, unless the user says otherwise."""

LEAST_PREDICTIONS = 250
"""Of the network, such as images or tokens, in that part."""

MOST_TABLE_SHARE = 1 / 4
"""Where these are more than that part of all, tables are measured on all: little would be saved."""

FREE_POPULATION = 40
"""Candidates per generation where every objective is computed, unless the user says otherwise."""

Sketches: TypeAlias = Sequence[tuple[Genomes, Measurements]]
"""Genomes, and what was measured of them on a part of the search split."""


@dataclass
class Asked:
    """What was to be measured for one purpose before a search, in order.

    Attributes:
        whole: on the whole search split.
        part: on a part of it.
    """

    whole: list[GenomeKey] = field(default_factory=list)
    part: list[GenomeKey] = field(default_factory=list)


Assisted: TypeAlias = SurrogateSearch | PredictedFront
"""Searchers that predict."""


def make_searcher(problem: Problem, budget: Budget | None = None) -> Searcher:
    """The searcher that the settings name.

    Args:
        problem: that is searched.
        budget: the first one; without a number of evaluations, computing is what counts. Default: that of the settings.

    Raises:
        ConfigError: the surrogate cannot model the objectives.
    """
    settings, space, log_scale = problem.settings.search, problem.space, problem.log_scale
    seed, named = problem.settings.seed, "population" in settings.model_fields_set
    if settings.algorithm == "exhaustive":
        return Exhaustive(space)
    if settings.algorithm == "random":
        return RandomSearch(space, settings.population, seed)
    if lead_objective(problem) is None:
        return NSGA2(space, settings.population if named else FREE_POPULATION, seed, log_scale=log_scale)
    if settings.fitness.surrogate == "none":
        return NSGA2(space, settings.population, seed, log_scale=log_scale)
    computed = computed_costs(problem)
    costs = [computed.get(quantity.name) for quantity in problem.objectives]
    if settings.fitness.surrogate == "shapley":
        _require_one_measured(problem)
        return PredictedFront(space, costs, batch_size=settings.population, seed=seed, log_scale=log_scale)
    constraints = [constraint.quantity.name for constraint in problem.constraints]
    computing = (budget or settings).evaluations is None
    return SurrogateSearch(
        space,
        costs,
        residual_model(settings.fitness.surrogate),
        batch_size=SHARING_BATCH if computing and not named else settings.population,
        seed=seed,
        log_scale=log_scale,
        screen=computed_screen(problem, computed),
        n_constraints=len(constraints),
        measured_constraints=[column for column, name in enumerate(constraints) if name not in computed],
        model=settings.fitness.surrogate,
        after=work_after(problem) if computing else None,
        picks=pick_limits(problem),
    )


def pick_limits(problem: Problem) -> FloatMatrix:
    """``(k, n_objectives)`` most losses of the points that will be picked, infinite where any will do.

    Without picks in the settings, the constraints on computed objectives are one: who has so much memory uses it all.
    """
    named = {quantity.name: column for column, quantity in enumerate(problem.objectives)}
    bounding = [bound for bound in problem.constraints if bound.quantity.name in named and bound.leaves_better]
    picks = problem.picks or ([bound for bound in bounding if bound.quantity.form == "free"],)
    limits = np.full((len(picks), len(named)), np.inf)
    for limit, bounds in zip(limits, picks, strict=True):
        for bound in bounds:
            column, loss = named[bound.quantity.name], bound.quantity.loss(np.array([bound.bound]))
            limit[column] = min(limit[column], loss[0])
    bounded: FloatMatrix = limits[np.any(np.isfinite(limits), axis=1)]
    return bounded


def work_after(problem: Problem) -> FloatVector:
    """``(n_genes,)`` part of the MACs from the first layer on that a gene decides on."""
    sites = problem.network.sites()
    macs = np.array([site.macs for site in sites], dtype=np.float64)
    rest = np.cumsum(macs[::-1])[::-1] / max(macs.sum(), 1.0)
    place = {site.name: position for position, site in enumerate(sites)}
    return np.array([rest[min(place[name] for name in gene.layers)] for gene in problem.space.genes])


def table_share(problem: Problem) -> float:
    """Part of the search split's samples that tables are measured on."""
    said = problem.settings.search.fitness.table_share
    if said != "auto":
        return said
    if any(quantity.form == "called" for quantity in problem.quantities):
        return 1.0  # what is called, such as a latency, takes no less time on fewer samples
    network = problem.network
    shape = network.graph[network.graph.output].shape[1:]
    classes = 0 if len(shape) in (1, 3) else len(shape) - 1  # (n, c) and (n, c, h, w), else (n, ..., c)
    each = math.prod(size or 1 for place, size in enumerate(shape) if place != classes)
    share = max(TABLE_SHARE, LEAST_PREDICTIONS / (each * len(network.splits.search)))
    return share if share <= MOST_TABLE_SHARE else 1.0


def prepare(searcher: Searcher, problem: Problem, tables: Tables, sketches: Sketches = ()) -> None:
    """Tells a searcher what it is to expect, and measures what that takes.

    Args:
        searcher: before it is asked.
        problem: that is searched.
        tables: of its genes.
        sketches: what the tables are of, where that is not what the search measures.

    Raises:
        MeasurementError: the extremes of the space cannot be measured.
    """
    fitness, lead = problem.settings.search.fitness, lead_objective(problem)
    if fitness.interactions == "auto":
        _ = tables.interactions  # what it measures is known to the searcher from then on
    if isinstance(searcher, PredictedFront):
        searcher.believe(tables.contributions.table())
        return
    if isinstance(searcher, SurrogateSearch):
        for genomes, measurements in sketches:
            searcher.sketched(genomes, measurements)
    believed = fitness.contributions == "shapley" and "shapley" in problem.seeders
    if isinstance(searcher, SurrogateSearch) and believed and lead is not None:
        allowance = tables.methods_allowance
        # estimated from fewer they are a worse prior than sensitivities
        if allowance is None or allowance >= tables.contributions_take:
            searcher.believe(tables.contributions.table(), problem.objectives.index(lead))


def needs_tables(problem: Problem) -> bool:
    """Whether a search needs more measured than it asks for itself."""
    fitness = problem.settings.search.fitness
    sketched = fitness.surrogate != "none" and table_share(problem) < 1
    return fitness.interactions == "auto" or fitness.surrogate == "shapley" or sketched


def last_tau(searcher: Searcher) -> float | None:
    """Kendall's rank correlation of what was expected of the last batch; None where nothing was."""
    if not isinstance(searcher, Assisted) or not searcher.rounds:
        return None
    tau = searcher.rounds[-1].tau
    return tau if np.isfinite(tau) else None


def explained(
    problem: Problem, searcher: Searcher, asked: Mapping[str, Asked], share: float, result: Result
) -> dict[str, Any]:
    """What a search expected of what it measured, and what it measured for what: the content of ``predictions.json``.

    Args:
        problem: that was searched.
        searcher: after the search.
        asked: per purpose the genomes that were to be measured before the search.
        share: what a measurement on a part of the search split counts.
        result: of the search.
    """
    rounds = searcher.rounds if isinstance(searcher, Assisted) else []
    quantities = [quantity for quantity in problem.objectives if quantity.form != "free"]
    return {
        "surrogate": searcher.model if isinstance(searcher, Assisted) else None,
        "objectives": [
            {"name": quantity.name, "unit": quantity.unit, "scale": "log10" if quantity.log_scale else "linear"}
            for quantity in quantities
        ],
        "rounds": [_round_document(each, quantities) for each in rounds],
        "table_share": share,
        "spent": _spent(problem, rounds, asked, share, result),
    }


def _spent(
    problem: Problem, rounds: Sequence[Round], asked: Mapping[str, Asked], share: float, result: Result
) -> list[dict[str, Any]]:
    """Per purpose the measurements, each counted for the first, and the hypervolume of what was asked for it."""
    archive = result.archive
    rows = {tuple(genome): row for row, genome in enumerate(archive.genomes.tolist())}
    feasible = archive.measurements.feasible
    left, sketched = set(rows), set[GenomeKey]()
    spent: list[dict[str, Any]] = []
    for purpose, genomes in asked.items():
        used, new = left & set(genomes.whole), set(genomes.part) - sketched
        left -= used
        sketched |= new
        reached = [rows[genome] for genome in dict.fromkeys(genomes.whole) if genome in rows and feasible[rows[genome]]]
        volume = None if result.box is None or not reached else result.box.hypervolume(archive.losses[reached])
        measurements = len(used) + (share * len(new) if new else 0)
        spent.append({"purpose": purpose, "measurements": measurements, "sketched": len(new), "hypervolume": volume})
    by = {"surrogate": 0, "nsga2": 0}
    for each in rounds:
        by[each.proposer] += len(each.predicted)
    # what no round told of is a table that the searcher asked itself, or all of a search without a surrogate
    by[TABLE if rounds else problem.settings.search.algorithm] = len(left) - sum(by.values())
    spent += [{"purpose": purpose, "measurements": n, "sketched": 0, "hypervolume": None} for purpose, n in by.items()]
    return [each for each in spent if each["measurements"]]


def _round_document(each: Round, quantities: Sequence[Quantity]) -> dict[str, Any]:
    """A batch in the objectives' own units and directions; None where a candidate failed or nothing was expected."""

    def own(values: FloatMatrix) -> list[list[float | None]]:
        columns = [
            quantity.loss(10.0**column if quantity.log_scale else column)
            for quantity, column in zip(quantities, values.T, strict=True)
        ]
        return [[value if np.isfinite(value) else None for value in row] for row in np.stack(columns, axis=1).tolist()]

    return {
        "measured_before": each.n_measured,
        "proposer": each.proposer,
        "predicted": own(each.predicted),
        "measured": own(each.measured),
        "tau": each.tau if np.isfinite(each.tau) else None,
    }


def _require_one_measured(problem: Problem) -> None:
    measured = [quantity.name for quantity in problem.objectives if quantity.form != "free"]
    if len(measured) > 1:
        message = (
            f"shapley is of one measured objective, and {', '.join(measured)} are measured; use gp, or leave all but "
            "one of them to metrics"
        )
        raise ConfigError([Mistake(("search", "fitness", "surrogate"), message)])
