"""A part of a split's samples, evenly spread, in batches of their own."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils import _pytree as pytree

from evo_mpq.network.data.splits import RawBatch


def thinned_positions(n: int, share: float) -> npt.NDArray[np.int64]:
    """``(m,)`` positions of a part of ``n`` samples, rounded up: as evenly spread as they can be.

    A dataset may be sorted, by class or by file, so that its first samples are none of the whole.

    >>> thinned_positions(10, 0.25).tolist(), thinned_positions(3, 1.0).tolist()
    ([0, 3, 6], [0, 1, 2])
    """
    m = min(n, max(1, math.ceil(share * n - 1e-9)))
    positions: npt.NDArray[np.int64] = np.arange(m, dtype=np.int64) * n // m
    return positions


def thinned(batches: Iterable[RawBatch], n: int, share: float) -> Iterator[RawBatch]:
    """The samples at `thinned_positions`, in batches as large as the first one.

    Args:
        batches: of ``n`` samples.
        n: their number.
        share: part of them; all for 1.
    """
    if share >= 1:
        yield from batches
        return
    positions = torch.from_numpy(thinned_positions(n, share))
    parts: list[RawBatch] = []
    start, size = 0, 0
    for batch in batches:
        size = size or len(batch)
        end = start + len(batch)
        rows = positions[(positions >= start) & (positions < end)] - start
        start = end
        parts.append(_rows(batch, rows))
        while sum(map(len, parts)) >= size:
            whole = _together(parts)
            yield _rows(whole, torch.arange(size))
            parts = [_rows(whole, torch.arange(size, len(whole)))]
    if sum(map(len, parts)):
        yield _together(parts)


def _rows(batch: RawBatch, rows: torch.Tensor) -> RawBatch:
    def chosen(value: Any) -> Any:
        return None if value is None else pytree.tree_map(lambda tensor: tensor[rows], value)

    return RawBatch(chosen(batch.inputs), chosen(batch.targets), batch.indices[rows])


def _together(parts: list[RawBatch]) -> RawBatch:
    parts = [part for part in parts if len(part)]

    def joined(values: list[Any]) -> Any:
        return None if values[0] is None else pytree.tree_map(lambda *some: torch.cat(some), *values)

    return RawBatch(
        joined([part.inputs for part in parts]),
        joined([part.targets for part in parts]),
        torch.cat([part.indices for part in parts]),
    )
