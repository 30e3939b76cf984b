"""The built-in networks, trained on scikit-learn's digits when they are first asked for."""

from __future__ import annotations

from typing import Any

from torch import nn

from evo_mpq.network.builtin.training import Progress, trained


def digits_resnet(
    *, seed: int = 0, steps: int | None = None, progress: Progress | None = None, **options: Any
) -> nn.Module:
    """A residual CNN with three stages and projection shortcuts, 10 layers, 77 thousand weights."""
    return trained("digits_resnet", seed=seed, steps=steps, progress=progress, **options)


def digits_mobilenet(
    *, seed: int = 0, steps: int | None = None, progress: Progress | None = None, **options: Any
) -> nn.Module:
    """Inverted residuals with depthwise convolutions, 17 layers, 26 thousand weights."""
    return trained("digits_mobilenet", seed=seed, steps=steps, progress=progress, **options)


def digits_mlp(
    *, seed: int = 0, steps: int | None = None, progress: Progress | None = None, **options: Any
) -> nn.Module:
    """Six linear layers, 47 thousand weights."""
    return trained("digits_mlp", seed=seed, steps=steps, progress=progress, **options)


def digits_vit(
    *, seed: int = 0, steps: int | None = None, progress: Progress | None = None, **options: Any
) -> nn.Module:
    """A vision transformer: patch embedding, two attention blocks, 40 thousand weights."""
    return trained("digits_vit", seed=seed, steps=steps, progress=progress, **options)
