"""What is known of a problem without measuring: costs as sums over layers, and the loss that tables are of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from evo_mpq.measure.candidate import Candidate
from evo_mpq.measure.measurements import Measurements
from evo_mpq.measure.objectives import Quantity
from evo_mpq.optimize.loop import Screen
from evo_mpq.optimize.searcher import genome_keys
from evo_mpq.optimize.surrogate_search.models import Cost
from evo_mpq.predict.factored import FactoredFunction, NotASum, decomposed
from evo_mpq.predict.tables.options import Estimates
from evo_mpq.predict.tables.tables import Tables
from evo_mpq.problem import Problem
from evo_mpq.quantities import is_divergence
from evo_mpq.space.genes import DROP_KIND, PRUNE_KIND
from evo_mpq.space.policy import Policy
from evo_mpq.space.search_space import SearchSpace
from evo_mpq.typing import FloatMatrix, FloatVector, Genomes


def lead_objective(problem: Problem) -> Quantity | None:
    """The measured objective that tables are of: a KL divergence where one is, else the first; None if none is."""
    measured = [quantity for quantity in problem.objectives if quantity.form != "free"]
    return next((quantity for quantity in measured if is_divergence(quantity)), next(iter(measured), None))


def tables_of(
    problem: Problem,
    lead: Quantity,
    measure: Callable[[Genomes], Measurements],
    cost: FactoredFunction,
    left: int | None = None,
    methods_allowance: int | None = None,
) -> Tables:
    """Tables of a problem's genes, measured as the run measures.

    Args:
        problem: of the genes.
        lead: the objective that tables are of.
        measure: measures genomes.
        cost: see `cost_of`.
        left: measurements by ``measure`` that are left before the table of sensitivities; None for any number.
        methods_allowance: likewise that each method may make besides; None for any number.
    """
    column = problem.objectives.index(lead)

    def estimates(genomes: Genomes) -> Estimates:
        found = measure(genomes)
        return Estimates(found.losses[:, column], found.standard_errors[:, column])

    return Tables(problem.space, cost, estimates, problem.compressor, problem.settings.seed, left, methods_allowance)


def cost_of(problem: Problem, name: str | None = None) -> tuple[str, FactoredFunction]:
    """Name and function of what budgets bound, as a sum over layers.

    Args:
        problem: of the genomes.
        name: of a free quantity; None for the first free objective that is a sum over layers and more for the most
            expensive genome than for the cheapest, or else the bytes of the packed file.

    Raises:
        NotASum: the quantity of that name is none.
        KeyError: no free quantity has the name.
    """
    free = {quantity.name: quantity for quantity in problem.quantities if quantity.form == "free"}
    if name is not None and name != "size":
        return name, _factored(problem, _losses(problem, free[name]))
    for quantity in problem.objectives:
        if quantity.name == "size":
            break
        if quantity.form == "free":
            try:
                cost = _factored(problem, _losses(problem, quantity))
            except NotASum:
                continue
            if _rises(problem.space, cost):
                return quantity.name, cost
    packed_bytes = problem.compressor.packed_bytes
    return "size", _factored(problem, lambda policies: [packed_bytes(each, as_candidate=True) for each in policies])


def _rises(space: SearchSpace, cost: FactoredFunction) -> bool:
    """Whether more of everything costs more: a modelled error does not, and budgets on it would buy nothing."""
    lowest, highest = cost(np.stack([space.cheapest(), space.most_expensive()]))
    return bool(highest > lowest)


class ComputedCost:
    """A loss that is no sum over layers, computed genome by genome, each once.

    Args:
        problem: of the genomes.
        quantity: free.
    """

    def __init__(self, problem: Problem, quantity: Quantity) -> None:
        self._space = problem.space
        self._losses = _losses(problem, quantity)
        self._known: dict[bytes, float] = {}

    def __call__(self, genomes: Genomes) -> FloatVector:
        """``(n,)`` losses; infinite where one cannot be computed, which measuring would find out, too."""
        keys = genome_keys(genomes)
        new = [row for row, key in enumerate(keys) if key not in self._known]
        for row, policy in zip(new, self._space.decode(genomes[new]), strict=True):
            try:
                self._known[keys[row]] = float(self._losses([policy])[0])
            except Exception:  # of an objective of the user's
                self._known[keys[row]] = np.inf
        return np.array([self._known[key] for key in keys])


def computed_costs(problem: Problem) -> dict[str, Cost]:
    """The losses that need no measuring, of objectives and of what constraints bound, by name.

    Sums of factors wherever they are ones, so that exact programs can use them.
    """
    quantities = [*problem.objectives, *(constraint.quantity for constraint in problem.constraints)]
    costs: dict[str, Cost] = {}
    for quantity in quantities:
        if quantity.form == "free" and quantity.name not in costs:
            try:
                costs[quantity.name] = _factored(problem, _losses(problem, quantity))
            except NotASum:
                costs[quantity.name] = ComputedCost(problem, quantity)
    return costs


def computed_screen(problem: Problem, costs: Mapping[str, Cost]) -> Screen | None:
    """Violations of the constraints on computed costs, for many genomes; None if there is no such constraint."""
    columns = [column for column, constraint in enumerate(problem.constraints) if constraint.quantity.name in costs]
    if not columns:
        return None

    def screen(genomes: Genomes) -> FloatMatrix:
        violations = np.zeros((len(genomes), len(problem.constraints)))
        for column in columns:
            constraint = problem.constraints[column]
            # a loss is a value or its negative, and so is the way back
            values = constraint.quantity.loss(costs[constraint.quantity.name](genomes))
            violations[:, column] = constraint.violation(values)
        return violations

    return screen


PolicyLosses = Callable[[Sequence[Policy]], Sequence[float] | FloatVector]
"""``n`` policies to their losses."""


def _losses(problem: Problem, quantity: Quantity) -> PolicyLosses:
    def losses(policies: Sequence[Policy]) -> FloatVector:
        candidates = [Candidate(policy, problem.compressor) for policy in policies]
        quantity.prepare_all(candidates)
        return quantity.loss(np.array([quantity.value(candidate) for candidate in candidates]))

    return losses


def _factored(problem: Problem, losses: PolicyLosses) -> FactoredFunction:
    def costs(genomes: Genomes) -> FloatVector:
        try:
            return np.array(losses(problem.space.decode(genomes)), dtype=np.float64)
        except Exception as error:  # of an objective of the user's
            raise NotASum(f"it cannot be computed for every genome: {error}") from error

    return decomposed(problem.space, costs, layer_scopes(problem), np.random.default_rng(0))


def layer_scopes(problem: Problem) -> list[frozenset[int]]:
    """Per layer and product the genes that what is left of it depends on; and those that leave blocks out."""
    space = problem.space
    scopes: dict[str, set[int]] = {site.name: set() for site in problem.network.sites()}
    of_group: dict[str, int] = {}
    for position, gene in enumerate(space.genes):
        for layer in gene.layers:
            scopes[layer].add(position)
            if gene.kind == PRUNE_KIND:
                of_group[layer] = position
    for group in problem.network.prune_groups:
        for reader in group.columns:
            if group.name in of_group:
                scopes[reader].add(of_group[group.name])
    for genes in scopes.values():  # a gene decides nothing where all of its blocks are left out
        genes.update(*(space.homes[gene] for gene in tuple(genes)))
    blocks = [{position} for position, gene in enumerate(space.genes) if gene.kind == DROP_KIND]
    return [frozenset(genes) for genes in [*scopes.values(), *blocks]]


def spaced_budgets(problem: Problem, name: str, cost: FactoredFunction, n: int) -> FloatVector:
    """``(n,)`` bounds on a cost between those of the cheapest and the most expensive genome, or a constraint's bound.

    Args:
        problem: with its constraints.
        name: of the cost.
        cost: of genomes.
        n: how many.
    """
    space = problem.space
    lowest, highest = cost(np.stack([space.cheapest(), space.most_expensive()]))
    bounds = [
        constraint.bound
        for constraint in problem.constraints
        if constraint.quantity.name == name and constraint.comparison == "<="
    ]
    highest = max(lowest, min([highest, *bounds]))
    spaced = np.geomspace if lowest > 0 else np.linspace
    budgets: FloatVector = spaced(lowest, highest, n + 1)[1:]
    budgets[-1] = highest  # not a rounding error below it
    return budgets
