"""The one-at-a-time table: the measured loss of every option of every gene, alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from evo_mpq.errors import MeasurementError
from evo_mpq.predict.tables.options import Measure, OptionTable, one_at_a_time_genomes
from evo_mpq.space.search_space import SearchSpace
from evo_mpq.typing import BoolVector, FloatVector, Genomes

FULL_SHARE = 0.25
"""Of the measurements that are left, for the whole table."""

COARSE_SHARE = 0.4
"""Likewise, for two options of every gene."""

LEAST_SHARE = 0.9
"""Likewise, for the lowest option of every gene: without any table there is nothing to go by."""


def measured_sensitivities(space: SearchSpace, measure: Measure, left: int | None = None) -> OptionTable:
    """Measures every option of every gene in the most expensive genome.

    Where that would take too much of a budget, only some options are measured, see `table_genomes`; the others follow
    the profile over levels, see `filled_in`.

    Args:
        space: of the genes.
        measure: measures genomes.
        left: measurements that are left of a budget; None for any number.

    Raises:
        MeasurementError: the most expensive genome cannot be measured.
    """
    wanted = _wanted(space, left)
    losses, errors = np.full(len(wanted), np.nan), np.full(len(wanted), np.nan)
    found = measure(one_at_a_time_genomes(space)[wanted])
    losses[wanted], errors[wanted] = found.losses, found.standard_errors
    if not np.isfinite(losses[0]):
        raise MeasurementError(
            "the most expensive genome cannot be measured, so that no option can be compared with it"
        )
    base = float(losses[0])
    # A step down can only seem to help, by the noise of the samples: a program would take it for nothing.
    increments = _by_gene(space, np.maximum(losses[1:] - base, 0.0))
    return OptionTable(tuple(filled_in(row) for row in increments), tuple(_by_gene(space, errors[1:])), base)


def table_genomes(space: SearchSpace, left: int | None = None) -> Genomes:
    """``(n, n_genes)`` what the table measures: the most expensive genome, and options of every gene alone in it.

    All options, or the lowest and the middle one of each gene, or the lowest one, as much as a budget allows.

    Args:
        space: of the genes.
        left: measurements that are left; None for any number.

    Returns:
        No row where even the least table would take more than nine tenths of that.
    """
    genomes: Genomes = one_at_a_time_genomes(space)[_wanted(space, left)]
    return genomes if left is None or len(genomes) <= LEAST_SHARE * left else genomes[:0]


def least_table(space: SearchSpace) -> Genomes:
    """``(1 + n_genes, n_genes)`` the most expensive genome, and the lowest option of every gene alone in it."""
    genomes: Genomes = one_at_a_time_genomes(space)[_options(space, lambda n: (0,))]
    return genomes


def filled_in(losses: FloatVector) -> FloatVector:
    """``(cardinality,)`` losses, those that are NaN interpolated between their neighbors on a logarithmic scale.

    A loss falls by about the same factor with every option (by four with every bit, where rounding is the noise), so
    what lies between two measured options is their geometric mean, by position. Between the last measured option
    and the last one, whose loss is 0, the factor of the options below goes on. Options below the lowest measured one
    cost as much as that times the same factor.

    >>> filled_in(np.array([0.16, np.nan, 0.01, np.nan, 0.0])).round(4).tolist()
    [0.16, 0.04, 0.01, 0.0025, 0.0]
    """
    known = np.flatnonzero(np.isfinite(losses) & (losses > 0))
    if not len(known):
        return np.nan_to_num(losses, nan=0.0)
    logarithms = np.log(losses[known])
    slope = float(np.polyfit(known, logarithms, 1)[0]) if len(known) > 1 else -np.log(4.0)
    slope = min(slope, 0.0)
    places = np.arange(len(losses))
    filled = np.interp(places, known, logarithms)
    outside = np.where(places < known[0], places - known[0], np.maximum(places - known[-1], 0))
    values = np.exp(filled + slope * outside)
    values[-1] = 0.0
    return np.where(np.isfinite(losses), losses, values)


def _wanted(space: SearchSpace, left: int | None) -> BoolVector:
    """Which of `one_at_a_time_genomes` are measured: as many options of a gene as fit, one at least."""
    every = np.ones(1 + int((space.cardinalities - 1).sum()), dtype=bool)
    if left is None or every.sum() <= FULL_SHARE * left:
        return every
    two = _options(space, lambda n: (0, max(0, (n - 1) // 2) if n > 2 else 0))
    return two if two.sum() <= COARSE_SHARE * left else _options(space, lambda n: (0,))


def _options(space: SearchSpace, chosen: Callable[[int], Sequence[int]]) -> BoolVector:
    """The base, and of each gene the options that are chosen by its number of values."""
    rows = [np.isin(np.arange(n - 1), chosen(n)) for n in space.cardinalities.tolist()]
    wanted: BoolVector = np.concatenate([[True], *rows])
    return wanted


def _by_gene(space: SearchSpace, values: FloatVector) -> list[FloatVector]:
    """Values of all options but the last one of every gene, in rows that end with the last one's 0."""
    ends = np.cumsum([gene.cardinality - 1 for gene in space.genes])
    return [np.append(row, 0.0) for row in np.split(values, ends[:-1])]


__all__ = ["filled_in", "least_table", "measured_sensitivities", "table_genomes"]
