"""Weights of 2 to 7 bits as packed bytes, and the constant subgraph that turns them into 8-bit integers.

A code of ``b`` bits is cut into planes of 4, 2 and 1 bits (7 = 4 + 2 + 1), each packed without a gap. Each byte of a
plane names a row of a constant table of 256 rows that holds the codes in it, already in their place; so a ``Gather``
unpacks it, and the planes are added. A runtime computes all of that once, while it loads the file. Shifts and masks of
bits say the same in fewer nodes, but OpenVINO computes them wrongly.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from evo_mpq.results.export.onnx.model import OnnxModel

Codes = npt.NDArray[np.int64]

PLANES = (4, 2, 1)
"""Bits of the planes that a code is cut into."""

_MIDDLE = 128
"""The byte that stands for 0 among signed numbers."""


def planes_of(bits: int) -> tuple[tuple[int, int], ...]:
    """Width and lowest bit of each plane of codes of ``bits`` bits.

    >>> planes_of(7), planes_of(3)
    (((4, 3), (2, 1), (1, 0)), ((2, 1), (1, 0)))
    """
    planes, rest = [], bits
    for width in PLANES:
        if rest >= width:
            rest -= width
            planes.append((width, rest))
    return tuple(planes)


def pack_plane(codes: Codes, width: int, lowest: int) -> npt.NDArray[np.uint8]:
    """The bits ``lowest … lowest + width - 1`` of every code, packed into bytes, the first code in the lowest bits.

    >>> pack_plane(np.array([1, 2, 3, 0, 3]), 2, 0).tolist()
    [57, 3]
    """
    per_byte = 8 // width
    parts = (codes.reshape(-1) >> lowest) & (2**width - 1)
    padded = np.zeros(-(-len(parts) // per_byte) * per_byte, dtype=np.int64)
    padded[: len(parts)] = parts
    shifts = np.arange(per_byte) * width
    return np.asarray((padded.reshape(-1, per_byte) << shifts).sum(1), dtype=np.uint8)


def plane_table(model: OnnxModel, width: int, factor: int) -> str:
    """``(256, 8 / width)`` int32: the codes in each byte of a plane, times a factor.

    It is computed by the runtime, too, since stored tables would be a tenth of a small network: the codes in byte ``i``
    are ``i / 2^(k width) mod 2^width`` for ``k = 0, 1, …``.
    """
    name = f"unpack{width}x{factor}"
    if not model.has(name):
        column = model.constant(np.array([256, 1]), "column")
        (rows,) = model.node("Reshape", [_byte_numbers(model), column], f"{name}.bytes")
        powers = model.constant((1 << np.arange(8 // width) * width).astype(np.int32), f"powers{width}")
        (parts,) = model.node("Div", [rows, powers], f"{name}.shifted")
        (parts,) = model.node(
            "Mod", [parts, model.constant(np.array(2**width, dtype=np.int32), "base")], f"{name}.part"
        )
        model.node("Mul", [parts, model.constant(np.array(factor, dtype=np.int32), "factor")], name)
    return name


def _byte_numbers(model: OnnxModel) -> str:
    """``(256,)`` int32 0 … 255."""
    if not model.has("bytes"):
        ends = [model.constant(np.array(end, dtype=np.int32), f"number{end}") for end in (0, 256, 1)]
        model.node("Range", ends, "bytes")
    return "bytes"


def widened(model: OnnxModel, numbers: Codes, name: str) -> str:
    """The name of an int32 tensor of numbers from -128 to 127 that are stored as bytes.

    They are looked up in a table of bytes, too: OpenVINO takes a constant that is cast and multiplied for compressed
    weights of its own making, and fails on it.
    """
    stored = model.constant((numbers + _MIDDLE).astype(np.uint8), name)
    (rows,) = model.node("Cast", [stored], f"{name}.rows", to=model.element_type("int32"))
    (looked_up,) = model.node("Gather", [_byte_numbers(model), rows], f"{name}.bytes")
    middle = model.constant(np.array(_MIDDLE, dtype=np.int32), "middle")
    return model.node("Sub", [looked_up, middle], f"{name}.int32")[0]


def unpacked(model: OnnxModel, codes: Codes, among: range, name: str) -> str:
    """The name of an int32 tensor of codes, whose places among all codes are stored in as many bits as they need.

    Args:
        model: that it is written to.
        codes: of any shape.
        among: all codes, ascending; 4, 8, … or 128.
        name: of the weight, for names.
    """
    bits = len(among).bit_length() - 1
    places = (codes - among[0]) // among.step
    flat = model.constant(np.array([-1]), "flat")
    total = None
    for width, first in planes_of(bits):
        plane = f"{name}.bit{first}" if width == 1 else f"{name}.bits{first}-{first + width - 1}"
        packed = model.constant(pack_plane(places, width, first), plane)
        table = plane_table(model, width, among.step << first)
        (rows,) = model.node("Cast", [packed], f"{plane}.rows", to=model.element_type("int32"))
        (parts,) = model.node("Gather", [table, rows], f"{plane}.gather")
        (parts,) = model.node("Reshape", [parts, flat], f"{plane}.flat")
        if codes.size % (8 // width):
            ends = [model.constant(np.array([end]), f"at{end}") for end in (0, codes.size)]
            (parts,) = model.node("Slice", [parts, *ends], f"{plane}.slice")
        total = parts if total is None else model.node("Add", [total, parts], f"{plane}.sum")[0]
    assert total is not None
    if among[0]:
        lowest = model.constant(np.array(among[0], dtype=np.int32), "lowest")
        (total,) = model.node("Add", [total, lowest], f"{name}.signed")
    shape = model.constant(np.array(codes.shape), "shape")
    return model.node("Reshape", [total, shape], f"{name}.unpacked")[0]
