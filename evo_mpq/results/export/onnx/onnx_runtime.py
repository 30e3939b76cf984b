"""ONNX Runtime: runs a file, says which kernels it chose, and whether they saturate. The one file that imports it."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from evo_mpq.errors import ExportError
from evo_mpq.results.export.onnx.model import OnnxModel, operators_by_name, to_bytes

INTEGER_KERNELS = frozenset(
    {
        "QLinearConv",
        "QGemm",
        "QLinearMatMul",
        "MatMulIntegerToFloat",
        "DynamicQuantizeMatMul",
        "MatMulInteger",
        "ConvInteger",
        "MatMulNBits",
    }
)
"""Operators of an optimized graph that multiply integers."""


class OnnxRuntime:
    """A file in ONNX Runtime, on the CPU with all optimizations.

    Args:
        path: the file.
        threads: of an operation.

    Raises:
        ExportError: it is not installed, or refuses the file.
    """

    name = "ONNX Runtime"

    def __init__(self, path: Path, threads: int = 1) -> None:
        onnxruntime = _library()
        with tempfile.TemporaryDirectory() as folder:
            optimized = Path(folder) / "optimized.onnx"
            options = _options(onnxruntime, threads)
            options.optimized_model_filepath = str(optimized)
            try:
                self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            except Exception as error:
                raise ExportError(f"ONNX Runtime refuses the file: {error}") from error
            self._operators = operators_by_name(optimized.read_bytes())
        self._inputs = [entry.name for entry in self._session.get_inputs()]
        self.version = str(onnxruntime.__version__)

    def __call__(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        """The output for the tensors of one batch."""
        named = dict(zip(self._inputs, [tensor.contiguous().numpy() for tensor in inputs], strict=True))
        (output,) = self._session.run(None, named)
        return torch.from_numpy(np.ascontiguousarray(output))

    def kernel(self, node: str) -> str | None:
        """The operator that a node of the file became.

        None if it was merged with its activation into a node of that one's name, as happens to floats alone.
        """
        names = (node, f"{node}_nchwc", f"{node}/MatMulAddFusion")
        for name, operator in self._operators.items():
            if name in names or name.startswith(f"{node}_token_"):
                return operator
        return None


def saturates(threads: int = 1) -> bool:
    """Whether kernels of uint8 activations and int8 weights lose sums here, as they may without VNNI instructions."""
    onnxruntime = _library()
    n = 64
    model = OnnxModel()
    x = model.input("input", "float32", ["batch", n])
    one = model.constant(np.array(1, dtype=np.float32), "one")
    zero = model.constant(np.array(0, dtype=np.uint8), "zero")
    weights = model.constant(np.full((n, n), 127, dtype=np.int8), "weights")
    ones = model.constant(np.ones(n, dtype=np.float32), "ones")
    zeros = model.constant(np.zeros(n, dtype=np.int8), "zeros")
    (codes,) = model.node("QuantizeLinear", [x, one, zero], "codes")
    (values,) = model.node("DequantizeLinear", [codes, one, zero], "values")
    (matrix,) = model.node("DequantizeLinear", [weights, ones, zeros], "matrix", axis=0)
    (product,) = model.node("Gemm", [values, matrix], "product", transB=1)
    content = to_bytes(model.finish(product, "float32", ["batch", n], name="saturation", producer=("evo-mpq", "")), {})
    session = onnxruntime.InferenceSession(content, _options(onnxruntime, threads), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"input": np.full((4, n), 255, dtype=np.float32)})
    return not bool((found == 127 * 255 * n).all())


def _options(onnxruntime: Any, threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # it warns of every constant that it folds away, and of saved optimized files
    return options


def _library() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise ExportError(
            f'to verify an ONNX file needs the package onnxruntime: pip install "evo-mpq[onnx]" ({error}); without it, '
            "export by --no-verify"
        ) from error
    return onnxruntime
