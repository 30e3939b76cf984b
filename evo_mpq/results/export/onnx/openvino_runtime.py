"""OpenVINO: runs a file on the CPU. The one file that imports it."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from evo_mpq.errors import ExportError


def is_installed() -> bool:
    """Whether there is a second runtime to verify with."""
    return importlib.util.find_spec("openvino") is not None


class OpenVino:
    """A file in OpenVINO, on the CPU, floats in 32 bits.

    Without that hint, processors that have bfloat16 instructions round floats to 8 significant bits.

    Args:
        path: the file.
        threads: of a request.

    Raises:
        ExportError: it is not installed, or refuses the file.
    """

    name = "OpenVINO"

    def __init__(self, path: Path, threads: int = 1) -> None:
        openvino = _library()
        core = openvino.Core()
        hints = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
        try:
            self._compiled = core.compile_model(core.read_model(str(path)), "CPU", hints)
        except Exception as error:
            raise ExportError(f"OpenVINO refuses the file: {error}") from error
        self._inputs = [entry.get_any_name() for entry in self._compiled.inputs]
        self.version = str(openvino.__version__).partition("-")[0]

    def __call__(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        """The output for the tensors of one batch."""
        named = dict(zip(self._inputs, [tensor.contiguous().numpy() for tensor in inputs], strict=True))
        return torch.from_numpy(np.ascontiguousarray(self._compiled(named)[0]))


def _library() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise ExportError(
            f'to verify with OpenVINO needs its package: pip install "evo-mpq[openvino]" ({error})'
        ) from error
    return openvino
