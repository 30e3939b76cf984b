"""Weights of every layer in every form, made on first use and kept while memory lasts."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from evo_mpq.compress.channels import Channels, WeightForm
from evo_mpq.compress.descent import closest_codes
from evo_mpq.compress.gptq import compensated, gptq_codes, inverse_factor
from evo_mpq.compress.quantizers import UNTOUCHED_BITS, WeightGrid, WeightQuantizer, stored_vector
from evo_mpq.network.layers import Layer


@dataclass(frozen=True, eq=False)
class CompressedWeight:
    """One layer's weight in one form.

    Attributes:
        grid: scales of the rows that remain; None for a float weight.
        matrix: ``(rows, columns)`` what remains: int16 codes on the grid, or floats.
        rows: positions of the output channels that remain; None for all.
        columns: positions of the columns that remain; None for all.
        values: the weight they stand for, in the shape and orientation of the network's parameter, zero where a
            channel was removed.
    """

    grid: WeightGrid | None
    matrix: torch.Tensor
    rows: torch.Tensor | None
    columns: torch.Tensor | None
    values: torch.Tensor

    @property
    def n_bytes(self) -> int:
        """Memory of codes and values."""
        return self.matrix.nbytes + self.values.nbytes


def as_matrix(weight: torch.Tensor, layer: Layer) -> torch.Tensor:
    """``(output channels, everything else)`` of a weight."""
    return weight.T if layer.transposed else weight.reshape(weight.shape[0], -1)


def from_matrix(matrix: torch.Tensor, layer: Layer) -> torch.Tensor:
    """The inverse of ``as_matrix``."""
    return matrix.T.contiguous() if layer.transposed else matrix.reshape(layer.shape).contiguous()


def compressed_weight(
    layer: Layer,
    grid: WeightGrid | None,
    matrix: torch.Tensor,
    rows: torch.Tensor | None,
    columns: torch.Tensor | None,
) -> CompressedWeight:
    """A weight from what remains of it; removed channels become zeros again."""
    remaining = matrix if grid is None else grid.dequantize(matrix)
    if columns is not None:
        whole = remaining.new_zeros(len(remaining), layer.n_parameters // layer.n_rows)
        remaining = whole.index_copy_(1, columns, remaining)
    if rows is not None:
        whole = remaining.new_zeros(layer.n_rows, remaining.shape[1])
        remaining = whole.index_copy_(0, rows, remaining)
    return CompressedWeight(grid, matrix, rows, columns, from_matrix(remaining, layer))


class WeightBank:
    """Compressed weights under (layer, form).

    An entry that was evicted is made again bit for bit: it depends on the float weights and the second moments alone.
    Scales are chosen from all rows of the weight, so pruning output channels only selects rows; columns are removed
    first, with the others compensated for them, and then what remains is quantized.

    Args:
        tensors: the network's state.
        quantizer: chooses grids and the kind of rounding.
        channels: that remain at a ratio.
        grams: second moments of the layers' inputs; layers that are not in it are rounded to nearest, and not
            compensated for removed columns.
        compensate: whether the other columns take over what removed ones contributed.
        memory: bytes of entries that are kept.
    """

    def __init__(
        self,
        tensors: Mapping[str, torch.Tensor],
        quantizer: WeightQuantizer,
        channels: Channels,
        grams: Mapping[str, torch.Tensor],
        *,
        compensate: bool,
        memory: int,
    ) -> None:
        self._tensors = tensors
        self._quantizer = quantizer
        self._channels = channels
        self._grams = grams
        self._compensate = compensate
        self._memory = memory
        self._entries: OrderedDict[tuple[str, WeightForm], CompressedWeight] = OrderedDict()
        self._factors: dict[tuple[str, tuple[float, ...]], list[torch.Tensor]] = {}
        self._used = 0

    def __call__(self, layer: Layer, form: WeightForm) -> CompressedWeight:
        """The layer's weight in a form."""
        key = (layer.name, form)
        if key in self._entries:
            self._entries.move_to_end(key)
            return self._entries[key]
        rows = self._channels.rows(layer, form)
        entry = self._compress(layer, form) if rows is None else self._select(layer, form, rows)
        self._entries[key] = entry
        self._used += entry.n_bytes
        while self._used > self._memory and len(self._entries) > 1:
            _, evicted = self._entries.popitem(last=False)
            self._used -= evicted.n_bytes
        return entry

    def _select(self, layer: Layer, form: WeightForm, rows: torch.Tensor) -> CompressedWeight:
        whole = self(layer, form._replace(row_ratio=0.0))
        grid = whole.grid
        if grid is not None:
            grid = grid.of_rows(rows)
        return compressed_weight(layer, grid, whole.matrix[rows], rows, whole.columns)

    def _compress(self, layer: Layer, form: WeightForm) -> CompressedWeight:
        matrix = as_matrix(self._tensors[layer.parameter], layer)
        columns = self._channels.columns(layer, form)
        if columns is not None:
            matrix = self._without_columns(layer, matrix, columns)
        if form.bits == UNTOUCHED_BITS:
            return compressed_weight(layer, None, matrix, None, columns)
        grid = self._quantizer.grid(matrix, form.bits)
        if self._quantizer.rounding == "nearest" or layer.name not in self._grams:
            codes = grid.round(matrix)
        else:
            grid, codes = self._least_squares(matrix, grid, layer, form, columns)
        return compressed_weight(layer, grid, codes.to(torch.int16), None, columns)

    def _without_columns(self, layer: Layer, matrix: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        if self._compensate and layer.name in self._grams:
            return compensated(matrix, self._grams[layer.name][0], columns)  # grouped convolutions lose no columns
        return matrix[:, columns]

    def _least_squares(
        self,
        matrix: torch.Tensor,
        grid: WeightGrid,
        layer: Layer,
        form: WeightForm,
        columns: torch.Tensor | None,
    ) -> tuple[WeightGrid, torch.Tensor]:
        """The grid and codes that change the layer's outputs on the calibration inputs least."""
        grams = self._grams[layer.name]
        if columns is not None:
            grams = grams[:, columns][:, :, columns]
        key = (layer.name, form.column_ratios)
        if key not in self._factors:
            self._factors[key] = [inverse_factor(gram) for gram in grams]
        rows = len(matrix) // len(grams)
        scales, codes = [], []
        for i, (gram, factor) in enumerate(zip(grams, self._factors[key], strict=True)):
            part = slice(i * rows, (i + 1) * rows)
            own = grid.of_rows(part)
            if self._quantizer.rounding == "descent":
                own, rounded = closest_codes(matrix[part], own, gram, factor, fit_ranges=self._quantizer.fits_ranges)
            else:
                rounded = gptq_codes(matrix[part], own, factor)
            scales.append(own.scale)
            codes.append(rounded)
        scale = torch.cat(scales)
        return replace(grid, scale=stored_vector(scale.flatten()).view_as(scale)), torch.cat(codes)
