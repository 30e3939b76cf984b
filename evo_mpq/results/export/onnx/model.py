"""An ONNX model while it is written: nodes, constants, bytes. The one file that imports onnx."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from evo_mpq.errors import ExportError

OPSET = 21
"""The first with 4-bit integers and blocked scales; what ONNX Runtime and OpenVINO both read."""

_IR_VERSION = 10  # of opset 21; a newer one is refused by runtimes that could run the rest

Array = npt.NDArray[Any]


class OnnxModel:
    """Nodes and constants of one ONNX graph, in the order in which they are written.

    Names are unique: of two that are alike, the second gets a number. Constants of equal content are stored once.
    """

    def __init__(self) -> None:
        self._onnx = _onnx()
        self._helper = self._onnx.helper
        self._numpy_helper = self._onnx.numpy_helper
        self._nodes: list[Any] = []
        self._constants: dict[str, Any] = {}
        self._by_content: dict[tuple[str, str, tuple[int, ...]], str] = {}
        self._inputs: list[Any] = []
        self._taken: set[str] = set()

    def input(self, name: str, dtype: str, shape: Sequence[int | str]) -> str:
        """A tensor that the model is given; a name in the place of a size means that it varies."""
        name = self._unique(name)
        self._inputs.append(self._helper.make_tensor_value_info(name, self.element_type(dtype), list(shape)))
        return name

    def constant(self, values: Array, name: str) -> str:
        """The name of a stored tensor; a wished one, unless a tensor of this content is stored already."""
        values = np.ascontiguousarray(values) if values.ndim else values
        key = (hashlib.sha256(values.tobytes()).hexdigest(), str(values.dtype), values.shape)
        if key not in self._by_content:
            self._by_content[key] = name = self._unique(name)
            self._constants[name] = self._numpy_helper.from_array(values, name)
        return self._by_content[key]

    def constant_int4(self, codes: Array, name: str) -> str:
        """The name of a stored tensor of 4-bit integers, two a byte."""
        name = self._unique(name)
        self._constants[name] = self._helper.make_tensor(
            name, self._onnx.TensorProto.INT4, codes.shape, codes.flatten().tolist()
        )
        return name

    def node(self, op: str, inputs: Iterable[str], name: str, n_outputs: int = 1, **attributes: Any) -> list[str]:
        """Adds an operation and returns the names of its outputs; an empty name among the inputs leaves one out."""
        name = self._unique(name)
        outputs = [name] if n_outputs == 1 else [self._unique(f"{name}.{i}") for i in range(n_outputs)]
        self._nodes.append(self._helper.make_node(op, list(inputs), outputs, name=name, **attributes))
        return outputs

    def has(self, name: str) -> bool:
        """Whether something is called that."""
        return name in self._taken

    def element_type(self, dtype: str) -> int:
        """ONNX's number of a type that numpy has under that name."""
        return int(self._helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def finish(
        self, output: str, dtype: str, shape: Sequence[int | str], *, name: str, producer: tuple[str, str]
    ) -> Any:
        """The checked model, without nodes and constants that its output does not need.

        Args:
            output: the tensor that it returns, under the name ``"output"``.
            dtype: of the output.
            shape: of the output.
            name: of the graph.
            producer: name and version of the tool.

        Raises:
            ExportError: onnx's own checker refuses it.
        """
        nodes = [*self._nodes, self._helper.make_node("Identity", [output], ["output"], name="output")]
        nodes = _needed(nodes, "output")
        _rename_output(nodes, output)
        read = {value for node in nodes for value in node.input}
        graph = self._helper.make_graph(
            nodes,
            name,
            self._inputs,
            [self._helper.make_tensor_value_info("output", self.element_type(dtype), list(shape))],
            [tensor for key, tensor in self._constants.items() if key in read],
        )
        model = self._helper.make_model(
            graph,
            opset_imports=[self._helper.make_opsetid("", OPSET)],
            ir_version=_IR_VERSION,
            producer_name=producer[0],
            producer_version=producer[1],
        )
        check(model)
        return model

    def _unique(self, name: str) -> str:
        wished, number = name, 1
        while name in self._taken:
            number += 1
            name = f"{wished}_{number}"
        self._taken.add(name)
        return name


def check(model: Any) -> None:
    """Refuses what onnx's own checker refuses, shapes and types included.

    Raises:
        ExportError: with its reason.
    """
    try:
        _onnx().checker.check_model(model, full_check=True)
    except Exception as error:
        raise ExportError(f"onnx's checker refuses the model that was made: {error}") from error


def to_bytes(model: Any, metadata: Mapping[str, str]) -> bytes:
    """The content of a file that holds a model, with metadata under these keys."""
    copied = type(model)()
    copied.CopyFrom(model)
    for key, value in metadata.items():
        entry = copied.metadata_props.add()
        entry.key, entry.value = key, value
    return bytes(copied.SerializeToString(deterministic=True))


def from_bytes(content: bytes) -> Any:
    """The model in a file's content.

    Raises:
        ExportError: there is none in it.
    """
    try:
        return _onnx().load_model_from_string(content)
    except Exception as error:
        raise ExportError(f"no ONNX model can be read from it: {error}") from error


def operators_by_name(content: bytes) -> dict[str, str]:
    """Of each node of a model its operator, by the node's name."""
    return {node.name: node.op_type for node in from_bytes(content).graph.node}


def graph_bytes(content: bytes) -> int:
    """How long a file would be if its constants had names, types and shapes, but no values."""
    model = from_bytes(content)
    for tensor in model.graph.initializer:
        for key in ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data"):
            tensor.ClearField(key)
    return len(model.SerializeToString())


def _needed(nodes: Sequence[Any], output: str) -> list[Any]:
    wanted, kept = {output}, []
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            wanted.update(node.input)
            kept.append(node)
    return kept[::-1]


def _rename_output(nodes: list[Any], output: str) -> None:
    """Lets the node that computes the output give it its public name, in the place of a copy at the end."""
    *others, last = nodes
    for node in others:
        if output in node.output:
            nodes.pop()
            for place, value in enumerate(node.output):
                node.output[place] = "output" if value == output else value
            for reader in nodes:
                for place, value in enumerate(reader.input):
                    reader.input[place] = "output" if value == output else value
            return
    assert last.op_type == "Identity"  # the output is an input or a constant, and a copy of it is what there is


def _onnx() -> Any:
    try:
        import onnx
        import onnx.checker
        import onnx.helper
        import onnx.numpy_helper
    except ImportError as error:
        raise ExportError(f'ONNX files need the package onnx: pip install "evo-mpq[onnx]" ({error})') from error
    return onnx
