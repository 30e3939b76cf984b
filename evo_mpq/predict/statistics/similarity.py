"""How much the outputs of layers say the same: orthogonality of a network (OMPQ)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evo_mpq.network.graph import Node, run
from evo_mpq.network.network import Network
from evo_mpq.predict.statistics.curvature import calibration_chunks
from evo_mpq.typing import FloatMatrix, FloatVector

SAMPLES = 32
"""Of the calibration split, as in the paper's code."""


def centred_gram(features: Tensor) -> Tensor:
    """``(n, n)`` products of samples' features, minus the mean over samples, float64.

    Args:
        features: ``(n, ...)``.
    """
    rows = features.detach().flatten(1).double()
    rows = rows - rows.mean(0)
    return rows @ rows.T


def linear_cka(grams: Sequence[Tensor]) -> FloatMatrix:
    """``(k, k)`` linear centred kernel alignment of representations (Kornblith et al. 2019, arXiv 1905.00414).

    1 on the diagonal, and between representations that differ by a rotation and a factor; 0 beside one that is the same
    for all samples.

    Args:
        grams: of each representation, see `centred_gram`.

    >>> features = torch.tensor([[0.0, 1.0], [2.0, 0.0], [1.0, 3.0]])
    >>> linear_cka([centred_gram(features), centred_gram(-3 * features.flip(1))]).round(6)
    array([[1., 1.],
           [1., 1.]])
    """
    flat = torch.stack([gram.flatten() for gram in grams])
    norms = flat.norm(dim=1, keepdim=True)
    units = torch.where(norms > 0, flat / norms, 0.0)
    found: FloatMatrix = (units @ units.T).numpy()
    np.fill_diagonal(found, 1.0)
    return found


def output_similarity(network: Network, *, samples: int = SAMPLES) -> FloatMatrix:
    """``(n_layers, n_layers)`` the orthogonality matrix of OMPQ (arXiv 2109.07865): linear CKA of layers' outputs.

    Outputs of a layer with several uses are one representation; one that no sample has a part in resembles none.

    Args:
        network: which is not touched.
        samples: the first ones of the calibration split.
    """
    owner = {use.node: layer.name for layer in network.layers for use in layer.uses}
    features: dict[str, list[Tensor]] = {layer.name: [] for layer in network.layers}
    # one by one, because inside of a network samples need not stand on the first axis
    for sample in islice(calibration_chunks(network, 1), samples):
        outputs: dict[str, list[Tensor]] = {name: [torch.zeros(1)] for name in features}

        def visit(node: Node, value: Any, outputs: dict[str, list[Tensor]] = outputs) -> None:
            if node.name in owner and node.name in network.graph.of_samples:
                outputs[owner[node.name]].append(value.flatten())

        with torch.no_grad():
            run(network.graph, network.tensors, sample, visit)
        for name, values in outputs.items():
            features[name].append(torch.cat(values))
    return linear_cka([centred_gram(torch.stack(rows)) for rows in features.values()])


def importance(similarity: FloatMatrix, *, beta: float = 1.0) -> FloatVector:
    """``(n_layers,)`` importance of layers in OMPQ: mean over this and all later layers of their orthogonality.

    ``gamma_i = sum over j != i`` of similarities, ``theta_i = exp(-beta gamma_i)``.

    Args:
        similarity: ``(n_layers, n_layers)``, layers in the order of the network.
        beta: how much more a layer counts that resembles others less; the paper's code runs with 1 and with 10.

    >>> importance(np.eye(3))
    array([1., 1., 1.])
    """
    gamma = similarity.sum(1) - np.diag(similarity)
    theta = np.exp(-beta * gamma)
    mean_of_later: FloatVector = np.cumsum(theta[::-1])[::-1] / np.arange(len(theta), 0, -1)
    return mean_of_later
