"""The formats that a point of a front can be written in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from evo_mpq.errors import ConfigError

Format: TypeAlias = Literal["safetensors", "policy", "onnx", "torch"]
"""Packed weights; the policy as JSON; ONNX; a program of torch.export."""

FORMATS: tuple[Format, ...] = get_args(Format)

SUFFIXES: dict[Format, str] = {"safetensors": ".safetensors", "policy": ".json", "onnx": ".onnx", "torch": ".pt2"}
"""How files of each format end, where the user does not say."""

Runtime: TypeAlias = Literal["onnxruntime", "openvino"]
TARGETS = ("torchao",)
"""Stacks that a policy can be written for; each is one file."""

RUNTIMES: tuple[Runtime, ...] = get_args(Runtime)


def format_of(path: Path) -> Format:
    """The format that a file's ending stands for; packed weights for those that stand for none.

    >>> format_of(Path("small.onnx")), format_of(Path("a/point"))
    ('onnx', 'safetensors')
    """
    return next((form for form, suffix in SUFFIXES.items() if path.suffix.lower() == suffix), "safetensors")


@dataclass(frozen=True)
class ExportOptions:
    """How a point is written.

    Attributes:
        linear: in ONNX, how linear layers with 4-bit weights and float activations are stored: ``"qdq"``, ``"nbits"``.
        portable: in ONNX, weights that no processor's integer kernels saturate with.
        exact: in ONNX, everything in floats: what was measured to the last bits, without integer kernels.
        verify: whether the file is run and compared with the front.
        runtimes: that an ONNX file is verified in; empty for all that are installed.
        target: the stack that a policy is written for; None for evo-mpq's own JSON.
    """

    linear: Literal["qdq", "nbits"] = "qdq"
    portable: bool = False
    exact: bool = False
    verify: bool = True
    runtimes: tuple[Runtime, ...] = ()
    target: str | None = None

    def __post_init__(self) -> None:
        for runtime in self.runtimes:
            if runtime not in RUNTIMES:
                raise ConfigError(f"there is no runtime {runtime!r} to verify with; there are {' and '.join(RUNTIMES)}")
        if self.target is not None and self.target not in TARGETS:
            raise ConfigError(f"there is no stack {self.target!r} to write a policy for; there is {', '.join(TARGETS)}")
        if self.linear not in ("qdq", "nbits"):
            raise ConfigError(f"linear is qdq or nbits, not {self.linear!r}")
