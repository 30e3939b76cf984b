"""What is written of a network, and what is known of it while it is: values, shapes, channels that remain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import torch

from evo_mpq.compress.compressor import Compressor
from evo_mpq.compress.module import CompressedModule
from evo_mpq.compress.quantizers import ActivationGrid, half_exponent
from evo_mpq.errors import ExportError
from evo_mpq.network.blocks import active_nodes
from evo_mpq.network.graph import Node, run
from evo_mpq.network.network import Network
from evo_mpq.results.export.onnx.channels import Kept, Positions, cut_constant
from evo_mpq.results.export.onnx.model import Array, OnnxModel

Linear: TypeAlias = Literal["qdq", "nbits"]


@dataclass(frozen=True)
class Value:
    """A tensor of the ONNX graph.

    Attributes:
        name: of the tensor.
        dtype: as torch calls it.
    """

    name: str
    dtype: torch.dtype


@dataclass(frozen=True)
class Size:
    """A whole number that depends on the batch: the name of an int64 tensor of one element."""

    name: str


@dataclass(frozen=True)
class Options:
    """What may be chosen about an ONNX file.

    Attributes:
        linear: how linear layers with 4-bit weights and float activations are stored: ``"nbits"`` as blocks of 4-bit
            integers, which ONNX Runtime runs with its own kernel; ``"qdq"`` unpacks them into floats at load.
        portable: weights so that kernels for processors without VNNI instructions cannot saturate: codes of fewer than
            8 bits stay within ±64, and 8-bit weights are stored as unsigned integers, whose kernels are slower and add
            up without loss.
        exact: everything in floats, on the grids that the policy says: what was measured to the last bits, in files as
            small, but with no integer kernels.
        apart: additions of branches in floats, each branch rounded before. OpenVINO adds a branch to the sums of a
            convolution before it rounds them, which is nearer to the float network than what was measured; with this it
            does not, and ONNX Runtime's integer additions are lost.
    """

    linear: Linear = "qdq"
    portable: bool = False
    exact: bool = False
    apart: bool = False


class Writer:
    """One compressed network while it becomes an ONNX model.

    Args:
        compressor: of the run.
        module: what it made of a policy.
        options: how.

    Attributes:
        model: what is written.
        network: the traced one.
        state: of the compressed network.
        options: how.
        values: of every node that was translated.
        tensors: the network's state as the policy leaves it.
        dropped: blocks that are left out, by the node that would be their output.
        active: names of the nodes that are needed.
        node: that is being translated.
        unpacked: names of tensors of codes, by layer and content.
        sites: names of layers and products, each with that of the node that multiplies.
        zero_points: codes that mean 0, by name of the dequantized tensor.
    """

    def __init__(self, compressor: Compressor, module: CompressedModule, options: Options) -> None:
        self.model = OnnxModel()
        self.network: Network = compressor.network
        self.state = module.state
        self.options = options
        self.values: dict[str, Any] = {}
        self.tensors = {**self.network.tensors, **self._compressed_parameters()}
        self.dropped = {block.output: block for block in compressor.dropped(self.state.policy)}
        self.active = active_nodes(self.network.graph, list(self.dropped.values()))
        self._examples = _examples(self.network)
        self._kept: dict[str, Kept] = {}
        self.unpacked: dict[tuple[str, bytes, tuple[int, ...]], str] = {}
        self.sites: list[tuple[str, str]] = []
        self.zero_points: dict[str, int] = {}
        self._rounded: dict[tuple[str, int, float, int], str] = {}
        self._pairs: set[str] = set()  # what is dequantized right behind its quantization
        self.node: Node | None = None

    def _compressed_parameters(self) -> dict[str, torch.Tensor]:
        weights = self.state.weights
        return {layer.parameter: weights[layer.name].values for layer in self.network.layers if layer.name in weights}

    # What is known of nodes

    def shape(self, name: str) -> tuple[int, ...]:
        """Of a node's value for an example of two samples, with all channels."""
        return tuple(self._examples[name][0])

    def dtype(self, name: str) -> torch.dtype:
        """Of a node's value."""
        return self._examples[name][1]

    def kept(self, name: str) -> Kept:
        """What remains of a node's value once pruned channels are cut out."""
        return self._kept.get(name, {})

    def keep(self, name: str, kept: Kept) -> None:
        """Says what remains of a node's value."""
        if kept:
            self._kept[name] = kept

    # Writing

    def emit(self, op: str, *inputs: Any, n_outputs: int = 1, **attributes: Any) -> Any:
        """Adds an operation, named like the node that is translated; its output's name, or the list of them."""
        names = [self.name_of(value) for value in inputs]
        outputs = self.model.node(op, names, self.label, n_outputs, **attributes)
        return outputs[0] if n_outputs == 1 else outputs

    @property
    def label(self) -> str:
        """Name for what is written now: the module's path and the traced node's name."""
        assert self.node is not None
        return f"{self.node.module}/{self.node.name}" if self.node.module else self.node.name

    def name_of(self, value: Any, dtype: torch.dtype | None = None) -> str:
        """The name of a tensor that holds a value; one that is given as a name already has it.

        Args:
            value: a name, a `Value` or `Size`, a tensor, an array or a number; None is an input that is left out.
            dtype: of a number or a constant tensor.
        """
        if value is None:
            return ""
        if isinstance(value, str):
            return value
        if isinstance(value, Value | Size):
            return value.name
        if isinstance(value, np.ndarray | np.generic):
            return self.model.constant(np.asarray(value), f"{self.label}.constant")
        tensor = value if isinstance(value, torch.Tensor) else torch.tensor(value)
        if dtype is not None:
            tensor = tensor.to(dtype)
        elif not isinstance(value, torch.Tensor) and tensor.is_floating_point():
            tensor = tensor.float()
        return self.model.constant(_as_array(tensor), f"{self.label}.constant")

    def operand(self, value: Any, dtype: torch.dtype) -> str:
        """The name of an operand of an elementwise operation, of a type; constants lose channels that are gone."""
        assert self.node is not None
        if isinstance(value, torch.Tensor) and (kept := self.kept(self.node.name)):
            shape = self.shape(self.node.name)
            value = cut_constant(value, len(shape), kept, shape)
        if not isinstance(value, Value | Size):
            return self.name_of(value, dtype)
        own = torch.int64 if isinstance(value, Size) else value.dtype
        return value.name if own == dtype else str(self.emit("Cast", value, to=self.onnx_type(dtype)))

    def onnx_type(self, dtype: torch.dtype) -> int:
        """ONNX's number of a type."""
        return self.model.element_type(str(dtype).removeprefix("torch."))

    def integers(self, values: Sequence[Any]) -> str:
        """The name of an int64 vector of whole numbers, some of which may depend on the batch."""
        if not any(isinstance(value, Size) for value in values):
            return self.name_of(np.array([int(value) for value in values], dtype=np.int64))
        parts: list[str] = []
        fixed: list[int] = []
        for value in [*values, None]:
            if isinstance(value, int):
                fixed.append(value)
                continue
            if fixed:
                parts.append(self.name_of(np.array(fixed, dtype=np.int64)))
                fixed = []
            if value is not None:
                parts.append(self.name_of(value))
        return parts[0] if len(parts) == 1 else str(self.emit("Concat", *parts, axis=0))

    def vector(self, values: Array, name: str, negative: bool = False) -> str:
        """The name of a float32 tensor of numbers, which are stored as float16 where that loses nothing.

        So are scales and corrections in packed files: half numbers times one power of two.

        Args:
            values: of any shape.
            name: of the tensor.
            negative: whether the tensor holds the negative numbers.
        """
        whole = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
        power = 2.0 ** half_exponent(whole)
        halves = (whole / power).half()
        sign = -1.0 if negative else 1.0
        if not torch.equal(halves.float() * power, whole):
            return self.model.constant(np.asarray(values * np.float32(sign), dtype=np.float32), name)
        stored = self.model.constant(halves.numpy(), f"{name}.halves")
        (floats,) = self.model.node("Cast", [stored], f"{name}.floats", to=self.model.element_type("float32"))
        divisor = self.model.constant(np.array(sign / power, dtype=np.float32), f"{name}.divisor")
        return self.model.node("Div", [floats, divisor], name)[0]

    def rounded(self, source: str, grid: ActivationGrid) -> Value:
        """A node's value on a grid: quantized to uint8 and dequantized, once for all that read it.

        Grids of fewer than 8 bits use the first codes of the byte; larger ones are cut off as integers, which leaves
        the layers around in integers, too. A rectifier in front is left out where the grid ends where it does.
        """
        return self.on_grid(self.values[self._before_rectifiers(source, grid)], grid)

    def on_grid(self, source: Any, grid: ActivationGrid) -> Value:
        """A value on a grid, see `rounded`."""
        value = self.name_of(source)
        if value in self._pairs:  # a block is left out in between; ONNX Runtime makes one pair of two, with other steps
            value = self.name_of(self.untouchable(Value(value, torch.float32)))
        key = (value, grid.bits, grid.scale, grid.zero_point)
        if key not in self._rounded:
            base = f"{value}.{grid.bits}bits"
            scale, zero = self._grid_constants(grid, base)
            (codes,) = self.model.node("QuantizeLinear", [value, scale, zero], f"{base}.quantized")
            if grid.bits < 8:
                highest = self.model.constant(np.array(2**grid.bits - 1, dtype=np.uint8), f"{base}.highest")
                (codes,) = self.model.node("Clip", [codes, "", highest], f"{base}.clipped")
            (self._rounded[key],) = self.model.node("DequantizeLinear", [codes, scale, zero], base)
            self.zero_points[self._rounded[key]] = grid.zero_point
            if grid.bits == 8:
                self._pairs.add(self._rounded[key])
        return Value(self._rounded[key], torch.float32)

    def untouchable(self, x: Value) -> Value:
        """The same value behind an operation that OpenVINO moves nothing across: a maximum with the lowest number."""
        return Value(str(self.emit("Max", x, float(np.finfo(np.float32).min))), x.dtype)

    def in_fine_steps(self, x: Value, grid: ActivationGrid) -> Value:
        """A value that is on a grid of fewer than 8 bits, with codes that use the whole byte.

        It is the same value; but the integer bias of a layer that reads it is a whole number of its steps, and those
        of 4 bits are so coarse that its rounding would move codes of the output.
        """
        return x if grid.bits >= 8 else self.on_grid(x, fine_grid(grid))

    def _grid_constants(self, grid: ActivationGrid, base: str) -> tuple[str, str]:
        scale = self.model.constant(np.array(grid.scale, dtype=np.float32), f"{base}.scale")
        return scale, self.model.constant(np.array(grid.zero_point, dtype=np.uint8), f"{base}.zero")

    def _before_rectifiers(self, source: str, grid: ActivationGrid) -> str:
        """The node in front of rectifiers that change nothing once the value is on the grid."""
        node = self.network.graph[source]
        while node.target in ("aten.relu.default", "aten.hardtanh.default") and node.name not in self.dropped:
            low, high = (0.0, None) if node.target == "aten.relu.default" else (*node.args[1:3], -1.0, 1.0)[:2]
            codes = np.round(np.float32(low) / np.float32(grid.scale)) + grid.zero_point
            if codes > 0 or (high is not None and np.round(high / grid.scale) + grid.zero_point < 2**grid.bits - 1):
                break
            before = node.args[0].node
            if not isinstance(self.values.get(before), Value):
                break
            node = self.network.graph[before]
        return node.name

    def with_channels(self, x: Any, found: Positions | None, wanted: Positions | None, axis: int, n: int) -> Value:
        """A value with other channels than it has: those that are too many left out, removed ones zero again.

        Only a dropped layer lets two groups of channels meet; otherwise everybody has what its reader wants.

        Args:
            x: a value.
            found: positions that it has of an axis; None for all.
            wanted: likewise.
            axis: of the channels.
            n: how many there are with nothing removed.
        """
        have, want = (np.arange(n) if at is None else at for at in (found, wanted))
        if np.array_equal(have, want):
            return x if isinstance(x, Value) else Value(self.name_of(x), x.dtype)
        places = np.searchsorted(have, want)
        missing = (places == len(have)) | (have[places.clip(max=len(have) - 1)] != want)
        if missing.any():
            ends = [0, 1, axis]
            x = Value(str(self.emit("Pad", x, self.integers(ends[:2]), None, self.integers(ends[2:]))), x.dtype)
        return Value(str(self.emit("Gather", x, np.where(missing, len(have), places), axis=axis)), x.dtype)

    def edge(self, name: str) -> Value | None:
        """A node's value on the grid of its edge, None where it has none."""
        grid = self.state.edge_grids.get(name)
        return None if grid is None else self.rounded(name, grid)


def fine_grid(grid: ActivationGrid) -> ActivationGrid:
    """The grid of 8 bits of which every 2^(8 - bits)-th step is one of a coarser grid's."""
    factor = 2 ** (8 - grid.bits)
    return ActivationGrid(8, grid.scale / factor, grid.zero_point * factor)


def _examples(network: Network) -> Mapping[str, tuple[tuple[int, ...], torch.dtype]]:
    """Shape and type of every tensor of the graph for two samples of zeros."""
    found: dict[str, tuple[tuple[int, ...], torch.dtype]] = {}

    def visit(node: Node, value: Any) -> None:
        if isinstance(value, torch.Tensor):
            found[node.name] = tuple(value.shape), value.dtype

    with torch.no_grad():
        run(network.graph, network.tensors, [entry.zeros() for entry in network.signature], visit)
    return found


def _as_array(tensor: torch.Tensor) -> Array:
    if tensor.is_complex():
        raise ExportError("ONNX files hold no complex numbers; nothing was written.")
    return np.asarray(tensor.detach().contiguous().numpy())
