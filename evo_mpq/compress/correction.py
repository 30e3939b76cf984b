"""Statistics correction: one affine per output channel that gives it the float network's mean and spread.

Its ancestors correct one finished network (OBC's and SPDY's statistics corrections, NNCF's batch-norm adaptation);
here every candidate of a search is corrected, layer by layer on the calibration batch, so that later layers are
corrected on what the corrected earlier ones give them.
"""

from __future__ import annotations

from typing import Literal

import torch

from evo_mpq.compress.quantizers import stored_rows, stored_vector

Correction = Literal["none", "bias", "scale_bias"]
CORRECTIONS: tuple[Correction, ...] = ("none", "bias", "scale_bias")

_LARGEST_RATIO = 4.0
_NEAR_ZERO = 1e-3  # of the float channel's spread: below it, a ratio would amplify noise


def corrected_affine(
    correction: Correction,
    mean: torch.Tensor,
    deviation: torch.Tensor,
    float_mean: torch.Tensor,
    float_deviation: torch.Tensor,
    remaining: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and shift of each channel, as a packed file stores them.

    Args:
        correction: ``"bias"`` matches means, ``"scale_bias"`` spreads too.
        mean: ``(channels,)`` of the compressed operation without bias; or ``(n, channels)``, of several at once.
        deviation: likewise its standard deviation.
        float_mean: of the float operation with bias.
        float_deviation: likewise.
        remaining: like ``mean``, False for channels that are pruned: both are zero there. None if all remain.
    """
    scale = torch.ones_like(mean)
    if correction == "scale_bias":
        ratio = (float_deviation / deviation).clamp_(1 / _LARGEST_RATIO, _LARGEST_RATIO)
        usable = (deviation > _NEAR_ZERO * float_deviation) & (float_deviation > 0) & (deviation > 0)
        scale = torch.where(usable, ratio, scale)
    if remaining is not None:
        scale, float_mean = (torch.where(remaining, vector, 0.0) for vector in (scale, float_mean))
    stored = stored_vector if mean.dim() == 1 else stored_rows
    scale = stored(scale)
    return scale, stored(float_mean - scale * mean)
