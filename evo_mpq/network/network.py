"""The user's network as evo-mpq sees it: a graph, its state, its layers and its data. Never the user's module."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from evo_mpq.errors import EvoMpqError, NetworkError, user_frame
from evo_mpq.network.blocks import Block, find_blocks
from evo_mpq.network.calling import Forward, default_forward, select_output, tensors_of
from evo_mpq.network.data.splits import Split, Splits
from evo_mpq.network.graph import Graph, run
from evo_mpq.network.layers import Layer, count_macs, find_edges, find_layers
from evo_mpq.network.products import Product, find_products
from evo_mpq.network.pruning import PruneGroup, RefusedGroup, find_prune_groups
from evo_mpq.network.tracing import Traced, evaluation_copy, trace

_TRACING_TOLERANCE = 1e-3  # of the largest output; folding batch normalization and other kernels stay far below


@dataclass(frozen=True)
class TensorSignature:
    """One tensor of a batch's inputs.

    Attributes:
        shape: of two samples.
        dtype: e.g. ``"float32"``.
        dynamic: dimensions whose size varies between batches; the others always have that of ``shape``.
    """

    shape: tuple[int, ...]
    dtype: str
    dynamic: tuple[int, ...] = (0,)

    def zeros(self) -> torch.Tensor:
        """Two samples of zeros."""
        return torch.zeros(self.shape, dtype=getattr(torch, self.dtype))


@dataclass(frozen=True, eq=False)
class Network:
    """A traced network with its data; pickles, and holds nothing of the user's module.

    Attributes:
        name: for people.
        graph: the nodes, batch normalization folded.
        tensors: parameters, buffers and constants by their names in the user's network; float32.
        structure: how the tensors of a batch's inputs are nested.
        signature: of each of these tensors.
        layers: whose weights can be quantized, in the order of the graph.
        edges: activations that no layer governs, by the operation that reads them.
        macs: multiply-accumulate operations per sample, by node.
        splits: the data.
        forward: name of the user's way to call the network, or None.
        output: which output counts, or None for the only one.
        prune_groups: channels that can be pruned together; empty unless they were looked for.
        refused_groups: channels that cannot, with the reasons.
    """

    name: str
    graph: Graph
    tensors: Mapping[str, torch.Tensor]
    structure: pytree.TreeSpec
    signature: tuple[TensorSignature, ...]
    layers: tuple[Layer, ...]
    edges: Mapping[str, tuple[str, ...]]
    macs: Mapping[str, int]
    splits: Splits
    forward: str | None = None
    output: str | int | None = None
    prune_groups: tuple[PruneGroup, ...] = ()
    refused_groups: tuple[RefusedGroup, ...] = ()

    def __getstate__(self) -> dict[str, Any]:
        # torch's own text form of a structure: its objects pickle, too, but warn while they are read
        return {**self.__dict__, "structure": pytree.treespec_dumps(self.structure)}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__dict__.update({**state, "structure": pytree.treespec_loads(state["structure"])})

    @cached_property
    def products(self) -> tuple[Product, ...]:
        """Products of activations inside attention, in the order of the graph."""
        return find_products(self.graph, self.macs)

    def sites(self, block: Block | None = None) -> list[Layer | Product]:
        """Layers and products in the order of the graph; of a block or of the whole network."""
        place = {node.name: position for position, node in enumerate(self.graph)}
        inside = None if block is None else {*block.nodes}
        layers: list[tuple[str, Layer | Product]] = [(layer.uses[0].node, layer) for layer in self.layers]
        products: list[tuple[str, Layer | Product]] = [(product.node, product) for product in self.products]
        found = [pair for pair in (*layers, *products) if inside is None or pair[0] in inside]
        return [site for _, site in sorted(found, key=lambda pair: place[pair[0]])]

    @cached_property
    def blocks(self) -> Mapping[str, Block | str]:
        """For every module with a layer: the block that may be dropped, or why it is none."""
        return find_blocks(self.graph, self.layers)

    @cached_property
    def calibration_inputs(self) -> list[torch.Tensor]:
        """The whole calibration split as one batch."""
        return tensors_of(self.splits.calibration.whole().inputs)

    @property
    def n_parameters(self) -> int:
        """Numbers in the network's state, batch normalization folded."""
        return sum(tensor.numel() for tensor in self.tensors.values())

    @property
    def other_parameters(self) -> int:
        """Numbers in the network's state that are no layer's weights."""
        return self.n_parameters - sum(layer.n_parameters for layer in self.layers)

    @property
    def other_macs(self) -> int:
        """Multiply-accumulate operations per sample outside of layers and products of attention."""
        return sum(self.macs.values()) - sum(site.macs for site in self.sites())

    def float_outputs(self, inputs: Any) -> torch.Tensor:
        """The float network's output for a batch's inputs."""
        with torch.no_grad():
            return run(self.graph, self.tensors, tensors_of(inputs))

    def weights_hash(self) -> str:
        """SHA-256 over all tensors, hexadecimal."""
        digest = hashlib.sha256()
        for name in sorted(self.tensors):
            tensor = self.tensors[name].contiguous()
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
        return digest.hexdigest()


