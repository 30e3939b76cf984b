"""Laws of ONNX files: they compute what the compressed network computes, whatever was done to it.

Everything but the integer biases is the same to the last bits of sums. These bits flip a code of an activation now and
then, and a code moves what depends on it by a step; so most outputs are equal to float precision, and none is far off.
Integer biases, which ONNX Runtime's kernels want, are rounded to a step of the products: that moves outputs less than
quantization did.
"""

from dataclasses import replace
from itertools import product
from typing import Any

import networks
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from evo_mpq.compress.compressor import Compressor
from evo_mpq.compress.quantizers import ActivationGrid, ActivationQuantizer
from evo_mpq.errors import ExportError
from evo_mpq.network.calling import tensors_of
from evo_mpq.network.network import trace_network
from evo_mpq.network.products import Product
from evo_mpq.results.export.onnx import layers
from evo_mpq.results.export.onnx.channels import matching_axes, through_view
from evo_mpq.results.export.onnx.file import onnx_file
from evo_mpq.results.export.onnx.model import graph_bytes
from evo_mpq.results.export.onnx.onnx_runtime import INTEGER_KERNELS, OnnxRuntime, saturates
from evo_mpq.results.export.onnx.processor import integer_instructions
from evo_mpq.results.export.onnx.writer import Options, fine_grid
from evo_mpq.space.policy import LayerPolicy, Policy

KNOWN = tuple(name for name in networks.ALL if name != "oddities")
"""Networks of whose operations the exporter knows all."""


def content_of(compressor: Compressor, policy: Policy, **options) -> bytes:
    return onnx_file(compressor, compressor.apply(policy), Options(**options), {}).content


def session_of(content: bytes, *, optimized: bool = True) -> onnxruntime.InferenceSession:
    chosen = onnxruntime.SessionOptions()
    chosen.intra_op_num_threads, chosen.log_severity_level = 1, 3
    if not optimized:
        chosen.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(content, chosen, providers=["CPUExecutionProvider"])


def outputs_of(content: bytes, compressor: Compressor, **how) -> torch.Tensor:
    session = session_of(content, **how)
    names = [entry.name for entry in session.get_inputs()]
    batches = [tensors_of(batch.inputs) for batch in compressor.network.splits.search.batches()]
    outputs = [session.run(None, {n: x.numpy() for n, x in zip(names, batch, strict=True)})[0] for batch in batches]
    return torch.from_numpy(np.concatenate(outputs))


def plainly(content: bytes, compressor: Compressor) -> torch.Tensor:
    """What the file says, operation by operation."""
    return outputs_of(content, compressor, optimized=False)


def wanted_of(compressor: Compressor, policy: Policy) -> torch.Tensor:
    module = compressor.apply(policy)
    return torch.cat(networks.outputs_of(module, compressor.network.splits.search))


def assert_same(found: torch.Tensor, wanted: torch.Tensor, largest: float = 0.1, equal: float = 0.9) -> None:
    """Nine of ten outputs are equal to float precision, and all are near; see the top of this file."""
    scale = float(wanted.abs().max()) + 1e-9
    difference = (found - wanted).abs() / scale
    assert found.shape == wanted.shape
    assert float((difference < 1e-4).double().mean()) >= equal
    assert float(difference.max()) < largest


def rms(values: torch.Tensor) -> float:
    return float(values.double().square().mean().sqrt())


def uniform(compressor: Compressor, weight_bits: int, activation_bits: int) -> Policy:
    return Policy(
        {
            site.name: LayerPolicy(
                weight_bits if not isinstance(site, Product) else 32,
                activation_bits if isinstance(site, Product) or site.quantizes_input else 32,
            )
            for site in compressor.network.sites()
        }
    )


@pytest.fixture
def float_biases(monkeypatch):
    """Biases are added in floats, as they are in the compressed network; optimized, they would be integers again."""
    monkeypatch.setattr(layers, "_LARGEST_BIAS", -1)


