"""The user's network as evo-mpq sees it: a graph, its state, its layers and its data. Never the user's module."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from evo_mpq.errors import EvoMpqError, NetworkError
from evo_mpq.network.calling import Forward, default_forward, select_output, tensors_of
from evo_mpq.network.graph import Graph, run
from evo_mpq.network.layers import Layer, count_macs, find_edges, find_layers
from evo_mpq.network.splits import Split, Splits
from evo_mpq.network.tracing import Traced, evaluation_copy, trace


@dataclass(frozen=True)
class TensorSignature:
    """One tensor of a batch's inputs.

    Attributes:
        shape: None where the size varies between batches.
        dtype: e.g. ``"float32"``.
    """

    shape: tuple[int | None, ...]
    dtype: str

    def zeros(self) -> torch.Tensor:
        """Two samples of zeros."""
        sizes = [2 if size is None else size for size in self.shape]
        return torch.zeros(sizes, dtype=getattr(torch, self.dtype))

    @property
    def dynamic(self) -> tuple[int, ...]:
        """Dimensions whose size varies."""
        return tuple(i for i, size in enumerate(self.shape) if size is None)


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

    def __getstate__(self) -> dict[str, Any]:
        # torch's own text form of a structure: its objects pickle, too, but warn while they are read
        return {**self.__dict__, "structure": pytree.treespec_dumps(self.structure)}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__dict__.update({**state, "structure": pytree.treespec_loads(state["structure"])})

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
        """Multiply-accumulate operations per sample outside of layers: products of attention."""
        return sum(self.macs.values()) - sum(layer.macs for layer in self.layers)

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
) -> Network:
    """The network behind ``module``, checked on its data first.

    Args:
        module: the user's network; a copy is traced, it is not modified.
        splits: the data.
        name: for people.
        forward: how a batch's inputs become a call.
        forward_name: what to call ``forward`` in files.
        output: which output counts.

    Raises:
        NetworkError: the network cannot run on its data, cannot be traced, or has no layer that can be quantized.
    """
    batches = [first_batch(split) for split in (splits.calibration, splits.search, splits.test)]
    _check_on_data(module, batches[0], forward or default_forward, output)
    signature = input_signature(batches)
    traced = trace(module, batches[0], dynamic=[entry.dynamic for entry in signature], forward=forward, output=output)
    return from_traced(traced, signature, splits, name=name, forward_name=forward_name, output=output)


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
        shape = tuple(
            None if axis == 0 or any(tensor.shape[axis] != size for tensor in tensors) else size
            for axis, size in enumerate(first.shape)
        )
        result.append(TensorSignature(shape, str(first.dtype).removeprefix("torch.")))
    return tuple(result)


def _check_on_data(module: nn.Module, inputs: Any, forward: Forward, output: str | int | None) -> None:
    """One real forward pass in the network's own terms, on a copy."""
    if not isinstance(module, nn.Module):
        raise NetworkError(f"A network is a torch.nn.Module, not a {type(module).__name__}.")
    shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors_of(inputs))
    network = evaluation_copy(module)
    try:
        with torch.no_grad():
            outputs = forward(network, inputs)
    except EvoMpqError:
        raise
    except Exception as error:
        raise NetworkError(
            f"The network rejects its own data: a batch with inputs of shape {shapes} gives "
            f"{type(error).__name__}: {error}. Check what `data:` returns against what the network expects; "
            '`model: {forward: "my_nets:call"}` can adapt one to the other.'
        ) from error
    chosen = select_output(outputs, output)
    n_samples = tensors_of(inputs)[0].shape[0]
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
