"""Layers and products of attention as a policy makes them: integers where both sides are, floats elsewhere.

A layer whose input is on a grid and whose weight has one symmetric scale per output channel becomes what runtimes
turn into integer kernels: uint8 activations and int8 weights between quantization and dequantization, with the
correction's factor in the weight's scales and its shift, or the bias, in the integer bias. Any other layer gets its
weight as floats, which the runtime computes from the stored codes while it loads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from evo_mpq.compress.bank import as_matrix
from evo_mpq.compress.packing import n_matrix_columns
from evo_mpq.compress.quantizers import ActivationGrid, WeightGrid
from evo_mpq.errors import ExportError
from evo_mpq.network.graph import Node, constant, substitute
from evo_mpq.network.layers import Layer, Use
from evo_mpq.network.products import FUSED, FusedArguments
from evo_mpq.results.export.onnx.model import Array
from evo_mpq.results.export.onnx.operators import OPERATORS, attention, convolution
from evo_mpq.results.export.onnx.packed import unpacked, widened
from evo_mpq.results.export.onnx.writer import Value, Writer, fine_grid

_LARGEST_BIAS = 2**30  # of an integer bias; the sums of products need the rest of 32 bits

_LARGEST_PRODUCT, _SMALL_PRODUCT = 127, 64  # of a code with its factor, see `code_factors`

_SMALLEST_BLOCK, _LARGEST_BLOCK = 16, 256  # of weights that share a scale in ONNX Runtime's 4-bit kernel


@dataclass(frozen=True, eq=False)
class Weight:
    """What one operation reads of a layer's weight.

    Attributes:
        matrix: ``(rows, columns)`` codes on the grid, or floats; without removed channels.
        grid: of the rows; None for floats.
        rows: positions of the layer's output channels that remain; None for all.
        columns: positions of the columns that remain; None for all.
        shape: as the operation expects it, output channels first.
    """

    matrix: Array
    grid: WeightGrid | None
    rows: Array | None
    columns: Array | None
    shape: tuple[int, ...]

    @property
    def per_row(self) -> bool:
        """Whether codes are symmetric and each row has one scale."""
        return self.grid is not None and self.grid.scale.shape[1] == 1 and not bool(self.grid.zero_point.any())


def use(t: Writer, node: Node, layer: Layer, use: Use) -> Value:
    """An operation that reads a layer's weight."""
    weight = _weight(t, layer, node)
    scale, shift = _affine(t, use, weight)
    name = layer.name if not t.model.has(layer.name) else t.label
    t.sites.append((layer.name, name))
    if node.target == "aten.embedding.default":
        return Value(_embedding(t, node, layer, weight, scale, shift, name), torch.float32)
    assert use.input is not None
    _read(t, node, use, layer, weight)
    grid = t.state.activations.get(node.name)
    integer = grid is not None and weight.per_row and not t.options.exact
    if integer:
        assert grid is not None
        made = _integer(t, node, use, layer, weight, scale, shift, grid, name)
    else:
        made = _float(t, node, use, layer, weight, scale, shift, name)
    return Value(made, torch.float32)


def _affine(t: Writer, use: Use, weight: Weight) -> tuple[Array | None, Array | None]:
    """Factor and shift of every output channel that remains; None for 1 and 0."""
    affine = t.state.affines[use.node]
    if affine is None:
        scale, bias = None, None if use.bias is None else constant(t.network.graph, t.tensors, use.bias).reshape(-1)
        shift = None if bias is None else bias.expand(use.n_channels).numpy()
    else:
        scale, shift = (vector.flatten().expand(use.n_channels).numpy() for vector in affine)
    if weight.rows is not None and len(weight.rows) != use.n_channels:
        scale, shift = (None if vector is None else vector[weight.rows] for vector in (scale, shift))
    if scale is not None and (scale == 1).all():
        scale = None
    return scale, None if shift is None or not shift.any() else shift