class TestOutputs:
    @pytest.mark.parametrize("name", KNOWN)
    def test_of_any_policy_are_those_of_the_compressed_network(self, name, float_biases):
        compressor = networks.compressor_of(name)
        for policy in networks.random_policies(compressor.network, 4, seed=3, activation_bits=(4, 8, 32)):
            assert_same(plainly(content_of(compressor, policy), compressor), wanted_of(compressor, policy))

    @settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.integers(0, 10**6), st.sampled_from(["convolutions", "signals", "products", "digits_mobilenet"]))
    def test_of_pruned_and_dropped_networks_too(self, float_biases, seed, name):
        compressor = networks.compressor_of(name)
        policy = networks.random_policies(compressor.network, 3, seed=seed, activation_bits=(8, 32))[1]
        assert_same(plainly(content_of(compressor, policy), compressor), wanted_of(compressor, policy))

    @pytest.mark.parametrize("exact", [True, False])
    def test_of_dropped_blocks_are_not_rounded_otherwise_by_optimizations(self, exact):
        compressor = networks.compressor_of("digits_mobilenet")
        layers = uniform(compressor, 4, 8).layers
        policy = Policy(layers, {f"{block}.drop": True for block in networks.blocks_of("digits_mobilenet")})
        content = content_of(compressor, policy, exact=exact)
        found, plain = outputs_of(content, compressor), plainly(content, compressor)
        assert_same(found, plain, largest=0.01, equal=0.99)

    @pytest.mark.parametrize(("weight_bits", "activation_bits"), [*product((2, 3, 4, 5, 6, 7, 8, 32), (3, 8, 32))])
    def test_of_all_numbers_of_bits(self, weight_bits, activation_bits, float_biases):
        compressor = networks.compressor_of("convolutions")
        policy = uniform(compressor, weight_bits, activation_bits)
        assert_same(plainly(content_of(compressor, policy), compressor), wanted_of(compressor, policy))

    @pytest.mark.parametrize(("symmetric", "granularity"), [*product((True, False), ("tensor", "channel", 5))])
    def test_of_all_quantizers(self, symmetric, granularity, float_biases):
        compressor = networks.compressor_of("convolutions", symmetric=symmetric, granularity=granularity)
        for bits, activation_bits in ((3, 8), (8, 4), (5, 32)):
            policy = uniform(compressor, bits, activation_bits)
            assert_same(plainly(content_of(compressor, policy), compressor), wanted_of(compressor, policy))

    @pytest.mark.parametrize("correction", ["none", "bias"])
    def test_of_all_corrections(self, correction, float_biases):
        compressor = networks.compressor_of("digits_resnet", correction=correction)
        policy = uniform(compressor, 4, 8)
        assert_same(plainly(content_of(compressor, policy), compressor), wanted_of(compressor, policy))

    @pytest.mark.parametrize("name", KNOWN)
    def test_of_the_reference_are_the_float_networks(self, name):
        compressor = networks.compressor_of(name).without_edges()
        policy = uniform(compressor, 32, 32)
        difference = outputs_of(content_of(compressor, policy), compressor) - wanted_of(compressor, policy)
        assert float(difference.abs().max()) < 1e-5 * float(wanted_of(compressor, policy).abs().max())

    @pytest.mark.parametrize("name", ["digits_resnet", "digits_mobilenet", "digits_mlp", "digits_vit"])
    @pytest.mark.parametrize(("weight_bits", "activation_bits"), [(2, 8), (4, 4), (4, 8), (6, 8), (8, 8)])
    def test_integer_biases_move_less_than_quantization(self, name, weight_bits, activation_bits):
        compressor = networks.compressor_of(name)
        policy = uniform(compressor, weight_bits, activation_bits)
        wanted = wanted_of(compressor, policy)
        batches = compressor.network.splits.search.batches()
        floats = torch.cat([compressor.network.float_outputs(batch.inputs) for batch in batches])
        assert rms(outputs_of(content_of(compressor, policy), compressor) - wanted) < rms(wanted - floats)

    @pytest.mark.parametrize("name", ["digits_resnet", "digits_vit"])
    def test_do_not_depend_on_what_the_runtime_optimizes(self, name):
        compressor = networks.compressor_of(name)
        for policy in (uniform(compressor, 4, 8), uniform(compressor, 32, 8), uniform(compressor, 3, 4)):
            content = content_of(compressor, policy)
            assert_same(outputs_of(content, compressor), plainly(content, compressor))

    @pytest.mark.parametrize("name", ["digits_resnet", "digits_mlp"])
    def test_portable_weights_compute_the_same(self, name, float_biases):
        compressor = networks.compressor_of(name)
        for bits in (4, 8):
            policy = uniform(compressor, bits, 8)
            found = plainly(content_of(compressor, policy, portable=True), compressor)
            assert_same(found, wanted_of(compressor, policy))

    @pytest.mark.parametrize("name", ["digits_resnet", "digits_mobilenet", "digits_vit"])
    def test_exact_files_compute_the_same_with_all_optimizations(self, name):
        compressor = networks.compressor_of(name)
        for bits, activation_bits in ((4, 8), (2, 4), (8, 8)):
            policy = uniform(compressor, bits, activation_bits)
            found = outputs_of(content_of(compressor, policy, exact=True), compressor)
            assert_same(found, wanted_of(compressor, policy), equal=0.8)  # of 20 samples, two or three had a code move

    @pytest.mark.parametrize("name", ["digits_vit", "tied_tokens", "products"])
    def test_blocks_of_four_bits_compute_nearly_the_same(self, name):
        compressor = networks.compressor_of(name)
        policy = uniform(compressor, 4, 32)
        found = outputs_of(content_of(compressor, policy, linear="nbits"), compressor)
        wanted = wanted_of(compressor, policy)
        assert rms(found - wanted) < 0.03 * rms(wanted)  # the kernel rounds activations to 8 bits, block by block

    def test_any_number_of_samples_and_tokens_may_come(self):
        generator = torch.Generator().manual_seed(0)
        lengths = (5, 7)
        samples = [[(torch.randn(n, 8, generator=generator), 0) for _ in range(8)] for n in lengths]

        class Lengths:
            """Sequences of one length a batch."""

            def __len__(self):
                return 16

            def __getitem__(self, i):
                return samples[i // 8][i % 8]

        module = nn.Sequential(nn.TransformerEncoderLayer(8, 2, 12, batch_first=True, norm_first=True), nn.Linear(8, 3))
        splits = networks.splits_from({"calibration": samples[0], "search": Lengths(), "test": samples[1]}, 8)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            compressor = Compressor(
                trace_network(module.eval(), splits), activations=ActivationQuantizer("minmax"), edges=8
            )
        policy = uniform(compressor, 8, 8)
        compressed, session = compressor.apply(policy), session_of(content_of(compressor, policy))
        assert session.get_inputs()[0].shape[:2] == ["batch", "input_1"]
        for n, length in ((1, 3), (3, 9)):
            inputs = torch.randn(n, length, 8, generator=generator)
            (found,) = session.run(None, {"input": inputs.numpy()})
            assert rms(torch.from_numpy(found) - compressed(inputs)) < 0.05 * rms(compressed(inputs))


def sentences(n: int, seed: int) -> list[Any]:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, 40, (n, 6), generator=generator)
    lengths = torch.randint(2, 7, (n,), generator=generator)
    return [
        ({"input_ids": tokens[i], "attention_mask": (torch.arange(6) < lengths[i]).long()}, i % 3) for i in range(n)
    ]


