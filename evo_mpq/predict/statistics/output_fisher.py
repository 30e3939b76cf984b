"""The Fisher information of the outputs of layers, and what errors of their weights cost by it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from evo_mpq.compress.channels import WeightForm
from evo_mpq.compress.compressor import Compressor
from evo_mpq.network.graph import Graph, Node, constant, operator, run, substitute
from evo_mpq.network.layers import Use
from evo_mpq.network.network import Network
from evo_mpq.predict.statistics.curvature import calibration_chunks, pulled_back, random_signs, watched
from evo_mpq.predict.statistics.perturbations import is_float, weight_in

PROBES = 8
"""Backward passes per chunk of the calibration split."""

_SMALLEST = 1e-10  # of the largest eigenvalue of a sketch; below it is rounding


@dataclass(frozen=True, eq=False)
class OutputFisher:
    """``F``, the Fisher information of the output channels of one operation, as a diagonal plus a low rank.

    Attributes:
        diagonal: ``(n_channels,)`` of ``F``, float64.
        factors: ``(n_channels, k)`` ``B`` of Nyström's approximation ``B B^T``, which is never more than ``F``.
    """

    diagonal: Tensor
    factors: Tensor

    @property
    def remainder(self) -> Tensor:
        """``(n_channels,)`` what the low rank leaves of the diagonal."""
        return (self.diagonal - self.factors.square().sum(1)).clamp(min=0)

    def quadratic(self, errors: Tensor) -> Tensor:
        """``(n,)`` values ``d^T F d`` of ``(n, n_channels)`` errors, with ``diag(remainder) + B B^T`` for ``F``."""
        errors = errors.to(self.diagonal.dtype)
        return errors.square() @ self.remainder + (errors @ self.factors).square().sum(1)


def nystroem(sketch: Tensor, directions: Tensor) -> Tensor:
    """``(n, k)`` factors ``B`` of ``F ~ B B^T = (F Q)(Q^T F Q)^+ (F Q)^T``; equal if ``F`` has at most rank ``k``.

    Unlike the form in FIMA-Q's code, which takes magnitudes and is no approximation of ``F`` even at full rank.

    Args:
        sketch: ``(n, k)`` ``F Q`` of a positive semidefinite ``F``.
        directions: ``(n, k)`` ``Q``.

    >>> fisher = torch.tensor([[2.0, 1.0], [1.0, 0.5]])  # of rank 1
    >>> factors = nystroem(fisher[:, :1], torch.eye(2)[:, :1])
    >>> factors @ factors.T
    tensor([[2.0000, 1.0000],
            [1.0000, 0.5000]])
    """
    core = directions.T @ sketch
    values, vectors = torch.linalg.eigh((core + core.T) / 2)
    kept = values > _SMALLEST * values[-1:].clamp(min=0)  # ascending
    factors: Tensor = sketch @ (vectors[:, kept] / values[kept].sqrt())
    return factors


def output_fishers(network: Network, *, rank: int, probes: int = PROBES, seed: int = 0) -> dict[str, OutputFisher]:
    """Per operation that reads a layer's weight, the Fisher information of its output (FIMA-Q, arXiv 2506.11543).

    Second moments of random gradients at the output (see `curvature`): of a sample the sum over positions, mean over
    calibration samples. Positions (pixels, tokens) share one matrix over channels, and products between them count as
    zero, as in KFAC (Grosse & Martens 2016); the paper keeps a matrix over all numbers of a block's output. The paper
    collects pairs of perturbation and gradient while it reconstructs a block; here directions are random, so that the
    approximation is of one network, computed once.

    Args:
        network: which is not touched.
        rank: of the part beyond the diagonal; 0 for the diagonal alone.
        probes: random gradients per sample.
        seed: of signs and directions.
    """
    generator = torch.Generator().manual_seed(seed)
    uses = {use.node: use for layer in network.layers for use in layer.uses}
    diagonals: dict[str, Tensor] = {}
    sketches: dict[str, Tensor] = {}
    directions: dict[str, Tensor] = {}
    n_gradients = 0
    for chunk in calibration_chunks(network):
        forward = watched(network, chunk)
        n_gradients += probes * len(forward.outputs)
        signs = random_signs(forward.outputs, probes, generator)
        for gradients in pulled_back(forward.outputs, signs, forward.uses):
            for name, gradient in gradients.items():
                rows = _by_channel(gradient, uses[name])
                if name not in diagonals:
                    n = rows.shape[1]
                    diagonals[name] = torch.zeros(n, dtype=torch.float64)
                    random = torch.randn(n, min(rank, n), generator=generator, dtype=torch.float64)
                    directions[name] = torch.linalg.qr(random).Q
                    sketches[name] = torch.zeros_like(random)
                diagonals[name] += rows.square().sum(0)
                sketches[name] += rows.T @ (rows @ directions[name])
    return {
        name: OutputFisher(diagonal / n_gradients, nystroem(sketches[name] / n_gradients, directions[name]))
        for name, diagonal in diagonals.items()
    }


def output_losses(
    compressor: Compressor, fishers: Mapping[str, OutputFisher], forms: Mapping[str, Iterable[WeightForm]]
) -> dict[tuple[str, WeightForm], float]:
    """``½ E d^T F d`` of every layer in every form: the divergence that its output's error makes, to second order.

    The error ``d = ΔW x`` is computed on the calibration split by the operation itself, with what the float network
    feeds it. A layer with several uses costs their sum. Second order holds for small errors: how a layer without
    half of its channels changes the output is far beyond it.

    Args:
        compressor: of the network, with the weights.
        fishers: by operation.
        forms: per layer.
    """
    network = compressor.network
    wanted = {
        layer.name: [form for form in forms.get(layer.name, ()) if not is_float(form)] for layer in network.layers
    }
    sums = {(name, form): 0.0 for name, rows in forms.items() for form in rows}
    layers = {use.node: (layer, use) for layer in network.layers for use in layer.uses if wanted[layer.name]}
    needed = {name for node in layers for name in network.graph[node].inputs} & network.graph.of_samples
    n_samples = 0
    for chunk in calibration_chunks(network):
        held: dict[str, Any] = {}
        n = len(chunk[0])
        n_samples += n

        def visit(node: Node, value: Any, held: dict[str, Any] = held, n: int = n) -> None:
            if node.name in needed:
                held[node.name] = value
            if node.name not in layers:
                return
            layer, use = layers[node.name]
            for form in wanted[layer.name]:
                own = {**network.tensors, layer.parameter: weight_in(compressor, layer, form)}
                errors = _by_channel(_recomputed(network.graph, node, held, own) - value, use)
                # the sum over samples of the mean over positions, whose Fisher is a sum over them
                sums[layer.name, form] += n * 0.5 * float(fishers[node.name].quadratic(errors).mean())

        with torch.no_grad():
            run(network.graph, network.tensors, chunk, visit)
    return {key: total / n_samples for key, total in sums.items()}


def _recomputed(graph: Graph, node: Node, held: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Tensor:
    """The value of an operation with other weights; what it reads of samples was held."""
    args, kwargs = substitute(
        (node.args, node.kwargs or {}),
        lambda ref: held[ref.node] if ref.node in held else constant(graph, tensors, ref.node),
    )
    value: Tensor = operator(node.target)(*args, **kwargs)
    return value


def _by_channel(values: Tensor, use: Use) -> Tensor:
    """``(everything else, n_channels)`` of an operation's output, float64."""
    return values.movedim(use.channel_axis, -1).reshape(-1, values.shape[use.channel_axis]).double()
