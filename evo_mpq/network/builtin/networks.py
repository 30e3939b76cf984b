"""The built-in networks, trained when they are first asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from evo_mpq.network.builtin.recipes import BUILT_IN
from evo_mpq.network.builtin.training import Progress, trained


def trained_on(function: Any) -> Callable[..., Any] | None:
    """The kind of data that one of the functions here trains its network on; None for what is none of them."""
    own = getattr(function, "__module__", None) == __name__ and function.__name__ in BUILT_IN
    return BUILT_IN[function.__name__].data if own else None


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


def canvas_resnet(
    *, seed: int = 0, steps: int | None = None, progress: Progress | None = None, **options: Any
) -> nn.Module:
    """A thin residual CNN for digits among clutter, 16 layers, 69 thousand weights; trains for minutes."""
    return trained("canvas_resnet", seed=seed, steps=steps, progress=progress, **options)


def tiny_gpt(*, seed: int = 0, steps: int | None = None, progress: Progress | None = None, **options: Any) -> nn.Module:
    """A causal transformer on bytes of Python's library, 26 layers, 842 thousand weights; trains for minutes."""
    return trained("tiny_gpt", seed=seed, steps=steps, progress=progress, **options)
