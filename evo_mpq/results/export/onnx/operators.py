"""ATen operators as ONNX ones: one function for each kind, called with the writer, the node and its arguments.

Arguments are `Value` for what is computed from the batch, `Size` for sizes of it, torch tensors and plain values for
everything else. A function returns the name of its output, a list of names, or a `Size`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch

from evo_mpq.compress.quantizers import ActivationGrid
from evo_mpq.errors import ExportError
from evo_mpq.network.graph import Node
from evo_mpq.network.products import FUSED
from evo_mpq.results.export.onnx.writer import Size, Value, Writer

Made: TypeAlias = "str | list[str] | Size | Value"
Operator: TypeAlias = Callable[..., Made]

# Element by element


def unary(op: str, **attributes: Any) -> Operator:
    """Of an operator that has the same name for every type."""

    def made(t: Writer, node: Node, x: Any, *args: Any, **kwargs: Any) -> str:
        _plain(node, args, kwargs)
        return str(t.emit(op, x, **attributes))

    return made


def binary(op: str, *, compares: bool = False) -> Operator:
    """Of an operator on two operands, which are broadcast."""

    def made(t: Writer, node: Node, left: Any, right: Any, *args: Any, **kwargs: Any) -> str:
        alpha = kwargs.pop("alpha", 1)
        if kwargs.pop("rounding_mode", None) is not None:
            raise unsupported(node, "a rounding mode")
        _plain(node, args, kwargs)
        dtype = _common_type(t, left, right) if compares else t.dtype(node.name)
        if alpha != 1:
            right = Value(str(t.emit("Mul", t.operand(right, dtype), t.name_of(alpha, dtype))), dtype)
        return str(t.emit(op, t.operand(left, dtype), t.operand(right, dtype)))

    return made


def _common_type(t: Writer, left: Any, right: Any) -> torch.dtype:
    examples = []
    for value in (left, right):
        if isinstance(value, Value):
            examples.append(torch.ones(1, dtype=value.dtype))
        elif isinstance(value, Size):
            examples.append(torch.ones((), dtype=torch.int64))
        else:
            examples.append(value)
    return torch.result_type(*examples)


def logical(op: str) -> Operator:
    """Of an operator on truth values."""

    def made(t: Writer, node: Node, left: Any, right: Any) -> str:
        if t.dtype(node.name) != torch.bool:
            raise unsupported(node, "integers")
        return str(t.emit(op, t.operand(left, torch.bool), t.operand(right, torch.bool)))

    return made


def negated(op: str) -> Operator:
    """The opposite of a comparison."""
    compare = binary(op, compares=True)
    return lambda t, node, left, right: str(t.emit("Not", compare(t, node, left, right)))


def reversed_subtraction(t: Writer, node: Node, left: Any, right: Any, alpha: Any = 1) -> Made:
    """``right - alpha * left``."""
    return binary("Sub")(t, node, right, left, alpha=alpha)


def clamp(t: Writer, node: Node, x: Value, low: Any = None, high: Any = None) -> str:
    """Between two numbers."""
    if isinstance(low, Value) or isinstance(high, Value):
        raise unsupported(node, "bounds that are tensors")
    bounds = [None if bound is None else t.name_of(bound, x.dtype) for bound in (low, high)]
    return str(t.emit("Clip", x, *bounds))


def hardtanh(t: Writer, node: Node, x: Value, low: float = -1.0, high: float = 1.0) -> str:
    """Between two numbers."""
    return clamp(t, node, x, low, high)


def leaky_relu(t: Writer, node: Node, x: Value, slope: float = 0.01) -> str:
    """A slope below zero."""
    return str(t.emit("LeakyRelu", x, alpha=slope))


def elu(t: Writer, node: Node, x: Value, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> str:
    """An exponential below zero."""
    if (scale, input_scale) != (1.0, 1.0):
        raise unsupported(node, "scales")
    return str(t.emit("Elu", x, alpha=alpha))


def prelu(t: Writer, node: Node, x: Value, slope: Any) -> str:
    """A slope per channel below zero."""
    if isinstance(slope, torch.Tensor) and slope.numel() > 1:
        slope = slope.reshape(-1, *[1] * (len(t.shape(node.name)) - 2))
    return str(t.emit("PRelu", x, t.operand(slope, x.dtype)))


def gelu(t: Writer, node: Node, x: Value, approximate: str = "none") -> str:
    """Exact, or with a hyperbolic tangent."""
    return str(t.emit("Gelu", x, approximate=approximate))


def silu(t: Writer, node: Node, x: Value) -> str:
    """``x · sigmoid(x)``."""
    return str(t.emit("Mul", x, t.emit("Sigmoid", x)))


def hardsigmoid(t: Writer, node: Node, x: Value) -> str:
    """Straight between −3 and 3."""
    return str(t.emit("HardSigmoid", x, alpha=1 / 6, beta=0.5))


def rsqrt(t: Writer, node: Node, x: Value) -> str:
    """One over the square root."""
    return str(t.emit("Reciprocal", t.emit("Sqrt", x)))


def cast(t: Writer, node: Node, x: Any, *args: Any, **kwargs: Any) -> str:
    """To another type."""
    return str(t.emit("Cast", x, to=t.onnx_type(t.dtype(node.name))))


def same(t: Writer, node: Node, x: Value, *args: Any, **kwargs: Any) -> Made:
    """Something that only moves memory."""
    return Value(x.name, x.dtype)


def where(t: Writer, node: Node, condition: Any, yes: Any, no: Any) -> str:
    """One of two, element by element."""
    dtype = t.dtype(node.name)
    return str(t.emit("Where", condition, t.operand(yes, dtype), t.operand(no, dtype)))


def masked_fill(t: Writer, node: Node, x: Any, mask: Any, value: Any) -> str:
    """A number where a mask is true."""
    dtype = t.dtype(node.name)
    return str(t.emit("Where", mask, t.operand(value, dtype), t.operand(x, dtype)))


# Shapes


def size(t: Writer, node: Node, x: Value, axis: int) -> Size:
    """How long an axis is.

    The batch's length is read off an input: another reader of a value between two layers could keep a runtime from
    running these as one kernel.
    """
    first = next(iter(t.values.values()))
    for name, value in t.values.items():
        if value == x and axis == 0 and t.network.graph[name].shape[:1] == (None,) and t.shape(name)[0] == 2:
            x = first
            break
    shape = t.emit("Shape", x, start=axis, end=axis + 1 if axis != -1 else 2**31)
    return Size(str(shape))


def of_sizes(op: str) -> Operator:
    """Arithmetic on sizes."""
    return lambda t, node, left, right: Size(
        str(t.emit(op, *(t.integers([value]) if isinstance(value, int) else value for value in (left, right))))
    )


def reshape(t: Writer, node: Node, x: Value, *args: Any) -> str:
    """Another shape of the same elements; sizes of axes that lost channels are theirs now."""
    target = t.shape(node.name)
    wished = list(args[0]) if args and isinstance(args[0], list | tuple) and node.target not in _BY_SHAPE else []
    if not wished:
        shape = t.network.graph[node.name].shape
        wished = [target[axis] if known is not None else -1 for axis, known in enumerate(shape)]
    for axis, at in t.kept(node.name).items():
        if wished[axis] != -1:
            wished[axis] = len(at)
    unknown = [axis for axis, entry in enumerate(wished) if not isinstance(entry, int) or entry == -1]
    if len(unknown) == 1:
        wished[unknown[0]] = -1
    elif sum(entry == -1 for entry in wished) > 1:
        raise unsupported(node, "several sizes that depend on the batch")
    return str(t.emit("Reshape", x, t.integers(wished)))


_BY_SHAPE = ("aten.flatten.using_ints", "aten.unflatten.int")


def expand(t: Writer, node: Node, x: Any, sizes: Sequence[Any], implicit: bool = False) -> str:
    """Repeated along axes of size one."""
    wished = [1 if not isinstance(entry, Size) and entry == -1 else entry for entry in sizes]
    for axis, at in t.kept(node.name).items():
        wished[axis] = len(at)
    source = x if isinstance(x, Value) else t.operand(x, t.dtype(node.name))
    return str(t.emit("Expand", source, t.integers(wished)))


def repeat(t: Writer, node: Node, x: Any, times: Sequence[Any]) -> str:
    """Several times along each axis."""
    rank = len(times)
    own = len(t.shape(_source(node)))
    widened = x if own == rank else t.emit("Unsqueeze", x, t.integers(range(rank - own)))
    return str(t.emit("Tile", widened, t.integers(times)))


def permute(t: Writer, node: Node, x: Value, axes: Sequence[int]) -> str:
    """Axes in another order."""
    return str(t.emit("Transpose", x, perm=[axis % len(axes) for axis in axes]))


def transpose(t: Writer, node: Node, x: Value, first: int = 0, second: int = 1) -> str:
    """Two axes exchanged."""
    rank = len(t.shape(node.name))
    order = list(range(rank))
    order[first % rank], order[second % rank] = order[second % rank], order[first % rank]
    return str(t.emit("Transpose", x, perm=order))


def unsqueeze(t: Writer, node: Node, x: Any, axis: int) -> str:
    """One more axis."""
    return str(t.emit("Unsqueeze", x, t.integers([axis % len(t.shape(node.name))])))


def squeeze(t: Writer, node: Node, x: Value, axes: Any = None) -> Made:
    """Without axes of size one."""
    source = t.shape(_source(node))
    named = [axes] if isinstance(axes, int) else list(range(len(source))) if axes is None else list(axes)
    gone = [axis % len(source) for axis in named if source[axis] == 1]
    return str(t.emit("Squeeze", x, t.integers(gone))) if gone else Value(x.name, x.dtype)


def select(t: Writer, node: Node, x: Value, axis: int, place: Any) -> str:
    """One place of an axis."""
    rank = len(t.shape(_source(node)))
    index = place.name if isinstance(place, Size) else np.array([place], dtype=np.int64)
    taken = t.emit("Gather", x, index, axis=axis % rank)
    return str(t.emit("Squeeze", taken, t.integers([axis % rank])))


def narrow(t: Writer, node: Node, x: Any, axis: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Made:
    """A range of an axis."""
    last = 2**63 - 1
    begin, stop = 0 if start is None else start, last if end is None else end
    if begin == 0 and step == 1 and isinstance(stop, int) and stop >= last:
        return Value(x.name, x.dtype)
    rank = len(t.shape(_source(node)))
    ends = [t.integers([value]) for value in (begin, stop, axis % rank, step)]
    return str(t.emit("Slice", x, *ends))


def concatenate(t: Writer, node: Node, parts: Sequence[Any], axis: int = 0) -> str:
    """One behind the other along an axis."""
    dtype, rank = t.dtype(node.name), len(t.shape(node.name))
    names = [t.name_of(part, dtype) if isinstance(part, torch.Tensor) else t.operand(part, dtype) for part in parts]
    return str(t.emit("Concat", *names, axis=axis % rank))


def stack(t: Writer, node: Node, parts: Sequence[Any], axis: int = 0) -> str:
    """Along a new axis."""
    dtype, rank = t.dtype(node.name), len(t.shape(node.name))
    wide = [t.emit("Unsqueeze", t.operand(part, dtype), t.integers([axis % rank])) for part in parts]
    return str(t.emit("Concat", *wide, axis=axis % rank))


def split(t: Writer, node: Node, x: Value, sizes: Any, axis: int = 0) -> list[str]:
    """Pieces of stated lengths."""
    whole = t.shape(_source(node))
    place = axis % len(whole)
    length = whole[place]
    if isinstance(sizes, int):
        sizes = [min(sizes, length - start) for start in range(0, length, sizes)]
    return _pieces(t, x, sizes, place)


def chunk(t: Writer, node: Node, x: Value, n: int, axis: int = 0) -> list[str]:
    """So many pieces."""
    whole = t.shape(_source(node))
    place = axis % len(whole)
    each = -(-whole[place] // n)
    return _pieces(t, x, [min(each, whole[place] - start) for start in range(0, whole[place], each)], place)


def unbind(t: Writer, node: Node, x: Value, axis: int = 0) -> list[str]:
    """Every place of an axis on its own."""
    whole = t.shape(_source(node))
    place = axis % len(whole)
    pieces = _pieces(t, x, [1] * whole[place], place)
    return [str(t.emit("Squeeze", piece, t.integers([place]))) for piece in pieces]


def _pieces(t: Writer, x: Value, sizes: Sequence[Any], axis: int) -> list[str]:
    if len(sizes) == 1:
        return [x.name]
    return list(t.emit("Split", x, t.integers(sizes), n_outputs=len(sizes), axis=axis))


def item(t: Writer, node: Node, values: Sequence[Value], place: int) -> Made:
    """One of several results."""
    return values[place]


# New tensors


def filled(value: Any) -> Operator:
    """A shape full of one number, that of the arguments where it is None; the shape is the first argument."""

    def made(t: Writer, node: Node, shape: Sequence[Any], *args: Any, **kwargs: Any) -> str:
        number = args[0] if value is None else value
        return _full(t, node, t.integers(shape), number)

    return made


def filled_of_type(value: Any) -> Operator:
    """The same where another tensor comes first, for the type."""
    plain = filled(value)
    return lambda t, node, x, shape, *args, **kwargs: plain(t, node, shape, *args, **kwargs)


def filled_like(value: Any) -> Operator:
    """The same with another tensor's shape."""

    def made(t: Writer, node: Node, x: Value, *args: Any, **kwargs: Any) -> str:
        return _full(t, node, t.emit("Shape", x), args[0] if value is None else value)

    return made


