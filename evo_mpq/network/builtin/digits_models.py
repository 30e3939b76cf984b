"""Built-in networks for scikit-learn's digits: small enough to train in seconds, each with its own trouble.

All take ``(n, 1, 8, 8)`` float images and return ``(n, 10)`` logits, and can be traced by ``torch.export`` in
eval mode with a dynamic batch. The functions return untrained networks whose initial weights come from torch's
global generator, as those of any ``nn.Module``; ``evo_mpq.network.builtin.training.trained`` seeds and trains them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.nn import functional

from evo_mpq.network.data.kinds import DIGITS_BACKGROUND

N_CLASSES = 10
"""Digits 0 to 9."""

IMAGE_SIDE = 8
"""Height and width of an image in pixels."""


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut, which is a 1x1 convolution where shapes differ (He et al. 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.projects = stride != 1 or inputs != outputs
        if self.projects:
            self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.shortcut_norm = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU()

    def forward(self, features: Tensor) -> Tensor:
        """``(n, inputs, h, w)`` to ``(n, outputs, h / stride, w / stride)``."""
        residual = self.relu(self.norm1(self.conv1(features)))
        residual = self.norm2(self.conv2(residual))
        shortcut = self.shortcut_norm(self.shortcut(features)) if self.projects else features
        return self.relu(residual + shortcut)  # type: ignore[no-any-return]


class ResNet(nn.Module):
    """A residual network of three stages; layers ``stem``, ``stage1.0.conv1``, …, ``stage3.0.shortcut``, ``head``."""

    def __init__(self, stem: nn.Conv2d, widths: Sequence[int], blocks: int) -> None:
        super().__init__()
        first, second, third = widths
        self.stem = stem
        self.stem_norm = nn.BatchNorm2d(first)
        self.relu = nn.ReLU()
        self.stage1 = _stage(first, first, 1, blocks)
        self.stage2 = _stage(first, second, 2, blocks)
        self.stage3 = _stage(second, third, 2, blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.head = nn.Linear(third, N_CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """``(n, 1, height, width)`` images to ``(n, 10)`` logits."""
        features = self.relu(self.stem_norm(self.stem(images)))
        features = self.stage3(self.stage2(self.stage1(features)))
        return self.head(self.flatten(self.pool(features)))  # type: ignore[no-any-return]


def _stage(inputs: int, outputs: int, stride: int, blocks: int) -> nn.Sequential:
    rest = [ResidualBlock(outputs, outputs, 1) for _ in range(blocks - 1)]
    return nn.Sequential(ResidualBlock(inputs, outputs, stride), *rest)


def digits_resnet(widths: Sequence[int] = (16, 32, 64), blocks: int = 1) -> nn.Module:
    """A residual CNN with projection shortcuts: 10 layers, 78 thousand parameters.

    Args:
        widths: channels of the three stages.
        blocks: residual blocks per stage.
    """
    return ResNet(nn.Conv2d(1, widths[0], 3, padding=1, bias=False), widths, blocks)


class InvertedResidual(nn.Module):
    """Expand, depthwise 3x3, project; with a shortcut where shapes agree (Sandler et al. 2018)."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = expansion * inputs
        self.expand = nn.Conv2d(inputs, hidden, 1, bias=False)
        self.expand_norm = nn.BatchNorm2d(hidden)
        self.depthwise = nn.Conv2d(hidden, hidden, 3, stride, padding=1, groups=hidden, bias=False)
        self.depthwise_norm = nn.BatchNorm2d(hidden)
        self.project = nn.Conv2d(hidden, outputs, 1, bias=False)
        self.project_norm = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU6()
        self.has_shortcut = stride == 1 and inputs == outputs

    def forward(self, features: Tensor) -> Tensor:
        """``(n, inputs, h, w)`` to ``(n, outputs, h / stride, w / stride)``; the projection stays linear."""
        hidden = self.relu(self.expand_norm(self.expand(features)))
        hidden = self.relu(self.depthwise_norm(self.depthwise(hidden)))
        projected: Tensor = self.project_norm(self.project(hidden))
        return features + projected if self.has_shortcut else projected


