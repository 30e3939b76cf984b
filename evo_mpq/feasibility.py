"""Whether any candidate keeps the constraints on what costs nothing to compute, told before anything is measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from evo_mpq.errors import ConfigError, Mistake, Mistakes
from evo_mpq.measure.candidate import Candidate
from evo_mpq.measure.executors import InProcess
from evo_mpq.measure.measurer import Measurer
from evo_mpq.measure.objectives import Constraint
from evo_mpq.optimize.starts import uniform_ladder
from evo_mpq.problem import Problem
from evo_mpq.space.search_space import Genome, SearchSpace
from evo_mpq.typing import FloatVector, Genomes

_Total: TypeAlias = Callable[[Genomes], FloatVector]
_SAMPLES = 64
_MOST_ROUNDS = 20


def refuse_infeasible(problem: Problem) -> None:
    """Refuses constraints on free quantities, or picks together with them, that no genome was found to keep.

    From the genome with the least violation among the extremes, the uniform recipes and random ones, one gene after
    the other is set to its best value. Where the quantities are sums over layers, as sizes and operations are, this
    finds the least violation there is.

    Raises:
        ConfigError: with the nearest values that were found.
    """
    _refuse(problem, problem.constraints, ("constraints",))
    mistakes = Mistakes()
    for place, pick in enumerate(problem.picks):
        with mistakes.about():
            _refuse(problem, (*problem.constraints, *pick), ("search", "picks", place))
    mistakes.check()


def _refuse(problem: Problem, bounds: Sequence[Constraint], path: tuple[str | int, ...]) -> None:
    """Refuses bounds, which stand at a path of the settings, that no genome was found to keep."""
    constraints = [constraint for constraint in bounds if constraint.quantity.form == "free"]
    if not constraints:
        return
    executor = InProcess(problem.compressor, problem.quantities, problem.settings.compute.memory_bytes)
    measurer = Measurer(problem.space, problem.compressor, problem.quantities, executor)

    def total(genomes: Genomes) -> FloatVector:
        excess = measurer.free_violations(genomes, constraints)
        broken: FloatVector = np.maximum(excess, 0.0).sum(axis=1)
        return broken

    nearest, violation = _least(problem.space, total)
    if violation <= 0:
        return
    candidate = Candidate(problem.space.decode(nearest[None])[0], problem.compressor)
    values = "; ".join(
        f"{constraint} (nearest: {constraint.quantity.value(candidate):.6g})"
        for constraint in constraints
        if constraint.violation(np.array([constraint.quantity.value(candidate)]))[0] > 0
    )
    message = f"no candidate of the space keeps {values}. Loosen the bound, or offer cheaper options in the space"
    raise ConfigError([Mistake(path, message)])


def _least(space: SearchSpace, total: _Total) -> tuple[Genome, float]:
    """A genome of the least violation that was found, and this violation."""
    recipes = [genome for _, genome in uniform_ladder(space)]
    starts = np.stack([space.cheapest(), space.most_expensive(), *recipes])
    best, violation = _best(np.concatenate([starts, space.sample(_SAMPLES, np.random.default_rng(0))]), total)
    for _ in range(_MOST_ROUNDS):
        before = violation
        for gene in range(space.n_genes):
            if violation <= 0:
                return best, violation
            neighbors = np.repeat(best[None], space.cardinalities[gene], axis=0)
            neighbors[:, gene] = np.arange(space.cardinalities[gene])
            found, least = _best(space.canonical(neighbors), total)
            if least < violation:
                best, violation = found, least
        if violation >= before:
            break
    return best, violation


def _best(genomes: Genomes, total: _Total) -> tuple[Genome, float]:
    violations = total(genomes)
    return genomes[violations.argmin()], float(violations.min())
