"""Where the samples stand in every value of a network, so that several batches can run side by side as one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import torch

from evo_mpq.network.blocks import Block
from evo_mpq.network.graph import Graph, Node, Ref, run
from evo_mpq.network.network import Network

_PROBED_SAMPLES = 3
_TOLERANCE = 1e-3  # relative; other shapes may run other kernels
_SIZE = "aten.sym_size.int"
_RESHAPES = (
    "aten.view.default",
    "aten.reshape.default",
    "aten._unsafe_view.default",
    "aten.flatten.using_ints",
    "aten.unflatten.int",
)


@dataclass(frozen=True)
class SampleAxis:
    """The axis of a value along which batches stand side by side.

    Attributes:
        axis: the one whose size depends on the batch.
        outer: what stands outside of the samples on it: its size is ``outer * batches * inner``. More than 1 where
            another axis in front was merged with that of the samples.
        sample_bytes: of the value, per sample of a batch.
    """

    axis: int
    outer: int
    sample_bytes: float

    def apart(self, value: torch.Tensor, n: int) -> torch.Tensor:
        """A view with the ``n`` batches on an axis of their own, `axis` + 1."""
        apart: torch.Tensor = value.unflatten(self.axis, (self.outer, n, -1))  # type: ignore[no-untyped-call]
        return apart

    def together(self, value: torch.Tensor) -> torch.Tensor:
        """The inverse of `apart`; also with another number of batches."""
        return value.flatten(self.axis, self.axis + 2)


@dataclass(frozen=True)
class SampleAxes:
    """The values of a network that depend on its inputs, by node.

    Attributes:
        values: tensors.
        tuples: several tensors, read one by one.
        sizes: numbers that follow from sizes of tensors.
    """

    values: Mapping[str, SampleAxis]
    tuples: frozenset[str]
    sizes: frozenset[str]


def find_sample_axes(network: Network, blocks: Iterable[Block] = ()) -> SampleAxes | str:
    """The axes of a network's values, or why batches cannot stand side by side in it.

    Found from the shapes in the graph, and checked on the first samples of the calibration split: two batches that run
    as one must give every value that they give alone.

    Args:
        network: traced, with its data.
        blocks: that may be dropped.
    """
    size = max(1, min(_PROBED_SAMPLES, len(network.calibration_inputs[0]) // 2))
    batches = [
        [tensor[-size:] for tensor in network.calibration_inputs],
        [tensor[:size] for tensor in network.calibration_inputs],
    ]
    try:
        alone = [_values(network, inputs) for inputs in batches]
        found = _Finder(network, alone[0], size).found()
        merged = _values(network, [torch.cat(pair) for pair in zip(*batches, strict=True)])
        _check(network.graph, found, alone, merged)
        _check_blocks(network.graph, found, blocks)
    except _NotMergeableError as error:
        return str(error)
    except RuntimeError as error:  # shapes that do not fit
        return f"two batches do not run as one: {error}"
    return found


class _NotMergeableError(Exception):
    """Batches cannot stand side by side; the text is the reason."""


def _refuse(node: Node, why: str) -> NoReturn:
    raise _NotMergeableError(f"{node.name} ({node.target}{f' in {node.module}' if node.module else ''}) {why}")


def _values(network: Network, inputs: Sequence[torch.Tensor]) -> dict[str, Any]:
    """What the float network computes, by node, of what depends on the inputs."""
    found: dict[str, Any] = {}

    def visit(node: Node, value: Any) -> None:
        if node.name in network.graph.of_samples:
            found[node.name] = value

    with torch.no_grad():
        run(network.graph, network.tensors, inputs, visit)
    return found


class _Finder:
    """Reads axes off the graph, node by node."""

    def __init__(self, network: Network, values: Mapping[str, Any], n_samples: int) -> None:
        self._graph = network.graph
        self._values = values
        self._n_samples = n_samples
        weights = [node.name for node in self._graph if node.op == "tensor" and node.target in _parameters(network)]
        self._of_weights = self._graph.downstream(weights) - self._graph.of_samples
        self._axes: dict[str, SampleAxis] = {}
        self._tuples: dict[str, int] = {}  # and the outer factor of their tensors
        self._sizes: set[str] = set()

    def found(self) -> SampleAxes:
        for node in self._graph:
            if node.name in self._graph.of_samples:
                self._find(node)
        if self._graph.output not in self._axes:
            _refuse(self._graph[self._graph.output], "does not depend on the samples")
        return SampleAxes(self._axes, frozenset(self._tuples), frozenset(self._sizes))

    def _find(self, node: Node) -> None:
        value = self._values[node.name]
        if isinstance(value, torch.Tensor):
            axis = self._axis(node)
            outer = 1 if node.op == "input" else self._outer(node, axis)
            self._axes[node.name] = SampleAxis(axis, outer, value.nbytes / self._n_samples)
        elif isinstance(value, tuple | list):
            self._check_tuple(node)
            self._tuples[node.name] = self._outer_of_inputs(node)
        else:
            tensors = [name for name in node.inputs if name in self._axes or name in self._tuples]
            if tensors and node.target != _SIZE:
                _refuse(node, "makes a number of the values of samples")
            self._sizes.add(node.name)

    def _axis(self, node: Node) -> int:
        unknown = [axis for axis, size in enumerate(node.shape) if size is None]
        if not unknown:
            _refuse(node, "mixes all samples of a batch in one value")
        if len(unknown) > 1:
            _refuse(node, f"has {len(unknown)} axes whose sizes differ between batches")
        return unknown[0]

    def _check_tuple(self, node: Node) -> None:
        if any(self._graph[reader].target != "operator.getitem" for reader in self._graph.consumers[node.name]):
            _refuse(node, "gives several tensors to one operation")
        if not self._of_weights.isdisjoint(node.inputs):
            _refuse(node, "gives several tensors that depend on a weight")

    def _outer(self, node: Node, axis: int) -> int:
        first = node.args[0] if node.args else None
        if node.target not in _RESHAPES or not isinstance(first, Ref) or first.node not in self._axes:
            return self._outer_of_inputs(node)
        # A reshape keeps the order of the elements, so as much as before must stand outside of the samples.
        along = self._axes[first.node]
        outside = _product(self._graph[first.node].shape[: along.axis]) * along.outer
        outer, rest = divmod(outside, _product(node.shape[:axis]))
        if rest or not outer:
            _refuse(node, "cuts across samples")
        return outer

    def _outer_of_inputs(self, node: Node) -> int:
        given = [self._axes[name].outer for name in node.inputs if name in self._axes]
        given += [self._tuples[name] for name in node.inputs if name in self._tuples]
        return max(given, default=1)


def _parameters(network: Network) -> set[str]:
    return {layer.parameter for layer in network.layers}


def _product(sizes: Iterable[int | None]) -> int:
    return math.prod(size or 0 for size in sizes)


def _check(graph: Graph, found: SampleAxes, alone: Sequence[Mapping[str, Any]], merged: Mapping[str, Any]) -> None:
    """Whether two batches that ran as one gave what they gave alone."""
    for name, along in found.values.items():
        expected = [values[name] for values in alone]
        if merged[name].shape[along.axis] != sum(value.shape[along.axis] for value in expected):
            _refuse(graph[name], "has a size that is not proportional to the number of samples")
        if merged[name].shape[along.axis] % (2 * along.outer):
            _refuse(graph[name], "cuts across samples")
        apart = along.apart(merged[name], 2)
        for place, value in enumerate(expected):
            if not _alike(apart.select(along.axis + 1, place).flatten(along.axis, along.axis + 1), value):
                _refuse(graph[name], "gives a sample another value where it stands in another batch")


def _alike(found: torch.Tensor, expected: torch.Tensor) -> bool:
    if not expected.is_floating_point() and not expected.is_complex():
        return torch.equal(found, expected)
    finite = expected.abs()[expected.abs().isfinite()]
    scale = float(finite.max()) if finite.numel() else 0.0
    return torch.allclose(found, expected, rtol=_TOLERANCE, atol=_TOLERANCE * scale, equal_nan=True)


def _check_blocks(graph: Graph, found: SampleAxes, blocks: Iterable[Block]) -> None:
    for block in blocks:
        output, source = found.values.get(block.output), found.values.get(block.source)
        if output is None or source is None or (output.axis, output.outer) != (source.axis, source.outer):
            _refuse(graph[block.output], f"has other axes than what stands for it where {block.name} is dropped")
