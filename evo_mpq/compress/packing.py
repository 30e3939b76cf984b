"""The packed file: bit-packed codes, scales, zero points and affines in one safetensors section.

Its length follows from the network and the policy alone, before anything is measured: it is the ``size`` objective.
Layout of the section, layer by layer in the order of the graph: masks of the output and input channels that remain,
one bit each, where some are pruned; of what remains the places of the codes among all codes (``bits`` bits each,
little-endian, padded to a byte), the scales and, if asymmetric, zero points; then per use the activation's scale and
zero point, and the affine's scale and shift. The grids of products and edges and all other tensors follow. What belongs
to dropped blocks is left out, edges apart. Vectors of scales are float16 behind one byte, the power of two that they
are multiplied with. The float reference is stored as raw float32 tensors.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.utils import _pytree as pytree

from evo_mpq.compress.bank import CompressedWeight, compressed_weight
from evo_mpq.compress.channels import Channels, WeightForm
from evo_mpq.compress.program import Affine, broadcastable
from evo_mpq.compress.quantizers import (
    UNTOUCHED_BITS,
    ActivationGrid,
    WeightGrid,
    WeightQuantizer,
    code_range,
    half_exponent,
)
from evo_mpq.compress.state import CompressedState
from evo_mpq.errors import PackedFileError
from evo_mpq.network.blocks import Block
from evo_mpq.network.graph import Graph
from evo_mpq.network.layers import Layer
from evo_mpq.network.network import Network, TensorSignature
from evo_mpq.network.products import Product
from evo_mpq.network.tracing import WEIGHT_VIEWS
from evo_mpq.space.genes import DROP_KIND
from evo_mpq.space.policy import LayerPolicy, Policy

FORMAT = "evo-mpq packed 3"
_GRID_BYTES = 5  # float32 scale, uint8 zero point
_ROWS, _COLUMNS = 1, 2  # flags of a layer whose output, or input, channels are pruned
_WIDEST_COUNT = 10**13  # bytes; a header is padded as if its section were that long


class Layout:
    """Where everything stands in the section of one network's packed files.

    Args:
        graph: the traced network.
        tensors: its state; only names and shapes count.
        layers: its layers.
        products: its products of activations.
        edges: activations that no layer governs, by reader.
        quantizer: says how many scales a matrix has.
        channels: say what remains of a pruned layer.
        quantized_edges: whether the edges are quantized.
    """

    def __init__(
        self,
        graph: Graph,
        tensors: Mapping[str, torch.Tensor],
        layers: Sequence[Layer],
        products: Sequence[Product],
        edges: Mapping[str, tuple[str, ...]],
        quantizer: WeightQuantizer,
        channels: Channels,
        *,
        quantized_edges: bool,
    ) -> None:
        self.graph = graph
        self.tensors = tensors
        self.layers = tuple(layers)
        self.products = tuple(products)
        self.quantizer = quantizer
        self.channels = channels
        sources = {name for names in edges.values() for name in names}
        self.edges = tuple(sorted(sources)) if quantized_edges else ()
        self.others = _other_tensors(graph, tensors, layers)
        self._tensor_nodes: dict[str, list[str]] = {}
        for node in graph:
            if node.op == "tensor":
                self._tensor_nodes.setdefault(node.target, []).append(node.name)
        self._reference_bytes = sum(tensor.nbytes for tensor in tensors.values())
        self._other_bytes: dict[frozenset[str], int] = {}
        self._layer_bytes: dict[tuple[str, int, WeightForm], int] = {}

    def n_bytes(self, policy: Policy, computed: frozenset[str], *, reference: bool) -> int:
        """Length of the section in bytes: for the nodes that are computed, a constant plus a sum over layers."""
        if reference:
            return self._reference_bytes
        if computed not in self._other_bytes:
            self._other_bytes[computed] = sum(self.tensors[name].nbytes for name in self.others_among(computed))
            self._other_bytes[computed] += _GRID_BYTES * len(self.edges)
        total = self._other_bytes[computed]
        total += 2 * _GRID_BYTES * len(self.quantized_products(policy, computed))
        for layer in self.layers_among(computed):
            key = (layer.name, policy.layers[layer.name].activation_bits, self.channels.form(policy, layer))
            if key not in self._layer_bytes:
                self._layer_bytes[key] = self.layer_bytes(layer, *key[1:])
            total += self._layer_bytes[key]
        return total

    def layer_bytes(self, layer: Layer, activation_bits: int, form: WeightForm) -> int:
        """Bytes that one layer adds to a packed file."""
        rows, columns = self.channels.rows(layer, form), self.channels.columns(layer, form)
        n_rows = layer.n_rows if rows is None else len(rows)
        n_columns = n_matrix_columns(layer) if columns is None else len(columns)
        total = 0 if rows is None else -(-layer.n_rows // 8)
        total += 0 if columns is None else -(-n_input_channels(layer) // 8)
        if form.bits == UNTOUCHED_BITS:
            total += n_rows * n_columns * self.tensors[layer.parameter].element_size()
        else:
            n_scales = self.quantizer.n_scales(n_rows, n_columns)
            total += -(-n_rows * n_columns * form.bits // 8) + _vector_bytes(n_scales)
            total += 0 if self.quantizer.symmetric else n_scales
        for use in layer.uses:
            total += 2 * _vector_bytes(use.n_channels if rows is None else n_rows)
            if use.input is not None and activation_bits != UNTOUCHED_BITS:
                total += _GRID_BYTES
        return total

    def layers_among(self, computed: frozenset[str]) -> list[Layer]:
        """Layers with a use among the computed nodes."""
        return [layer for layer in self.layers if any(use.node in computed for use in layer.uses)]

    def quantized_products(self, policy: Policy, computed: frozenset[str]) -> list[Product]:
        """Products among the computed nodes whose operands are quantized."""
        return [
            product
            for product in self.products
            if product.node in computed and policy.bits_of(product.name) != UNTOUCHED_BITS
        ]

    def others_among(self, computed: frozenset[str]) -> list[str]:
        """Tensors that belong to no layer and that a computed node is."""
        return [name for name in self.others if any(node in computed for node in self._tensor_nodes.get(name, ()))]

    def float_tensors(self, computed: frozenset[str], *, reference: bool) -> list[str]:
        """Names of the tensors, besides weights of layers, that a packed file stores as they are."""
        return list(self.tensors) if reference else self.others_among(computed)


def n_matrix_columns(layer: Layer) -> int:
    """Columns of a layer's weight as a matrix of (output channels, everything else)."""
    return layer.n_parameters // layer.n_rows


