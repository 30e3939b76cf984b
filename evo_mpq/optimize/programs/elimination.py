"""Every trade-off between two sums of factors over a space, found exactly by eliminating one gene after the other."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from evo_mpq.optimize.pareto import non_dominated
from evo_mpq.optimize.programs.integer import integer_programs
from evo_mpq.predict.factored import Factor, FactoredFunction, expanded
from evo_mpq.space.search_space import Genome, SearchSpace
from evo_mpq.typing import BoolVector, FloatMatrix, FloatVector, Genomes

THINNING = 1e-3
"""What all thinning together may cost, as a fraction of the largest cost."""

MOST_LABELS = 4096
"""Labels of one assignment that are kept without thinning."""

MOST_CELLS = 2**24
"""Labels that one step may hold, of all assignments together: half a gigabyte."""

SUMS_PER_CELL = 16
"""Sums that one step may form, as a multiple of the labels it may hold: they pass in pieces and cost only time."""

PIECE = 2**21
"""Sums that are formed at once."""

N_INTERVALS = 2048
"""Of cost, by which sums are sifted before they are sorted."""

Integers: TypeAlias = npt.NDArray[np.int64]
Truths: TypeAlias = npt.NDArray[np.bool_]
Table: TypeAlias = npt.NDArray[np.float64]
Scalar = TypeVar("Scalar", np.int64, np.float64)


class TooWide(ValueError):  # noqa: N818 - says what the program is
    """Too many genes depend on each other to list what they can be together; an integer program may do."""


@dataclass(frozen=True, eq=False)
class ProgramFront:
    """The trade-offs between loss and cost: ascending in cost, descending in loss.

    Attributes:
        genomes: ``(n, n_genes)`` canonical.
        losses: ``(n,)``.
        costs: ``(n,)``.
    """

    genomes: Genomes
    losses: FloatVector
    costs: FloatVector


def pareto_program(
    space: SearchSpace,
    loss: FactoredFunction,
    cost: FactoredFunction,
    *,
    most_labels: int = MOST_LABELS,
    most_cells: int = MOST_CELLS,
    thinning: float = THINNING,
) -> ProgramFront:
    """All Pareto optimal pairs of loss and cost over a whole space, with one genome each.

    Bucket elimination (Dechter 1999, Artificial Intelligence 113) over sets of labels instead of numbers: for every
    assignment of the genes that a step leaves open, the non-dominated (loss, cost) sums of what is decided. Each step
    adds what depends on one gene (Minkowski sums), takes the union over its options, and keeps the Pareto set. Bits
    alone are a knapsack, a few labels added to one growing set; the channels that layers share couple them. The next
    gene is the one that leaves the fewest assignments, which follows the network.

    Where an assignment has more than ``most_labels`` labels, only the cheapest and, per interval of cost, the one of
    the lowest loss are kept. The intervals of all steps add up to ``thinning`` times the cost of the most expensive
    genome. So for every genome of the space the front has one of no higher loss whose cost is higher by at most that;
    the lowest cost and the lowest loss are exact, and so is all of the front if no set was that large. Losses and
    costs of the front are always exact, because they are computed again from its genomes.

    Args:
        space: of the genomes. The functions count at canonical genomes, so inactive genes are read as 0.
        loss: minimized; infinite where an option is excluded.
        cost: minimized.
        most_labels: of one assignment, beyond which a set is thinned.
        most_cells: labels that one step may hold; it forms at most 16 times as many sums.
        thinning: fraction of the largest cost.

    Returns:
        The front; where options of a gene are equal in both, the more expensive one. Seconds for 60 genes.

    Raises:
        TooWide: a step exceeds ``most_cells``.

    >>> from evo_mpq.space.genes import Gene
    >>> space = SearchSpace(["a", "b"], [Gene(f"{x}.weight_bits", (2, 4), "weight_bits", (x,)) for x in "ab"])
    >>> loss = FactoredFunction((Factor((0,), np.array([3.0, 0.0])), Factor((1,), np.array([1.0, 0.0]))))
    >>> bits = FactoredFunction(tuple(Factor((gene,), np.array([2.0, 4.0])) for gene in (0, 1)))
    >>> front = pareto_program(space, loss, bits)
    >>> front.genomes.tolist(), front.losses.tolist(), front.costs.tolist()
    ([[0, 0], [1, 0], [1, 1]], [4.0, 1.0, 0.0], [4.0, 6.0, 8.0])
    """
    labels = _tables(space, loss, cost, most_cells)
    allowance = thinning * float(cost(space.most_expensive()[None])[0])
    elimination = _Elimination(space.cardinalities, most_labels, most_cells, allowance, 2 * space.n_genes)
    neighbors: dict[int, set[int]] = {gene: {gene} for gene in range(space.n_genes)}
    for gene in neighbors:
        neighbors[gene].update(*(each.genes for each in labels if gene in each.genes))
    while neighbors:
        gene = _next_gene(neighbors, labels, space.cardinalities)
        others = neighbors.pop(gene) - {gene}
        for other in others:
            neighbors[other] = (neighbors[other] | others) - {gene}
        touched = [each for each in labels if gene in each.genes]
        labels = [each for each in labels if gene not in each.genes]
        if touched:
            labels.append(elimination.without(gene, elimination.total(touched)))
    return _front(space, loss, cost, elimination.total(labels))


def best_within(front: ProgramFront, budgets: Iterable[float]) -> Genomes:
    """``(n, n_genes)`` per budget the genome of the lowest loss that costs no more.

    Raises:
        ValueError: a budget is below the lowest cost, which the message names.
    """
    bounds = np.array([float(budget) for budget in budgets])
    places = np.searchsorted(front.costs, bounds, side="right") - 1
    if np.any(places < 0):
        raise ValueError(f"no genome costs {bounds.min():.10g} or less; the cheapest costs {front.costs[0]:.10g}")
    genomes: Genomes = front.genomes[places]
    return genomes


def best_genomes(
    space: SearchSpace,
    loss: FactoredFunction,
    cost: FactoredFunction,
    budgets: Iterable[float],
    *,
    thinning: float = THINNING,
) -> Genomes:
    """``(n, n_genes)`` per budget the genome of the lowest loss: from the front, or by an integer program each.

    Args:
        space: of the genomes.
        loss: minimized; finite, since integer programs know no other numbers.
        cost: what budgets bound.
        budgets: ``n`` bounds.
        thinning: see `pareto_program`, which is asked first; an integer program takes its place where it is too wide.

    Raises:
        ValueError: a budget is below the lowest cost.
        LimitReached: the integer program found nothing within its limits.
    """
    bounds = [float(budget) for budget in budgets]
    try:
        front = pareto_program(space, loss, cost, thinning=thinning)
    except TooWide:
        return integer_programs(space, loss, cost, bounds)
    return best_within(front, bounds)


@dataclass(frozen=True, eq=False)
class _Origin:
    """Where the labels of a step come from.

    Attributes:
        genes: that the labels are given for, ascending.
        gene: that the step decided; None for sums.
        options: ``(assignments of genes, n)`` of that gene; None for sums.
        parts: earlier steps, and ``(assignments of genes, n)`` which of their labels were used. Their assignments are
            told by the genome, in which all their genes are decided by then.
    """

    genes: tuple[int, ...]
    gene: int | None
    options: Integers | None
    parts: tuple[tuple[_Origin, Integers], ...]


@dataclass(frozen=True, eq=False)
class _Labels:
    """Non-dominated pairs of loss and cost for every assignment of a few genes.

    Attributes:
        genes: ascending.
        losses: ``(*cardinalities of genes, n)`` descending along the last axis, infinite behind the last label.
        costs: likewise, ascending.
        origin: None for tables, in which nothing was decided.
    """

    genes: tuple[int, ...]
    losses: Table
    costs: Table
    origin: _Origin | None = None

    @property
    def n(self) -> int:
        """Labels of an assignment, at most."""
        return int(self.losses.shape[-1])

    def over(self, genes: Sequence[int], shape: Sequence[int]) -> tuple[FloatMatrix, FloatMatrix]:
        """Losses and costs, ``(assignments of genes, n)``, for more genes of cardinalities ``shape``."""
        own = [size if gene in self.genes else 1 for gene, size in zip(genes, shape, strict=True)]
        losses, costs = (
            np.broadcast_to(values.reshape(*own, self.n), (*shape, self.n)).reshape(-1, self.n)
            for values in (self.losses, self.costs)
        )
        return losses, costs

    def used(self, labels: Integers) -> tuple[tuple[_Origin, Integers], ...]:
        """How a later step remembers which of these labels it used."""
        return () if self.origin is None else ((self.origin, labels),)


class _Candidates(NamedTuple):
    """Pairs of loss and cost of several assignments in one row, ``(n,)`` each.

    Attributes:
        cells: the assignment of each, ascending.
        places: what tells of which labels it was made.
        losses: of the sum.
        costs: of the sum.
    """

    cells: Integers
    places: Integers
    losses: FloatVector
    costs: FloatVector

    def where(self, kept: BoolVector | Integers) -> _Candidates:
        """Some of them."""
        return _Candidates(self.cells[kept], self.places[kept], self.losses[kept], self.costs[kept])

    def pareto(self) -> _Candidates:
        """The non-dominated ones of each assignment, ascending in cost; of equal ones the first."""
        ordered = self.where(np.lexsort((self.losses, self.costs, self.cells)))
        lowest = np.minimum.accumulate(ordered.padded(ordered.losses, np.inf), axis=1)
        cells, columns = ordered._grid()
        before = np.where(columns > 0, lowest[cells, columns - 1], np.inf)
        return ordered.where(ordered.losses < before)

    def padded(self, values: npt.NDArray[Scalar], fill: float, n_cells: int | None = None) -> npt.NDArray[Scalar]:
        """``(assignments, most of one)`` a row per assignment."""
        cells, columns = self._grid()
        shape = (n_cells if n_cells is not None else cells.max(initial=-1) + 1, columns.max(initial=0) + 1)
        grid = np.full(shape, fill, dtype=values.dtype)
        grid[cells, columns] = values
        return grid

    def _grid(self) -> tuple[Integers, Integers]:
        firsts = np.searchsorted(self.cells, self.cells)
        return self.cells, np.arange(len(self.cells)) - firsts


@dataclass(eq=False)
class _Elimination:
    """The steps of an elimination, and what thinning may still cost in them.

    Attributes:
        cardinalities: ``(n_genes,)``.
        most_labels: see `pareto_program`.
        most_cells: see `pareto_program`.
        allowance: cost that is left to thinning.
        steps_left: steps that may still thin: each gene is decided once, and what that leaves is added to others once.
    """

    cardinalities: Genome
    most_labels: int
    most_cells: int
    allowance: float
    steps_left: int

    def total(self, labels: Sequence[_Labels]) -> _Labels:
        """The sum of all: the smaller sets one by one into the largest, because two large ones make most pairs."""
        *rest, total = sorted(labels, key=lambda each: each.n) or [_Labels((), np.zeros(1), np.zeros(1))]
        genes = {gene for each in labels for gene in each.genes}
        n_cells = math.prod(int(self.cardinalities[gene]) for gene in genes)
        if n_cells * total.n > self.most_cells:  # known before the first of the sums is made
            raise _too_wide(len(genes), n_cells, total.n)
        for each in rest:
            total = self.plus(total, each)
        return total

    def plus(self, first: _Labels, second: _Labels) -> _Labels:
        """The Pareto sets of the sums of one label of each."""
        genes = tuple(sorted({*first.genes, *second.genes}))
        shape = tuple(int(self.cardinalities[gene]) for gene in genes)
        n_cells = math.prod(shape)
        if max(n_cells * first.n, n_cells * first.n * second.n // SUMS_PER_CELL) > self.most_cells:
            raise _too_wide(len(genes), n_cells, first.n, second.n)
        ours, theirs = first.over(genes, shape), second.over(genes, shape)
        if second.n == 1:  # a table: it changes neither who dominates whom nor the order of costs
            same = np.broadcast_to(np.arange(first.n), ours[0].shape)
            parts = (*first.used(same), *second.used(np.zeros_like(same)))
            losses, costs = (one + other for one, other in zip(ours, theirs, strict=True))
            origin = _Origin(genes, None, None, parts) if parts else None
            return _Labels(genes, losses.reshape(*shape, -1), costs.reshape(*shape, -1), origin)
        found = self._thinned(_pareto_sums(ours, theirs), n_cells)
        parts = (*first.used(_labels(found, n_cells) // second.n), *second.used(_labels(found, n_cells) % second.n))
        return _padded(genes, shape, found, _Origin(genes, None, None, parts))

    def without(self, gene: int, labels: _Labels) -> _Labels:
        """The Pareto sets of what one gene makes possible, for the assignments of the other genes."""
        genes = tuple(other for other in labels.genes if other != gene)
        shape = tuple(int(self.cardinalities[other]) for other in genes)
        axis, n_options = labels.genes.index(gene), int(self.cardinalities[gene])
        # From the last option to the first: of equal labels the first stays, that of the more expensive option.
        losses, costs = (
            np.flip(np.moveaxis(values, axis, -2), -2).reshape(-1, n_options * labels.n)
            for values in (labels.losses, labels.costs)
        )
        found = self._thinned(_pareto_rows(losses, costs), len(losses))
        places = _labels(found, len(losses))
        origin = _Origin(genes, gene, n_options - 1 - places // labels.n, labels.used(places % labels.n))
        return _padded(genes, shape, found, origin)

    def _thinned(self, found: _Candidates, n_cells: int) -> _Candidates:
        """Pareto sets, of which large ones keep the cheapest label and the best one of every interval of cost.

        An even share of what is left of the allowance is the width of the intervals, so that what early steps, whose
        sets are small, do not need serves later ones.
        """
        width = self.allowance / max(1, self.steps_left)
        self.steps_left -= 1
        if np.bincount(found.cells, minlength=n_cells).max(initial=0) <= self.most_labels or width <= 0:
            return found
        first = np.append(True, found.cells[1:] != found.cells[:-1])
        lowest = found.costs[first][np.cumsum(first) - 1]
        above = found.costs - lowest
        width = min(width, float(above.max()) / self.most_labels)
        self.allowance -= width
        interval = np.floor(above / width)
        last = np.append((found.cells[1:] != found.cells[:-1]) | (interval[1:] != interval[:-1]), True)
        return found.where(first | last)


def _too_wide(n_genes: int, n_cells: int, *labels: int) -> TooWide:
    times = " times ".join(f"{n:,}" for n in labels)
    return TooWide(
        f"{n_genes} genes depend on each other: {n_cells:,} assignments of {times} labels are too much to list"
    )


def _labels(found: _Candidates, n_cells: int) -> Integers:
    return found.padded(found.places, 0, n_cells)


def _padded(genes: tuple[int, ...], shape: tuple[int, ...], found: _Candidates, origin: _Origin) -> _Labels:
    losses, costs = (found.padded(values, np.inf, math.prod(shape)) for values in (found.losses, found.costs))
    return _Labels(genes, losses.reshape(*shape, -1), costs.reshape(*shape, -1), origin)


def _pareto_sums(first: tuple[FloatMatrix, FloatMatrix], second: tuple[FloatMatrix, FloatMatrix]) -> _Candidates:
    """The non-dominated sums of two labels, per row; ``places`` are ``label of first * n of second + of second``.

    Args:
        first: losses and costs, ``(rows, n)``.
        second: ``(rows, m)``.
    """
    (n_rows, n), m = first[0].shape, second[0].shape[1]
    rows_at_once = max(1, PIECE // (n * m))
    labels_at_once = max(1, PIECE // n)
    pieces = []
    for row in range(0, n_rows, rows_at_once):
        rows = slice(row, row + rows_at_once)
        for label in range(0, m, labels_at_once):
            some = slice(label, label + labels_at_once)
            losses, costs = (
                one[rows, :, None] + other[rows, None, some] for one, other in zip(first, second, strict=True)
            )
            found = _pareto_rows(losses.reshape(len(losses), -1), costs.reshape(len(costs), -1))
            one, other = np.divmod(found.places, losses.shape[2])
            pieces.append(found._replace(cells=found.cells + row, places=one * m + other + label))
    together = _Candidates(*(np.concatenate(column) for column in zip(*pieces, strict=True)))
    return together if m <= labels_at_once else together.pareto()


def _pareto_rows(losses: FloatMatrix, costs: FloatMatrix) -> _Candidates:
    """The finite non-dominated pairs of each row; ``places`` are columns."""
    possible = np.isfinite(losses) & np.isfinite(costs)
    if losses.shape[1] > N_INTERVALS:
        possible &= _promising(losses, costs, possible)
    cells, places = np.nonzero(possible)
    return _Candidates(cells, places, losses[cells, places], costs[cells, places]).pareto()


def _promising(losses: FloatMatrix, costs: FloatMatrix, possible: Truths) -> Truths:
    """Which pairs are better than all that are cheaper by a whole interval: of many sums a few percent.

    The others are dominated. It takes linear time, and leaves little to be sorted.
    """
    lowest = np.where(possible, costs, np.inf).min(axis=1, keepdims=True)
    highest = np.where(possible, costs, -np.inf).max(axis=1, keepdims=True)
    with np.errstate(invalid="ignore"):  # a row may hold nothing that is possible
        scale = N_INTERVALS / np.where(highest > lowest, highest - lowest, 1.0)
        interval = np.where(possible, (costs - lowest) * scale, 0.0).astype(np.int64)
    # One row of intervals per row, one more in front, and one for the most expensive pairs. Places in a flat array,
    # because ``minimum.at`` is several times slower with two indices.
    width = N_INTERVALS + 2
    interval += width * np.arange(len(losses))[:, None]
    best = np.full(len(losses) * width, np.inf)
    np.minimum.at(best, interval.ravel() + 1, np.where(possible, losses, np.inf).ravel())
    cheaper = np.minimum.accumulate(best.reshape(-1, width), axis=1).ravel()
    promising: Truths = losses < cheaper[interval]
    return promising


def _tables(space: SearchSpace, loss: FactoredFunction, cost: FactoredFunction, most_cells: int) -> list[_Labels]:
    """The factors of both functions, those of the same genes together."""
    by_scope: dict[tuple[int, ...], tuple[Table, Table]] = {}
    for function, which in ((loss, 0), (cost, 1)):
        for factor in function.factors:
            scope, table = _at_canonical_genomes(space, factor, most_cells)
            tables = by_scope.setdefault(scope, (np.zeros_like(table), np.zeros_like(table)))
            tables[which][...] += table
    return [_Labels(scope, losses[..., None], costs[..., None]) for scope, (losses, costs) in by_scope.items()]


def _at_canonical_genomes(space: SearchSpace, factor: Factor, most_cells: int) -> tuple[tuple[int, ...], Table]:
    """Genes and table of the function of all genomes that is the factor of their canonical form."""
    scope = tuple(sorted(set(factor.genes).union(*(space.homes[gene] for gene in factor.genes))))
    shape = tuple(int(space.cardinalities[gene]) for gene in scope)
    if math.prod(shape) > most_cells:
        raise TooWide(f"{len(scope)} genes decide one term, with {math.prod(shape):,} assignments")
    table = np.broadcast_to(expanded(factor, scope), shape).copy()
    for gene in scope:
        if homes := space.homes[gene] - {gene}:
            gone = [0 if member in homes else slice(None) for member in scope]
            first = [slice(0, 1) if member == gene else place for member, place in zip(scope, gone, strict=True)]
            table[tuple(gone)] = table[tuple(first)]
    return scope, table


def _next_gene(neighbors: Mapping[int, set[int]], labels: Sequence[_Labels], cardinalities: Genome) -> int:
    """The gene whose step has the fewest assignments, then the one with the largest set of labels.

    A large set is carried on along a chain of layers, rather than another one grown from the other end to meet it.
    """
    largest = dict.fromkeys(neighbors, 0)
    for each in labels:
        for gene in each.genes:
            largest[gene] = max(largest[gene], each.n)
    assignments = {
        gene: math.prod(int(cardinalities[other]) for other in {gene, *others}) for gene, others in neighbors.items()
    }
    return min(neighbors, key=lambda gene: (assignments[gene], -largest[gene], gene))


def _front(space: SearchSpace, loss: FactoredFunction, cost: FactoredFunction, total: _Labels) -> ProgramFront:
    """The genomes of all labels, counted again."""
    genomes = np.tile(space.cardinalities - 1, (total.n, 1))
    waiting = [] if total.origin is None else [(total.origin, np.arange(total.n))]
    while waiting:
        origin, labels = waiting.pop()
        cells = np.zeros(total.n, dtype=np.int64)
        for gene in origin.genes:
            cells = cells * space.cardinalities[gene] + genomes[:, gene]
        if origin.gene is not None and origin.options is not None:
            genomes[:, origin.gene] = origin.options[cells, labels]
        waiting += [(part, used[cells, labels]) for part, used in origin.parts]
    # Rounding may have taken another genome for as cheap as this one, whose cost is the lowest that budgets may be.
    genomes = space.canonical(np.concatenate([genomes, space.cheapest()[None]]))
    losses, costs = loss(genomes), cost(genomes)
    kept = np.flatnonzero(non_dominated(np.stack([losses, costs], axis=1)))
    kept = kept[np.argsort(costs[kept])]
    return ProgramFront(genomes[kept], losses[kept], costs[kept])