def trace_network(
    module: nn.Module,
    splits: Splits,
    *,
    name: str = "network",
    forward: Forward | None = None,
    forward_name: str | None = None,
    output: str | int | None = None,
    prunable: bool = False,
) -> Network:
    """The network behind ``module``, checked on its data first.

    Args:
        module: the user's network; a copy is traced, it is not modified.
        splits: the data.
        name: for people.
        forward: how a batch's inputs become a call.
        forward_name: what to call ``forward`` in files.
        output: which output counts.
        prunable: whether to look for channels that can be pruned together, each group checked on the data.

    Raises:
        NetworkError: the network cannot run on its data, cannot be traced, or has no layer that can be quantized.
    """
    batches = [first_batch(split) for split in (splits.calibration, splits.search, splits.test)]
    _check_structure(batches[0])
    outputs = _run_on_data(module, batches[0], forward or default_forward, output)
    signature = input_signature(batches)
    traced = trace(module, batches[0], dynamic=[entry.dynamic for entry in signature], forward=forward, output=output)
    _check_traced(traced, batches[0], outputs)
    network = from_traced(traced, signature, splits, name=name, forward_name=forward_name, output=output)
    if not prunable:
        return network
    groups, refused = find_prune_groups(
        module, network.graph, network.tensors, network.layers, batches[0], forward=forward, output=output
    )
    return replace(network, prune_groups=groups, refused_groups=refused)


def from_traced(
    traced: Traced,
    signature: tuple[TensorSignature, ...],
    splits: Splits,
    *,
    name: str,
    forward_name: str | None,
    output: str | int | None,
) -> Network:
    """The network of a graph: MACs counted, layers and edges found."""
    try:
        macs = count_macs(traced.graph, traced.tensors, [entry.zeros() for entry in signature])
    except Exception as error:
        raise NetworkError(
            f"The network's operations cannot be counted on the meta device ({type(error).__name__}: {error}). "
            "Operations whose result's size depends on values (nonzero, unique, boolean indexing) are the usual reason."
        ) from error
    layers = find_layers(traced.graph, macs)
    if not layers:
        raise NetworkError(
            "The network has no layer that can be quantized: no Conv1d, Conv2d, Linear or Embedding was found among "
            f"its {len(traced.graph)} operations."
        )
    for layer in layers:
        if not torch.isfinite(traced.tensors[layer.parameter]).all():
            raise NetworkError(
                f"The weights of {layer.name} hold NaN or infinity and cannot be quantized; check the weights file."
            )
    edges = find_edges(traced.graph, layers)
    return Network(
        name,
        traced.graph,
        traced.tensors,
        traced.structure,
        signature,
        layers,
        edges,
        macs,
        splits,
        forward_name,
        output,
    )


