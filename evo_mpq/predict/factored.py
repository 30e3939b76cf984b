"""Functions of genomes that are sums of functions of few genes: what exact programs can optimize."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from evo_mpq.space.search_space import SearchSpace
from evo_mpq.typing import FloatVector, Genomes

LARGEST_TABLE = 100_000
"""Entries of a factor's table beyond which a function is not taken apart."""

N_CHECKED = 64
"""Random genomes on which a sum is compared with the function that it was made of."""


class NotASum(ValueError):  # noqa: N818 - says what the function is not
    """A function of genomes is no sum over the scopes that it was to be taken apart by."""


@dataclass(frozen=True, eq=False)
class Factor:
    """One term of a sum: a function of a few genes.

    Attributes:
        genes: positions in a genome, ascending.
        table: an axis for each of these genes, as long as the gene has values.
    """

    genes: tuple[int, ...]
    table: npt.NDArray[np.float64]

    def __call__(self, genomes: Genomes) -> FloatVector:
        """``(n,)`` values of ``(n, n_genes)`` genomes."""
        values: FloatVector = np.broadcast_to(self.table[tuple(genomes[:, gene] for gene in self.genes)], len(genomes))
        return values


@dataclass(frozen=True, eq=False)
class FactoredFunction:
    """A sum of factors.

    >>> first = Factor((0,), np.array([0.0, 2.0]))
    >>> both = Factor((0, 1), np.array([[1.0, 1.0], [3.0, 4.0]]))
    >>> FactoredFunction((first, both))(np.array([[0, 1], [1, 1]]))
    array([1., 6.])
    """

    factors: tuple[Factor, ...]

    def __call__(self, genomes: Genomes) -> FloatVector:
        """``(n,)`` values of ``(n, n_genes)`` genomes."""
        rows = np.asarray(genomes)
        return sum((factor(rows) for factor in self.factors), np.zeros(len(rows)))

    def merged(self) -> FactoredFunction:
        """The same function with one factor per set of genes, those inside another one's set added to it."""
        by_scope: dict[tuple[int, ...], npt.NDArray[np.float64]] = {}
        for factor in sorted(self.factors, key=lambda factor: -len(factor.genes)):
            home = next((scope for scope in by_scope if set(factor.genes) <= set(scope)), None)
            if home is None:
                by_scope[factor.genes] = factor.table.copy()
            else:
                by_scope[home] += expanded(factor, home)
        return FactoredFunction(tuple(Factor(genes, table) for genes, table in by_scope.items()))


def expanded(factor: Factor, genes: Sequence[int]) -> npt.NDArray[np.float64]:
    """The factor's table with an axis of length one for each of ``genes`` that it does not depend on.

    Args:
        factor: whose genes are among ``genes``.
        genes: ascending.
    """
    shape = [factor.table.shape[factor.genes.index(gene)] if gene in factor.genes else 1 for gene in genes]
    return factor.table.reshape(shape)


def decomposed(
    space: SearchSpace,
    function: Callable[[Genomes], FloatVector],
    scopes: Iterable[Iterable[int]],
    rng: np.random.Generator,
) -> FactoredFunction:
    """A function of genomes as a sum over scopes, found by evaluating it.

    Per scope the function is evaluated for all values of the scope's genes, all others at their most expensive; what
    earlier scopes explain of that is taken away (anchored decomposition, Kuo et al. 2010, Math. Comp. 79). The sum
    is exact if the function is one; 64 random genomes are compared.

    Args:
        space: of the genomes.
        function: ``(n, n_genes)`` canonical genomes to ``(n,)`` values.
        scopes: sets of genes, such as those that one layer's cost depends on.
        rng: of the genomes that are compared.

    Raises:
        NotASum: it is no sum over these scopes, or a scope is too large.
    """
    anchor = space.most_expensive()
    factors: list[Factor] = []
    distinct = sorted({tuple(sorted(set(scope))) for scope in scopes}, key=lambda scope: (-len(scope), scope))
    for scope in distinct:
        if any(set(scope) <= set(factor.genes) for factor in factors):
            continue
        shape = [space.genes[gene].cardinality for gene in scope]
        if math.prod(shape) > LARGEST_TABLE:
            named = ", ".join(space.genes[gene].name for gene in scope)
            raise NotASum(f"it depends on {named} together, which is too much to list")
        rows = np.tile(anchor, (math.prod(shape), 1))
        rows[:, list(scope)] = np.array(list(np.ndindex(*shape)), dtype=np.int64).reshape(len(rows), len(scope))
        rest = function(space.canonical(rows)) - FactoredFunction(tuple(factors))(rows)
        factors.append(Factor(scope, rest.reshape(shape)))
    found = FactoredFunction(tuple(factors)) if factors else FactoredFunction((_constant(function, anchor),))
    genomes = space.sample(N_CHECKED, rng)
    if not np.allclose(found(genomes), function(genomes), rtol=1e-9, atol=1e-9):
        raise NotASum("it is no sum over layers")
    return found


def _constant(function: Callable[[Genomes], FloatVector], genome: npt.NDArray[np.int64]) -> Factor:
    return Factor((), np.array(function(genome[None])[0]))
