"""How a network and its data cross into a peer's environment, and how its answer comes back: as files.

Both sides import this module, so it knows nothing of evo-mpq and of no peer: only torch, numpy and safetensors.

A task's folder holds ``network.py`` (a function ``build``), ``weights.safetensors``, ``calibration.npz`` (inputs and
targets) and ``test.npz`` (inputs). An answer's folder holds ``logits.npz`` and ``answer.json``.
"""

from __future__ import annotations

import json
import resource
import runpy
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_model, save_file
from torch import Tensor, nn

BATCH = 32
"""Calibration samples that a peer sees at a time."""

Batches = list[tuple[Tensor, Tensor]]
"""Inputs and classes of the calibration samples."""


@dataclass(frozen=True)
class Settings:
    """How a peer is asked for one network.

    Attributes:
        peer: whose environment answers.
        budget: average bits of a weight.
        weight_bits: options of every layer.
        method: how the peer scores or improves, in its own words.
        calibration: how the peer chooses scales, in its own words.
        epochs: of training the rounding, 0 for none.
        seed: of whatever the peer draws.
    """

    peer: str
    budget: float
    weight_bits: tuple[int, ...]
    method: str = ""
    calibration: str = ""
    epochs: int = 0
    seed: int = 0


@dataclass(frozen=True)
class Answer:
    """What a peer found.

    Attributes:
        bits: of every layer's weight.
        cpu_seconds: of the process and its children from the float network to the quantized one, without imports.
        measurements: partly quantized networks that were looked at.
    """

    bits: dict[str, int]
    cpu_seconds: float
    measurements: int


def write_task(
    folder: Path, source: str, module: nn.Module, calibration: tuple[Tensor, Tensor], test_inputs: Tensor
) -> None:
    """Writes a task's folder; ``source`` is Python that defines ``build``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "network.py").write_text(source, encoding="utf-8")
    save_file(module.state_dict(), folder / "weights.safetensors")
    np.savez(folder / "calibration.npz", inputs=calibration[0].numpy(), targets=calibration[1].numpy())
    np.savez(folder / "test.npz", inputs=test_inputs.numpy())


def read_network(folder: Path) -> nn.Module:
    """The float network of a task."""
    module: nn.Module = runpy.run_path(str(folder / "network.py"))["build"]()
    load_model(module, folder / "weights.safetensors")
    return module.eval()


def read_calibration(folder: Path) -> Batches:
    """The calibration samples of a task."""
    with np.load(folder / "calibration.npz") as stored:
        inputs, targets = torch.from_numpy(stored["inputs"]), torch.from_numpy(stored["targets"])
    return list(zip(inputs.split(BATCH), targets.split(BATCH), strict=True))


def read_answer(folder: Path) -> tuple[Answer, np.ndarray]:
    """An answer and its ``(n, n_classes)`` test logits."""
    document = json.loads((folder / "answer.json").read_text(encoding="utf-8"))
    with np.load(folder / "logits.npz") as stored:
        return Answer(**document), stored["logits"]


Quantize = Callable[[nn.Module, Batches, Settings], tuple[nn.Module, dict[str, int], int]]
"""A peer: returns the quantized network, the bits of its layers, and how many networks it looked at."""


def answer(quantize: Quantize) -> None:
    """The main function of a peer's script: its arguments are a task's folder, an answer's folder, and settings."""
    task, folder, said = sys.argv[1:]
    document: dict[str, Any] = json.loads(said)
    settings = Settings(**{**document, "weight_bits": tuple(document["weight_bits"])})
    torch.set_num_threads(1)
    torch.manual_seed(settings.seed)
    np.random.seed(settings.seed)  # noqa: NPY002 (peers draw from it)
    module, batches = read_network(Path(task)), read_calibration(Path(task))
    before = cpu_seconds()
    quantized, bits, measurements = quantize(module, batches, settings)
    found = Answer(bits, cpu_seconds() - before, measurements)
    with np.load(Path(task) / "test.npz") as stored:
        logits = outputs(quantized, torch.from_numpy(stored["inputs"]))
    np.savez(Path(folder) / "logits.npz", logits=logits)
    (Path(folder) / "answer.json").write_text(json.dumps(asdict(found)), encoding="utf-8")


def outputs(module: nn.Module, inputs: Tensor) -> np.ndarray:
    """``(n, n_classes)`` float32 outputs for ``(n, ...)`` inputs."""
    with torch.no_grad():
        return torch.cat([_tensor(module(part)) for part in inputs.split(256)]).float().numpy()


def layer_weights(module: nn.Module) -> dict[str, int]:
    """Numbers of weights of the layers that are quantized."""
    return {
        name: part.weight.numel() for name, part in module.named_modules() if isinstance(part, nn.Conv2d | nn.Linear)
    }


def cpu_seconds() -> float:
    """Of this process and its ended children."""
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def _tensor(output: Tensor | Sequence[Tensor]) -> Tensor:
    return output if isinstance(output, Tensor) else output[0]