def first_batch(split: Split) -> Any:
    """Inputs of a split's first batch."""
    return next(iter(split.batches())).inputs


def input_signature(batches: Sequence[Any]) -> tuple[TensorSignature, ...]:
    """Shapes and types of a batch's tensors; sizes that differ between the batches, and the first, are dynamic."""
    columns = [tensors_of(inputs) for inputs in batches]
    result = []
    for tensors in zip(*columns, strict=True):
        first = tensors[0]
        differing = [axis for axis, size in enumerate(first.shape) if any(t.shape[axis] != size for t in tensors)]
        dynamic = tuple(sorted({0, *differing}))
        result.append(TensorSignature((2, *first.shape[1:]), str(first.dtype).removeprefix("torch."), dynamic))
    return tuple(result)


def _check_structure(inputs: Any) -> None:
    """Whether a packed file can say how the tensors are nested."""
    structure = pytree.tree_structure(inputs)
    try:
        described = bool(pytree.treespec_loads(pytree.treespec_dumps(structure)) == structure)
    except (NotImplementedError, TypeError, ValueError):
        described = False
    if not described:
        raise NetworkError(
            f"The inputs of a batch are nested in a way that no file can describe ({structure}); let the dataset "
            "return a tensor, or tensors in tuples, lists and dictionaries with text as keys."
        )


def _run_on_data(module: nn.Module, inputs: Any, forward: Forward, output: str | int | None) -> torch.Tensor:
    """The output of one real forward pass in the network's own terms, on copies of network and data."""
    if not isinstance(module, nn.Module):
        raise NetworkError(f"A network is a torch.nn.Module, not a {type(module).__name__}.")
    tensors = tensors_of(inputs)
    shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors)
    network = evaluation_copy(module)
    own = pytree.tree_unflatten([tensor.clone() for tensor in tensors], pytree.tree_structure(inputs))
    try:
        with torch.no_grad(), without_fast_path():
            outputs = forward(network, own)
    except EvoMpqError:
        raise
    except Exception as error:
        raise NetworkError(
            f"The network rejects its own data: a batch with inputs of shape {shapes} gives "
            f"{type(error).__name__}: {error}{user_frame(error)}. Check what `data:` returns against what the network "
            'expects; `model: {forward: "my_nets:call"}` can adapt one to the other.'
        ) from error
    chosen = select_output(outputs, output)
    n_samples = tensors[0].shape[0]
    if chosen.dim() == 0 or chosen.shape[0] != n_samples:
        raise NetworkError(
            f"The network's output has shape {tuple(chosen.shape)} for a batch of {n_samples}; its first dimension "
            "must count the batch's samples."
        )
    if not torch.isfinite(chosen).all():
        raise NetworkError(
            "The float network's own output holds NaN or infinity on the first calibration batch; nothing could be "
            "compared with it. Check the weights file and the scaling of the inputs."
        )
    return chosen


@contextmanager
def without_fast_path() -> Iterator[None]:
    """Attention by its own operations: the fused path, which cannot be traced, sets padded positions to zero."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _check_traced(traced: Traced, inputs: Any, outputs: torch.Tensor) -> None:
    """Whether the graph computes what the network computes: random numbers and frozen values are found here."""
    with torch.no_grad():
        found = run(traced.graph, traced.tensors, tensors_of(inputs))
    if found.shape != outputs.shape:
        how = f"its output has shape {tuple(found.shape)} instead of {tuple(outputs.shape)}"
    else:
        largest = float(outputs.double().abs().max())
        difference = float((found.double() - outputs.double()).abs().max())
        if difference <= _TRACING_TOLERANCE * largest:
            return
        how = f"its output differs by {difference:.2g} where the largest value is {largest:.2g}"
    raise NetworkError(
        f"The traced network does not compute what the network computes: on the first calibration batch {how}. Usual "
        "reasons: dropout or other random numbers that stay on in evaluation mode, autocast inside the network, and "
        "numbers taken out of tensors (`.item()`, numpy) that were frozen while tracing."
    )
