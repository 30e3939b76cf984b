"""The networks that evo-mpq and its peers quantize, with their data."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import TensorDataset

from benchmarks.peers.crossing import read_network, write_task
from evo_mpq.network.builtin import digits_models
from evo_mpq.network.builtin.canvas_resnet import canvas_resnet
from evo_mpq.network.builtin.digits_models import ResidualBlock, ResNet, shifted_at_random
from evo_mpq.network.builtin.recipes import BUILT_IN
from evo_mpq.network.builtin.training import train, trained
from evo_mpq.network.data.canvas import digits_canvas
from evo_mpq.network.data.kinds import digits

CANVASES = {"search": 1000, "test": 5000}


@dataclass(frozen=True, eq=False)
class Task:
    """A trained network with its data, and the folder in which they cross to the peers.

    Attributes:
        name: of the network.
        seed: of training and split.
        module: the network.
        splits: calibration, search and test.
        folder: see ``crossing``.
    """

    name: str
    seed: int
    module: nn.Module
    splits: Mapping[str, TensorDataset]
    folder: Path

    @property
    def test(self) -> tuple[torch.Tensor, np.ndarray, np.ndarray | None]:
        """Test inputs, classes, and what errors are clustered by."""
        split = self.splits["test"]
        inputs, targets = split.tensors
        return inputs, targets.numpy(), getattr(split, "groups", None)


def digits_resnet_12() -> nn.Module:
    """The reference's network: 11 convolutions and a Linear layer, 151,738 parameters, for 8x8 digits."""
    network = ResNet(nn.Conv2d(1, 16, 3, padding=1, bias=False), (16, 32, 64), 1)
    network.stage3.append(ResidualBlock(64, 64, 1))
    return network


BUILDERS: dict[str, Callable[[], nn.Module]] = {"digits_resnet_12": digits_resnet_12, "canvas_resnet": canvas_resnet}
"""Untrained networks by name."""


def prepared(name: str, seed: int, folder: Path) -> Task:
    """A task, its network trained and its folder written unless they were before."""
    splits: Mapping[str, Any]
    if name == "digits_resnet_12":  # the reference's test split has 597 images, too
        splits = digits(seed=seed, search=300, test=597)
        module = _trained_on_digits(splits["train"], seed, folder)
    else:
        splits = digits_canvas(seed=seed, **CANVASES)
        module = trained(name, seed=seed)
    write_task(folder, source(name), module, splits["calibration"].tensors, splits["test"].tensors[0])
    return Task(name, seed, module, {split: splits[split] for split in ("calibration", "search", "test")}, folder)


def source(name: str) -> str:
    """Python that builds a network without evo-mpq: its classes as they stand in the package."""
    build = BUILDERS[name]
    parts = [
        "from __future__ import annotations\n\nfrom collections.abc import Sequence\n",
        "from torch import Tensor, nn\n",
        f"N_CLASSES = {digits_models.N_CLASSES}\n",
        *map(inspect.getsource, (ResidualBlock, ResNet, digits_models._stage, build)),
        f"build = {build.__name__}\n",
    ]
    return "\n".join(parts)


def _trained_on_digits(split: TensorDataset, seed: int, folder: Path) -> nn.Module:
    """The network as ``digits_resnet`` is trained; kept in the folder, as long as its source stays the same."""
    written = folder / "network.py"
    if written.exists() and written.read_text(encoding="utf-8") == source("digits_resnet_12"):
        return read_network(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = digits_resnet_12()
    recipe = BUILT_IN["digits_resnet"].recipe
    train(module, *split.tensors, recipe, augment=shifted_at_random, seed=seed)
    return module.eval()
