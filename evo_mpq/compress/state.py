"""Everything that a compressed network consists of besides its graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from evo_mpq.compress.bank import QuantizedWeight
from evo_mpq.compress.program import Affine
from evo_mpq.compress.quantizers import ActivationGrid
from evo_mpq.space.policy import Policy


@dataclass(frozen=True, eq=False)
class CompressedState:
    """Everything that a compressed network consists of besides its graph.

    Attributes:
        policy: what was done.
        weights: the quantized weight of every layer below 32 bits.
        activations: the grid of every use's input; None where it stays float.
        affines: scale and shift of every use; None in the float reference.
        edge_grids: grids of the activations that no layer governs.
        tensors: float state: layers at 32 bits, biases (reference only), everything that belongs to no layer.
    """

    policy: Policy
    weights: Mapping[str, QuantizedWeight]
    activations: Mapping[str, ActivationGrid | None]
    affines: Mapping[str, Affine | None]
    edge_grids: Mapping[str, ActivationGrid]
    tensors: Mapping[str, torch.Tensor]
