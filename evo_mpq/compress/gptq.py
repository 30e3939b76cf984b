"""Least squares on the calibration inputs: GPTQ (Frantar et al. 2023, Algorithm 1), and weights after pruning."""

from __future__ import annotations

import torch

from evo_mpq.compress.quantizers import WeightGrid

DAMPING = 0.01
"""Of the mean diagonal of second moments, added to it."""

_BLOCK = 32  # columns that errors are spread over one by one; over those that follow, all at once


def damped(gram: torch.Tensor, damping: float = DAMPING) -> torch.Tensor:
    """Second moments plus a share of their mean diagonal, float64; columns that never vary count as average ones."""
    gram = gram.double().clone()
    diagonal = gram.diagonal()
    active = diagonal > 0
    diagonal[~active] = diagonal[active].mean() if active.any() else 1.0
    return gram + damping * diagonal.mean() * torch.eye(len(gram), dtype=gram.dtype)


def inverse_factor(gram: torch.Tensor) -> torch.Tensor:
    """Upper Cholesky factor of the inverse of the damped second-moment matrix of a layer's inputs.

    Damping is 1 % of the mean diagonal, and ten times more as often as the factorization fails.

    Args:
        gram: ``(columns, columns)`` second moments, float64.

    Returns:
        ``(columns, columns)`` float32.
    """
    damping = DAMPING
    for _ in range(8):
        factor, failed = torch.linalg.cholesky_ex(damped(gram, damping))
        if not int(failed):
            inverse: torch.Tensor = torch.cholesky_inverse(factor)
            upper: torch.Tensor = torch.linalg.cholesky(inverse, upper=True)
            return upper.float()
        damping *= 10
    raise ArithmeticError("The inputs' second moments are not finite; no damping makes them positive definite.")


def gptq_codes(matrix: torch.Tensor, grid: WeightGrid, factor: torch.Tensor) -> torch.Tensor:
    """Codes of a weight matrix, column by column in natural order.

    Each column is rounded to the grid, and its error is spread over the columns that follow in proportion to
    ``factor``, so that the layer's output on the calibration inputs changes least.

    Args:
        matrix: ``(rows, columns)`` weights.
        grid: scales of all rows.
        factor: from ``inverse_factor``.

    Returns:
        ``(rows, columns)`` codes, float tensor of integers.
    """
    weights = matrix.clone()
    codes = torch.empty_like(weights)
    n_columns = weights.shape[1]
    for start in range(0, n_columns, _BLOCK):
        stop = min(start + _BLOCK, n_columns)
        errors = torch.zeros(len(weights), stop - start)
        for column in range(start, stop):
            current = weights[:, column : column + 1]
            code = grid.round(current, column)
            codes[:, column : column + 1] = code
            error = (current - grid.dequantize(code, column)) / factor[column, column]
            weights[:, column:stop].addcmul_(error, factor[column, column:stop], value=-1)
            errors[:, column - start : column - start + 1] = error
        weights[:, stop:] -= errors @ factor[start:stop, stop:]
    return codes


def compensated(matrix: torch.Tensor, gram: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """The weights of some columns that come closest to what all columns give, in the least squares of the outputs.

    With the second moments of kept and removed inputs, ``W' = W_kept + W_removed G_rk (G_kk + damping)^-1``. Damping
    as in GPTQ keeps the correction small where it is not determined.

    Args:
        matrix: ``(rows, columns)`` weights.
        gram: ``(columns, columns)`` second moments of the inputs, float64.
        columns: ascending positions of those that are kept.

    Returns:
        ``(rows, kept columns)`` float32.
    """
    kept = torch.zeros(matrix.shape[1], dtype=torch.bool)
    kept[columns] = True
    own = gram[kept][:, kept].double()
    damping = DAMPING * float(own.diagonal().mean()) or 1.0
    own.diagonal().add_(damping)
    share = torch.linalg.solve(own, gram[kept][:, ~kept].double())  # (kept, removed)
    change: torch.Tensor = matrix[:, ~kept].double() @ share.T
    return matrix[:, kept] + change.float()
