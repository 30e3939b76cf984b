"""Channels of a network that can be removed together, and why the others cannot."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
import torch_pruning
from torch import nn
from torch.utils import _pytree as pytree

from evo_mpq.network.calling import FlatCall, Forward, default_forward, tensors_of
from evo_mpq.network.graph import Graph, Node, run
from evo_mpq.network.layers import Layer
from evo_mpq.network.tracing import evaluation_copy

IntArray: TypeAlias = npt.NDArray[np.int64]

_TOLERANCE = 1e-5  # of the largest output
# Where a branch hardly counts, a wrong group stays below that, so the difference must be small beside what masking
# changes, too, or of the size of rounding.
_TOLERANCE_OF_EFFECT = 1e-4
_ROUNDING = 10.0  # times the difference of module and traced graph as they are
_PROBED_SAMPLES = 2
_KINDS = (nn.Conv1d, nn.Conv2d, nn.Linear, nn.Embedding)
# Parts that treat every channel alike and alone, so that one can be taken out.
_CHANNELWISE = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm, nn.PReLU)
_NORMALIZATIONS = ("aten.layer_norm", "aten.native_layer_norm", "aten.group_norm", "aten.native_group_norm")
_SPLITS = ("aten.view", "aten.reshape", "aten.unflatten", "aten.split", "aten.chunk", "aten.slice", "aten.unbind")


@dataclass(frozen=True, eq=False)
class PruneGroup:
    """Channels of several layers that can only be removed together.

    Attributes:
        name: its first layer in the order of the graph.
        n_channels: how many channels there are, each of which can be removed.
        rows: of every layer that computes the channels, depthwise convolutions among them, ``(n_channels, k)`` output
            channels of the layer that belong to each channel; together all of them.
        columns: of every layer that reads the channels, ``(n_channels, k)`` columns that belong to each channel, of
            the layer's weight as a matrix of ``(output channels, everything else)``. A depthwise convolution has none:
            its weight has one row per channel and no more.
    """

    name: str
    n_channels: int
    rows: Mapping[str, IntArray]
    columns: Mapping[str, IntArray]


@dataclass(frozen=True)
class RefusedGroup:
    """Layers whose output channels cannot be removed.

    Attributes:
        layers: names, in the order of the graph.
        reason: for people.
    """

    layers: tuple[str, ...]
    reason: str


def find_prune_groups(
    module: nn.Module,
    graph: Graph,
    tensors: Mapping[str, torch.Tensor],
    layers: Sequence[Layer],
    inputs: Any,
    *,
    forward: Forward | None = None,
    output: str | int | None = None,
    seed: int = 0,
) -> tuple[tuple[PruneGroup, ...], tuple[RefusedGroup, ...]]:
    """Which channels of a network can be removed; the output channels of every layer are in one group, of either kind.

    Dependencies are found by Torch-Pruning (Fang et al. 2023, DepGraph). A group is offered only if removing channels
    is the same as masking what reads them: a random half of its channels, then the other half, is cut out of a copy of
    the module, whose output on the probe must be that of the traced graph with zeros in the columns that read them; for
    one half the rows that compute them stay, for the other they are zeros, too. The outputs must agree to 1e-5 of the
    largest one and, since a branch may hardly count, to 1e-4 of what masking changes or to rounding. So a group costs
    two runs of module and graph, on two samples, in double precision where the network allows it.

    Args:
        module: the user's network; it is not modified.
        graph: what tracing made of it.
        tensors: of the graph.
        layers: of the graph.
        inputs: of a batch of the data; its first samples are the probe.
        forward: how ``inputs`` become a call (default: ``default_forward``).
        output: which output counts (default: the only one).
        seed: of the halves.

    Returns:
        The groups that are offered, and those that are refused, each in the order of the graph. If Torch-Pruning cannot
        follow the network, one refused group holds all layers.
    """
    with _undisturbed():
        try:
            copy, probe = _prepared(module, graph, tensors, layers, inputs, forward or default_forward, output)
        except _NotPrunableError as error:
            return (), (RefusedGroup(tuple(layer.name for layer in layers), str(error)),)
        offered: list[PruneGroup] = []
        refused: list[RefusedGroup] = []
        taken: set[str] = set()
        for name in sorted(copy.layers, key=copy.is_module, reverse=True):  # others are found from modules, if at all
            if name in taken:
                continue
            family = [name]
            try:
                family = [other for other in copy.family(name) if other not in taken]
                offered.append(_checked_group(copy, probe, family, seed))
            except _NotPrunableError as error:
                refused.append(RefusedGroup(tuple(family), str(error)))
            taken.update(family)
    place = {layer.name: i for i, layer in enumerate(layers)}
    return (
        tuple(sorted(offered, key=lambda group: place[group.name])),
        tuple(sorted(refused, key=lambda group: place[group.layers[0]])),
    )


class _NotPrunableError(Exception):
    """A group is refused; the text is the reason."""


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Gradients on, by which Torch-Pruning traces, and which keep attention off its fused path; a silent screen."""
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        redirect_stdout(io.StringIO()),
        redirect_stderr(io.StringIO()),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        yield