def _full(t: Writer, node: Node, shape: str, value: Any) -> str:
    if isinstance(value, Value):
        return str(t.emit("Expand", value, shape))
    return str(t.emit("Expand", t.name_of(torch.full((1,), value, dtype=t.dtype(node.name))), shape))


def arange(t: Writer, node: Node, *args: Any, **kwargs: Any) -> str:
    """Numbers one after the other."""
    start, end, step = (0, args[0], 1) if len(args) == 1 else (*args, 1)[:3]
    dtype = t.dtype(node.name)

    def scalar(value: Any) -> Any:
        if isinstance(value, Size):
            value = Value(str(t.emit("Squeeze", value)), torch.int64)
        return t.operand(value, dtype)

    return str(t.emit("Range", scalar(start), scalar(end), scalar(step)))


# Reductions


def reduction(op: str) -> Operator:
    """Over axes, or over everything."""

    def made(t: Writer, node: Node, x: Any, axes: Any = None, keep: bool = False, **kwargs: Any) -> str:
        rank = len(t.shape(_source(node)))
        named = [axes] if isinstance(axes, int) else list(axes or range(rank))
        source = t.operand(x, t.dtype(node.name)) if isinstance(x, Value) else x
        places = sorted(axis % rank for axis in named)
        if op == "ReduceMean":
            return _mean(t, node, source, places, keep)
        return str(t.emit(op, source, t.integers(places), keepdims=int(keep)))

    return made


