"""Number formats of weights and activations: integer grids, and how their ranges are chosen.

One grid is used identically in the search, in packed files and in exports. ``b`` bits have exactly ``2**b`` levels:
symmetric weights ``-2**(b-1) … 2**(b-1)-1`` around a zero point of 0, or -3, -1, 1 and 3 at 2 bits (`code_range`);
asymmetric weights and activations ``0 … 2**b-1`` around a stored integer zero point. The scale of symmetric weights of
3 to 7 bits may be negative, so that the longer side is where the weights are; GGML's Q4_0 does the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch.nn import functional

UNTOUCHED_BITS = 32

# Clipping candidates are fractions of the largest range; finer steps change the error by less than 1 %.
_CLIP_STEPS = 81
_SMALLEST_CLIP = 0.2

_SMALL = 2.0**-14  # the least that float16 holds in full beside 1

_FEWEST_TURNED, _MOST_TURNED = 3, 7
"""Bits of symmetric weights whose scales may be negative: fewer have no longer side, and of 8 a byte holds one only."""


def code_range(bits: int, *, symmetric: bool) -> range:
    """The ``2**bits`` codes, ascending.

    Symmetric codes of 2 bits are odd: levels at equal distances around zero, without zero (a mid-rise quantizer). Their
    least squared error on normal weights is .80 times that of -2 … 1.

    >>> list(code_range(2, symmetric=True)), list(code_range(3, symmetric=True)), list(code_range(2, symmetric=False))
    ([-3, -1, 1, 3], [-4, -3, -2, -1, 0, 1, 2, 3], [0, 1, 2, 3])
    """
    n = 2**bits
    if not symmetric:
        return range(n)
    return range(1 - n, n, 2) if bits <= 2 else range(-n // 2, n // 2)


@dataclass(frozen=True, eq=False)
class WeightGrid:
    """The integer grid of a weight matrix, one scale per group of columns of every row.

    Attributes:
        scale: ``(rows, n_groups)`` not 0, exactly representable in the packed file.
        zero_point: ``(rows, n_groups)`` codes that mean 0; all zero if symmetric.
        group_size: columns that share a scale.
        codes: all there are, from `code_range`.
    """

    scale: torch.Tensor
    zero_point: torch.Tensor
    group_size: int
    codes: range

    @property
    def bits(self) -> int:
        """Of a code."""
        return len(self.codes).bit_length() - 1

    def of_rows(self, rows: torch.Tensor | slice) -> WeightGrid:
        """The grid of some rows."""
        return replace(self, scale=self.scale[rows], zero_point=self.zero_point[rows])

    def round(self, matrix: torch.Tensor, first_column: int = 0) -> torch.Tensor:
        """Nearest codes (float tensor of integers) of columns ``first_column …`` of the matrix, ``(rows, n)``."""
        groups = torch.arange(first_column, first_column + matrix.shape[1]) // self.group_size
        return _rounded(matrix / self.scale[:, groups], self.zero_point[:, groups], self.codes)

    def dequantize(self, codes: torch.Tensor, first_column: int = 0) -> torch.Tensor:
        """The weights that the codes of columns ``first_column …`` stand for, ``(rows, n)`` float32."""
        groups = torch.arange(first_column, first_column + codes.shape[1]) // self.group_size
        return (codes.float() - self.zero_point[:, groups]) * self.scale[:, groups]


class WeightQuantizer(Protocol):
    """What chooses the integer grid of a weight matrix; the protocol for plug-ins."""

    @property
    def rounding(self) -> str:
        """``"nearest"``, ``"gptq"`` or ``"descent"``."""
        ...

    @property
    def fits_ranges(self) -> bool:
        """Whether ``"descent"`` may give rows other scales, which change the layer's outputs less."""
        ...

    @property
    def symmetric(self) -> bool:
        """Whether all zero points are 0 (and are not stored)."""
        ...

    def group_size(self, n_columns: int) -> int:
        """Columns that share a scale."""
        ...

    def n_groups(self, n_columns: int) -> int:
        """Scales per row of a matrix with ``n_columns`` columns."""
        ...

    def n_scales(self, n_rows: int, n_columns: int) -> int:
        """Scales that are stored for a matrix."""
        ...

    def grid(self, matrix: torch.Tensor, bits: int) -> WeightGrid:
        """The grid for ``matrix``, ``(rows, columns)``."""
        ...