def _in_short(error: Exception) -> str:
    return f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), 'no message')}"


def _prepared(
    module: nn.Module,
    graph: Graph,
    tensors: Mapping[str, torch.Tensor],
    layers: Sequence[Layer],
    inputs: Any,
    forward: Forward,
    output: str | int | None,
) -> tuple[_Prunable, _Probe]:
    """The network both ways, in double precision if it can run in it.

    In single precision the rounding of a deep network reaches the tolerance.

    Raises:
        _NotPrunableError: nothing can be checked.
    """
    structure = pytree.tree_structure(inputs)
    leaves = [leaf[:_PROBED_SAMPLES] if leaf.dim() else leaf for leaf in tensors_of(inputs)]
    try:
        doubled = [_double(leaf) for leaf in leaves]
        copy = _Prunable(evaluation_copy(module).double(), layers, structure, doubled, forward, output)
        doubles = {name: _double(tensor) for name, tensor in tensors.items()}
        return copy, _Probe(_double_graph(graph), doubles, doubled, copy.output())
    except Exception:  # a network that insists on single precision somewhere, or one that cannot be followed at all
        try:
            copy = _Prunable(evaluation_copy(module), layers, structure, leaves, forward, output)
        except Exception as error:
            raise _NotPrunableError(f"Torch-Pruning cannot follow the network ({_in_short(error)}).") from error
        return copy, _Probe(graph, tensors, leaves, copy.output())