def _mean(t: Writer, node: Node, x: Any, axes: Sequence[int], keep: bool) -> str:
    """Over axes, in the form that runtimes compute right and fast.

    OpenVINO computes means of integers that are not centered around zero wrongly in some surroundings, and must leave
    the dequantization where it is.
    """
    shape, name = t.shape(_source(node)), t.name_of(x)
    if t.zero_points.get(name):
        name = t.untouchable(Value(name, torch.float32)).name
    if len(shape) == 4 and list(axes) == [2, 3]:  # a kernel of its own, also for integers
        pooled = t.emit("GlobalAveragePool", name)
        return str(pooled if keep else t.emit("Flatten", pooled, axis=1))
    return str(t.emit("ReduceMean", name, t.integers(axes), keepdims=int(keep)))


def softmax(op: str) -> Operator:
    """Along an axis."""

    def made(t: Writer, node: Node, x: Value, axis: int, *args: Any, **kwargs: Any) -> str:
        return str(t.emit(op, t.operand(x, t.dtype(node.name)), axis=axis))

    return made


def cumulative_sum(t: Writer, node: Node, x: Any, axis: int, **kwargs: Any) -> str:
    """Sums up to each place of an axis."""
    return str(t.emit("CumSum", t.operand(x, t.dtype(node.name)), np.array(axis, dtype=np.int64)))


