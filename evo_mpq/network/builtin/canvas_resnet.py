"""The built-in network for ``digits_canvas``: thin enough that few bits cost accuracy which can be measured."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from evo_mpq.network.builtin.digits_models import N_CLASSES, ResidualBlock


class CanvasResNet(nn.Module):
    """A residual network of three stages on a halved image; layers ``stem``, ``stage1.0.conv1``, …, ``head``."""

    def __init__(self, widths: Sequence[int], blocks: int) -> None:
        super().__init__()
        first, second, third = widths
        self.stem = nn.Conv2d(1, first, 5, stride=2, padding=2, bias=False)
        self.stem_norm = nn.BatchNorm2d(first)
        self.relu = nn.ReLU()
        self.stage1 = _stage(first, first, 1, blocks)
        self.stage2 = _stage(first, second, 2, blocks)
        self.stage3 = _stage(second, third, 2, blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.head = nn.Linear(third, N_CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        """``(n, 1, 24, 24)`` images to ``(n, 10)`` logits."""
        features = self.relu(self.stem_norm(self.stem(images)))
        features = self.stage3(self.stage2(self.stage1(features)))
        return self.head(self.flatten(self.pool(features)))  # type: ignore[no-any-return]


def _stage(inputs: int, outputs: int, stride: int, blocks: int) -> nn.Sequential:
    rest = [ResidualBlock(outputs, outputs, 1) for _ in range(blocks - 1)]
    return nn.Sequential(ResidualBlock(inputs, outputs, stride), *rest)


def canvas_resnet(widths: Sequence[int] = (10, 20, 40), blocks: int = 2) -> nn.Module:
    """A residual CNN with a 5x5 stem: 16 layers, 69 thousand parameters.

    Args:
        widths: channels of the three stages.
        blocks: residual blocks per stage.
    """
    return CanvasResNet(widths, blocks)