def _double(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


def _double_graph(graph: Graph) -> Graph:
    """The graph with double precision wherever an operation names single precision."""

    def double(value: Any) -> Any:
        return torch.float64 if value is torch.float32 else value

    nodes = [
        replace(node, args=pytree.tree_map(double, node.args), kwargs=pytree.tree_map(double, node.kwargs))
        for node in graph
    ]
    return Graph(nodes, graph.output)


@dataclass(frozen=True, eq=False)
class _Cut:
    """What Torch-Pruning cuts out of one part of the network when it removes channels of a layer, the root.

    Attributes:
        part: a module of the copy, or a parameter.
        layer: name of the layer that it is, or None.
        outward: output channels are cut, or else input channels.
        positions: ``(n,)`` that are cut.
        channels: ``(n,)`` the channel of the root with which each of them goes.
    """

    part: Any
    layer: str | None
    outward: bool
    positions: IntArray
    channels: IntArray

    def going_with(self, channels: IntArray) -> list[int]:
        """The positions that are cut with some channels of the root."""
        return self.positions[np.isin(self.channels, channels)].tolist()  # type: ignore[no-any-return]

    def by_channel(self, n_channels: int) -> IntArray | None:
        """``(n_channels, k)`` positions that belong to each channel; None if some have more than others."""
        counts = np.bincount(self.channels, minlength=n_channels)
        if counts.min() != counts.max():
            return None
        return self.positions[np.lexsort((self.positions, self.channels))].reshape(n_channels, -1)


class _Prunable:
    """A network that may be cut, with Torch-Pruning's graph of its dependencies.

    Args:
        network: a copy of the user's.
        layers: of the traced network.
        structure: how the inputs are nested.
        inputs: of the probe.
        forward: how they become a call.
        output: which output counts.

    Attributes:
        layers: by name, in the order of the graph.
        paths: of all modules and parameters.
        attentions: paths of attention modules.
        parts: per layer the modules with its weight.

    Raises:
        Exception: of any kind, from the network or from Torch-Pruning.
    """

    def __init__(
        self,
        network: nn.Module,
        layers: Sequence[Layer],
        structure: pytree.TreeSpec,
        inputs: Sequence[torch.Tensor],
        forward: Forward,
        output: str | int | None,
    ) -> None:
        parameters = dict(network.named_parameters())
        self.layers = {layer.name: layer for layer in layers}
        self.paths: dict[Any, str] = {part: path for path, part in [*parameters.items(), *network.named_modules()]}
        self.attentions = [path for part, path in self.paths.items() if isinstance(part, nn.MultiheadAttention)]
        self.parts = {
            layer.name: [
                part
                for part in network.modules()
                if isinstance(part, _KINDS) and part.weight is parameters.get(layer.parameter)
            ]
            for layer in layers
        }
        self._layer_of = {part: name for name, parts in self.parts.items() for part in parts}
        self._call = FlatCall(network, structure, forward, output).eval()
        self._inputs = inputs
        self._dependencies = torch_pruning.DependencyGraph().build_dependency(
            self._call, inputs, forward_fn=lambda call, inputs: self._run(), verbose=False
        )
        self._cuts_of_all: dict[str, tuple[_Cut, ...]] = {}

    def is_module(self, name: str) -> bool:
        """Whether Torch-Pruning knows a layer as a module of its own."""
        return len(self.parts[name]) == 1 and self.parts[name][0] in self._dependencies.module2node

    def cuts(self, root: str) -> tuple[_Cut, ...]:
        """What goes if all channels of a layer are removed."""
        if root not in self._cuts_of_all:
            channels = range(self.layers[root].n_rows)
            self._cuts_of_all[root] = self._cuts(self._group(root, channels)) if self.is_module(root) else ()
        return self._cuts_of_all[root]

    def family(self, name: str) -> list[str]:
        """The layers that compute channels which go together with those of one layer, in the order of the graph."""
        found = {name}
        waiting = [name]
        while waiting:
            root = waiting.pop()
            new = self._producers(root) - found
            found |= new
            if not self.is_complete(root):  # else theirs would be the same
                waiting.extend(new)
        return [layer for layer in self.layers if layer in found]

    def is_complete(self, root: str) -> bool:
        """Whether all output channels of the others go with those of a layer, equally many with each."""
        n_channels = self.layers[root].n_rows
        outward = {cut.layer: cut.by_channel(n_channels) for cut in self.cuts(root) if cut.layer and cut.outward}
        return all(
            positions is not None and np.array_equal(np.sort(positions, axis=None), np.arange(self._n_outputs(name)))
            for name, positions in outward.items()
        )

    def output(self) -> torch.Tensor:
        """The output on the probe."""
        return self._run().detach()

    def output_without(self, root: str, channels: IntArray) -> torch.Tensor:
        """The output on the probe while some channels of a layer, and what goes with them, are cut out.

        Raises:
            _NotPrunableError: that is not what goes if all are removed, or the rest does not run.
        """
        group = self._group(root, channels)
        expected = {
            (cut.part, cut.outward, position) for cut in self.cuts(root) for position in cut.going_with(channels)
        }
        found = {(cut.part, cut.outward, position) for cut in self._cuts(group) for position in cut.positions.tolist()}
        if found != expected:
            raise _NotPrunableError("Some of them cannot be removed without others.")
        try:
            with _restored([item.dep.target.module for item in group.items]):
                group.prune(record_history=False)
                return self.output()
        except Exception as error:
            raise _NotPrunableError(f"The network does not run without half of them ({_in_short(error)}).") from error

    def _run(self) -> torch.Tensor:
        result: torch.Tensor = self._call(*(tensor.clone() for tensor in self._inputs))
        return result

    def _group(self, root: str, channels: Iterable[int]) -> Any:
        (part,) = self.parts[root]
        prune = self._dependencies.get_pruner_of_module(part).prune_out_channels
        try:
            return self._dependencies.get_pruning_group(part, prune, [int(channel) for channel in channels])
        except Exception as error:
            raise _NotPrunableError(f"Torch-Pruning cannot follow {root} ({_in_short(error)}).") from error

    def _cuts(self, group: Any) -> tuple[_Cut, ...]:
        return tuple(
            _Cut(
                item.dep.target.module,
                self._layer_of.get(item.dep.target.module),
                self._dependencies.is_out_channel_pruning_fn(item.dep.handler),
                np.array(item.idxs, dtype=np.int64),
                np.array(item.root_idxs, dtype=np.int64),
            )
            for item in group.items
            if item.dep.target.module in self.paths  # the others stand for operations
        )

    def _producers(self, root: str) -> set[str]:
        cuts = self.cuts(root)
        attentions = [cut.part for cut in cuts if isinstance(cut.part, nn.MultiheadAttention)]
        projections = {self._layer_of.get(attention.out_proj) for attention in attentions}
        return {name for name in projections | {cut.layer for cut in cuts if cut.outward} if name is not None}

    def _n_outputs(self, name: str) -> int:
        layer = self.layers[name]
        return layer.shape[-1] if layer.kind == "embedding" else layer.n_rows


@contextmanager
def _restored(parts: Sequence[Any]) -> Iterator[None]:
    """Sets back what cutting changes in modules and Torch-Pruning's stand-ins: attributes, and entries of lists."""
    before = [
        {key: value.copy() if isinstance(value, dict | list) else value for key, value in vars(part).items()}
        for part in parts
    ]
    try:
        yield
    finally:
        for part, state in zip(parts, before, strict=True):
            vars(part).clear()
            vars(part).update(state)


@dataclass(frozen=True, eq=False)
class _Probe:
    """The traced network and the inputs on which groups are checked.

    Attributes:
        graph: traced.
        tensors: of the graph.
        inputs: of the graph.
        expected: what the module makes of these inputs.

    Raises:
        _NotPrunableError: graph and module give different outputs, or none that are finite.
    """

    graph: Graph
    tensors: Mapping[str, torch.Tensor]
    inputs: Sequence[torch.Tensor]
    expected: torch.Tensor

    def __post_init__(self) -> None:
        if not self.rounding <= _TOLERANCE:
            raise _NotPrunableError(
                f"The traced network's output on the probe differs by {self.rounding:.2g} of the largest from the "
                "network's own, so that removing channels cannot be checked."
            )

    @cached_property
    def plain(self) -> torch.Tensor:
        """The output of the whole network."""
        return self.output({})

    @cached_property
    def rounding(self) -> float:
        """Distance of the outputs of module and graph."""
        return self.distance(self.plain, self.expected)

    def output(self, masked: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The output with other tensors in the place of some."""
        with torch.no_grad():
            return run(self.graph, {**self.tensors, **masked}, [tensor.clone() for tensor in self.inputs])

    def distance(self, first: torch.Tensor, second: torch.Tensor) -> float:
        """The largest difference of two outputs, as a part of the largest output."""
        if first.shape != second.shape:
            return math.inf
        return float((first - second).abs().max() / self.plain.abs().max().clamp(min=torch.finfo(first.dtype).tiny))


def _checked_group(copy: _Prunable, probe: _Probe, family: Sequence[str], seed: int) -> PruneGroup:
    """The group of some layers' output channels.

    Raises:
        _NotPrunableError: it is refused.
    """
    root = min(filter(copy.is_complete, family), key=lambda name: copy.layers[name].n_rows, default=family[0])
    cuts = copy.cuts(root)
    reach = _reach(probe.graph, copy.layers, family)
    _refuse_reach(probe.graph, reach)
    for name in dict.fromkeys([*family, *(cut.layer for cut in cuts if cut.layer)]):
        _refuse_layer(copy, name)
    for cut in cuts:
        _refuse_part(copy, cut)
    n_channels = copy.layers[root].n_rows
    if n_channels < 2:
        raise _NotPrunableError("There is one channel only.")
    try:
        group = _group(copy, root, family)
        _check(copy, probe, group, root, seed)
    except _NotPrunableError as error:
        raise _NotPrunableError(f"{error}{_reshape_hint(reach, n_channels)}") from error
    return group


def _reach(graph: Graph, layers: Mapping[str, Layer], family: Sequence[str]) -> list[Node]:
    """The nodes from some layers up to those that read them, these not included."""
    reached = {use.node for name in family for use in layers[name].uses}
    others = {use.node for layer in layers.values() for use in layer.uses}
    for node in graph:
        if node.name not in others and node.target != "aten.sym_size.int" and not reached.isdisjoint(node.inputs):
            reached.add(node.name)
    return [node for node in graph if node.name in reached]


def _refuse_reach(graph: Graph, reach: Sequence[Node]) -> None:
    """Refuses channels that a layer or group normalization reads, or that are the output."""
    for node in reach:
        if node.target.startswith(_NORMALIZATIONS):
            raise _NotPrunableError(
                f"They pass a layer or group normalization ({node.module or node.name}), whose mean and variance "
                "change with every channel that is removed."
            )
    if any(node.name == graph.output for node in reach):
        raise _NotPrunableError("They are the network's output, or reach it without another layer in between.")


def _refuse_layer(copy: _Prunable, name: str) -> None:
    """Refuses layers that can be in no group, as they compute or read its channels."""
    layer = copy.layers[name]
    for path in copy.attentions:
        if layer.parameter.startswith(f"{path}."):
            raise _NotPrunableError(f"{name} belongs to the attention {path}, which splits its channels into heads.")
    if layer.kind == "embedding":
        raise _NotPrunableError(f"{name} is an embedding, whose rows are entries and not channels.")
    if len(copy.parts[name]) > 1:
        raise _NotPrunableError(f"Several modules share the weight of {name}.")
    if not copy.is_module(name):
        raise _NotPrunableError(
            f"Torch-Pruning does not know {name}, which is no Conv1d, Conv2d or Linear module of its own or runs "
            "without gradients."
        )
    if layer.groups > 1 and not layer.groups == layer.n_rows == layer.groups * layer.shape[1]:
        raise _NotPrunableError(f"{name} is a grouped convolution, whose groups must keep equally many channels.")


def _refuse_part(copy: _Prunable, cut: _Cut) -> None:
    """Refuses channels that pass what is neither a layer nor known to treat each channel alone."""
    path = copy.paths[cut.part]
    if isinstance(cut.part, nn.Parameter):
        raise _NotPrunableError(f"They meet the parameter {path}, which belongs to no layer.")
    if cut.layer is None and not isinstance(cut.part, _CHANNELWISE):
        raise _NotPrunableError(f"They pass {path}, a {type(cut.part).__name__}, from which none can be removed.")


def _group(copy: _Prunable, root: str, family: Sequence[str]) -> PruneGroup:
    """Positions by channel of the root."""
    n_channels = copy.layers[root].n_rows
    rows: dict[str, IntArray] = {}
    columns: dict[str, IntArray] = {}
    for cut in copy.cuts(root):
        if cut.layer is None:
            continue
        positions = cut.by_channel(n_channels)
        if positions is None or not copy.is_complete(root):
            raise _NotPrunableError("They do not belong together one to one, nor one to equally many.")
        if cut.outward:
            rows[cut.layer] = positions
        else:
            columns[cut.layer] = _columns(copy.layers[cut.layer], positions)
    in_order = [{name: found[name] for name in copy.layers if name in found} for found in (rows, columns)]
    return PruneGroup(family[0], n_channels, *in_order)


def _columns(layer: Layer, inputs: IntArray) -> IntArray:
    """``(n_channels, k)`` input channels of a layer to columns of its weight as a matrix."""
    if inputs.max() >= layer.shape[1]:
        raise _NotPrunableError(f"{layer.name} reads fewer channels than there are.")
    size = math.prod(layer.shape[2:])  # kernel positions
    return (inputs[:, :, None] * size + np.arange(size)).reshape(len(inputs), -1)


def _check(copy: _Prunable, probe: _Probe, group: PruneGroup, root: str, seed: int) -> None:
    """Whether removing channels is masking them, for a random half of them and for the other half."""
    order = np.random.default_rng(seed).permutation(group.n_channels)
    differences, effects = [], []
    # What masks are must not depend on the rows that compute masked channels, so one half keeps them.
    for with_rows, removed in zip((False, True), np.array_split(order, 2), strict=True):
        cut = copy.output_without(root, removed)
        masked = probe.output(_masked(copy.layers, probe.tensors, group, removed, with_rows))
        differences.append(probe.distance(masked, cut))
        effects.append(probe.distance(masked, probe.plain))
    difference, effect = max(differences), max(effects)
    if effect == 0:
        raise _NotPrunableError("Nothing depends on them on the probe, so that removing them cannot be checked.")
    if not difference <= min(_TOLERANCE, _TOLERANCE_OF_EFFECT * effect + _ROUNDING * probe.rounding):
        raise _NotPrunableError(
            f"Removing half of them is not the same as masking them: outputs differ by {difference:.2g} of the "
            f"largest, where masking changes {effect:.2g}."
        )


def _masked(
    layers: Mapping[str, Layer],
    tensors: Mapping[str, torch.Tensor],
    group: PruneGroup,
    removed: IntArray,
    with_rows: bool,
) -> dict[str, torch.Tensor]:
    """Weights with zeros where channels are read, and where they are computed if ``with_rows``."""
    masked: dict[str, torch.Tensor] = {}

    def matrix(name: str) -> torch.Tensor:
        parameter = layers[name].parameter
        weight = masked.setdefault(parameter, tensors[parameter].clone())
        return weight.view(len(weight), -1)

    for name, columns in group.columns.items():
        matrix(name)[:, columns[removed].reshape(-1)] = 0
    for name, rows in group.rows.items() if with_rows else ():
        matrix(name)[rows[removed].reshape(-1)] = 0
    return masked


def _reshape_hint(reach: Sequence[Node], n_channels: int) -> str:
    """The reshape that is the usual reason why channels cannot be removed, if they pass one."""
    for node in reach:
        if node.target.startswith(_SPLITS):
            place = f"{node.name} in {node.module}" if node.module else node.name
            if not any(size and size % n_channels == 0 for size in node.shape):
                return f" They are split by {node.target} ({place})."
            return (
                f" A size that is written as a number is the usual reason where channels pass {node.target} ({place})."
            )
    return ""
