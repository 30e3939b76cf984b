"""The built-in networks: how each is made, what it is trained on, and how."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from evo_mpq.network.builtin.canvas_resnet import canvas_resnet
from evo_mpq.network.builtin.digits_models import BUILDERS, shifted_at_random
from evo_mpq.network.builtin.tiny_gpt import tiny_gpt
from evo_mpq.network.data.canvas import canvas_content, digits_canvas
from evo_mpq.network.data.kinds import N_TRAIN, digits
from evo_mpq.network.data.text import stdlib_text, text_content

Augmentation: TypeAlias = Callable[[Tensor, torch.Generator], Tensor]
"""``augment(inputs, generator)`` returns the inputs of a batch, changed at random."""


@dataclass(frozen=True)
class Recipe:
    """How a network is trained to classify: AdamW, one cycle of the learning rate.

    Attributes:
        steps: batches.
        learning_rate: the highest of the cycle.
        weight_decay: decoupled, as a factor of the learning rate.
        batch_size: samples per batch.
        samples: of the train split; every pass has a new order.
        warm_up: fraction of the steps after which the learning rate is highest.
        momentum: AdamW's first beta where the learning rate is highest, and where it is lowest.
        averaging: AdamW's second beta.
        clip: norm that gradients are cut to; None: they are not.
    """

    steps: int
    learning_rate: float
    weight_decay: float = 0.05
    batch_size: int = 64
    samples: int = N_TRAIN
    warm_up: float = 0.3
    momentum: tuple[float, float] = (0.85, 0.95)
    averaging: float = 0.999
    clip: float | None = None

    def shortened(self, steps: int) -> Recipe:
        """The recipe with another number of steps, and no more samples than these read."""
        return replace(self, steps=steps, samples=min(self.samples, steps * self.batch_size))


@dataclass(frozen=True)
class BuiltIn:
    """A built-in network.

    Attributes:
        build: returns it untrained; keyword arguments are its options.
        data: returns the splits, by ``seed`` and the numbers of samples for ``train`` and ``calibration``; search and
            test of the same seed are from sources that the network never sees.
        content: everything that the train split of a seed follows from, as bytes; quicker than making it.
        recipe: how it is trained.
        augment: what happens to the inputs of a batch in training.
    """

    build: Callable[..., nn.Module]
    data: Callable[..., Mapping[str, TensorDataset]]
    content: Callable[[int], bytes]
    recipe: Recipe
    augment: Augmentation | None = None


def _digits_content(seed: int) -> bytes:
    images, targets = digits(seed=seed)["train"].tensors
    return bytes(images.numpy().tobytes() + targets.numpy().tobytes())


def _on_digits(name: str, recipe: Recipe) -> BuiltIn:
    return BuiltIn(BUILDERS[name], digits, _digits_content, recipe, shifted_at_random)


BUILT_IN: Mapping[str, BuiltIn] = MappingProxyType(
    {
        "digits_resnet": _on_digits("digits_resnet", Recipe(steps=300, learning_rate=4e-3)),
        "digits_mobilenet": _on_digits("digits_mobilenet", Recipe(steps=400, learning_rate=5e-3)),
        "digits_mlp": _on_digits("digits_mlp", Recipe(steps=1200, learning_rate=3e-3, weight_decay=0.1)),
        "digits_vit": _on_digits("digits_vit", Recipe(steps=900, learning_rate=3e-3, weight_decay=0.1)),
        "canvas_resnet": BuiltIn(
            canvas_resnet,
            digits_canvas,
            canvas_content,
            # ten passes; three to six minutes on one core
            Recipe(steps=4680, learning_rate=4e-3, weight_decay=0.02, batch_size=128, samples=60_000, warm_up=0.2),
        ),
        "tiny_gpt": BuiltIn(
            tiny_gpt,
            stdlib_text,
            text_content,
            # each window is seen once; seven to eleven minutes on one core
            Recipe(
                steps=2170,
                learning_rate=3e-3,
                batch_size=16,
                samples=34_720,
                warm_up=0.046,
                momentum=(0.9, 0.9),
                averaging=0.98,
                clip=1.0,
            ),
        ),
    }
)
"""By name."""
