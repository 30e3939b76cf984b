"""The exact minimum of a sum of factors under a bound on another one, by an integer linear program."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array, csr_array

from evo_mpq.predict.factored import FactoredFunction
from evo_mpq.space.search_space import Genome, SearchSpace
from evo_mpq.typing import FloatVector, Genomes

MOST_NODES = 1000
"""Of the branch-and-bound tree for one budget. Sums over layers of 74 genes with blocks and channels took 20 at most.

No limit is one of time: what was found by some second would depend on the machine and its other work, and a search that
is replayed must choose what it chose.
"""

LARGEST_LOSS = 1e3
"""What losses are scaled to. The solver ends at an absolute gap of 1e-6, which would be all of a small loss."""

MOST_CUTS = 50
"""Genomes that the solver may return although they cost too much, by its tolerance, before it is given up."""


class LimitReached(RuntimeError):  # noqa: N818 - it says what happened
    """The solver found no genome within its limits, and did not show either that there is none."""


class _NoneFitsError(Exception):
    """No genome meets the bound."""


def integer_program(
    space: SearchSpace,
    loss: FactoredFunction,
    cost: FactoredFunction,
    budget: float,
    *,
    nodes: int = MOST_NODES,
) -> Genome:
    """The genome of the lowest loss among those that cost at most ``budget``, exactly.

    One binary variable per option, one of which is chosen per gene; per factor of several genes a continuous one per
    entry of its table, whose marginals are the variables of its genes. Because those are integers, the entry of the
    chosen options is 1 and all others are 0, so that the program is exact for any table, convex or not: CLADO (Deng et
    al. 2023, arXiv 2307.05657) projects its matrix onto the positive semidefinite ones for a quadratic solver, which
    changes the problem and is not needed here. Solved by HiGHS; seconds for about 60 genes with all pairs.

    Args:
        space: of the genomes.
        loss: what is minimized.
        cost: what ``budget`` bounds; neither may depend on inactive genes.
        budget: the bound.
        nodes: of the branch-and-bound tree, after which the best genome so far is returned, on any machine the same.

    Returns:
        ``(n_genes,)`` canonical.

    Raises:
        ValueError: no genome is that cheap; the message has the lowest cost.
        LimitReached: no genome was found within the nodes.

    >>> from evo_mpq.predict.factored import Factor
    >>> from evo_mpq.space.genes import Gene
    >>> space = SearchSpace(["a", "b"], [Gene(f"{x}.weight_bits", (2, 4), "weight_bits", (x,)) for x in "ab"])
    >>> loss = FactoredFunction((Factor((0,), np.array([3.0, 0.0])), Factor((1,), np.array([1.0, 0.0]))))
    >>> bits = FactoredFunction(tuple(Factor((gene,), np.array([2.0, 4.0])) for gene in (0, 1)))
    >>> integer_program(space, loss, bits, 6.0).tolist()
    [1, 0]
    """
    genome: Genome = integer_programs(space, loss, cost, [budget], nodes=nodes)[0]
    return genome


def integer_programs(
    space: SearchSpace,
    loss: FactoredFunction,
    cost: FactoredFunction,
    budgets: Iterable[float],
    *,
    nodes: int = MOST_NODES,
) -> Genomes:
    """``(n, n_genes)`` the genome of the lowest loss for each of ``n`` budgets; see `integer_program`."""
    bounds = [float(budget) for budget in budgets]
    program = _program(space, loss, cost)
    rows = [_within(program, cost, budget, nodes) for budget in bounds]
    return space.canonical(np.array(rows, dtype=np.int64).reshape(len(rows), space.n_genes))


@dataclass(frozen=True, eq=False)
class _Program:
    """Minimize ``loss @ x`` where ``equalities @ x == sides``; the options of all genes come first in ``x``.

    Attributes:
        cardinalities: options of each gene.
        loss: ``(n_variables,)`` scaled.
        cost: ``(n_variables,)`` scaled, without ``constant``.
        equalities: ``(n_equalities, n_variables)``.
        sides: ``(n_equalities,)``.
        unit: what one of the cost variables' unit is worth.
        constant: cost of any genome.
    """

    cardinalities: Genome
    loss: FloatVector
    cost: FloatVector
    equalities: csr_array
    sides: FloatVector
    unit: float
    constant: float

    @property
    def n_options(self) -> int:
        """Binary variables."""
        return int(self.cardinalities.sum())

    @property
    def starts(self) -> Genome:
        """Where the options of each gene begin."""
        starts: Genome = np.cumsum(self.cardinalities) - self.cardinalities
        return starts


def _program(space: SearchSpace, loss: FactoredFunction, cost: FactoredFunction) -> _Program:
    losses, costs = _by_scope(loss), _by_scope(cost)
    several = sorted(
        scope
        for scope in losses.keys() | costs.keys()
        if len(scope) > 1 and any(np.ptp(tables[scope]) > 0 for tables in (losses, costs) if scope in tables)
    )
    starts = np.cumsum(space.cardinalities) - space.cardinalities
    scopes = [*((gene,) for gene in range(space.n_genes)), *several]
    shapes = [tuple(int(space.cardinalities[gene]) for gene in scope) for scope in scopes]
    values = [
        np.concatenate(
            [tables.get(scope, np.zeros(shape)).ravel() for scope, shape in zip(scopes, shapes, strict=True)]
        )
        for tables in (losses, costs)
    ]
    constant = sum(float(table.flat[0]) for scope, table in costs.items() if scope not in scopes)
    equalities, sides = _marginals(scopes, shapes, starts)
    largest, unit = (float(np.abs(column).max(initial=0.0)) or 1.0 for column in values)
    return _Program(
        space.cardinalities, values[0] * (LARGEST_LOSS / largest), values[1] / unit, equalities, sides, unit, constant
    )


def _by_scope(function: FactoredFunction) -> dict[tuple[int, ...], npt.NDArray[np.float64]]:
    """The tables of a sum, one per set of genes."""
    tables: dict[tuple[int, ...], npt.NDArray[np.float64]] = {}
    for factor in function.factors:
        tables[factor.genes] = tables.get(factor.genes, 0.0) + factor.table
    return tables


def _marginals(
    scopes: Sequence[tuple[int, ...]], shapes: Sequence[tuple[int, ...]], starts: Genome
) -> tuple[csr_array, FloatVector]:
    """One option per gene, and the marginals of each table of several genes equal to the options of its genes.

    Returns:
        A matrix, and the ``(n,)`` values that its products with the variables must have.
    """
    rows, columns, entries = [], [], []
    sides: list[float] = []
    place = 0
    for scope, shape in zip(scopes, shapes, strict=True):
        variables = place + np.arange(np.prod(shape)).reshape(shape)
        place += variables.size
        if len(scope) == 1:
            rows.append(np.full(variables.size, len(sides)))
            columns.append(variables)
            entries.append(np.ones(variables.size))
            sides.append(1.0)
            continue
        for axis, gene in enumerate(scope):
            for option, members in enumerate(np.moveaxis(variables, axis, 0)):
                rows.append(np.full(members.size + 1, len(sides)))
                columns.append(np.append(members.ravel(), starts[gene] + option))
                entries.append(np.append(np.ones(members.size), -1.0))
                sides.append(0.0)
    triples = (np.concatenate(entries), (np.concatenate(rows), np.concatenate(columns)))
    return csr_array(coo_array(triples, shape=(len(sides), place))), np.array(sides)


def _within(program: _Program, cost: FactoredFunction, budget: float, nodes: int) -> Genome:
    """The best genome that costs at most ``budget``."""
    bound = (budget - program.constant) / program.unit
    cuts: list[Genome] = []
    try:
        while len(cuts) <= MOST_CUTS:
            genome = _solution(program, program.loss, bound, cuts, nodes)
            if cost(genome[None])[0] <= budget:
                return genome
            # The solver tolerates a millionth. Only this genome is excluded: a lower bound could exclude others.
            cuts.append(genome)
    except _NoneFitsError:
        lowest = cost(_solution(program, program.cost, np.inf, [], nodes)[None])[0]
        raise ValueError(f"no genome costs {budget:.10g} or less; the cheapest costs {lowest:.10g}") from None
    raise LimitReached(f"the solver returned {len(cuts)} genomes that cost a little more than {budget:.10g}")


def _solution(program: _Program, objective: FloatVector, bound: float, cuts: Sequence[Genome], nodes: int) -> Genome:
    """The best genome within a bound that is none of ``cuts``."""
    n = len(program.loss)
    chosen = [np.isin(np.arange(n), program.starts + genome).astype(float) for genome in cuts]
    upper = csr_array(np.array([program.cost, *chosen]))
    limit = np.array([bound, *(len(program.cardinalities) - 1.0 for _ in cuts)])
    constraints = [
        LinearConstraint(program.equalities, program.sides, program.sides),
        LinearConstraint(upper, -np.inf, limit),
    ]
    result = milp(
        objective,
        integrality=np.arange(n) < program.n_options,
        bounds=Bounds(0.0, 1.0),
        constraints=constraints,
        options={"mip_rel_gap": 0.0, "node_limit": nodes},
    )
    if result.x is not None:
        options = np.split(result.x[: program.n_options], program.starts[1:])
        return np.array([np.argmax(values) for values in options], dtype=np.int64)
    if result.status == 2:
        raise _NoneFitsError
    raise LimitReached(f"the solver found no genome within its limits: {result.message}")


__all__ = ["LimitReached", "integer_program", "integer_programs"]