@dataclass(frozen=True)
class UniformAffine:
    """Evenly spaced levels with a scale per tensor, output channel or group of input columns.

    Args:
        symmetric: zero points are 0.
        granularity: ``"tensor"``, ``"channel"`` or the number of columns of a group.
        clip: ``"minmax"``, ``"mse"`` (range of least squared error), or a percentile of magnitudes, e.g. 99.9.
        rounding: ``"descent"`` (see `compress.descent`), ``"gptq"`` (Frantar et al. 2023) or ``"nearest"``.
    """

    symmetric: bool = True
    granularity: str | int = "channel"
    clip: str | float = "mse"
    rounding: str = "descent"

    @property
    def fits_ranges(self) -> bool:
        """Ranges of least squared error are those of the outputs, where every row has its own."""
        return self.clip == "mse" and self.granularity != "tensor"

    def group_size(self, n_columns: int) -> int:
        """Columns that share a scale."""
        return min(self.granularity, n_columns) if isinstance(self.granularity, int) else n_columns

    def n_groups(self, n_columns: int) -> int:
        """Scales per row of a matrix with ``n_columns`` columns."""
        return -(-n_columns // self.group_size(n_columns))

    def n_scales(self, n_rows: int, n_columns: int) -> int:
        """Scales that are stored for a matrix: one if they are shared by the whole tensor."""
        return 1 if self.granularity == "tensor" else n_rows * self.n_groups(n_columns)

    def grid(self, matrix: torch.Tensor, bits: int) -> WeightGrid:
        """The grid for ``matrix``, ``(rows, columns)``; scales are rounded to what a packed file stores.

        Raises:
            ValueError: a weight is NaN or infinite.
        """
        if not torch.isfinite(matrix).all():
            raise ValueError("weights that are NaN or infinite have no grid")
        rows, columns = matrix.shape
        size = self.group_size(columns)
        groups = self.n_groups(columns)
        padded = functional.pad(matrix, (0, groups * size - columns), value=torch.nan)
        blocks = padded.reshape(1, -1) if self.granularity == "tensor" else padded.reshape(rows * groups, size)
        scale, zero_point = self._ranges(blocks, bits)
        if self.granularity == "tensor":
            scale, zero_point = scale.expand(rows), zero_point.expand(rows)
        codes = code_range(bits, symmetric=self.symmetric)
        return WeightGrid(scale.reshape(rows, groups), zero_point.reshape(rows, groups), size, codes)

    def _ranges(self, blocks: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
        """``(n,)`` scales and zero points of the ``n`` rows of ``blocks``; NaN fills a shorter group."""
        magnitudes, padding = blocks.abs(), blocks.isnan()
        blocks = torch.where(padding, 0.0, blocks)  # zero changes no range
        low = blocks.amin(1).clamp(max=0)
        high = blocks.amax(1).clamp(min=0)
        if isinstance(self.clip, int | float):
            bound = torch.nanquantile(magnitudes, float(self.clip) / 100, dim=1)
            low, high = torch.maximum(low, -bound), torch.minimum(high, bound)
        if self.clip != "mse":
            return self._shorter(low, high, bits)
        codes = code_range(bits, symmetric=self.symmetric)
        best = torch.full_like(low, torch.inf)
        scale, zero_point = self._affine(low, high, bits)
        for fraction in torch.linspace(1.0, _SMALLEST_CLIP, _CLIP_STEPS).tolist():
            for s, z in self._either_way(low * fraction, high * fraction, bits):
                rounded = _rounded(blocks / s[:, None], z[:, None], codes)
                error = ((rounded - z[:, None]) * s[:, None] - blocks).masked_fill_(padding, 0.0).square_().sum(1)
                better = error < best
                best = torch.where(better, error, best)
                scale, zero_point = torch.where(better, s, scale), torch.where(better, z, zero_point)
        return stored_vector(scale), zero_point

    def _shorter(self, low: torch.Tensor, high: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Of the ways to cover a range the one with the shortest steps."""
        ways = self._either_way(low, high, bits)
        best = torch.stack([scale.abs() for scale, _ in ways]).argmin(0, keepdim=True)
        scale, zero_point = (torch.stack(parts).gather(0, best)[0] for parts in zip(*ways, strict=True))
        return stored_vector(scale), zero_point

    def _either_way(self, low: torch.Tensor, high: torch.Tensor, bits: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Scales and zero points that cover a range; where codes have a longer side, with it below zero and above."""
        ways = [self._affine(low, high, bits)]
        if self.symmetric and _FEWEST_TURNED <= bits <= _MOST_TURNED:
            scale, zero_point = self._affine(-high, -low, bits)
            ways.append((-scale, zero_point))
        return ways

    def _affine(self, low: torch.Tensor, high: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
        codes = code_range(bits, symmetric=self.symmetric)
        if self.symmetric:
            scale = torch.maximum(low / codes[0], high / codes[-1])
        else:
            scale = (high - low) / codes[-1]
        scale = stored_vector(_positive(scale))
        zero_point = torch.zeros_like(scale) if self.symmetric else torch.round(low.abs() / scale)
        return scale, zero_point.clamp_(0, 2**bits - 1)


def _rounded(steps: torch.Tensor, zero_point: torch.Tensor, codes: range) -> torch.Tensor:
    """Nearest codes of weights in steps of their scale."""
    if codes.step == 1:
        rounded = torch.round(steps) + zero_point
    else:
        rounded = torch.round((steps + (zero_point - codes[0])) / codes.step).mul_(codes.step).add_(codes[0])
    return rounded.clamp_(codes[0], codes[-1])


def _positive(scale: torch.Tensor) -> torch.Tensor:
    """Scales with those of all-zero rows replaced by small ones: where zero is no level, two are next to it."""
    largest = scale.max()
    return torch.where(scale > 0, scale, _SMALL * torch.where(largest > 0, largest, _SMALL))


def half_exponent(values: torch.Tensor) -> int:
    """The power of two that brings the largest magnitude of ``values`` into [1, 2) after rounding to float16.

    0 for all zeros.

    >>> half_exponent(torch.tensor([0.1, -5.0])), half_exponent(torch.tensor([3.9999]))
    (2, 2)
    """
    return _exponent(float(values.abs().max()) if values.numel() else 0.0)


def _exponent(largest: float) -> int:
    if largest == 0:
        return 0
    fraction, exponent = math.frexp(largest)  # a fraction in [0.5, 1) has 11 bits in float16
    rounds_up = fraction >= 1 - 2**-12
    return max(-127, min(127, exponent - 1 + rounds_up))


def stored_vector(values: torch.Tensor) -> torch.Tensor:
    """``values`` as a packed file stores them: float16 times one power of two, so that no scale is out of range.

    Applying it twice changes nothing. Values keep their sign.
    """
    return _as_halves(values, 2.0 ** half_exponent(values))


def stored_rows(rows: torch.Tensor) -> torch.Tensor:
    """Each of ``(n, length)`` rows as `stored_vector` gives it."""
    factors = [2.0 ** _exponent(largest) for largest in rows.abs().amax(1).tolist()]
    return _as_halves(rows, rows.new_tensor(factors).unsqueeze(1))


def _as_halves(values: torch.Tensor, factor: float | torch.Tensor) -> torch.Tensor:
    normal = values / factor
    tiny = torch.finfo(torch.float16).smallest_normal
    normal = torch.where((normal != 0) & (normal.abs() < tiny), normal.sign() * tiny, normal)
    return normal.half().float() * factor


@dataclass(frozen=True)
class ActivationGrid:
    """The integer grid of an activation: unsigned, asymmetric, per tensor, zero on the grid.

    Attributes:
        bits: of a code, ``0 … 2**bits-1``.
        scale: float32 value.
        zero_point: the code that means 0.
    """

    bits: int
    scale: float
    zero_point: int

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        """``values`` rounded to the grid (half to even) and clipped to its range."""
        lowest = -self.zero_point
        rounded = values.div(self.scale).round_().clamp_(lowest, lowest + 2**self.bits - 1)
        return rounded.mul_(self.scale)


@dataclass(frozen=True)
class ActivationQuantizer:
    """How the range of an activation is chosen from a sample of its values.

    Args:
        clip: ``"minmax"``, ``"mse"`` or a percentile, e.g. 99.9.
    """

    clip: str | float = "mse"

    def grid(self, values: torch.Tensor, bits: int) -> ActivationGrid:
        """The grid for ``values`` (any shape), which should be a sample of the activation."""
        flat = values.flatten()
        low, high = float(flat.amin().clamp(max=0)), float(flat.amax().clamp(min=0))
        if isinstance(self.clip, int | float):
            bounds = torch.quantile(flat, torch.tensor([1 - self.clip / 100, self.clip / 100]))
            low, high = min(float(bounds[0]), 0.0), max(float(bounds[1]), 0.0)
        if self.clip != "mse" or low == high:
            return _activation_grid(low, high, bits)
        best, grid, chosen = float("inf"), _activation_grid(low, high, bits), (low, high)
        # First the side that is usually longer, then the other: two line searches find the rectangle's optimum.
        for side in ("high", "low", "high"):
            bound = high if side == "high" else low
            for fraction in torch.linspace(1.0, _SMALLEST_CLIP / 2, _CLIP_STEPS).tolist():
                ends = (low, bound * fraction) if side == "high" else (bound * fraction, high)
                candidate = _activation_grid(ends[0], ends[1], bits)
                error = float((candidate(flat) - flat).square_().sum())
                if error < best:
                    best, grid, chosen = error, candidate, ends
            low, high = chosen
        return grid


def _activation_grid(low: float, high: float, bits: int) -> ActivationGrid:
    scale = float(torch.tensor((high - low) / (2**bits - 1), dtype=torch.float32)) or 1.0  # 0 if the range is
    return ActivationGrid(bits, scale, min(2**bits - 1, max(0, round(-low / scale))))
