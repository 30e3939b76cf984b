"""The built-in network for ``digits_canvas``: thin enough that few bits cost accuracy which can be measured."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from evo_mpq.network.builtin.digits_models import ResNet


def canvas_resnet(widths: Sequence[int] = (10, 20, 40), blocks: int = 2) -> nn.Module:
    """A residual CNN on ``(n, 1, 24, 24)`` images with a 5x5 stem that halves them: 16 layers, 69 thousand parameters.

    Args:
        widths: channels of the three stages.
        blocks: residual blocks per stage.
    """
    return ResNet(nn.Conv2d(1, widths[0], 5, stride=2, padding=2, bias=False), widths, blocks)