# Convolutions, products, pooling, normalization


def convolution(t: Writer, node: Node, inputs: Sequence[str], kernel: Sequence[int], groups: int, name: str) -> str:
    """A convolution of any number of axes, from names of its input, weight and bias.

    Args:
        t: what it is written to.
        node: the traced one, for strides, paddings and dilations.
        inputs: names of input and weight, and of the bias where there is one.
        kernel: its size along each axis.
        groups: of channels.
        name: of the operation.
    """
    rank = len(kernel)
    stride, padding, dilation = (*node.args, *[None] * 6)[3:6]
    strides, dilations = _per_axis(stride, rank, 1), _per_axis(dilation, rank, 1)
    if padding == "same":
        totals = [d * (k - 1) for d, k in zip(dilations, kernel, strict=True)]
        pads = [total // 2 for total in totals] + [total - total // 2 for total in totals]
    else:
        pads = _per_axis(None if padding == "valid" else padding, rank, 0) * 2
    window = list(kernel)
    return t.model.node(
        "Conv", inputs, name, group=groups, kernel_shape=window, strides=strides, pads=pads, dilations=dilations
    )[0]


def plain_convolution(t: Writer, node: Node, x: Any, weight: Any, bias: Any = None, *args: Any, **kwargs: Any) -> str:
    """A convolution whose weight is no layer's."""
    if not isinstance(weight, torch.Tensor):
        raise unsupported(node, "a weight that is computed")
    inputs = [t.name_of(x), t.name_of(weight), *([] if bias is None else [t.name_of(bias)])]
    return convolution(t, node, inputs, tuple(weight.shape[2:]), args[3] if len(args) > 3 else 1, t.label)


def plain_linear(t: Writer, node: Node, x: Any, weight: Any, bias: Any = None) -> str:
    """A linear map whose weight is no layer's."""
    turned = weight.T.contiguous() if isinstance(weight, torch.Tensor) else t.emit("Transpose", weight, perm=[1, 0])
    product = t.emit("MatMul", x, turned)
    return str(product if bias is None else t.emit("Add", product, bias))


def matrix_product(t: Writer, node: Node, left: Any, right: Any) -> str:
    """A product of matrices, of any number of them."""
    if any(t.kept(name) for name in node.inputs):
        raise unsupported(node, "pruned channels")
    product = str(t.emit("MatMul", left, right))
    t.sites += [(site.name, product) for site in t.network.products if site.node == node.name]
    return product


def product_and_sum(t: Writer, node: Node, bias: Any, left: Any, right: Any, *, beta: Any = 1, alpha: Any = 1) -> str:
    """``beta · bias + alpha · left @ right``."""
    product = Value(matrix_product(t, node, left, right), torch.float32)
    if alpha != 1:
        product = Value(str(t.emit("Mul", product, float(alpha))), torch.float32)
    if beta == 0:
        return product.name
    added = bias if beta == 1 else Value(str(t.emit("Mul", bias, float(beta))), torch.float32)
    return str(t.emit("Add", product, added))


def attention(
    t: Writer,
    node: Node,
    query: Any,
    key: Any,
    value: Any,
    mask: Any = None,
    is_causal: bool = False,
    scale: float | None = None,
    grouped: bool = False,
    weights_on: ActivationGrid | None = None,
) -> str:
    """Attention written out: products, softmax, product.

    Args:
        t: what it is written to.
        node: the traced one.
        query: ``(…, queries, features)``.
        key: ``(…, keys, features)``.
        value: likewise.
        mask: True where a key counts, or numbers that are added.
        is_causal: whether a query sees only keys up to its own position.
        scale: of the scores; by default one over the square root of the features.
        grouped: whether several heads of queries share one of keys and values.
        weights_on: grid of the attention weights.
    """
    shape = t.shape(node.args[0].node)
    rank = len(shape)
    if grouped:
        key, value = (_shared_heads(t, tensor, shape[-3], t.shape(node.args[1].node)) for tensor in (key, value))
    order = [*range(rank - 2), rank - 1, rank - 2]
    sites = [product.name for product in t.network.products if product.node == node.name]
    scores = t.emit("MatMul", query, t.emit("Transpose", key, perm=order))
    t.sites += [(site, scores) for site in sites[:1]]
    scores = t.emit("Mul", scores, float(shape[-1] ** -0.5 if scale is None else scale))
    if is_causal:
        lengths = _lengths(t, node)
        hidden = t.emit("Expand", np.array([-np.inf], dtype=np.float32), lengths)
        scores = t.emit("Add", scores, t.emit("Trilu", hidden, np.array(1, dtype=np.int64), upper=1))
    if mask is not None:
        is_boolean = (mask.dtype if isinstance(mask, Value | torch.Tensor) else None) == torch.bool
        scores = t.emit("Where", mask, scores, -math.inf) if is_boolean else t.emit("Add", scores, mask)
    weights = t.emit("Softmax", scores, axis=-1)
    if weights_on is not None:
        made = Value(str(weights), torch.float32)
        t.values[f"{node.name}@weights"] = made
        weights = t.on_grid(made, weights_on)
    product = str(t.emit("MatMul", weights, value))
    t.sites += [(site, product) for site in sites[1:]]
    return product


def _lengths(t: Writer, node: Node) -> str:
    """Numbers of queries and keys."""
    names = [node.args[0].node, node.args[1].node]
    graph = t.network.graph
    sizes = [graph[name].shape[-2] for name in names]
    values = [
        Size(str(t.emit("Shape", t.values[name], start=len(t.shape(name)) - 2, end=len(t.shape(name)) - 1)))
        if length is None
        else length
        for name, length in zip(names, sizes, strict=True)
    ]
    return t.integers(values)


def _shared_heads(t: Writer, tensor: Any, n_heads: int, shape: Sequence[int]) -> str:
    """Each head repeated for the heads of queries that share it: ``(batch, heads, length, features)``."""
    times = n_heads // shape[1]
    wide = t.emit("Unsqueeze", tensor, t.integers([2]))
    tiled = t.emit("Tile", wide, t.integers([1, 1, times, 1, 1]))
    return str(t.emit("Reshape", tiled, t.integers([0, n_heads, -1, shape[3]])))


def plain_attention(t: Writer, node: Node, query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> str:
    """Attention of which nothing is quantized."""
    if any(t.kept(name) for name in node.inputs):
        raise unsupported(node, "pruned channels")
    mask, _, is_causal, scale, grouped = _filled_up(args, None, 0.0, False, None, False)
    mask, is_causal = kwargs.get("attn_mask", mask), kwargs.get("is_causal", is_causal)
    scale, grouped = kwargs.get("scale", scale), kwargs.get("enable_gqa", grouped)
    return attention(t, node, query, key, value, mask, is_causal, scale, grouped)


def pool(op: str, rank: int) -> Operator:
    """Maxima or means of windows."""

    def made(t: Writer, node: Node, x: Value, kernel: Any, stride: Any = None, padding: Any = 0, *args: Any) -> str:
        kernels = _per_axis(kernel, rank, 1)
        attributes: dict[str, Any] = {
            "kernel_shape": kernels,
            "strides": _per_axis(stride or None, rank, 1) if stride else kernels,
            "pads": _per_axis(padding, rank, 0) * 2,
        }
        if op == "MaxPool":
            dilation, ceil = _filled_up(args, 1, False)[:2]
            attributes |= {"dilations": _per_axis(dilation, rank, 1), "ceil_mode": int(ceil)}
        else:
            ceil, counts, divisor = _filled_up(args, False, True, None)[:3]
            if divisor is not None:
                raise unsupported(node, "a divisor of its own")
            attributes |= {"count_include_pad": int(counts), "ceil_mode": int(ceil)}
        return str(t.emit(op, x, **attributes))

    return made


def adaptive_average(t: Writer, node: Node, x: Value, sizes: Any) -> str:
    """Means of as many equal parts as asked for."""
    source, target = t.shape(_source(node)), t.shape(node.name)
    n = len(sizes) if isinstance(sizes, list | tuple) else 1
    if all(length == 1 for length in target[-n:]):
        return _mean(t, node, x, range(len(source) - n, len(source)), True)
    pairs = list(zip(source[-n:], target[-n:], strict=True))
    if any(length % parts for length, parts in pairs) or None in t.network.graph[_source(node)].shape[-n:]:
        raise unsupported(node, "parts of different sizes")
    kernel = [length // parts for length, parts in pairs]
    return str(t.emit("AveragePool", x, kernel_shape=kernel, strides=kernel))


def pad(t: Writer, node: Node, x: Value, pads: Sequence[Any], *args: Any) -> str:
    """More places around; the last axis comes first in ``pads``."""
    mode, value = (
        ("constant", args[0] if args else 0.0) if "constant_pad" in node.target else (*args, "constant", None)[:2]
    )
    if mode not in ("constant", "reflect", "replicate"):
        raise unsupported(node, f"the mode {mode}")
    rank = len(t.shape(node.name))
    begins, ends = [0] * rank, [0] * rank
    for place in range(len(pads) // 2):
        begins[rank - 1 - place], ends[rank - 1 - place] = pads[2 * place : 2 * place + 2]
    modes = {"replicate": "edge"}
    inputs = [x, t.integers([*begins, *ends])]
    if mode == "constant":
        inputs.append(t.name_of(value or 0.0, x.dtype))
    return str(t.emit("Pad", *inputs, mode=modes.get(mode, mode)))


def layer_norm(t: Writer, node: Node, x: Any, shape: Sequence[int], *args: Any) -> str:
    """Mean and spread over the last axes set."""
    weight, bias, epsilon, *_ = _filled_up(args, None, None, 1e-5)
    if any(axis >= len(t.shape(node.name)) - len(shape) for axis in t.kept(_source(node))):
        raise unsupported(node, "pruned channels")
    factor = torch.ones(tuple(shape)) if weight is None else weight
    return str(t.emit("LayerNormalization", x, factor, bias, axis=-len(shape), epsilon=float(epsilon)))


def group_norm(t: Writer, node: Node, x: Any, groups: int, *args: Any) -> str:
    """Mean and spread of groups of channels set."""
    weight, bias, epsilon, *_ = _filled_up(args, None, None, 1e-5)
    channels = t.shape(node.name)[1]
    factor = torch.ones(channels) if weight is None else weight
    shift = torch.zeros(channels) if bias is None else bias
    return str(t.emit("GroupNormalization", x, factor, shift, num_groups=groups, epsilon=float(epsilon)))


def batch_norm(t: Writer, node: Node, x: Any, *args: Any) -> list[str]:
    """Channels scaled and moved by what was learned; with empty results behind it, as torch has them."""
    vectors = list(args[:4])
    epsilon = args[5] if "no_training" in node.target else args[6]
    weight, bias, mean, variance = vectors
    if mean is None or variance is None:
        raise unsupported(node, "statistics of the batch")
    defaults = (torch.ones_like(mean), torch.zeros_like(mean))
    vectors = [defaults[0] if weight is None else weight, defaults[1] if bias is None else bias, mean, variance]
    at = t.kept(_source(node)).get(1)
    if at is not None:
        vectors = [vector[torch.from_numpy(at)] for vector in vectors]
        t.keep(node.name, t.kept(_source(node)))
    return [str(t.emit("BatchNormalization", x, *vectors, epsilon=float(epsilon)))]


def one_batch_norm(t: Writer, node: Node, *args: Any) -> str:
    """The same as an operator with one result."""
    return batch_norm(t, node, *args)[0]


# Looking up


def plain_embedding(t: Writer, node: Node, table: Any, indices: Any, *args: Any) -> str:
    """Rows of a table that is no layer's."""
    return str(t.emit("Gather", table, indices, axis=0))


def gather(t: Writer, node: Node, x: Any, axis: int, index: Any, **kwargs: Any) -> str:
    """Elements at given places of an axis."""
    return str(t.emit("GatherElements", x, index, axis=axis % len(t.shape(node.name))))


def index_select(t: Writer, node: Node, x: Any, axis: int, index: Any) -> str:
    """Places of an axis."""
    return str(t.emit("Gather", x, index, axis=axis % len(t.shape(node.name))))


def index(t: Writer, node: Node, x: Any, indices: Sequence[Any]) -> str:
    """Elements at places that tensors of whole numbers give."""
    given = [place for place, entry in enumerate(indices) if entry is not None]
    types = [entry.dtype for entry in indices if isinstance(entry, Value | torch.Tensor)]
    if any(dtype in (torch.bool, torch.uint8) for dtype in types):
        raise unsupported(node, "a mask as index")
    if len(given) == 1:
        return str(t.emit("Gather", x, t.operand(indices[given[0]], torch.int64), axis=given[0]))
    if given != list(range(len(given))):
        raise unsupported(node, "indices that are not for the first axes")
    columns = [t.operand(entry, torch.int64) for entry in indices[: len(given)]]
    together = columns[0]
    for column in columns[1:]:
        together = t.emit("Add", together, column)
    shape = t.emit("Shape", together)
    last = t.integers([-1])
    wide = [t.emit("Unsqueeze", t.emit("Expand", column, shape), last) for column in columns]
    return str(t.emit("GatherND", x, t.emit("Concat", *wide, axis=-1)))


def power(t: Writer, node: Node, x: Any, exponent: Any) -> str:
    """To a power; squares as products, which runtimes run faster and round alike."""
    dtype = t.dtype(node.name)
    base = t.operand(x, dtype)
    if not isinstance(exponent, Value | torch.Tensor) and exponent == 2:
        return str(t.emit("Mul", base, base))
    return str(t.emit("Pow", base, t.operand(exponent, dtype)))


# Small matters


def unsupported(node: Node, what: str) -> ExportError:
    """What is said of an operation that is known, but not in this form."""
    inside = f" in {node.module}" if node.module else ""
    return ExportError(
        f"the ONNX exporter does not know {node.target}{inside} ({node.name}) with {what}; nothing was written. "
        "`--format torch` and `--format safetensors` know every operation."
    )


def _plain(node: Node, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    if args or kwargs:
        raise unsupported(node, f"further arguments ({[*args, *kwargs]})")


def _filled_up(args: Sequence[Any], *defaults: Any) -> tuple[Any, ...]:
    """Arguments, those that were left out by their defaults."""
    return (*args, *defaults[len(args) :])


def _per_axis(value: Any, rank: int, default: int) -> list[int]:
    if value is None:
        return [default] * rank
    values = list(value) if isinstance(value, list | tuple) else [value]
    return values * rank if len(values) == 1 else values


def _source(node: Node) -> str:
    return node.inputs[0]


_ELEMENTWISE: dict[str, Operator] = {
    **{
        f"aten.{name}.default": unary(op)
        for name, op in {
            "relu": "Relu", "tanh": "Tanh", "sigmoid": "Sigmoid", "exp": "Exp", "log": "Log", "sqrt": "Sqrt",
            "neg": "Neg", "abs": "Abs", "erf": "Erf", "floor": "Floor", "ceil": "Ceil", "round": "Round", "sin": "Sin",
            "cos": "Cos", "reciprocal": "Reciprocal", "sign": "Sign", "hardswish": "HardSwish", "mish": "Mish",
            "logical_not": "Not", "bitwise_not": "Not", "isnan": "IsNaN",
        }.items()
    },
    **{
        f"aten.{name}.{form}": binary(op)
        for name, op in {"add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div"}.items()
        for form in ("Tensor", "Scalar")
    },
    **{
        f"aten.{name}.{form}": binary(op, compares=True)
        for name, op in {
            "gt": "Greater", "ge": "GreaterOrEqual", "lt": "Less", "le": "LessOrEqual", "eq": "Equal",
        }.items()
        for form in ("Tensor", "Scalar")
    },
    "aten.ne.Tensor": negated("Equal"),
    "aten.ne.Scalar": negated("Equal"),
    "aten.rsub.Scalar": reversed_subtraction,
    "aten.rsub.Tensor": reversed_subtraction,
    "aten.maximum.default": binary("Max"),
    "aten.minimum.default": binary("Min"),
    "aten.pow.Tensor_Scalar": power,
    "aten.pow.Tensor_Tensor": power,
    "aten.logical_and.default": logical("And"),
    "aten.logical_or.default": logical("Or"),
    "aten.bitwise_and.Tensor": logical("And"),
    "aten.bitwise_or.Tensor": logical("Or"),
    "aten.__and__.Tensor": logical("And"),
    "aten.__or__.Tensor": logical("Or"),
    "aten.clamp.default": clamp,
    "aten.clamp_min.default": clamp,
    "aten.clamp_max.default": lambda t, node, x, high: clamp(t, node, x, None, high),
    "aten.hardtanh.default": hardtanh,
    "aten.leaky_relu.default": leaky_relu,
    "aten.elu.default": elu,
    "aten.prelu.default": prelu,
    "aten._prelu_kernel.default": prelu,
    "aten.gelu.default": gelu,
    "aten.silu.default": silu,
    "aten.hardsigmoid.default": hardsigmoid,
    "aten.relu6.default": lambda t, node, x: clamp(t, node, x, 0.0, 6.0),
    "aten.rsqrt.default": rsqrt,
    "aten._to_copy.default": cast,
    "aten.to.dtype": cast,
    "aten.type_as.default": cast,
    "aten.clone.default": same,
    "aten.contiguous.default": same,
    "aten.where.self": where,
    "aten.where.ScalarOther": where,
    "aten.where.ScalarSelf": where,
    "aten.where.Scalar": where,
    "aten.masked_fill.Scalar": masked_fill,
    "aten.masked_fill.Tensor": masked_fill,
}  # fmt: skip

_SHAPES: dict[str, Operator] = {
    "aten.sym_size.int": size,
    "operator.mul": of_sizes("Mul"),
    "operator.add": of_sizes("Add"),
    "operator.sub": of_sizes("Sub"),
    "operator.floordiv": of_sizes("Div"),
    "aten.view.default": reshape,
    "aten.reshape.default": reshape,
    "aten._unsafe_view.default": reshape,
    "aten.flatten.using_ints": reshape,
    "aten.unflatten.int": reshape,
    "aten.expand.default": expand,
    "aten.repeat.default": repeat,
    "aten.permute.default": permute,
    "aten.transpose.int": transpose,
    "aten.t.default": transpose,
    "aten.unsqueeze.default": unsqueeze,
    "aten.squeeze.default": squeeze,
    "aten.squeeze.dim": squeeze,
    "aten.squeeze.dims": squeeze,
    "aten.select.int": select,
    "aten.slice.Tensor": narrow,
    "aten.cat.default": concatenate,
    "aten.stack.default": stack,
    "aten.split.Tensor": split,
    "aten.split_with_sizes.default": split,
    "aten.chunk.default": chunk,
    "aten.unbind.int": unbind,
    "operator.getitem": item,
    "aten.full.default": filled(None),
    "aten.ones.default": filled(1),
    "aten.zeros.default": filled(0),
    "aten.new_full.default": filled_of_type(None),
    "aten.new_ones.default": filled_of_type(1),
    "aten.new_zeros.default": filled_of_type(0),
    "aten.full_like.default": filled_like(None),
    "aten.ones_like.default": filled_like(1),
    "aten.zeros_like.default": filled_like(0),
    "aten.arange.default": arange,
    "aten.arange.start": arange,
    "aten.arange.start_step": arange,
    "aten.constant_pad_nd.default": pad,
    "aten.pad.default": pad,
}

_COMPUTATIONS: dict[str, Operator] = {
    "aten.mean.default": reduction("ReduceMean"),
    "aten.mean.dim": reduction("ReduceMean"),
    "aten.sum.default": reduction("ReduceSum"),
    "aten.sum.dim_IntList": reduction("ReduceSum"),
    "aten.amax.default": reduction("ReduceMax"),
    "aten.amin.default": reduction("ReduceMin"),
    "aten.softmax.int": softmax("Softmax"),
    "aten._softmax.default": softmax("Softmax"),
    "aten.log_softmax.int": softmax("LogSoftmax"),
    "aten._log_softmax.default": softmax("LogSoftmax"),
    "aten.cumsum.default": cumulative_sum,
    **{f"aten.conv{n}d.{form}": plain_convolution for n in (1, 2, 3) for form in ("default", "padding")},
    "aten.linear.default": plain_linear,
    "aten.matmul.default": matrix_product,
    "aten.mm.default": matrix_product,
    "aten.bmm.default": matrix_product,
    "aten.addmm.default": product_and_sum,
    "aten.baddbmm.default": product_and_sum,
    FUSED: plain_attention,
    "aten.max_pool1d.default": pool("MaxPool", 1),
    "aten.max_pool2d.default": pool("MaxPool", 2),
    "aten.avg_pool1d.default": pool("AveragePool", 1),
    "aten.avg_pool2d.default": pool("AveragePool", 2),
    "aten.adaptive_avg_pool1d.default": adaptive_average,
    "aten.adaptive_avg_pool2d.default": adaptive_average,
    "aten.layer_norm.default": layer_norm,
    "aten.group_norm.default": group_norm,
    "aten.batch_norm.default": one_batch_norm,
    "aten._native_batch_norm_legit_no_training.default": batch_norm,
    "aten.embedding.default": plain_embedding,
    "aten.gather.default": gather,
    "aten.index_select.default": index_select,
    "aten.index.Tensor": index,
}

OPERATORS: Mapping[str, Operator] = {**_ELEMENTWISE, **_SHAPES, **_COMPUTATIONS}
"""By the name that the traced graph has for it."""
