"""Traces of the layers' Hessians."""

from __future__ import annotations

import torch

from evo_mpq.network.network import Network
from evo_mpq.predict.statistics.curvature import calibration_chunks, pulled_back, random_signs, watched

PROBES = 8
"""Backward passes per chunk of the calibration split."""


def average_traces(network: Network, *, probes: int = PROBES, seed: int = 0) -> dict[str, float]:
    """Per layer the trace of the Hessian of its weight, divided by the number of weights (HAWQ-V2, arXiv 1911.03852).

    The Hessian is that of the divergence from the float network, mean over calibration samples, which is its
    Gauss-Newton matrix ``G = J^T A J`` (see `curvature`). The paper's Hessian of the training loss may be indefinite,
    and then traces negative. Hutchinson's estimate with Rademacher vectors, but on the side of the outputs:
    ``A^(T/2) J J^T A^(1/2)`` has the same trace, and one backward pass of a random vector gives an estimate for every
    layer, where a vector of weights takes two passes per layer. Per chunk of samples, because their traces add up and
    products between samples are noise.

    Args:
        network: which is not touched.
        probes: Rademacher vectors per chunk.
        seed: of the vectors.
    """
    generator = torch.Generator().manual_seed(seed)
    sums = dict.fromkeys((layer.name for layer in network.layers), 0.0)
    n_samples = 0
    for chunk in calibration_chunks(network):
        forward = watched(network, chunk)
        n_samples += len(forward.outputs)
        signs = random_signs(forward.outputs, probes, generator)
        for gradients in pulled_back(forward.outputs, signs, forward.weights):
            for name, gradient in gradients.items():
                sums[name] += float(gradient.double().square_().sum())
    return {layer.name: sums[layer.name] / (probes * n_samples * layer.n_parameters) for layer in network.layers}
