"""Quantized weights of every layer at every bit width, made on first use and kept while memory lasts."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from evo_mpq.compress.gptq import gptq_codes, inverse_factor
from evo_mpq.compress.quantizers import WeightGrid, WeightQuantizer
from evo_mpq.network.layers import Layer


@dataclass(frozen=True, eq=False)
class QuantizedWeight:
    """One layer's weight at one bit width.

    Attributes:
        grid: its scales.
        codes: ``(rows, columns)`` int16 codes on the grid.
        values: the weight they stand for, in the shape and orientation of the network's parameter.
    """

    grid: WeightGrid
    codes: torch.Tensor
    values: torch.Tensor

    @property
    def n_bytes(self) -> int:
        """Memory of codes and values."""
        return self.codes.nbytes + self.values.nbytes


def as_matrix(weight: torch.Tensor, layer: Layer) -> torch.Tensor:
    """``(output channels, everything else)`` of a weight."""
    return weight.T if layer.transposed else weight.reshape(weight.shape[0], -1)


def from_matrix(matrix: torch.Tensor, layer: Layer) -> torch.Tensor:
    """The inverse of ``as_matrix``."""
    return matrix.T.contiguous() if layer.transposed else matrix.reshape(layer.shape).contiguous()


class WeightBank:
    """Quantized weights under (layer, bits).

    An entry that was evicted is made again bit for bit: rounding depends on the float weights and the second
    moments alone.

    Args:
        tensors: the network's state.
        quantizer: chooses grids and the kind of rounding.
        grams: second moments of the layers' inputs; layers that are not in it are rounded to nearest.
        memory: bytes of entries that are kept.
    """

    def __init__(
        self,
        tensors: Mapping[str, torch.Tensor],
        quantizer: WeightQuantizer,
        grams: Mapping[str, torch.Tensor],
        memory: int,
    ) -> None:
        self._tensors = tensors
        self._quantizer = quantizer
        self._grams = grams
        self._memory = memory
        self._entries: OrderedDict[tuple[str, int], QuantizedWeight] = OrderedDict()
        self._factors: dict[str, list[torch.Tensor]] = {}
        self._used = 0

    def __call__(self, layer: Layer, bits: int) -> QuantizedWeight:
        """The layer's weight at ``bits`` (2 … 8)."""
        key = (layer.name, bits)
        if key in self._entries:
            self._entries.move_to_end(key)
            return self._entries[key]
        entry = self._quantize(layer, bits)
        self._entries[key] = entry
        self._used += entry.n_bytes
        while self._used > self._memory and len(self._entries) > 1:
            _, evicted = self._entries.popitem(last=False)
            self._used -= evicted.n_bytes
        return entry

    def _quantize(self, layer: Layer, bits: int) -> QuantizedWeight:
        matrix = as_matrix(self._tensors[layer.parameter], layer)
        grid = self._quantizer.grid(matrix, bits)
        if self._quantizer.rounding == "gptq" and layer.name in self._grams:
            codes = self._gptq(matrix, grid, layer)
        else:
            codes = grid.round(matrix)
        codes = codes.to(torch.int16)
        return QuantizedWeight(grid, codes, from_matrix(grid.dequantize(codes), layer))

    def _gptq(self, matrix: torch.Tensor, grid: WeightGrid, layer: Layer) -> torch.Tensor:
        if layer.name not in self._factors:
            self._factors[layer.name] = [inverse_factor(gram) for gram in self._grams[layer.name]]
        factors = self._factors[layer.name]
        rows = len(matrix) // len(factors)
        parts = []
        for i, factor in enumerate(factors):
            part = slice(i * rows, (i + 1) * rows)
            own = WeightGrid(grid.bits, grid.scale[part], grid.zero_point[part], grid.group_size, grid.lowest)
            parts.append(gptq_codes(matrix[part], own, factor))
        return torch.cat(parts)
