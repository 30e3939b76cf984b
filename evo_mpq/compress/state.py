"""Everything that a compressed network consists of besides its graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from evo_mpq.compress.bank import CompressedWeight
from evo_mpq.compress.program import Affine
from evo_mpq.compress.quantizers import ActivationGrid
from evo_mpq.space.policy import Policy


@dataclass(frozen=True, eq=False)
class CompressedState:
    """Everything that a compressed network consists of besides its graph.

    Attributes:
        policy: what was done.
        weights: of every active layer whose weight is not the float network's.
        activations: the grid of every use's input; None where it stays float.
        affines: scale and shift of every use; None in the float reference.
        edge_grids: grids of the activations that no layer governs.
        tensors: float state: other layers, biases (reference only), everything that belongs to no layer.
        active: names of the layers that are computed.
    """

    policy: Policy
    weights: Mapping[str, CompressedWeight]
    activations: Mapping[str, ActivationGrid | None]
    affines: Mapping[str, Affine | None]
    edge_grids: Mapping[str, ActivationGrid]
    tensors: Mapping[str, torch.Tensor]
    active: frozenset[str]
