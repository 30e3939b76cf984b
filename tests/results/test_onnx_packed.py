"""Laws of packed weights: what a runtime unpacks is what was packed, to the bit, and takes the bits that it should."""

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evo_mpq.compress.quantizers import code_range
from evo_mpq.results.export.onnx.model import OnnxModel, graph_bytes, to_bytes
from evo_mpq.results.export.onnx.packed import pack_plane, planes_of, unpacked, widened

BITS = (2, 3, 4, 5, 6, 7)


def file_of(codes: np.ndarray, among: range) -> bytes:
    model = OnnxModel()
    name = unpacked(model, codes, among, "weight")
    return to_bytes(model.finish(name, "int32", codes.shape, name="codes", producer=("test", "")), {})


def in_onnx_runtime(content: bytes) -> np.ndarray:
    return onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"]).run(None, {})[0]


def in_openvino(content: bytes) -> np.ndarray:
    openvino = pytest.importorskip("openvino")
    core = openvino.Core()
    return core.compile_model(core.read_model(content), "CPU")({})[0]


@pytest.mark.parametrize("runtime", [in_onnx_runtime, in_openvino])
@pytest.mark.parametrize("bits", BITS)
def test_every_code_of_every_width_comes_back(bits, runtime):
    for symmetric in (True, False):
        among = code_range(bits, symmetric=symmetric)
        codes = np.random.default_rng(0).permutation(np.tile(np.array(among), 3))[:-1].reshape(1, -1)
        assert np.array_equal(runtime(file_of(codes, among)), codes)


@settings(max_examples=40)
@given(
    st.sampled_from(BITS),
    st.lists(st.integers(1, 7), min_size=1, max_size=4),
    st.integers(0, 2**32 - 1),
    st.integers(-64, 0),
    st.integers(1, 2),
)
def test_codes_of_any_shape_come_back(bits, shape, seed, lowest, step):
    among = range(lowest, lowest + step * 2**bits, step)
    codes = np.random.default_rng(seed).choice(np.array(among), shape)
    assert np.array_equal(in_onnx_runtime(file_of(codes, among)), codes)


@pytest.mark.parametrize("bits", BITS)
def test_a_code_takes_its_bits(bits):
    assert sum(width for width, _ in planes_of(bits)) == bits
    codes = np.zeros(1000, dtype=np.int64)
    planes = [pack_plane(codes, width, lowest) for width, lowest in planes_of(bits)]
    assert sum(plane.nbytes for plane in planes) == 1000 * bits // 8
    content = file_of(codes, range(2**bits))
    assert len(content) - graph_bytes(content) < 1000 * bits / 8 + 200


@pytest.mark.parametrize("runtime", [in_onnx_runtime, in_openvino])
def test_bytes_are_widened(runtime):
    model = OnnxModel()
    numbers = np.arange(-128, 128).reshape(-1, 1)
    content = to_bytes(
        model.finish(widened(model, numbers, "factors"), "int32", numbers.shape, name="n", producer=("test", "")), {}
    )
    assert np.array_equal(runtime(content), numbers)


def test_what_the_output_does_not_need_is_left_out():
    model = OnnxModel()
    unpacked(model, np.zeros((3, 3), dtype=np.int64), range(8), "other")
    name = unpacked(model, np.ones((2, 2), dtype=np.int64), range(16), "weight")
    made = model.finish(name, "int32", (2, 2), name="graph", producer=("test", ""))
    assert {node.output[0] for node in made.graph.node if node.name.startswith("other")} == set()
    assert {value.name for value in made.graph.output} == {"output"}
    onnx.checker.check_model(made, full_check=True)