class TestHuggingFace:
    @pytest.mark.parametrize("name", ["Bert", "Llama"])
    def test_networks_are_known_with_their_masks(self, name, float_biases):
        import transformers

        size: dict[str, Any] = {
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 24,
        }
        with torch.random.fork_rng():
            torch.manual_seed(0)
            module: Any
            if name == "Bert":
                config = transformers.BertConfig(vocab_size=40, max_position_embeddings=8, **size)
                module = transformers.BertForSequenceClassification(config)
            else:
                shared = transformers.LlamaConfig(vocab_size=40, num_key_value_heads=1, use_cache=False, **size)
                module = transformers.LlamaForCausalLM(shared)
        data = {split: sentences(16, seed) for seed, split in enumerate(("calibration", "search", "test"))}
        network = trace_network(module.eval(), networks.splits_from(data, 8), output="logits")
        compressor = Compressor(network, activations=ActivationQuantizer("minmax"), edges=8)
        policy = uniform(compressor, 8, 8)
        assert_same(plainly(content_of(compressor, policy), compressor), wanted_of(compressor, policy))


class TestFile:
    @pytest.mark.parametrize("name", KNOWN)
    def test_the_checker_accepts_it_and_it_is_small(self, name):
        compressor = networks.compressor_of(name)
        for policy in networks.random_policies(compressor.network, 3, seed=5):
            content = content_of(compressor, policy)
            model = onnx.load_model_from_string(content)
            onnx.checker.check_model(model, full_check=True)
            assert [entry.version for entry in model.opset_import] == [21]
            assert {entry.domain for entry in model.opset_import} == {""}
            assert len(content) <= 1.10 * compressor.packed_bytes(policy) + graph_bytes(content)

    def test_removed_channels_and_blocks_are_not_in_it(self):
        compressor = networks.compressor_of("digits_resnet")
        whole = uniform(compressor, 8, 8)
        ratios = {name: 0.5 for group in compressor.network.prune_groups for name in group.rows}
        layers_ = {n: replace(layer, prune_ratio=ratios.get(n, 0.0)) for n, layer in whole.layers.items()}
        codes = {
            t.name: t for t in onnx.load_model_from_string(content_of(compressor, Policy(layers_))).graph.initializer
        }
        for layer in compressor.network.layers:
            rows, columns = layer.shape[:2]
            first, last = columns == 1, layer.name == "head"
            expected = [rows if last else rows // 2, columns if first else columns // 2, *layer.shape[2:]]
            assert list(codes[f"{layer.name}.codes"].dims) == expected
        dropped = Policy(whole.layers, {f"{block}.drop": True for block in networks.blocks_of("digits_resnet")})
        text = content_of(compressor, dropped)
        assert all(block.encode() not in text for block in networks.blocks_of("digits_resnet"))

    def test_codes_are_stored_once_for_all_that_read_them(self):
        compressor = networks.compressor_of("tied_tokens")
        model = onnx.load_model_from_string(content_of(compressor, uniform(compressor, 4, 8)))
        packed = [tensor.name for tensor in model.graph.initializer if ".bits" in tensor.name]
        assert sorted(packed) == ["embedding.bits0-3", "mixer.bits0-3"]

    def test_names_follow_the_modules(self):
        compressor = networks.compressor_of("digits_resnet")
        model = onnx.load_model_from_string(content_of(compressor, uniform(compressor, 8, 8)))
        names = {node.name for node in model.graph.node if node.op_type in ("Conv", "Gemm")}
        assert names == {layer.name for layer in compressor.network.layers}

    @pytest.mark.parametrize("name", ["digits_resnet", "digits_mobilenet", "digits_mlp"])
    def test_eight_bits_run_in_integers_from_the_first_layer_to_the_last(self, name, tmp_path):
        compressor = networks.compressor_of(name)
        for bits in (4, 8):
            made = onnx_file(compressor, compressor.apply(uniform(compressor, bits, 8)), Options(), {})
            (tmp_path / "file.onnx").write_bytes(made.content)
            runtime = OnnxRuntime(tmp_path / "file.onnx")
            kernels = {site: runtime.kernel(node) for site, node in made.sites}
            assert set(kernels) == {layer.name for layer in compressor.network.layers}
            assert set(kernels.values()) <= INTEGER_KERNELS

    def test_floats_stay_floats(self, tmp_path):
        compressor = networks.compressor_of("digits_resnet")
        for policy in (uniform(compressor, 32, 8), uniform(compressor, 4, 32)):
            made = onnx_file(compressor, compressor.apply(policy), Options(), {})
            (tmp_path / "file.onnx").write_bytes(made.content)
            runtime = OnnxRuntime(tmp_path / "file.onnx")
            assert {runtime.kernel(node) for _, node in made.sites} <= {"Conv", "FusedConv", "Gemm", "FusedGemm", None}

    def test_linear_layers_of_four_bits_are_what_the_kernel_for_them_takes(self, tmp_path):
        compressor = networks.compressor_of("digits_vit")
        made = onnx_file(compressor, compressor.apply(uniform(compressor, 4, 32)), Options(linear="nbits"), {})
        (tmp_path / "file.onnx").write_bytes(made.content)
        runtime = OnnxRuntime(tmp_path / "file.onnx")
        kernels = {site: runtime.kernel(node) for site, node in made.sites}
        linear = [layer.name for layer in compressor.network.layers if layer.kind == "linear"]
        assert {kernels[name] for name in linear} == {"MatMulNBits"}


class TestOpenVino:
    @pytest.mark.parametrize("name", ["digits_resnet", "digits_vit", "convolutions"])
    @pytest.mark.parametrize(("weight_bits", "activation_bits"), [(4, 8), (3, 4), (8, 8), (5, 32), (32, 8)])
    def test_outputs_are_those_of_onnx_runtime(self, name, weight_bits, activation_bits):
        openvino = pytest.importorskip("openvino")
        compressor = networks.compressor_of(name)
        content = content_of(compressor, uniform(compressor, weight_bits, activation_bits), apart=True)
        core = openvino.Core()
        compiled = core.compile_model(core.read_model(content), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        batches = [tensors_of(batch.inputs)[0].numpy() for batch in compressor.network.splits.search.batches()]
        found = torch.from_numpy(np.concatenate([compiled({"input": batch})[0].copy() for batch in batches]))
        wanted = outputs_of(content, compressor)
        assert rms(found - wanted) < 0.02 * rms(wanted)


class TestRefusals:
    def test_an_unknown_operation_is_named_with_its_module(self):
        compressor = networks.compressor_of("oddities")
        with pytest.raises(
            ExportError, match=r"aten\.view_as_complex\.default of the network itself \(view_as_complex\)"
        ):
            content_of(compressor, uniform(compressor, 8, 8))

    def test_a_known_operation_in_an_unknown_form_is_named_with_what_is_new(self):
        class Thirds(nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = nn.Conv2d(1, 2, 3)
                self.pool = nn.AdaptiveAvgPool2d(3)

            def forward(self, x):
                return self.pool(self.layer(x)).flatten(1)

        data = [(torch.randn(1, 6, 6), 0) for _ in range(8)]
        compressor = Compressor(trace_network(Thirds(), networks.same_splits(data)))
        with pytest.raises(
            ExportError, match=r"aten\.adaptive_avg_pool2d\.default in pool .* parts of different sizes"
        ):
            content_of(compressor, uniform(compressor, 8, 8))


class TestParts:
    def test_a_fine_grid_holds_the_values_of_a_coarse_one(self):
        values = torch.linspace(-2, 5, 1001)
        for bits in (2, 3, 4, 5, 6, 7):
            grid = ActivationGrid(bits, 0.3, 1)
            assert torch.equal(fine_grid(grid)(grid(values)), grid(values))

    @given(st.integers(0, 10**6), st.integers(2, 7), st.sampled_from([64, 127]))
    def test_factors_keep_codes_in_a_byte_and_biases_near(self, seed, bits, most):
        generator = torch.Generator().manual_seed(seed)
        compressor = networks.compressor_of("convolutions")
        quantizer = compressor.quantizer
        matrix = torch.randn(6, 9, generator=generator)
        grid = quantizer.grid(matrix, bits)
        codes = grid.round(matrix).numpy()
        weight = layers.Weight(codes, grid, None, None, codes.shape)
        shift, step = torch.randn(6, generator=generator).numpy(), grid.scale[:, 0].numpy() * np.float32(0.1)
        factors = layers.code_factors(weight, shift, step, most)
        assert factors is not None and factors.min() >= 1
        assert np.abs(codes * factors[:, None].astype(int)).max() <= most
        plain = np.abs(np.round(shift / step) * step - shift)
        finer = np.abs(np.round(shift / (step / factors)) * (step / factors) - shift)
        assert (finer <= plain + 1e-6).all()

    @given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.integers(0, 10**6))
    def test_axes_that_match_hold_equally_many(self, shape, seed):
        rng = np.random.default_rng(seed)
        flat = int(np.prod(shape))
        target = []
        while flat > 1:
            size = int(rng.choice([d for d in range(1, flat + 1) if flat % d == 0]))
            target.append(size)
            flat //= size
        for left, right in matching_axes(tuple(shape), tuple(target)):
            assert np.prod([shape[i] for i in left]) == np.prod([target[i] for i in right])

    def test_flattened_channels_are_found_again(self):
        kept = through_view(None, (2, 3, 2, 2), (2, 12), {1: np.array([0, 2])})  # type: ignore[arg-type]
        assert kept[1].tolist() == [0, 1, 2, 3, 8, 9, 10, 11]

    def test_the_processor_is_named_and_tried(self, tmp_path):
        file = tmp_path / "cpuinfo"
        for flags, name in (("avx2 avx512bw avx512_vnni", "AVX512-VNNI"), ("avx2 fma", "AVX2 without VNNI")):
            file.write_text(f"processor : 0\nflags : {flags}\n")
            assert integer_instructions(file) == name
        if "VNNI" in integer_instructions() and "without" not in integer_instructions():
            assert not saturates()
