"""What the float network does on the calibration batch: ranges, channel statistics and second moments, once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from evo_mpq.errors import NetworkError
from evo_mpq.network.graph import Graph, Node, run
from evo_mpq.network.layers import Layer, Use
from evo_mpq.network.products import FusedArguments, Product, attention_weights, shared_heads

_MOST_VALUES = 1 << 20  # of an activation that are sorted
_SAMPLE = 8192  # of the sorted values that are kept
_MOST_PATCHES = 1 << 22  # elements of unfolded convolution inputs that are alive at once


@dataclass(frozen=True, eq=False)
class Statistics:
    """Statistics of the float network on one batch.

    Attributes:
        samples: for every activation that may be quantized ``(<= 8192,)`` of its sorted values, both extremes
            included.
        means: for every use of a layer the mean of each output channel, bias included.
        deviations: likewise the standard deviations (population).
        grams: for every layer with one use, of whole rows, ``(groups, columns, columns)`` second moments of its
            inputs, float64.
    """

    samples: Mapping[str, torch.Tensor]
    means: Mapping[str, torch.Tensor]
    deviations: Mapping[str, torch.Tensor]
    grams: Mapping[str, torch.Tensor]


def calibrate(
    graph: Graph,
    tensors: Mapping[str, torch.Tensor],
    layers: Sequence[Layer],
    products: Sequence[Product],
    edges: Mapping[str, tuple[str, ...]],
    inputs: Sequence[torch.Tensor],
    *,
    centred: bool,
    second_moments: bool,
) -> Statistics:
    """Statistics of the float network from one forward pass on the calibration batch.

    Args:
        graph: the traced network.
        tensors: its state.
        layers: its layers.
        products: its products of activations.
        edges: activations that no layer governs, by reader.
        inputs: tensors of the calibration batch.
        centred: second moments around the mean, right if the correction removes shifts anyway.
        second_moments: whether to compute them at all.
    """
    uses = uses_by_node(layers)
    sources = {use.input for _, use in uses.values() if use.input is not None}
    sources.update(name for names in edges.values() for name in names)
    sources.update(name for product in products for name in product.operands)
    fused = {product.node: FusedArguments.of(graph[product.node]) for product in products if product.fused}
    held: dict[str, torch.Tensor] = {}  # what attention weights are computed from, until they are
    to_hold = Counter(name for given in fused.values() for name in given.of_weights)
    samples: dict[str, torch.Tensor] = {}
    means: dict[str, torch.Tensor] = {}
    deviations: dict[str, torch.Tensor] = {}
    grams: dict[str, torch.Tensor] = {}
    activations: dict[str, torch.Tensor] = {}
    readers = {name: sum(use.input == name for _, use in uses.values()) for name in sources}

    def visit(node: Node, value: Any) -> None:
        if node.name in to_hold:
            held[node.name] = value
        if node.name in fused:
            given = fused[node.name]
            samples[f"{node.name}@weights"] = sorted_sample(_attention_weights(given, held))
            to_hold.subtract(given.of_weights)
            for name in given.of_weights:
                if not to_hold[name]:
                    held.pop(name, None)
        if node.name in sources:
            samples[node.name] = sorted_sample(value)
            if second_moments and readers[node.name]:
                activations[node.name] = value
        if node.name in uses:
            layer, use = uses[node.name]
            means[node.name], deviations[node.name] = channel_statistics(value, use.channel_axis)
            if not torch.isfinite(means[node.name]).all():
                raise NetworkError(
                    f"The float network's layer {layer.name} gives NaN or infinity on the calibration split; nothing "
                    "could be compared with it. Check the split's samples and the scaling of the inputs."
                )
            if second_moments and use.input is not None:
                if not layer.shared and _reads_whole_rows(graph, node, layer):
                    grams[layer.name] = _second_moments(node, layer, activations[use.input], centred)
                readers[use.input] -= 1
                if not readers[use.input]:
                    del activations[use.input]

    with torch.no_grad():
        run(graph, tensors, inputs, visit)
    return Statistics(samples, means, deviations, grams)


def _attention_weights(given: FusedArguments, values: Mapping[str, torch.Tensor]) -> torch.Tensor:
    query, key = values[given.query], values[given.key]
    mask = None if given.mask is None else values[given.mask]
    return attention_weights(
        query, shared_heads(key, query) if given.grouped else key, mask, given.is_causal, given.scale
    )


def _reads_whole_rows(graph: Graph, node: Node, layer: Layer) -> bool:
    """Whether the one operation that reads a layer's weight reads all of its columns, not a slice of them."""
    weight = graph[node.args[2 if node.target == "aten.addmm.default" else 1].node]
    n_weights = 1
    for size in weight.shape:
        n_weights *= size or 0
    return n_weights // layer.uses[0].n_channels == layer.n_parameters // layer.n_rows


