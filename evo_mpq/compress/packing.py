"""The packed file: bit-packed codes, scales, zero points and affines in one safetensors section.

Its length follows from the network and the policy alone, before anything is measured: it is the ``size`` objective.
Layout of the section, layer by layer in the order of the graph: the codes (``bits`` bits each, little-endian,
padded to a byte), the scales and, if asymmetric, zero points; then per use the activation's scale and zero point, and
the affine's scale and shift. The edges' grids and all other tensors follow. Vectors of scales are float16 behind one
byte, the power of two that they are multiplied with. The float reference is stored as raw float32 tensors.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch.utils import _pytree as pytree

from evo_mpq.compress.bank import QuantizedWeight, as_matrix, from_matrix
from evo_mpq.compress.program import Affine, broadcastable
from evo_mpq.compress.quantizers import (
    UNTOUCHED_BITS,
    ActivationGrid,
    WeightGrid,
    WeightQuantizer,
    half_exponent,
)
from evo_mpq.compress.state import CompressedState
from evo_mpq.errors import PackedFileError
from evo_mpq.network.graph import Graph
from evo_mpq.network.layers import Layer
from evo_mpq.network.network import Network, TensorSignature
from evo_mpq.network.tracing import WEIGHT_VIEWS
from evo_mpq.space.policy import LayerPolicy, Policy

FORMAT = "evo-mpq packed 1"
_GRID_BYTES = 5  # float32 scale, uint8 zero point
_WIDEST_COUNT = 10**13  # bytes; a header is padded as if its section were that long


class Layout:
    """Where everything stands in the section of one network's packed files.

    Args:
        graph: the traced network.
        tensors: its state; only names and shapes count.
        layers: its layers.
        edges: activations that no layer governs, by reader.
        quantizer: says how many scales a matrix has.
        quantized_edges: whether the edges are quantized.
    """

    def __init__(
        self,
        graph: Graph,
        tensors: Mapping[str, torch.Tensor],
        layers: Sequence[Layer],
        edges: Mapping[str, tuple[str, ...]],
        quantizer: WeightQuantizer,
        *,
        quantized_edges: bool,
    ) -> None:
        self.graph = graph
        self.tensors = tensors
        self.layers = tuple(layers)
        self.quantizer = quantizer
        sources = {name for names in edges.values() for name in names}
        self.edges = tuple(sorted(sources)) if quantized_edges else ()
        self.others = _other_tensors(graph, tensors, layers)
        self._other_bytes = sum(tensors[name].nbytes for name in self.others)
        self._reference_bytes = sum(tensor.nbytes for tensor in tensors.values())
        self._layer_bytes: dict[tuple[str, LayerPolicy], int] = {}

    def n_bytes(self, policy: Policy, *, reference: bool) -> int:
        """Length of the section in bytes: a constant plus a sum over layers."""
        if reference:
            return self._reference_bytes
        total = self._other_bytes + _GRID_BYTES * len(self.edges)
        for layer in self.layers:
            key = (layer.name, policy.layers[layer.name])
            if key not in self._layer_bytes:
                self._layer_bytes[key] = self.layer_bytes(layer, policy.layers[layer.name])
            total += self._layer_bytes[key]
        return total

    def layer_bytes(self, layer: Layer, policy: LayerPolicy) -> int:
        """Bytes that one layer adds to a packed file."""
        if policy.weight_bits == UNTOUCHED_BITS:
            total = self.tensors[layer.parameter].nbytes
        else:
            n_scales = self.n_scales(layer)
            total = -(-layer.n_parameters * policy.weight_bits // 8) + _vector_bytes(n_scales)
            total += 0 if self.quantizer.symmetric else n_scales
        for use in layer.uses:
            total += 2 * _vector_bytes(use.n_channels)
            if use.input is not None and policy.activation_bits != UNTOUCHED_BITS:
                total += _GRID_BYTES
        return total

    def n_scales(self, layer: Layer) -> int:
        """Scales of a layer's weight."""
        return self.quantizer.n_scales(layer.n_rows, layer.n_parameters // layer.n_rows)

    def float_tensors(self, policy: Policy, *, reference: bool) -> list[str]:
        """Names of the tensors that a packed file stores as they are."""
        if reference:
            return list(self.tensors)
        untouched = [
            layer.parameter for layer in self.layers if policy.layers[layer.name].weight_bits == UNTOUCHED_BITS
        ]
        return [*untouched, *self.others]


def _other_tensors(graph: Graph, tensors: Mapping[str, torch.Tensor], layers: Sequence[Layer]) -> tuple[str, ...]:
    """Tensors that are no layer's weight and not only biases that the affines take over."""
    weights = {layer.parameter for layer in layers}
    biases = {use.node: use.bias for layer in layers for use in layer.uses}
    absorbed = {node.target for node in graph if node.op == "tensor" and _is_only_bias(graph, node.name, biases)}
    return tuple(name for name in tensors if name not in weights | absorbed)


def _is_only_bias(graph: Graph, name: str, biases: Mapping[str, str | None]) -> bool:
    """Whether a tensor, and every view of it, is nothing but the bias of layers' operations."""
    return all(
        biases.get(reader) == name or (graph[reader].target in WEIGHT_VIEWS and _is_only_bias(graph, reader, biases))
        for reader in graph.consumers[name]
    )


def _vector_bytes(n: int) -> int:
    return 1 + 2 * n


def pack(network: Network, layout: Layout, state: CompressedState, settings: Mapping[str, Any]) -> bytes:
    """The packed file of a compressed network.

    Args:
        network: the traced network.
        layout: of its packed files.
        state: what to store.
        settings: what the compressor was made with, kept in the header.
    """
    reference = all(affine is None for affine in state.affines.values())
    section = bytearray()
    if reference:
        for name in network.tensors:
            section += _raw(state.tensors[name])
    else:
        for layer in network.layers:
            section += _layer_section(layer, layout, state)
        for name in layout.edges:
            section += _grid_bytes(state.edge_grids[name])
        for name in layout.others:
            section += _raw(state.tensors[name])
    return _header(network, state.policy, settings, reference, bytes(section)) + bytes(section)


def _layer_section(layer: Layer, layout: Layout, state: CompressedState) -> bytes:
    section = bytearray()
    weight = state.weights.get(layer.name)
    if weight is None:
        section += _raw(state.tensors[layer.parameter])
    else:
        codes = (weight.codes.flatten().numpy() - weight.grid.lowest).astype(np.uint8)
        n = layout.n_scales(layer)
        section += pack_bits(codes, weight.grid.bits)
        section += _vector(weight.grid.scale.flatten()[:n])
        if weight.grid.lowest == 0:
            section += weight.grid.zero_point.flatten()[:n].to(torch.uint8).numpy().tobytes()
    for use in layer.uses:
        grid = state.activations.get(use.node)
        if grid is not None:
            section += _grid_bytes(grid)
        affine = state.affines[use.node]
        assert affine is not None
        section += _vector(affine[0].flatten()) + _vector(affine[1].flatten())
    return bytes(section)


def pack_bits(codes: np.ndarray[Any, np.dtype[np.uint8]], bits: int) -> bytes:
    """Codes of ``bits`` bits each, least significant bit first, padded to a byte.

    >>> pack_bits(np.array([1, 2, 3], dtype=np.uint8), 2)
    b'9'
    """
    planes = (codes[:, None] >> np.arange(bits, dtype=np.uint8)) & 1
    return np.packbits(planes.reshape(-1), bitorder="little").tobytes()


def unpack_bits(data: bytes, bits: int, n: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The ``n`` codes that ``pack_bits`` packed.

    >>> unpack_bits(b'9', 2, 3)
    array([1, 2, 3], dtype=uint8)
    """
    flat = np.unpackbits(np.frombuffer(data, dtype=np.uint8), count=n * bits, bitorder="little")
    weights = (1 << np.arange(bits)).astype(np.uint8)
    return np.asarray((flat.reshape(n, bits) * weights).sum(1), dtype=np.uint8)


def _raw(tensor: torch.Tensor) -> bytes:
    flat = tensor.contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


def _vector(values: torch.Tensor) -> bytes:
    exponent = half_exponent(values)
    return struct.pack("<b", exponent) + (values / 2.0**exponent).half().numpy().tobytes()


def _grid_bytes(grid: ActivationGrid) -> bytes:
    return struct.pack("<fB", grid.scale, grid.zero_point)


def _policy_text(network: Network, policy: Policy) -> str:
    """The policy as text whose length depends on the network only."""
    columns = {
        key: "[" + ",".join(f"{getattr(policy.layers[layer.name], key):>2}" for layer in network.layers) + "]"
        for key in ("weight_bits", "activation_bits")
    }
    return "{" + ",".join(f'"{key}":{text}' for key, text in columns.items()) + "}"


def _header(network: Network, policy: Policy, settings: Mapping[str, Any], reference: bool, section: bytes) -> bytes:
    metadata = _metadata(network, policy, settings, reference)
    text = _header_text(metadata, _checksum(metadata, section), len(section))
    length = header_bytes(network) - 8
    if len(text) > length:
        raise ValueError(f"The header's text has {len(text)} bytes, more than the {length} that are reserved.")
    return struct.pack("<Q", length) + text.ljust(length)


def _metadata(network: Network, policy: Policy, settings: Mapping[str, Any], reference: bool) -> dict[str, str]:
    return {
        "format": FORMAT,
        "policy": _policy_text(network, policy),
        "reference": str(int(reference)),
        "compressor": json.dumps(settings, separators=(",", ":")),
        "inputs": json.dumps([asdict(entry) for entry in network.signature], separators=(",", ":")),
        "structure": pytree.treespec_dumps(network.structure),
        "forward": json.dumps(network.forward),
        "output": json.dumps(network.output),
        "nodes": "".join(network.graph.node_hashes()),
    }


def _checksum(metadata: Mapping[str, str], section: bytes) -> str:
    """CRC-32 of everything that a packed file says, eight hexadecimal digits."""
    return f"{zlib.crc32(section, zlib.crc32(json.dumps(metadata).encode())):08x}"


def _header_text(metadata: Mapping[str, str], checksum: str, n_bytes: int) -> bytes:
    header = {
        "__metadata__": {**metadata, "checksum": checksum},
        "packed": {"dtype": "U8", "shape": [n_bytes], "data_offsets": [0, n_bytes]},
    }
    return json.dumps(header, separators=(",", ":")).encode()


_SETTINGS_BYTES = 320  # reserved for the compressor's settings, escaped


def header_bytes(network: Network) -> int:
    """Bytes before the section: the length field and the padded header, the same for every policy."""
    policy = Policy.uniform([layer.name for layer in network.layers], 32, 32)
    text = _header_text(_metadata(network, policy, {}, True), "00000000", _WIDEST_COUNT)
    return 8 + -(-(len(text) + _SETTINGS_BYTES) // 8) * 8


@dataclass(frozen=True, eq=False)
class PackedFile:
    """A packed file's header, read and checked.

    Attributes:
        settings: what the compressor was made with.
        reference: whether it holds the float reference.
        signature: of the inputs.
        structure: how they are nested.
        forward: name of the user's way to call the network.
        output: which output counts.
        nodes: four hexadecimal digits per node.
        weight_bits: per layer.
        activation_bits: per layer.
        section: everything behind the header.
    """

    settings: Mapping[str, Any]
    reference: bool
    signature: tuple[TensorSignature, ...]
    structure: pytree.TreeSpec
    forward: str | None
    output: str | int | None
    nodes: tuple[str, ...]
    weight_bits: tuple[int, ...]
    activation_bits: tuple[int, ...]
    section: bytes


def read_packed(data: bytes, name: str) -> PackedFile:
    """The header and the section of a packed file.

    Raises:
        PackedFileError: the bytes are no complete packed file.
    """
    try:
        (length,) = struct.unpack_from("<Q", data)
        header = json.loads(data[8 : 8 + length])
        metadata = header["__metadata__"]
        if metadata["format"] != FORMAT:
            raise ValueError(f"its format is {metadata['format']!r}, this version reads {FORMAT!r}")
        section = data[8 + length :]
        if len(section) != header["packed"]["data_offsets"][1]:
            raise ValueError(f"{header['packed']['data_offsets'][1]} bytes were announced, {len(section)} are there")
        if metadata.pop("checksum") != _checksum(metadata, section):
            raise ValueError("its checksum does not fit its content, so it is damaged")
        policy = json.loads(metadata["policy"])
        hashes = metadata["nodes"]
        return PackedFile(
            json.loads(metadata["compressor"]),
            metadata["reference"] == "1",
            tuple(
                TensorSignature(tuple(entry["shape"]), entry["dtype"], tuple(entry["dynamic"]))
                for entry in json.loads(metadata["inputs"])
            ),
            pytree.treespec_loads(metadata["structure"]),
            json.loads(metadata["forward"]),
            json.loads(metadata["output"]),
            tuple(hashes[i : i + 4] for i in range(0, len(hashes), 4)),
            tuple(policy["weight_bits"]),
            tuple(policy["activation_bits"]),
            section,
        )
    except (struct.error, ValueError, KeyError, TypeError, IndexError) as error:
        raise PackedFileError(f"{name} is no complete evo-mpq file: {error}.") from error


class _Reader:
    """Takes values off a section, in order."""

    def __init__(self, section: bytes) -> None:
        self._data = memoryview(section)
        self._position = 0

    def take(self, n: int) -> bytes:
        part = bytes(self._data[self._position : self._position + n])
        if len(part) != n:
            raise PackedFileError("The packed file ends too early.")
        self._position += n
        return part

    def tensor(self, like: torch.Tensor) -> torch.Tensor:
        raw = torch.frombuffer(bytearray(self.take(like.nbytes)), dtype=torch.uint8) if like.nbytes else None
        return torch.empty_like(like) if raw is None else raw.view(like.dtype).reshape(like.shape)

    def vector(self, n: int) -> torch.Tensor:
        (exponent,) = struct.unpack("<b", self.take(1))
        halves = torch.frombuffer(bytearray(self.take(2 * n)), dtype=torch.float16)
        return torch.mul(halves.float(), 2.0**exponent)

    def grid(self, bits: int) -> ActivationGrid:
        scale, zero_point = struct.unpack("<fB", self.take(_GRID_BYTES))
        return ActivationGrid(bits, scale, zero_point)


def unpack(packed: PackedFile, layout: Layout) -> CompressedState:
    """The compressed state that ``pack`` stored.

    Args:
        packed: from ``read_packed``.
        layout: of the packed files of a network with the same graph.

    Raises:
        PackedFileError: the section does not fit the network.
    """
    if len(packed.weight_bits) != len(layout.layers):
        raise PackedFileError(
            f"The packed file holds {len(packed.weight_bits)} layers, the network has {len(layout.layers)}."
        )
    bits = zip(packed.weight_bits, packed.activation_bits, strict=True)
    policy = Policy({layer.name: LayerPolicy(*pair) for layer, pair in zip(layout.layers, bits, strict=True)})
    if layout.n_bytes(policy, reference=packed.reference) != len(packed.section):
        raise PackedFileError(
            f"The packed file's section has {len(packed.section)} bytes; for this network and policy it would have "
            f"{layout.n_bytes(policy, reference=packed.reference)}."
        )
    reader = _Reader(packed.section)
    if packed.reference:
        nothing: dict[str, Any] = {use.node: None for layer in layout.layers for use in layer.uses}
        tensors = {name: reader.tensor(tensor) for name, tensor in layout.tensors.items()}
        return CompressedState(policy, {}, nothing, nothing, {}, tensors)
    weights: dict[str, QuantizedWeight] = {}
    activations: dict[str, ActivationGrid | None] = {}
    affines: dict[str, Affine | None] = {}
    tensors = {}
    for layer in layout.layers:
        decision = policy.layers[layer.name]
        if decision.weight_bits == UNTOUCHED_BITS:
            tensors[layer.parameter] = reader.tensor(layout.tensors[layer.parameter])
        else:
            weights[layer.name] = _read_weight(reader, layer, layout, decision.weight_bits)
        for use in layer.uses:
            quantized = use.input is not None and decision.activation_bits != UNTOUCHED_BITS
            activations[use.node] = reader.grid(decision.activation_bits) if quantized else None
            scale, shift = reader.vector(use.n_channels), reader.vector(use.n_channels)
            affines[use.node] = (
                broadcastable(layout.graph, use, scale),
                broadcastable(layout.graph, use, shift),
            )
    edge_bits = packed.settings["activations"]["edges"]
    edge_grids = {name: reader.grid(edge_bits) for name in layout.edges}
    for name in layout.others:
        tensors[name] = reader.tensor(layout.tensors[name])
    return CompressedState(policy, weights, activations, affines, edge_grids, tensors)


def _read_weight(reader: _Reader, layer: Layer, layout: Layout, bits: int) -> QuantizedWeight:
    rows, columns = as_matrix(layout.tensors[layer.parameter], layer).shape
    quantizer = layout.quantizer
    lowest = -(2 ** (bits - 1)) if quantizer.symmetric else 0
    n = layer.n_parameters
    codes = torch.from_numpy(unpack_bits(reader.take(-(-n * bits // 8)), bits, n).astype(np.int16) + lowest)
    n_scales, groups = layout.n_scales(layer), quantizer.n_groups(columns)
    scale = reader.vector(n_scales)
    zero_point = torch.zeros(n_scales)
    if not quantizer.symmetric:
        zero_point = torch.frombuffer(bytearray(reader.take(n_scales)), dtype=torch.uint8).float()
    if n_scales < rows * groups:  # one scale for the whole tensor
        scale, zero_point = scale.expand(rows * groups), zero_point.expand(rows * groups)
    grid = WeightGrid(
        bits,
        scale.reshape(rows, groups),
        zero_point.reshape(rows, groups),
        quantizer.group_size(columns),
        lowest,
    )
    matrix = codes.reshape(rows, columns)
    return QuantizedWeight(grid, matrix, from_matrix(grid.dequantize(matrix), layer))
