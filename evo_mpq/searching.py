"""Which searcher the settings name, and what it is told of a problem before it searches."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from evo_mpq.costs import computed_costs, computed_screen, lead_objective
from evo_mpq.errors import ConfigError, Mistake
from evo_mpq.optimize.exhaustive import Exhaustive
from evo_mpq.optimize.nsga2 import NSGA2
from evo_mpq.optimize.random_search import RandomSearch
from evo_mpq.optimize.searcher import Searcher
from evo_mpq.optimize.surrogate_search.fixed import PredictedFront
from evo_mpq.optimize.surrogate_search.search import SurrogateSearch
from evo_mpq.predict.shapley.estimators import MEASUREMENTS_PER_GENE
from evo_mpq.predict.surrogates.gaussian_process import GaussianProcess
from evo_mpq.predict.surrogates.surrogate import ResidualModel
from evo_mpq.predict.tables.tables import Tables
from evo_mpq.problem import Problem

FREE_POPULATION = 40
"""Candidates per generation where every objective is computed, unless the user says otherwise."""

Assisted: TypeAlias = SurrogateSearch | PredictedFront
"""Searchers that predict."""


def make_searcher(problem: Problem) -> Searcher:
    """The searcher that the settings name.

    Raises:
        ConfigError: the surrogate cannot model the objectives.
    """
    settings, space, log_scale = problem.settings.search, problem.space, problem.log_scale
    seed = problem.settings.seed
    if settings.algorithm == "exhaustive":
        return Exhaustive(space)
    if settings.algorithm == "random":
        return RandomSearch(space, settings.population, seed)
    if lead_objective(problem) is None:
        named = "population" in settings.model_fields_set
        return NSGA2(space, settings.population if named else FREE_POPULATION, seed, log_scale=log_scale)
    if settings.fitness.surrogate == "none":
        return NSGA2(space, settings.population, seed, log_scale=log_scale)
    computed = computed_costs(problem)
    costs = [computed.get(quantity.name) for quantity in problem.objectives]
    if settings.fitness.surrogate == "shapley":
        _require_one_measured(problem)
        return PredictedFront(space, costs, batch_size=settings.population, seed=seed, log_scale=log_scale)
    constraints = [constraint.quantity.name for constraint in problem.constraints]
    return SurrogateSearch(
        space,
        costs,
        _residual(settings.fitness.surrogate),
        batch_size=settings.population,
        seed=seed,
        log_scale=log_scale,
        screen=computed_screen(problem, computed),
        n_constraints=len(constraints),
        measured_constraints=[column for column, name in enumerate(constraints) if name not in computed],
    )


def prepare(searcher: Searcher, problem: Problem, tables: Tables) -> None:
    """Tells a searcher what it is to expect, and measures what that takes.

    Raises:
        MeasurementError: the extremes of the space cannot be measured.
    """
    fitness, lead = problem.settings.search.fitness, lead_objective(problem)
    if fitness.interactions == "auto":
        _ = tables.interactions  # what it measures is known to the searcher from then on
    if isinstance(searcher, PredictedFront):
        searcher.believe(tables.contributions.table())
        return
    believed = fitness.contributions == "shapley" and "shapley" in problem.seeders
    if isinstance(searcher, SurrogateSearch) and believed and lead is not None:
        allowance, wanted = tables.methods_allowance, MEASUREMENTS_PER_GENE * problem.space.n_genes
        if allowance is None or allowance >= wanted:  # estimated from fewer they are a worse prior than sensitivities
            searcher.believe(tables.contributions.table(), problem.objectives.index(lead))


def needs_tables(problem: Problem) -> bool:
    """Whether `prepare` measures something besides what allocation methods do."""
    fitness = problem.settings.search.fitness
    return fitness.interactions == "auto" or fitness.surrogate == "shapley"


def _residual(name: str) -> Callable[[], ResidualModel] | None:
    return None if name == "additive" else GaussianProcess


def _require_one_measured(problem: Problem) -> None:
    measured = [quantity.name for quantity in problem.objectives if quantity.form != "free"]
    if len(measured) > 1:
        message = (
            f"shapley is of one measured objective, and {', '.join(measured)} are measured; use gp, or leave all but "
            "one of them to metrics"
        )
        raise ConfigError([Mistake(("search", "fitness", "surrogate"), message)])
