"""Pruned channels cut out of every value: which positions of which axes of each node remain.

While a network is searched its removed channels are zeros. A file that is handed over does not have them: the layers
that give them have fewer outputs, and whatever lies between these and the layers that read them is that much smaller.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from evo_mpq.errors import ExportError
from evo_mpq.network.graph import Node, Ref

Positions = npt.NDArray[np.int64]
Kept = Mapping[int, Positions]
"""By axis, the ascending positions that remain; axes that are whole are not in it."""

_VIEWS = {
    "aten.view.default",
    "aten.reshape.default",
    "aten._unsafe_view.default",
    "aten.flatten.using_ints",
    "aten.unflatten.int",
    "aten.unsqueeze.default",
    "aten.squeeze.default",
    "aten.squeeze.dim",
    "aten.squeeze.dims",
}
_REDUCTIONS = ("aten.mean.dim", "aten.sum.dim_IntList", "aten.amax.default", "aten.amin.default")

Shape = tuple[int, ...]


def kept_after(
    node: Node, kept: Callable[[str], Kept], shape: Callable[[str], Shape], varies: Callable[[str], bool]
) -> Kept:
    """What remains of an operation's output, by what remains of its inputs.

    Args:
        node: no layer; layers know their own channels.
        kept: what remains of another node's value.
        shape: of a node's value for an example, with all channels.
        varies: whether a node's value is computed from the batch; constants are cut to fit.

    Raises:
        ExportError: the operation mixes channels some of which are removed.
    """
    cut = [name for name in node.inputs if kept(name)]
    if not cut:
        return {}
    source, given = shape(cut[0]), kept(cut[0])
    rank = len(source)
    if node.target in _VIEWS:
        return through_view(node, source, shape(node.name), given)
    if node.target == "aten.permute.default":
        order = [axis % rank for axis in node.args[1]]
        return {place: given[axis] for place, axis in enumerate(order) if axis in given}
    if node.target in ("aten.transpose.int", "aten.t.default"):
        first, second = (axis % rank for axis in (node.args[1:3] if len(node.args) > 1 else (0, 1)))
        return {{first: second, second: first}.get(axis, axis): at for axis, at in given.items()}
    if node.target.startswith(_REDUCTIONS):
        axes = node.args[1] if len(node.args) > 1 else None
        named = [axes] if isinstance(axes, int) else (axes or range(rank))
        gone = {axis % rank for axis in named}
        if gone & given.keys():
            raise mixing(node)
        left = [axis for axis in range(rank) if axis not in gone]
        keeps = len(node.args) > 2 and bool(node.args[2])
        return {(axis if keeps else left.index(axis)): at for axis, at in given.items()}
    if node.target in ("aten.select.int", "aten.slice.Tensor"):
        axis = (node.args[1] if len(node.args) > 1 else 0) % rank
        if axis in given:
            raise mixing(node)
        shift = node.target == "aten.select.int"
        return {other - (shift and other > axis): at for other, at in given.items()}
    if node.target == "aten.cat.default":
        return _concatenated(node, kept, shape)
    return _alike(node, kept, shape, varies)


def _alike(
    node: Node, kept: Callable[[str], Kept], shape: Callable[[str], Shape], varies: Callable[[str], bool]
) -> Kept:
    """Of an operation that leaves channels where they are: element by element, pooling, normalization.

    Where a layer between two groups of channels is dropped, an addition meets both, and has the channels of either.
    """
    target = shape(node.name)
    found: dict[int, list[Positions]] = {}
    operands = [name for name in node.inputs if varies(name)]
    for name in operands:
        for axis, at in kept(name).items():
            place = axis + len(target) - len(shape(name))
            if place < 0 or target[place] != shape(name)[axis]:
                raise mixing(node)
            found.setdefault(place, []).append(at)
    whole = {
        axis + len(target) - len(shape(name))
        for name in operands
        for axis, size in enumerate(shape(name))
        if axis not in kept(name) and size > 1
    }
    return {place: functools.reduce(np.union1d, columns) for place, columns in found.items() if place not in whole}


def _concatenated(node: Node, kept: Callable[[str], Kept], shape: Callable[[str], Shape]) -> Kept:
    names = [ref.node for ref in node.args[0] if isinstance(ref, Ref)]
    rank = len(shape(names[0]))
    along = (node.args[1] if len(node.args) > 1 else 0) % rank
    found: dict[int, Positions] = {}
    for axis in {axis for name in names for axis in kept(name)} - {along}:
        columns = [kept(name)[axis] for name in names if axis in kept(name)]
        if len(columns) < len(names) or not all(np.array_equal(at, columns[0]) for at in columns):
            raise mixing(node)
        found[axis] = columns[0]
    parts, start = [], 0
    for name in names:
        size = shape(name)[along]
        parts.append(start + kept(name).get(along, np.arange(size)))
        start += size
    together = np.concatenate(parts)
    return found if len(together) == start else {**found, along: together}


def through_view(node: Node, source: Shape, target: Shape, kept: Kept) -> Kept:
    """What remains of a tensor that is looked at in another shape.

    Axes that go together, such as channels and places that are flattened, are found from the left by equal products.
    """
    found: dict[int, Positions] = {}
    for left, right in matching_axes(source, target):
        cut = [axis for axis in left if axis in kept]
        if not cut:
            continue
        sizes = [source[axis] for axis in left]
        numbers = np.arange(math.prod(sizes)).reshape(sizes)
        for place, axis in enumerate(left):
            if axis in kept:
                numbers = np.take(numbers, kept[axis], place)
        places = np.unravel_index(np.sort(numbers.reshape(-1)), [target[axis] for axis in right])
        remaining = [np.unique(at) for at in places]
        if math.prod(map(len, remaining)) != numbers.size:
            raise mixing(node)
        found.update({axis: at for axis, at in zip(right, remaining, strict=True) if len(at) < target[axis]})
    return found


def matching_axes(source: Shape, target: Shape) -> list[tuple[list[int], list[int]]]:
    """Runs of axes of two shapes of equally many elements that hold the same elements.

    >>> matching_axes((2, 3, 4, 5), (2, 12, 5))
    [([0], [0]), ([1, 2], [1]), ([3], [2])]
    """
    runs, i, j = [], 0, 0
    while i < len(source) or j < len(target):
        left, right = [i] if i < len(source) else [], [j] if j < len(target) else []
        i, j = i + len(left), j + len(right)
        a, b = math.prod(source[k] for k in left), math.prod(target[k] for k in right)
        while a != b:
            if a < b:
                left, a, i = [*left, i], a * source[i], i + 1
            else:
                right, b, j = [*right, j], b * target[j], j + 1
        runs.append((left, right))
    return runs


def cut_constant(values: Any, output_rank: int, kept: Kept, shape: Shape) -> Any:
    """A stored tensor that is broadcast against an output, without what the output does not have any more.

    Args:
        values: a torch tensor.
        output_rank: of the output.
        kept: what remains of the output.
        shape: of the output with all channels.
    """
    for axis, at in kept.items():
        place = axis - output_rank + values.ndim
        if place >= 0 and values.shape[place] == shape[axis]:
            values = values.index_select(place, _as_tensor(at, values))
    return values


def _as_tensor(at: Positions, like: Any) -> Any:
    return like.new_tensor(at.tolist(), dtype=_int64(like))


def _int64(like: Any) -> Any:
    return type(like)([0]).long().dtype


def mixing(node: Node) -> ExportError:
    """What is said of an operation that cannot do without removed channels."""
    inside = f" in {node.module}" if node.module else ""
    return ExportError(
        f"{node.target}{inside} ({node.name}) mixes channels of which some are pruned, so that they cannot be cut out "
        "of an ONNX file; nothing was written."
    )