def sorted_sample(values: torch.Tensor) -> torch.Tensor:
    """At most 8,192 evenly spaced values of the sorted tensor, smallest and largest included."""
    flat = values.detach().flatten()
    extremes = torch.stack([flat.amin(), flat.amax()])
    if len(flat) > _MOST_VALUES:
        flat = torch.cat([flat[:: -(-len(flat) // _MOST_VALUES)], extremes])
    ordered = flat.sort().values
    if len(ordered) <= _SAMPLE:
        return ordered
    return ordered[torch.linspace(0, len(ordered) - 1, _SAMPLE, dtype=torch.float64).round().long()]


def channel_statistics(values: torch.Tensor, axis: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and population standard deviation over everything but ``axis``, each ``(n_channels,)``.

    Two passes of products with vectors of ones: as exact as ``torch.var_mean``, and up to ten times faster on a CPU.
    """
    mean = _channel_sums(values, axis) / (values.numel() // values.shape[axis])
    shape = [1] * values.dim()
    shape[axis] = -1
    centred = values - mean.view(shape)
    variance = _channel_sums(centred.mul_(centred), axis) / (values.numel() // values.shape[axis])
    return mean, variance.sqrt_()


def _channel_sums(values: torch.Tensor, axis: int) -> torch.Tensor:
    if axis == values.dim() - 1:
        rows = values.reshape(-1, values.shape[-1])
        return values.new_ones(len(rows)) @ rows
    samples = values.flatten(2)  # convolutions count channels on axis 1
    return values.new_ones(len(samples)) @ (samples @ values.new_ones(samples.shape[2]))


def _second_moments(node: Node, layer: Layer, inputs: torch.Tensor, centred: bool) -> torch.Tensor:
    """``(groups, columns, columns)`` mean products of what the weight's columns multiply with."""
    total: torch.Tensor | None = None
    sums: torch.Tensor | None = None
    count = 0
    for chunk in _chunks(inputs, layer):
        columns = _columns(node, layer, chunk)  # (groups, columns, positions)
        products = (columns @ columns.transpose(1, 2)).double()
        total = products if total is None else total + products
        partial = columns.sum(2).double()
        sums = partial if sums is None else sums + partial
        count += columns.shape[2]
    assert total is not None and sums is not None
    if centred:
        return total / count - (sums / count).unsqueeze(2) * (sums / count).unsqueeze(1)
    return total / count


def _chunks(inputs: torch.Tensor, layer: Layer) -> Sequence[torch.Tensor]:
    if layer.kind == "linear" or not len(inputs):
        return (inputs,)
    patch = layer.n_parameters // layer.n_rows * layer.groups
    positions = inputs[0, 0].numel()
    chunks: Sequence[torch.Tensor] = inputs.split(max(1, _MOST_PATCHES // max(1, patch * positions)))
    return chunks


def _columns(node: Node, layer: Layer, inputs: torch.Tensor) -> torch.Tensor:
    if layer.kind == "linear":
        return inputs.reshape(-1, inputs.shape[-1]).T.unsqueeze(0)
    # conv(input, weight, bias, stride, padding, dilation, groups); a 1-d convolution is a 2-d one of height 1.
    n_dims = 1 if layer.kind == "conv1d" else 2
    kernel = tuple(layer.shape[2:])
    stride = _repeated(node.args[3] if len(node.args) > 3 else 1, n_dims)
    dilation = _repeated(node.args[5] if len(node.args) > 5 else 1, n_dims)
    padding = node.args[4] if len(node.args) > 4 else 0
    if padding == "same":
        inputs = functional.pad(inputs, _same_padding(kernel, dilation))
        padding = 0
    elif padding == "valid":
        padding = 0
    pad = _repeated(padding, n_dims)
    if n_dims == 1:
        inputs, kernel, stride, dilation, pad = (
            inputs.unsqueeze(2),
            (1, *kernel),
            (1, *stride),
            (1, *dilation),
            (0, *pad),
        )
    patches = functional.unfold(inputs, kernel, dilation, pad, stride)  # (n, channels * kernel, positions)
    n, _, positions = patches.shape
    return patches.view(n, layer.groups, -1, positions).permute(1, 2, 0, 3).reshape(layer.groups, -1, n * positions)


def _repeated(value: Any, n: int) -> tuple[int, ...]:
    values = value if isinstance(value, list | tuple) else [value]
    return tuple(int(v) for v in values) * (n if len(values) == 1 else 1)


def _same_padding(kernel: Sequence[int], dilation: Sequence[int]) -> list[int]:
    pads: list[int] = []
    for size, spread in zip(reversed(kernel), reversed(dilation), strict=True):
        total = spread * (size - 1)
        pads += [total // 2, total - total // 2]  # torch pads the end more where the total is odd
    return pads


def uses_by_node(layers: Sequence[Layer]) -> dict[str, tuple[Layer, Use]]:
    """Every operation that reads a layer's weight, by its name."""
    return {use.node: (layer, use) for layer in layers for use in layer.uses}


def loss_gradients(
    graph: Graph,
    tensors: Mapping[str, torch.Tensor],
    batches: Iterable[Sequence[torch.Tensor]],
    parameters: Sequence[str],
) -> dict[str, torch.Tensor]:
    """Gradients of the float network's loss on some data, summed over samples.

    The loss is the cross-entropy to the class that the network itself finds most likely, so no labels are needed.

    Args:
        graph: the traced network.
        tensors: its state.
        batches: tensors of each batch's inputs.
        parameters: names of the tensors to differentiate by.
    """
    own = {name: tensors[name].clone().requires_grad_() for name in parameters}
    with torch.enable_grad():
        for inputs in batches:
            outputs = run(graph, {**tensors, **own}, inputs)
            logits = outputs.movedim(1, -1) if outputs.dim() == 4 else outputs
            logits = logits.reshape(-1, logits.shape[-1])
            functional.cross_entropy(logits, logits.argmax(1), reduction="sum").backward()
    return {name: torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for name, leaf in own.items()}