def _weight(t: Writer, layer: Layer, node: Node) -> Weight:
    found = t.state.weights.get(layer.name)
    if found is None:
        matrix, grid = as_matrix(t.state.tensors[layer.parameter], layer), None
        rows = columns = None
    else:
        matrix, grid, rows, columns = found.matrix, found.grid, found.rows, found.columns
    part = _part(t, layer, node)
    if part is not None:
        if rows is not None or columns is not None:
            raise ExportError(f"{layer.name} is read in pieces ({node.name}) and pruned; nothing was written.")
        matrix = matrix[part]
        if grid is not None:
            grid = grid.of_rows(part)
    inner = layer.shape[2:] if layer.kind.startswith("conv") else ()
    n_inner = int(np.prod(inner, dtype=np.int64))
    shape = (matrix.shape[0], matrix.shape[1] // n_inner, *inner)
    return Weight(
        matrix.detach().numpy(),
        grid,
        None if rows is None else rows.numpy(),
        None if columns is None else columns.numpy(),
        shape,
    )


def _part(t: Writer, layer: Layer, node: Node) -> torch.Tensor | None:
    """Positions of the rows of the layer's weight that an operation reads, None for all of them.

    Attention reads its in-projection in pieces: views of one parameter.
    """
    place = {"aten.embedding.default": 0, "aten.addmm.default": 2}.get(node.target, 1)
    read = node.args[place].node
    if t.network.graph[read].op == "tensor":
        return None
    rows = torch.arange(layer.n_rows)
    numbered = (rows if layer.transposed else rows.reshape(-1, *[1] * (len(layer.shape) - 1))).expand(layer.shape)
    part = constant(t.network.graph, {**t.tensors, layer.parameter: numbered.contiguous()}, read)
    by_row = part.T if node.target in _MULTIPLIED_AS_IT_IS else part.reshape(part.shape[0], -1)
    if by_row.shape[1] != n_matrix_columns(layer) or not (by_row == by_row[:, :1]).all():
        raise ExportError(f"{layer.name} is read along other axes than its own ({node.name}); nothing was written.")
    positions = by_row[:, 0].contiguous()
    return None if torch.equal(positions, rows) else positions


_MULTIPLIED_AS_IT_IS = ("aten.addmm.default", "aten.mm.default", "aten.matmul.default")


def _read(t: Writer, node: Node, use: Use, layer: Layer, weight: Weight) -> None:
    """Says which channels the output has."""
    assert use.input is not None
    given = t.kept(use.input)
    rank = len(t.shape(use.input))
    axis = 1 if layer.kind.startswith("conv") else rank - 1
    kept: dict[int, Array] = {at: positions for at, positions in given.items() if at != axis}
    if layer.kind.startswith("conv") and kept:
        raise ExportError(f"{layer.name} ({node.name}) mixes pruned channels; nothing was written.")
    if weight.rows is not None:
        kept[use.channel_axis] = weight.rows
    t.keep(node.name, kept)


def _input(t: Writer, use: Use, layer: Layer, weight: Weight, grid: ActivationGrid | None) -> Value:
    """What an operation reads, on its grid, with the channels that its weight has."""
    assert use.input is not None
    x = t.values[use.input] if grid is None else t.rounded(use.input, grid)
    conv = layer.kind.startswith("conv")
    axis = 1 if conv else len(t.shape(use.input)) - 1
    wanted = weight.columns
    if layer.groups > 1:
        wanted = weight.rows
    elif wanted is not None and conv:
        wanted = np.unique(wanted // int(np.prod(layer.shape[2:], dtype=np.int64)))
    return t.with_channels(x, t.kept(use.input).get(axis), wanted, axis, t.shape(use.input)[axis])


def _integer(
    t: Writer,
    node: Node,
    use: Use,
    layer: Layer,
    weight: Weight,
    scale: Array | None,
    shift: Array | None,
    grid: ActivationGrid,
    name: str,
) -> str:
    """With integer weights and activations."""
    assert weight.grid is not None and use.input is not None
    x = _input(t, use, layer, weight, grid)
    scales = weight.grid.scale[:, 0].numpy() * (np.float32(1) if scale is None else scale)
    signs = np.sign(scales).astype(np.int64)
    if not signs.all() or (weight.grid.bits == 8 and (signs < 0).any()):  # a correction of zero; -128 turned around
        return _float(t, node, use, layer, weight, scale, shift, name)
    scales = np.abs(scales)
    in_bias = layer.kind.startswith("conv") or len(t.shape(use.input)) == 2
    if shift is not None and in_bias:
        x, grid = t.in_fine_steps(x, grid), fine_grid(grid)
    factors = None
    if in_bias and shift is not None:
        most = _SMALL_PRODUCT if t.options.portable else _LARGEST_PRODUCT
        factors = code_factors(weight, shift, np.float32(grid.scale) * scales, most)
    if factors is not None:
        scales = scales / factors
    if (signs < 0).any():
        factors = signs if factors is None else signs * factors
    unsigned = t.options.portable and weight.grid.bits == 8
    codes = _narrow_codes(t, layer, weight, factors, unsigned=unsigned)
    scale_name = t.vector(scales.astype(np.float32), f"{name}.scale")
    zero = np.full(len(scales), 128, dtype=np.uint8) if unsigned else np.zeros(len(scales), dtype=np.int8)
    zeros = t.model.constant(zero, f"zeros{len(scales)}")
    (values,) = t.model.node("DequantizeLinear", [codes, scale_name, zeros], f"{name}.weight", axis=0)
    step = np.float32(grid.scale) * scales.astype(np.float32)
    if shift is None or not in_bias or (np.abs(shift / step) > _LARGEST_BIAS).any():
        return _operation(t, node, layer, x, values, None, shift, weight, name)
    grid_scale = t.model.constant(np.array(grid.scale, dtype=np.float32), f"{name}.input_scale")
    (steps,) = t.model.node("Mul", [scale_name, grid_scale], f"{name}.bias_scale")
    floats = t.vector(shift, f"{name}.shift")
    (whole,) = t.model.node("Div", [floats, steps], f"{name}.bias_steps")
    (whole,) = t.model.node("Round", [whole], f"{name}.bias_rounded")
    (stored,) = t.model.node("Cast", [whole], f"{name}.bias_codes", to=t.model.element_type("int32"))
    (bias,) = t.model.node("DequantizeLinear", [stored, steps], f"{name}.bias", axis=0)
    return _operation(t, node, layer, x, values, bias, None, weight, name)


def code_factors(weight: Weight, shift: Array, step: Array, most: int) -> Array | None:
    """``(rows,)`` what the codes of each row are multiplied with, so that its integer bias says what it should.

    A bias is a whole number of steps of the products, and those of 2-bit weights are as coarse as the codes of their
    outputs. Codes of fewer than 8 bits leave room in a byte: every factor up to the largest gives other steps, and the
    one by which the bias is rounded least is taken.

    Args:
        weight: of symmetric codes.
        shift: ``(rows,)`` the biases.
        step: ``(rows,)`` of the products of each row's codes.
        most: that a code and its factor may make. Up to 64, products of two neighbors with any activation fit into 16
            bits, and kernels without VNNI instructions cannot saturate; up to 127, steps are twice as fine.
    """
    assert weight.grid is not None
    if weight.grid.bits == 8:
        return None
    largest = np.abs(weight.matrix.astype(np.int64)).max(1).clip(1)
    highest = most // largest
    factors = np.arange(1, most + 1)
    steps = step[:, None].astype(np.float64) / factors
    error = np.abs(np.round(shift[:, None] / steps) * steps - shift[:, None])
    error[(factors > highest[:, None]) | (2 * factors < highest[:, None])] = np.inf
    return np.asarray(factors[error.argmin(1)], dtype=np.int64)


def _narrow_codes(t: Writer, layer: Layer, weight: Weight, factors: Array | None, *, unsigned: bool = False) -> str:
    """The name of an int8 (or uint8) tensor of a weight's symmetric codes, each row times its factor."""
    assert weight.grid is not None
    if weight.grid.bits == 8:
        codes = weight.matrix.astype(np.int64).reshape(weight.shape)
        stored = (codes + 128).astype(np.uint8) if unsigned else codes.astype(np.int8)
        return t.model.constant(stored, f"{layer.name}.codes")
    codes_name = _codes(t, layer, weight)
    name = _unused(t, f"{layer.name}.codes", f"{layer.name}.{node_suffix(t)}.codes")
    if factors is not None and (factors != 1).any():
        wide = widened(t.model, factors.reshape(-1, *[1] * (len(weight.shape) - 1)), f"{name}.factors")
        (codes_name,) = t.model.node("Mul", [codes_name, wide], f"{name}.products")
    return t.model.node("Cast", [codes_name], name, to=t.model.element_type("int8"))[0]


def _codes(t: Writer, layer: Layer, weight: Weight) -> str:
    """The name of an integer tensor of a weight's codes as they are, int8 or int32; stored once for all its uses."""
    assert weight.grid is not None
    codes = weight.matrix.astype(np.int64).reshape(weight.shape)
    if weight.grid.bits == 8:
        moved = 128 if weight.grid.codes[0] == 0 else 0
        return t.model.constant((codes - moved).astype(np.int8), f"{layer.name}.codes")
    key = (layer.name, codes.tobytes(), codes.shape)
    if key not in t.unpacked:
        name = _unused(t, layer.name, f"{layer.name}.{node_suffix(t)}", "unpacked")
        t.unpacked[key] = unpacked(t.model, codes, weight.grid.codes, name)
    return t.unpacked[key]


def _unused(t: Writer, name: str, otherwise: str, part: str = "") -> str:
    return otherwise if t.model.has(f"{name}.{part}" if part else name) else name


def node_suffix(t: Writer) -> str:
    """The last part of the name of the node that is translated."""
    return t.label.rpartition("/")[2]


def _float(
    t: Writer,
    node: Node,
    use: Use,
    layer: Layer,
    weight: Weight,
    scale: Array | None,
    shift: Array | None,
    name: str,
) -> str:
    """With weights that are floats once the file is loaded, whether or not the input is on a grid."""
    assert use.input is not None
    grid = t.state.activations.get(node.name)
    x = _input(t, use, layer, weight, grid)
    if grid is None and t.options.linear == "nbits" and (block := _block(layer, weight)) is not None:
        product = t.model.node("MatMul", [t.name_of(x), _blocked(t, weight, scale, block, name)], name)[0]
        # Subtracted, since ONNX Runtime merges a product and a sum into an operation that its 4-bit kernel is not for.
        return (
            product if shift is None else str(t.emit("Sub", product, t.vector(shift, f"{name}.shift", negative=True)))
        )
    if grid is None:
        values = _dequantized(t, layer, weight, scale, name)
        bias = None if shift is None else t.vector(shift, f"{name}.bias")
        return _operation(t, node, layer, x, values, bias, None, weight, name)
    # ONNX Runtime quantizes the floats of an operation between a dequantized input and a quantized output, to 8 bits of
    # its own choice. With all signs turned around, twice, there is no quantized output right behind it.
    values = _dequantized(t, layer, weight, np.full(weight.shape[0], -1, np.float32) if scale is None else -scale, name)
    bias = None if shift is None else t.vector(shift, f"{name}.bias", negative=True)
    return str(t.emit("Neg", _operation(t, node, layer, x, values, bias, None, weight, name)))


def _dequantized(t: Writer, layer: Layer, weight: Weight, scale: Array | None, name: str) -> str:
    """The name of a float tensor: what the codes stand for, times the correction's factor."""
    rows = weight.shape[0]
    column = (rows, *[1] * (len(weight.shape) - 1))
    if weight.grid is None:
        floats = weight.matrix.reshape(weight.shape).astype(np.float32)
        return t.model.constant(floats if scale is None else floats * scale.reshape(column), f"{name}.weight")
    grid = weight.grid
    (values,) = t.model.node("Cast", [_codes(t, layer, weight)], f"{name}.float", to=t.model.element_type("float32"))
    wide = grid.scale.shape[1] > 1
    if wide:
        (values,) = t.model.node("Reshape", [values, t.integers([rows, -1])], f"{name}.matrix")

    def spread(numbers: Array, what: str) -> str:
        stored_name = t.vector(numbers if wide else numbers.reshape(column), f"{name}.{what}")
        return _per_column(t, stored_name, weight, name) if wide else stored_name

    if not weight.per_row:
        moved = 128 if grid.bits == 8 and grid.codes[0] == 0 else 0  # codes of 8 bits are stored as signed bytes
        (values,) = t.model.node("Sub", [values, spread(grid.zero_point.numpy() - moved, "zero")], f"{name}.moved")
    scales = grid.scale.numpy() * (np.float32(1) if scale is None else scale[:, None])
    (values,) = t.model.node("Mul", [values, spread(scales, "scale")], f"{name}.weight")
    return t.model.node("Reshape", [values, t.integers(weight.shape)], f"{name}.weight")[0] if wide else values


def _per_column(t: Writer, groups: str, weight: Weight, name: str) -> str:
    """``(rows, groups)`` numbers as ``(rows, columns)``."""
    assert weight.grid is not None
    whole = [t.model.constant(np.array(end, dtype=np.int64), f"number{end}") for end in (0, weight.matrix.shape[1], 1)]
    (columns,) = t.model.node("Range", whole, f"{name}.columns")
    size = t.model.constant(np.array(weight.grid.group_size, dtype=np.int64), f"{name}.group_size")
    (group,) = t.model.node("Div", [columns, size], f"{name}.groups")
    return t.model.node("Gather", [groups, group], f"{name}.per_column", axis=1)[0]


def _block(layer: Layer, weight: Weight) -> int | None:
    """Columns that share a scale in a 4-bit linear layer that ONNX Runtime's own kernel runs; None where it cannot."""
    if weight.grid is None or weight.grid.bits != 4 or not weight.per_row or layer.kind.startswith("conv"):
        return None
    columns = weight.matrix.shape[1]
    block = _LARGEST_BLOCK
    while block >= _SMALLEST_BLOCK and columns % block:
        block //= 2
    return block if block >= _SMALLEST_BLOCK else None


def _blocked(t: Writer, weight: Weight, scale: Array | None, block: int, name: str) -> str:
    """The name of a ``(columns, rows)`` float tensor that is stored as blocks of 4-bit integers."""
    assert weight.grid is not None
    codes = t.model.constant_int4(weight.matrix.astype(np.int64).T, f"{name}.codes")
    scales = weight.grid.scale[:, 0].numpy() * (1 if scale is None else scale)
    repeated = np.tile(scales.astype(np.float32), (weight.matrix.shape[1] // block, 1))
    factors = t.model.constant(repeated, f"{name}.scale")
    return t.model.node("DequantizeLinear", [codes, factors], f"{name}.weight", axis=0, block_size=block)[0]


def _operation(
    t: Writer,
    node: Node,
    layer: Layer,
    x: Value,
    weight: str,
    bias: str | None,
    shift: Array | None,
    form: Weight,
    name: str,
) -> str:
    """The operation itself; `bias` goes into it, `shift` is added behind it."""
    inputs = [t.name_of(x), weight, *([] if bias is None else [bias])]
    if layer.kind.startswith("conv"):
        groups = form.shape[0] if layer.groups > 1 and layer.groups == layer.n_rows else layer.groups
        made = convolution(t, node, inputs, form.shape[2:], groups, name)
        if shift is None:
            return made
        column = shift.reshape(-1, *[1] * len(form.shape[2:]))
        return str(t.emit("Add", made, t.vector(column, f"{name}.shift")))
    if len(t.shape(node.name)) == 2:
        made = t.model.node("Gemm", inputs, name, transB=1)[0]
        return made if shift is None else str(t.emit("Add", made, t.vector(shift, f"{name}.shift")))
    (turned,) = t.model.node("Transpose", [weight], f"{name}.turned", perm=[1, 0])
    made = t.model.node("MatMul", [inputs[0], turned], name)[0]
    if bias is not None:
        return str(t.emit("Add", made, bias))
    return made if shift is None else str(t.emit("Add", made, t.vector(shift, f"{name}.shift")))


def _embedding(
    t: Writer, node: Node, layer: Layer, weight: Weight, scale: Array | None, shift: Array | None, name: str
) -> str:
    """Rows of a table, which stays in bytes; its scales are looked up with the rows."""
    indices = t.name_of(t.values[node.args[1].node] if hasattr(node.args[1], "node") else node.args[1])
    if weight.rows is not None or weight.columns is not None:
        raise ExportError(f"{layer.name} is an embedding whose features are pruned; nothing was written.")
    if not weight.per_row:
        table = _dequantized(t, layer, weight, None, f"{name}.table")
        values = t.model.node("Gather", [table, indices], name)[0]
    else:
        assert weight.grid is not None
        (rows,) = t.model.node("Gather", [_narrow_codes(t, layer, weight, None), indices], name)
        (rows,) = t.model.node("Cast", [rows], f"{name}.float", to=t.model.element_type("float32"))
        stored = t.vector(weight.grid.scale.numpy(), f"{name}.scales")
        (factors,) = t.model.node("Gather", [stored, indices], f"{name}.scale")
        (values,) = t.model.node("Mul", [rows, factors], f"{name}.rows")
    if scale is not None:
        values = str(t.emit("Mul", values, t.vector(scale, f"{name}.factor")))
    return values if shift is None else str(t.emit("Add", values, t.vector(shift, f"{name}.shift")))


def product_keys(t: Writer, node: Node) -> list[str]:
    """Names under which the state has the grids of what a product of activations reads."""
    return [key for product in t.network.products if product.node == node.name for key in product.keys]


def product(t: Writer, node: Node) -> Value:
    """A product of activations some of whose operands are on a grid; a fused attention is written out."""
    grids = [t.state.activations.get(key) for key in product_keys(t, node)]
    if any(t.kept(name) for name in node.inputs):
        raise ExportError(f"{node.target} ({node.name}) reads pruned channels; nothing was written.")

    def read(name: str, grid: ActivationGrid | None) -> Any:
        return t.values[name] if grid is None else t.rounded(name, grid)

    if node.target == FUSED:
        given = FusedArguments.of(node)
        made = attention(
            t,
            node,
            read(given.query, grids[0]),
            read(given.key, grids[1]),
            read(given.value, grids[3]),
            None if given.mask is None else t.values[given.mask],
            given.is_causal,
            given.scale,
            given.grouped,
            weights_on=grids[2],
        )
        return Value(made, torch.float32)
    (site,) = [site for site in t.network.products if site.node == node.name]
    rounded: dict[str, Any] = {}
    for name, grid in zip(site.operands, grids, strict=True):
        rounded.setdefault(name, read(name, grid))
    args, kwargs = substitute(
        (node.args, dict(node.kwargs or {})), lambda ref: rounded.get(ref.node, t.values[ref.node])
    )
    return Value(str(OPERATORS[node.target](t, node, *args, **kwargs)), torch.float32)
