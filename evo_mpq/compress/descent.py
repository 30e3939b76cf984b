"""Codes that change a layer's outputs least: GPTQ from several ranges, then greedy coordinate descent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from evo_mpq.compress.gptq import damped, gptq_codes
from evo_mpq.compress.quantizers import WeightGrid, stored_vector

FRACTIONS: Sequence[float] = tuple(step / 20 for step in range(10, 27))
"""Of the range of least squared error of the weights, .5 to 1.3: ranges that are tried for every row."""

STRIDES = (1, 2, 5, 10)
"""Every so many of the fractions are tried, where a layer is too large for more; 1 is always among them."""

MOST_MULTIPLICATIONS = 3e9
"""Rows times squared columns, times fractions: a few tenths of a second of GPTQ."""

MOST_DESCENDED = 5
"""Ranges of a row whose codes are improved, those that GPTQ did best with; fewer in a large layer."""

MOST_IN_DESCENT = 5e8
"""Rows times squared columns, times ranges whose codes are improved: about a second."""

SWEEPS = 3
"""Over all blocks of columns; after the first, few codes move."""

_BLOCK = 128  # columns that pulls are kept up to date for, move by move
_MOVES = 32  # of a row in one block at a time; a few rows would take more, and keep all others waiting
_ROWS = 1024  # that moves are made in at once
_LEAST_GAIN = 1e-4  # of the error of a whole step, so that rounding does not move codes back and forth


def closest_codes(
    matrix: torch.Tensor, grid: WeightGrid, gram: torch.Tensor, factor: torch.Tensor, *, fit_ranges: bool
) -> tuple[WeightGrid, torch.Tensor]:
    """A grid and codes of little squared error ``(W - Q) G (W - Q)^T`` of every row: of the outputs, not the weights.

    GPTQ is run with several ranges a row; the codes of the best are improved one step of one code at a time. On four
    networks the KL to the float one is .51 to .76 times that of GPTQ alone at 2 bits and .71 to .92 at 3, the
    statistics correction included.

    Args:
        matrix: ``(rows, columns)`` weights.
        grid: scales of all rows.
        gram: ``(columns, columns)`` second moments of the inputs, float64.
        factor: of these, from `gptq.inverse_factor`.
        fit_ranges: whether scales may change.

    Returns:
        The grid with its scales in the precision of a packed file, and ``(rows, columns)`` codes, never worse than
        GPTQ's on the given grid.
    """
    gram = damped(gram).float()
    fractions = _affordable_fractions(matrix) if fit_ranges else (1.0,)
    weights = matrix.repeat(len(fractions), 1)
    if fit_ranges:
        scales = stored_vector(torch.cat([grid.scale * fraction for fraction in fractions]).flatten())
        zero_points = grid.zero_point.repeat(len(fractions), 1)
        grid = replace(grid, scale=scales.view_as(zero_points), zero_point=zero_points)
    codes = gptq_codes(weights, grid, factor)
    n_descended = max(1, min(MOST_DESCENDED, int(MOST_IN_DESCENT / _work(matrix))))
    best = _least(_errors(weights, grid, codes, gram), len(matrix), n_descended)
    weights, grid = weights[best], grid.of_rows(best)
    codes = descended(weights, grid, codes[best], gram)
    best = _least(_errors(weights, grid, codes, gram), len(matrix), 1)
    return grid.of_rows(best), codes[best]


def descended(matrix: torch.Tensor, grid: WeightGrid, codes: torch.Tensor, gram: torch.Tensor) -> torch.Tensor:
    """Codes moved one step at a time, in every row the one that helps most, until none does.

    The greedy order of coordinate descent (Gauss-Southwell), many rows at once, block by block of columns; a cyclic
    order is that of QuantEase (Behdin et al. 2023).

    Args:
        matrix: ``(rows, columns)`` weights.
        grid: of all rows.
        codes: ``(rows, columns)`` to begin with.
        gram: ``(columns, columns)`` second moments of the inputs, float32.
    """
    rows = torch.arange(len(matrix)).split(_ROWS)
    return torch.cat([_descended_rows(matrix[some], grid.of_rows(some), codes[some], gram) for some in rows])


def _descended_rows(matrix: torch.Tensor, grid: WeightGrid, codes: torch.Tensor, gram: torch.Tensor) -> torch.Tensor:
    codes = codes.clone()
    n_columns = matrix.shape[1]
    steps = grid.codes.step * grid.scale[:, torch.arange(n_columns) // grid.group_size]
    # Moving a code by one step s towards its pull lowers the error by 2 |pull| - s g s: pulls are (W - Q) G, times s.
    pulls = ((matrix - grid.dequantize(codes)) @ gram) * steps
    for _ in range(SWEEPS):
        moved = False
        for start in range(0, n_columns, _BLOCK):
            block = slice(start, start + _BLOCK)
            better = _descended_block(pulls[:, block], codes[:, block], steps[:, block], gram[block, block], grid)
            rows = torch.any(better != codes[:, block], dim=1).nonzero().squeeze(1)
            if len(rows):
                moved = True
                moves = (better - codes[:, block])[rows] * (steps[rows, block] / grid.codes.step)
                pulls.index_add_(0, rows, (moves @ gram[block]).mul_(steps[rows]), alpha=-1)
                codes[:, block] = better
        if not moved:
            break
    return codes


def _descended_block(
    pulls: torch.Tensor, codes: torch.Tensor, steps: torch.Tensor, gram: torch.Tensor, grid: WeightGrid
) -> torch.Tensor:
    """Better codes of a block of columns, given those of the others.

    Args:
        pulls: ``(rows, columns)``.
        codes: likewise.
        steps: likewise from one weight to the next.
        gram: ``(columns, columns)`` of the block.
        grid: for its codes.
    """
    result = codes.clone()
    active, codes, pulls = torch.arange(len(codes)), codes.clone(), pulls.clone()
    costs = (0.5 + _LEAST_GAIN) * steps.square() * gram.diagonal()
    floor, ceiling = _room(codes, grid)
    for _ in range(_MOVES):
        gains = torch.clamp(pulls, floor, ceiling).abs_().sub_(costs)
        gain, column = gains.max(dim=1, keepdim=True)
        helps = (gain > 0).squeeze(1)
        if not helps.all():
            result[active] = codes
            active, column, codes, pulls = active[helps], column[helps], codes[helps], pulls[helps]
            steps, costs, floor, ceiling = steps[helps], costs[helps], floor[helps], ceiling[helps]
        if not len(active):
            break
        move = pulls.gather(1, column).sign_()
        moved = codes.gather(1, column).add_(move, alpha=grid.codes.step)
        codes.scatter_(1, column, moved)
        for bounds, bound in zip((floor, ceiling), _room(moved, grid), strict=True):
            bounds.scatter_(1, column, bound)
        pulls.addcmul_(gram[column.squeeze(1)].mul_(steps), move * steps.gather(1, column), value=-1)
    result[active] = codes
    return result


def _room(codes: torch.Tensor, grid: WeightGrid) -> tuple[torch.Tensor, torch.Tensor]:
    """Bounds of pulls: none downwards at the lowest code, none upwards at the highest."""
    floor = torch.full_like(codes, -torch.inf).masked_fill_(codes <= grid.codes[0], 0.0)
    return floor, torch.full_like(codes, torch.inf).masked_fill_(codes >= grid.codes[-1], 0.0)


def _work(matrix: torch.Tensor) -> int:
    """Multiplications that GPTQ of a layer takes, about."""
    rows, columns = matrix.shape
    return rows * columns**2


def _affordable_fractions(matrix: torch.Tensor) -> Sequence[float]:
    for stride in STRIDES:
        fractions = FRACTIONS[::stride]
        if len(fractions) * _work(matrix) <= MOST_MULTIPLICATIONS:
            break
    return fractions


def _errors(matrix: torch.Tensor, grid: WeightGrid, codes: torch.Tensor, gram: torch.Tensor) -> torch.Tensor:
    """``(rows,)`` squared errors of outputs."""
    change = matrix - grid.dequantize(codes)
    return ((change @ gram) * change).sum(1)


def _least(errors: torch.Tensor, n_rows: int, n: int) -> torch.Tensor:
    """Places of the ``n`` least errors of each row, of which there are several under one another."""
    tried = errors.view(-1, n_rows)
    places = tried.topk(min(n, len(tried)), dim=0, largest=False, sorted=True).indices
    return (places * n_rows + torch.arange(n_rows)).flatten()