def n_input_channels(layer: Layer) -> int:
    """Columns of a layer's weight, those of one input channel counted once."""
    n = n_matrix_columns(layer)
    for size in layer.shape[2:]:
        n //= size
    return n


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


def pack(
    network: Network, layout: Layout, computed: frozenset[str], state: CompressedState, settings: Mapping[str, Any]
) -> bytes:
    """The packed file of a compressed network.

    Args:
        network: the traced network.
        layout: of its packed files.
        computed: names of the nodes that are computed.
        state: what to store.
        settings: what the compressor was made with, kept in the header.
    """
    reference = all(affine is None for affine in state.affines.values())
    section = bytearray()
    if reference:
        for name in network.tensors:
            section += _raw(state.tensors[name])
    else:
        for layer in layout.layers_among(computed):
            section += _layer_section(layer, layout, state)
        for product in layout.quantized_products(state.policy, computed):
            for key in product.keys:
                grid = state.activations[key]
                assert grid is not None
                section += _grid_bytes(grid)
        for name in layout.edges:
            section += _grid_bytes(state.edge_grids[name])
        for name in layout.others_among(computed):
            section += _raw(state.tensors[name])
    return _header(network, state, settings, reference, bytes(section)) + bytes(section)


def _layer_section(layer: Layer, layout: Layout, state: CompressedState) -> bytes:
    section = bytearray()
    weight = state.weights.get(layer.name)
    if weight is None:
        section += _raw(state.tensors[layer.parameter])
    else:
        section += _masks(layer, weight) + _weight_bytes(weight, layout)
    for use in layer.uses:
        grid = state.activations.get(use.node)
        if grid is not None:
            section += _grid_bytes(grid)
        affine = state.affines[use.node]
        assert affine is not None
        for vector in affine:
            flat = vector.flatten()
            section += _vector(flat if weight is None or weight.rows is None else flat[weight.rows])
    return bytes(section)


