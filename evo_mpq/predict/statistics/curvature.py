"""The loss whose curvature statistics describe, at a network's output: the divergence from the network itself.

Of a sample the loss is the KL divergence of the float network from a changed one, mean over its predictions; where the
outputs have no dimension of at least two classes, half the squared error, mean over its numbers. No labels are needed.
At the float network both have a zero gradient, so that the Hessian in any weight or activation is exactly the
Gauss-Newton matrix ``J^T A J``, with the Jacobian ``J`` of the outputs and the loss's own Hessian ``A`` in them. For
the KL that is the Fisher information of the predicted distribution. It is positive semidefinite: no trace is negative.

Random gradients ``J^T A^(1/2) e`` with independent signs ``e`` have it as their mean outer product. Labels drawn from
the predictions would, too, but networks are sure of most samples: a drawn label then says nothing nearly always, and
everything once in a while, whereas signs weigh all labels by the roots of their probabilities at once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from evo_mpq.network.graph import Node, run
from evo_mpq.network.network import Network

SAMPLES_AT_ONCE = 32
"""Samples whose activations are kept for gradients."""


def class_dim(outputs: Tensor) -> int | None:
    """The dimension of the classes, by the rule of the KL divergence: 1 of four, else the last; None where none counts.

    >>> class_dim(torch.zeros(8, 10)), class_dim(torch.zeros(8, 5, 4, 4)), class_dim(torch.zeros(8, 1))
    (1, 1, None)
    """
    dim = 1 if outputs.ndim == 4 else outputs.ndim - 1
    return dim if dim > 0 and outputs.shape[dim] > 1 else None


def root_product(outputs: Tensor, vectors: Tensor) -> Tensor:
    """``A^(1/2) e``: the gradient at the outputs for every sample's vector.

    For probabilities ``p`` the Hessian is ``diag(p) - p p^T = R R^T`` with ``R = diag(sqrt p) - p sqrt(p)^T``, whose
    columns are the gradients of the labels' log-probabilities times the roots of their probabilities.

    Args:
        outputs: ``(n, ...)`` of the float network.
        vectors: in the same shape, such as random signs.
    """
    dim = class_dim(outputs)
    if dim is None:
        return (vectors / math.sqrt(outputs[0].numel())).to(outputs.dtype)
    probabilities = torch.softmax(outputs.detach().double(), dim)  # float32 would lose what sure predictions leave
    weighted = vectors * probabilities.sqrt()
    gradients = weighted - probabilities * weighted.sum(dim, keepdim=True)
    n_predictions = outputs[0].numel() // outputs.shape[dim]
    return (gradients / math.sqrt(n_predictions)).to(outputs.dtype)


def random_signs(outputs: Tensor, n: int, generator: torch.Generator) -> list[Tensor]:
    """``n`` times Rademacher variables in the shape of the outputs, float64."""
    shape = outputs.shape
    return [2.0 * torch.randint(0, 2, shape, generator=generator, dtype=torch.float64) - 1.0 for _ in range(n)]


def calibration_chunks(network: Network, size: int = SAMPLES_AT_ONCE) -> Iterator[list[Tensor]]:
    """The calibration split in pieces of ``size`` samples."""
    inputs = network.calibration_inputs
    columns = zip(*(tensor.split(size) for tensor in inputs), strict=True)
    return (list(chunk) for chunk in columns)


class Watched(NamedTuple):
    """A forward pass of the float network that gradients can be taken through.

    Attributes:
        outputs: ``(n, ...)``.
        weights: per layer a copy of its weight, in the shape of the network's tensor.
        uses: per operation that reads a layer's weight, its output.
    """

    outputs: Tensor
    weights: Mapping[str, Tensor]
    uses: Mapping[str, Tensor]


def watched(network: Network, inputs: Sequence[Tensor]) -> Watched:
    """The forward pass on some samples; the network's own tensors are only read."""
    own = {layer.parameter: network.tensors[layer.parameter] for layer in network.layers}
    leaves = {name: tensor.detach().clone().requires_grad_() for name, tensor in own.items()}
    nodes = {use.node for layer in network.layers for use in layer.uses}
    uses: dict[str, Tensor] = {}

    def visit(node: Node, value: Any) -> None:
        if node.name in nodes:
            uses[node.name] = value

    with torch.enable_grad():
        outputs = run(network.graph, {**network.tensors, **leaves}, inputs, visit)
    return Watched(outputs, {layer.name: leaves[layer.parameter] for layer in network.layers}, uses)


def pulled_back(
    outputs: Tensor, vectors: Sequence[Tensor], places: Mapping[str, Tensor]
) -> Iterator[dict[str, Tensor]]:
    """Per vector the random gradients ``J^T A^(1/2) e`` at some places of a watched pass.

    Args:
        outputs: of the pass.
        vectors: each in the shape of the outputs.
        places: weights, whose gradients are sums over samples, or outputs of uses, which have one per sample.
    """
    for left, vector in zip(reversed(range(len(vectors))), vectors, strict=True):
        gradients = torch.autograd.grad(
            outputs,
            [*places.values()],
            root_product(outputs, vector),
            retain_graph=left > 0,
            allow_unused=True,  # of a branch that the output does not depend on
            materialize_grads=True,
        )
        yield dict(zip(places, gradients, strict=True))