class DigitsMobileNet(nn.Module):
    """Inverted residuals; layers ``stem``, ``blocks.0.expand``, ``blocks.0.depthwise``, …, ``head``."""

    def __init__(self, widths: Sequence[int], expansion: int) -> None:
        super().__init__()
        first, second, third = widths
        self.stem = nn.Conv2d(1, first, 3, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(first)
        self.relu = nn.ReLU6()
        self.blocks = nn.Sequential(
            InvertedResidual(first, first, 1, expansion),
            InvertedResidual(first, second, 2, expansion),
            InvertedResidual(second, second, 1, expansion),
            InvertedResidual(second, third, 2, expansion),
            InvertedResidual(third, third, 1, expansion),
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.head = nn.Linear(third, N_CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """``(n, 1, 8, 8)`` images to ``(n, 10)`` logits."""
        features = self.blocks(self.relu(self.stem_norm(self.stem(images))))
        return self.head(self.flatten(self.pool(features)))  # type: ignore[no-any-return]


def digits_mobilenet(widths: Sequence[int] = (16, 24, 40), expansion: int = 3) -> nn.Module:
    """A CNN of five inverted residuals with depthwise convolutions: 17 layers.

    Args:
        widths: channels of the stem and after each halving of the image.
        expansion: how many times wider than its input the inside of a block is.
    """
    return DigitsMobileNet(widths, expansion)


class DigitsMLP(nn.Module):
    """Fully connected layers ``layers.0``, ``layers.1``, … with ReLU between them."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        sizes = [IMAGE_SIDE * IMAGE_SIDE, *widths, N_CLASSES]
        self.flatten = nn.Flatten()
        self.layers = nn.ModuleList(nn.Linear(*pair) for pair in pairwise(sizes))
        self.relu = nn.ReLU()

    def forward(self, images: Tensor) -> Tensor:
        """``(n, 1, 8, 8)`` images to ``(n, 10)`` logits."""
        *hidden, head = self.layers
        features = self.flatten(images)
        for layer in hidden:
            features = self.relu(layer(features))
        return head(features)  # type: ignore[no-any-return]


def digits_mlp(widths: Sequence[int] = (128, 128, 96, 64, 48)) -> nn.Module:
    """A multilayer perceptron of 6 Linear layers, without normalization.

    Args:
        widths: features of the hidden layers; there is one layer more than widths.
    """
    return DigitsMLP(widths)


class TransformerBlock(nn.Module):
    """Pre-norm attention and a two-layer perceptron, each on a residual branch (Dosovitskiy et al. 2021)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.norm2 = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, 2 * width)
        self.gelu = nn.GELU()
        self.fc2 = nn.Linear(2 * width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """``(n, n_tokens, width)`` to the same shape."""
        normed = self.norm1(tokens)
        attended, _ = self.attention(normed, normed, normed, need_weights=False)
        tokens = tokens + attended
        return tokens + self.fc2(self.gelu(self.fc1(self.norm2(tokens))))  # type: ignore[no-any-return]


class DigitsViT(nn.Module):
    """A vision transformer on 2x2 patches; layers ``patches``, ``blocks.0.attention.in_proj``, …, ``head``."""

    def __init__(self, width: int, depth: int, heads: int) -> None:
        super().__init__()
        n_tokens = (IMAGE_SIDE // 2) ** 2
        self.patches = nn.Conv2d(1, width, 2, stride=2)
        self.positions = nn.Parameter(0.02 * torch.randn(1, n_tokens, width))
        self.blocks = nn.Sequential(*(TransformerBlock(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, N_CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """``(n, 1, 8, 8)`` images to ``(n, 10)`` logits."""
        tokens = self.patches(images).flatten(2).transpose(1, 2) + self.positions
        tokens = self.norm(self.blocks(tokens))
        return self.head(tokens.mean(dim=1))  # type: ignore[no-any-return]


def digits_vit(width: int = 48, depth: int = 2, heads: int = 4) -> nn.Module:
    """A vision transformer with ``nn.MultiheadAttention``, learned positions and mean pooling.

    Args:
        width: features of a token, a multiple of ``heads``.
        depth: transformer blocks.
        heads: attention heads.
    """
    return DigitsViT(width, depth, heads)


BUILDERS: Mapping[str, Callable[..., nn.Module]] = MappingProxyType(
    {build.__name__: build for build in (digits_resnet, digits_mobilenet, digits_mlp, digits_vit)}
)
"""The built-in networks by name; keyword arguments of a builder are its options."""


def shifted_at_random(images: Tensor, generator: torch.Generator, fraction: float = 0.5) -> Tensor:
    """Augmentation: images of which a fraction is moved by -1, 0 or 1 pixels each way.

    Half of the images stay where they are: with all of them moved, the networks learn the original positions worse
    (digits_vit: 90 % on test images instead of 97 %).

    Args:
        images: ``(n, 1, 8, 8)``, standardized as those of ``digits``.
        generator: of the shifts.
        fraction: of the images, chosen at random.

    Returns:
        ``(n, 1, 8, 8)`` new images; the background moves in.
    """
    n = len(images)
    offsets = torch.randint(0, 3, (2, n, 1), generator=generator)
    moved = torch.rand(n, generator=generator) < fraction
    # A padded image read from offset 1 is the image itself.
    rows, columns = torch.where(moved[:, None], offsets, 1) + torch.arange(IMAGE_SIDE)
    padded = functional.pad(images, (1, 1, 1, 1), value=DIGITS_BACKGROUND)
    return padded[torch.arange(n)[:, None, None], 0, rows[:, :, None], columns[:, None, :]][:, None]
