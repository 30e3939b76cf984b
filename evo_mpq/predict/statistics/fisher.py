"""The diagonal of the Fisher information of the weights."""

from __future__ import annotations

import torch
from torch import Tensor

from evo_mpq.network.network import Network
from evo_mpq.predict.statistics.curvature import calibration_chunks, pulled_back, random_signs, watched

PROBES = 2
"""Backward passes per sample; samples average out as much as they do."""


def fisher_diagonal(network: Network, *, probes: int = PROBES, seed: int = 0) -> dict[str, Tensor]:
    """Per layer the Fisher diagonal of its weight, in the weight's shape, float64; mean over calibration samples.

    Squares of per-sample random gradients (see `curvature`), unbiased; sample by sample, so that any operations will
    do and no more memory is taken than by one sample's activations and a few copies of the weights. The Fisher is that
    of the network's own predictions, not the "empirical" one of given labels, which is near zero for a network that
    fits its data (Kunstner et al. 2019, NeurIPS).

    Args:
        network: which is not touched.
        probes: random gradients per sample.
        seed: of the signs.
    """
    generator = torch.Generator().manual_seed(seed)
    sums = {layer.name: torch.zeros(layer.shape, dtype=torch.float64) for layer in network.layers}
    n_gradients = 0
    for sample in calibration_chunks(network, 1):
        forward = watched(network, sample)
        signs = random_signs(forward.outputs, probes, generator)
        for gradients in pulled_back(forward.outputs, signs, forward.weights):
            n_gradients += 1
            for name, gradient in gradients.items():
                sums[name] += gradient.double().square_()
    return {name: total / n_gradients for name, total in sums.items()}
