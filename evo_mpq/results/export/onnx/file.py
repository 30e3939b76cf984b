"""The ONNX file of a point: its content, what it says about itself, and which kernels run it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evo_mpq.compress.compressor import Compressor
from evo_mpq.compress.module import CompressedModule
from evo_mpq.results.export.onnx.model import to_bytes
from evo_mpq.results.export.onnx.onnx_runtime import INTEGER_KERNELS, OnnxRuntime
from evo_mpq.results.export.onnx.processor import integer_instructions
from evo_mpq.results.export.onnx.translation import translated
from evo_mpq.results.export.onnx.writer import Options, Writer
from evo_mpq.results.front import Member


@dataclass(frozen=True)
class OnnxFile:
    """A point as ONNX.

    Attributes:
        content: of the file.
        sites: names of layers and products, each with that of the node that multiplies.
    """

    content: bytes
    sites: tuple[tuple[str, str], ...]


def onnx_file(
    compressor: Compressor, module: CompressedModule, options: Options, metadata: Mapping[str, str]
) -> OnnxFile:
    """The file of a compressed network.

    Args:
        compressor: that made it.
        module: the compressed network.
        options: of the file.
        metadata: what it says about itself.

    Raises:
        ExportError: an operation is not known.
    """
    writer = Writer(compressor, module, options)
    model = translated(writer)
    return OnnxFile(to_bytes(model, metadata), tuple(writer.sites))


def metadata_of(member: Member, compressor: Compressor, options: Options, *, verified: bool) -> dict[str, str]:
    """What a file says about itself: the policy, the front's numbers, how it was made."""
    return {
        "evo-mpq.id": member.id,
        "evo-mpq.policy": _text(member.policy.to_json()),
        "evo-mpq.compressor": _text(compressor.settings),
        "evo-mpq.search": _text(dict(member.search)),
        "evo-mpq.test": _text(
            {name: None if interval is None else interval.value for name, interval in member.test.items()}
        ),
        "evo-mpq.linear": options.linear,
        "evo-mpq.portable": str(options.portable).lower(),
        "evo-mpq.exact": str(options.exact).lower(),
        "evo-mpq.verification": "runtimes against the front" if verified else "none (--no-verify)",
    }


def _text(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def kernels(file: OnnxFile, runtime: OnnxRuntime, module: CompressedModule) -> tuple[dict[str, Any], ...]:
    """What ONNX Runtime runs each layer and product with, by its optimized graph."""
    policy = module.state.policy
    rows = []
    for site, node in file.sites:
        layer = policy.layers[site]
        kernel = runtime.kernel(node)
        rows.append(
            {
                "name": site,
                "weight_bits": layer.weight_bits,
                "activation_bits": layer.activation_bits,
                "kernel": kernel or "floats, merged with the activation",
                "integer": kernel in INTEGER_KERNELS,
                "simulated": layer.activation_bits < 8,
            }
        )
    return tuple(rows)


def kernel_notes(rows: Sequence[Mapping[str, Any]], options: Options, *, saturating: bool) -> list[str]:
    """What runs with integer kernels and what is only simulated, and what the processor makes of it."""
    integer = [row["name"] for row in rows if row["integer"]]
    floats = [row["name"] for row in rows if not row["integer"]]
    simulated = [row["name"] for row in rows if row["simulated"]]
    notes = [
        f"integer kernels run {len(integer)} of {len(rows)} layers" + (f"; floats: {_some(floats)}" if floats else "")
    ]
    if simulated:
        notes.append(f"activations below 8 bits are simulated in bytes, and save no time: {_some(simulated)}")
    notes.append(f"this processor multiplies bytes with: {integer_instructions()}")
    risky = [row["name"] for row in rows if row["integer"] and row["kernel"] != "MatMulNBits"]
    if risky and not options.portable:
        where = "here" if saturating else "on processors without VNNI instructions"
        notes.append(
            f"kernels of uint8 activations and int8 weights may saturate {where}; --portable writes weights that do "
            "not: smaller codes, and 8-bit weights as uint8, whose kernels are slower"
        )
    return notes


def _some(names: Sequence[str], n: int = 4) -> str:
    shown = ", ".join(dict.fromkeys(names[:n]))
    return shown if len(names) <= n else f"{shown}, … ({len(names)} in all)"