def _masks(layer: Layer, weight: CompressedWeight) -> bytes:
    """One bit for every channel, of the output and of the input, where some are pruned."""
    masks = b""
    if weight.rows is not None:
        masks += _mask_bytes(weight.rows, layer.n_rows)
    if weight.columns is not None:
        size = n_matrix_columns(layer) // n_input_channels(layer)
        masks += _mask_bytes(weight.columns[::size] // size, n_input_channels(layer))
    return masks


def _mask_bytes(positions: torch.Tensor, n: int) -> bytes:
    mask = np.zeros(n, dtype=np.uint8)
    mask[positions.numpy()] = 1
    return pack_bits(mask, 1)


def _weight_bytes(weight: CompressedWeight, layout: Layout) -> bytes:
    if weight.grid is None:
        return _raw(weight.matrix)
    grid = weight.grid
    n = layout.quantizer.n_scales(*weight.matrix.shape)
    places = ((weight.matrix.flatten().numpy() - grid.codes[0]) // grid.codes.step).astype(np.uint8)
    packed = pack_bits(places, grid.bits) + _vector(grid.scale.flatten()[:n])
    if not layout.quantizer.symmetric:
        packed += grid.zero_point.flatten()[:n].to(torch.uint8).numpy().tobytes()
    return packed


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


def _policy_text(network: Network, policy: Policy, masks: Sequence[int], dropped: Sequence[str]) -> str:
    """The policy as text whose length depends on the network only."""
    names = [layer.name for layer in network.layers]
    bits = {
        "weight_bits": [policy.layers[name].weight_bits for name in names],
        "activation_bits": [policy.bits_of(name) for name in (*names, *(p.name for p in network.products))],
    }
    columns = {key: "[" + ",".join(f"{number:>2}" for number in numbers) + "]" for key, numbers in bits.items()}
    blocks = [name for name, found in network.blocks.items() if isinstance(found, Block)]
    columns["masks"] = '"' + "".join(map(str, masks)) + '"'
    columns["dropped"] = '"' + "".join(str(int(name in dropped)) for name in blocks) + '"'
    return "{" + ",".join(f'"{key}":{text}' for key, text in columns.items()) + "}"


def _mask_flags(weight: CompressedWeight | None) -> int:
    if weight is None:
        return 0
    return (weight.rows is not None) * _ROWS + (weight.columns is not None) * _COLUMNS


def _header(
    network: Network, state: CompressedState, settings: Mapping[str, Any], reference: bool, section: bytes
) -> bytes:
    masks = [_mask_flags(state.weights.get(layer.name)) for layer in network.layers]
    dropped = [name.removesuffix(f".{DROP_KIND}") for name, out in state.policy.architecture.items() if out]
    metadata = _metadata(network, _policy_text(network, state.policy, masks, dropped), settings, reference)
    text = _header_text(metadata, _checksum(metadata, section), len(section))
    length = header_bytes(network) - 8
    if len(text) > length:
        raise ValueError(f"The header's text has {len(text)} bytes, more than the {length} that are reserved.")
    return struct.pack("<Q", length) + text.ljust(length)


def _metadata(network: Network, policy: str, settings: Mapping[str, Any], reference: bool) -> dict[str, str]:
    return {
        "format": FORMAT,
        "policy": policy,
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
    policy_text = _policy_text(network, policy, [0] * len(network.layers), ())
    text = _header_text(_metadata(network, policy_text, {}, True), "00000000", _WIDEST_COUNT)
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
        activation_bits: per layer, then per product.
        masks: per layer flags that say which masks stand before its weight.
        dropped: per block of the network that can be dropped, whether it is.
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
    masks: tuple[int, ...]
    dropped: tuple[bool, ...]
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
            raise ValueError(f"its format is {metadata['format']!r}, this version reads {FORMAT!r}; export it again")
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
            tuple(map(int, policy["masks"])),
            tuple(flag == "1" for flag in policy["dropped"]),
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
        return torch.empty(like.shape, dtype=like.dtype) if raw is None else raw.view(like.dtype).reshape(like.shape)

    @property
    def left(self) -> int:
        """Bytes that were not taken yet."""
        return len(self._data) - self._position

    def numbers(self, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        return self.tensor(torch.empty(*shape, dtype=dtype, device="meta"))

    def mask(self, n: int) -> torch.Tensor:
        """Positions of the channels that remain of ``n``."""
        return torch.from_numpy(np.flatnonzero(unpack_bits(self.take(-(-n // 8)), 1, n)))

    def vector(self, n: int) -> torch.Tensor:
        (exponent,) = struct.unpack("<b", self.take(1))
        halves = torch.frombuffer(bytearray(self.take(2 * n)), dtype=torch.float16)
        return torch.mul(halves.float(), 2.0**exponent)

    def grid(self, bits: int) -> ActivationGrid:
        scale, zero_point = struct.unpack("<fB", self.take(_GRID_BYTES))
        return ActivationGrid(bits, scale, zero_point)


def unpack(
    packed: PackedFile, layout: Layout, computed: frozenset[str], architecture: Sequence[str]
) -> CompressedState:
    """The compressed state that ``pack`` stored.

    Args:
        packed: from ``read_packed``.
        layout: of the packed files of a network with the same graph.
        computed: names of the nodes that are computed.
        architecture: choices of the policy that belong to no layer, and are true.

    Raises:
        PackedFileError: the section does not fit the network.
    """
    found = len(packed.weight_bits), len(packed.activation_bits) - len(packed.weight_bits)
    if found != (len(layout.layers), len(layout.products)):
        raise PackedFileError(
            f"The packed file holds {found[0]} layers and {found[1]} products of activations, the network has "
            f"{len(layout.layers)} and {len(layout.products)}."
        )
    reader = _Reader(packed.section)
    bits = zip(packed.weight_bits, packed.activation_bits, strict=False)  # products come behind the layers
    decided = {layer.name: LayerPolicy(*pair) for layer, pair in zip(layout.layers, bits, strict=False)}
    products = zip(layout.products, packed.activation_bits[len(layout.layers) :], strict=True)
    decided |= {product.name: LayerPolicy(activation_bits=n) for product, n in products}
    if packed.reference:
        nothing: dict[str, Any] = {use.node: None for layer in layout.layers for use in layer.uses}
        tensors = {name: reader.tensor(tensor) for name, tensor in layout.tensors.items()}
        everything = frozenset(layer.name for layer in layout.layers)
        state = CompressedState(Policy(decided), {}, nothing, nothing, {}, tensors, everything)
    else:
        state = _read_state(reader, packed, layout, computed, decided, architecture)
    if reader.left:
        raise PackedFileError(f"The packed file's section has {reader.left} bytes more than this network explains.")
    return state


def _read_state(
    reader: _Reader,
    packed: PackedFile,
    layout: Layout,
    computed: frozenset[str],
    decided: dict[str, LayerPolicy],
    architecture: Sequence[str],
) -> CompressedState:
    weights: dict[str, CompressedWeight] = {}
    activations: dict[str, ActivationGrid | None] = {}
    affines: dict[str, Affine | None] = {}
    tensors = {}
    flags = {layer.name: flag for layer, flag in zip(layout.layers, packed.masks, strict=True)}
    layers = layout.layers_among(computed)
    for layer in layers:
        policy = decided[layer.name]
        n_rows = layer.n_rows
        if policy.weight_bits == UNTOUCHED_BITS and not flags[layer.name]:
            tensors[layer.parameter] = reader.tensor(layout.tensors[layer.parameter])
            rows = None
        else:
            weight = _read_weight(reader, layer, layout, policy.weight_bits, flags[layer.name])
            weights[layer.name], rows = weight, weight.rows
        if rows is not None:
            decided[layer.name] = replace(policy, prune_ratio=round(1 - len(rows) / n_rows, 4))
        for use in layer.uses:
            quantized = use.input is not None and policy.activation_bits != UNTOUCHED_BITS
            activations[use.node] = reader.grid(policy.activation_bits) if quantized else None
            vectors = [_read_vector(reader, use.n_channels, rows) for _ in ("scale", "shift")]
            scale, shift = (broadcastable(layout.graph, use, vector) for vector in vectors)
            affines[use.node] = scale, shift
    for product in layout.quantized_products(Policy(decided), computed):
        activations.update({key: reader.grid(decided[product.name].activation_bits) for key in product.keys})
    edge_bits = packed.settings["activations"]["edges"]
    edge_grids = {name: reader.grid(edge_bits) for name in layout.edges}
    for name in layout.others_among(computed):
        tensors[name] = reader.tensor(layout.tensors[name])
    return CompressedState(
        Policy(decided, dict.fromkeys(architecture, True)),
        weights,
        activations,
        affines,
        edge_grids,
        tensors,
        frozenset(layer.name for layer in layers),
    )


def _read_vector(reader: _Reader, n: int, rows: torch.Tensor | None) -> torch.Tensor:
    """``(n,)`` values of channels; zero for those that are pruned."""
    return reader.vector(n) if rows is None else torch.zeros(n).index_copy_(0, rows, reader.vector(len(rows)))


def _read_weight(reader: _Reader, layer: Layer, layout: Layout, bits: int, flags: int) -> CompressedWeight:
    n_rows, n_columns = layer.n_rows, n_matrix_columns(layer)
    rows = columns = None
    if flags & _ROWS:
        rows = reader.mask(n_rows)
        n_rows = len(rows)
    if flags & _COLUMNS:
        size = n_columns // n_input_channels(layer)
        channels = reader.mask(n_input_channels(layer))
        columns = (channels[:, None] * size + torch.arange(size)).flatten()
        n_columns = len(columns)
    if bits == UNTOUCHED_BITS:
        floats = reader.numbers((n_rows, n_columns), layout.tensors[layer.parameter].dtype)
        return compressed_weight(layer, None, floats, rows, columns)
    quantizer = layout.quantizer
    codes = code_range(bits, symmetric=quantizer.symmetric)
    n = n_rows * n_columns
    places = torch.from_numpy(unpack_bits(reader.take(-(-n * bits // 8)), bits, n).astype(np.int16))
    n_scales, groups = quantizer.n_scales(n_rows, n_columns), quantizer.n_groups(n_columns)
    scale = reader.vector(n_scales)
    zero_point = torch.zeros(n_scales)
    if not quantizer.symmetric:
        zero_point = torch.frombuffer(bytearray(reader.take(n_scales)), dtype=torch.uint8).float()
    if n_scales < n_rows * groups:  # one scale for the whole tensor
        scale, zero_point = scale.expand(n_rows * groups), zero_point.expand(n_rows * groups)
    grid = WeightGrid(
        scale.reshape(n_rows, groups),
        zero_point.reshape(n_rows, groups),
        quantizer.group_size(n_columns),
        codes,
    )
    matrix = (places * codes.step + codes[0]).reshape(n_rows, n_columns)
    return compressed_weight(layer, grid, matrix, rows, columns)
