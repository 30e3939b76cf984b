from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from networks import ALL, BUILTIN, EXAMPLES, module_of, network_of, splits_of, untrained
from torch import Tensor, nn
from torch.nn import functional
from torch.utils import _pytree as pytree

from evo_mpq.errors import NetworkError
from evo_mpq.network.calling import default_forward, select_output, tensors_of
from evo_mpq.network.graph import run
from evo_mpq.network.network import without_fast_path
from evo_mpq.network.tracing import Traced, trace


def output_of(name: str, module: nn.Module, inputs: Any) -> Tensor:
    """What the user's own module computes, in evaluation mode."""
    own = copy.deepcopy(module).eval()
    with torch.no_grad(), without_fast_path():
        return select_output(default_forward(own, inputs), EXAMPLES[name].output if name in EXAMPLES else None)


def computed(traced: Traced, inputs: Any) -> Tensor:
    with torch.no_grad():
        return run(traced.graph, traced.tensors, tensors_of(inputs))


@pytest.mark.parametrize("name", ALL)
def test_the_graph_computes_what_the_module_computes_for_every_batch_size(name: str) -> None:
    network = network_of(name)
    whole = splits_of(name).search.whole().inputs
    for n in (1, 2, 5, len(tensors_of(whole)[0])):
        inputs = pytree.tree_map(lambda tensor, n=n: tensor[:n], whole)
        expected = output_of(name, module_of(name), inputs)
        found = network.float_outputs(inputs)
        assert found.shape == expected.shape
        assert (found - expected).abs().max() <= 1e-5 * max(1.0, float(expected.abs().max()))


def state_of(module: nn.Module) -> list[Any]:
    state = [
        (name, tensor.numpy().tobytes(), tensor.dtype, tensor.stride(), tensor.data_ptr(), tensor.requires_grad)
        for name, tensor in module.state_dict(keep_vars=False).items()
    ]
    flags = [(name, part.training) for name, part in module.named_modules()]
    gradients = [(name, parameter.requires_grad, parameter.grad) for name, parameter in module.named_parameters()]
    return [state, flags, gradients, list(vars(module))]


@pytest.mark.parametrize("name", ["convolutions", "encoder"])
def test_the_users_module_its_data_and_the_random_state_are_not_touched(name: str) -> None:
    module = untrained(name)
    next(module.parameters()).requires_grad_(False)
    inputs = next(iter(splits_of(name).calibration.batches())).inputs
    tensors = [tensor.clone() for tensor in tensors_of(inputs)]
    before, random_state, gradients = state_of(module), torch.get_rng_state(), torch.is_grad_enabled()
    level, filters = logging.getLogger("torch").level, list(warnings.filters)
    trace(module, inputs)
    assert state_of(module) == before
    assert torch.equal(torch.get_rng_state(), random_state)
    assert torch.is_grad_enabled() == gradients
    assert (logging.getLogger("torch").level, list(warnings.filters)) == (level, filters)
    for tensor, kept in zip(tensors_of(inputs), tensors, strict=True):
        assert torch.equal(tensor, kept)


def test_traced_tensors_are_copies() -> None:
    module = untrained("called_twice").eval()
    traced = trace(module, torch.randn(3, 6))
    kept = {name: tensor.clone() for name, tensor in traced.tensors.items()}
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(1)
    assert all(torch.equal(tensor, kept[name]) for name, tensor in traced.tensors.items())
    assert not any(tensor.requires_grad for tensor in traced.tensors.values())


@pytest.mark.parametrize("name", [*BUILTIN, "convolutions", "signals"])
def test_batch_normalization_behind_a_layer_is_folded(name: str) -> None:
    network = network_of(name)
    assert not [node.target for node in network.graph if "batch_norm" in node.target]
    assert not [tensor for tensor in network.tensors if "running" in tensor or "num_batches" in tensor]


class Normalized(nn.Module):
    """A convolution and a normalization, put together in different ways."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.conv = nn.Conv2d(2, 3, 3, bias=how == "shared bias")
        self.norm = nn.BatchNorm2d(3, affine=how != "not affine", track_running_stats=how != "no statistics")
        if how != "no statistics":
            self.norm.running_mean = torch.randn(3)
            self.norm.running_var = torch.rand(3) + 0.1
        self.factor = nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))

    def forward(self, images: Tensor) -> Tensor:
        features = self.conv(images)
        if self.how == "computed scale":
            statistics = self.norm.running_mean, self.norm.running_var
            return functional.batch_norm(features, *statistics, self.factor * 2, self.factor)  # type: ignore[arg-type]
        normed = self.norm(features)
        if self.how == "read elsewhere":
            return normed + features  # type: ignore[no-any-return]
        if self.how == "weight used twice":
            return normed + self.conv(images + 1)  # type: ignore[no-any-return]
        if self.how == "shared bias":
            return normed + self.conv.bias.view(1, 3, 1, 1)  # type: ignore[no-any-return, union-attr]
        if self.how == "twice":
            return self.norm(normed)  # type: ignore[no-any-return]
        return normed  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("how", "left"),
    [
        ("plain", 0),
        ("not affine", 0),
        ("computed scale", 1),
        ("read elsewhere", 1),
        ("weight used twice", 1),
        ("shared bias", 1),
        ("twice", 1),
        ("no statistics", 1),
    ],
)
def test_a_normalization_is_folded_only_where_that_changes_nothing(how: str, left: int) -> None:
    module, images = Normalized(how).eval(), torch.randn(4, 2, 5, 5)
    traced = trace(module, images)
    assert sum("batch_norm" in node.target for node in traced.graph) == left
    torch.testing.assert_close(computed(traced, images), module(images), rtol=1e-5, atol=1e-5)


class OwnNames(nn.Module):
    """A parameter that has the name which a folded bias would like to have, and is added later."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 2, 3, 3))
        self.bias = nn.Parameter(torch.randn(4, 1, 1))
        self.norm = nn.BatchNorm2d(4)
        self.norm.running_mean = torch.randn(4)

    def forward(self, images: Tensor) -> Tensor:
        return self.norm(functional.conv2d(images, self.weight)) + self.bias  # type: ignore[no-any-return]


def test_a_folded_bias_takes_no_name_that_exists() -> None:
    module, images = OwnNames().eval(), torch.randn(3, 2, 5, 5)
    traced = trace(module, images)
    torch.testing.assert_close(computed(traced, images), module(images), rtol=1e-5, atol=1e-5)
    assert torch.equal(traced.tensors["bias"], module.bias)


def test_linear_layers_are_folded_where_channels_are_their_outputs_only() -> None:
    rows = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    rows[1].running_mean = torch.randn(3)
    sequences = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))  # (n, 4 positions, 4 features): normalizes positions
    sequences[1].running_mean = torch.randn(4)
    for module, inputs, left in ((rows, torch.randn(5, 4), 0), (sequences, torch.randn(5, 4, 4), 1)):
        traced = trace(module.eval(), inputs)
        assert sum("batch_norm" in node.target for node in traced.graph) == left
        torch.testing.assert_close(computed(traced, inputs), module(inputs), rtol=1e-5, atol=1e-5)


def test_blocks_without_gradients_and_modes_are_inlined() -> None:
    graph = network_of("called_twice").graph
    targets = [node.target for node in graph if node.op == "call"]
    assert targets.count("aten.linear.default") == 4
    assert all(target.startswith(("aten.", "operator.", "math.", "torch.sym")) for target in targets)

    class Modes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, features: Tensor) -> Tensor:
            with torch.autocast("cpu", enabled=False):
                parts = self.linear(features).chunk(2, dim=-1)
            with torch.no_grad():
                left, right = parts[0] * 2, parts[1] + 1
            return torch.cat([right, left], dim=-1)

    module, features = Modes(), torch.randn(3, 4)
    torch.testing.assert_close(computed(trace(module, features), features), module(features))


def test_dropout_in_evaluation_mode_leaves_nothing_behind() -> None:
    graph = trace(nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.Identity()), torch.randn(2, 4)).graph
    assert [node.target for node in graph if node.op == "call"] == ["aten.linear.default"]


def test_a_network_may_write_into_its_inputs() -> None:
    module = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 2))
    features = torch.randn(3, 4)
    kept = features.clone()
    traced = trace(module, features)
    assert torch.equal(features, kept)
    torch.testing.assert_close(computed(traced, features), module[1](kept.relu()))
    assert torch.equal(features, kept)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_other_floating_point_types_are_traced_in_float32(dtype: torch.dtype) -> None:
    module, images = untrained("signals").to(dtype).eval(), torch.randn(3, 3, 10).to(dtype)
    traced = trace(module, images)
    assert {tensor.dtype for tensor in traced.tensors.values()} == {torch.float32}
    expected = copy.deepcopy(module).float()(images.float())
    torch.testing.assert_close(computed(traced, images), expected, rtol=1e-5, atol=1e-5)
    assert next(module.parameters()).dtype == dtype


def test_weights_in_another_layout_are_stored_in_the_plain_one() -> None:
    module: Any = untrained("convolutions")
    module.to(memory_format=torch.channels_last)
    traced = trace(module, torch.randn(2, 2, 8, 8))
    assert all(tensor.is_contiguous() for tensor in traced.tensors.values())


def test_a_parameter_with_two_names_is_one_tensor() -> None:
    network = network_of("tied_tokens")
    assert "embedding.weight" in network.tensors
    assert "head.weight" not in network.tensors
    assert len([node for node in network.graph if node.target == "embedding.weight"]) == 1


def test_lengths_of_sequences_may_vary_where_they_are_said_to() -> None:
    module = untrained("encoder").eval()
    traced = trace(module, torch.randn(2, 4, 8), dynamic=[(0, 1)])
    for shape in ((1, 3, 8), (5, 9, 8)):
        features = torch.randn(shape)
        with without_fast_path():
            torch.testing.assert_close(computed(traced, features), module(features), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("inputs", [{"b": 1, "a": 2}, [1, 2], (1, (2,))], ids=["mapping", "list", "nested"])
def test_inputs_are_called_as_they_are_nested(inputs: Any) -> None:
    class Adds(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 3)

        def forward(self, a: Tensor, b: Any) -> Tensor:
            return self.linear(a) - (b[0] if isinstance(b, tuple) else b)  # type: ignore[no-any-return]

    module = Adds()
    filled = pytree.tree_map(lambda i: torch.full((2, 3), float(i)), inputs)
    torch.testing.assert_close(computed(trace(module, filled), filled), default_forward(module, filled))


class Branches(nn.Module):
    """Looks at values."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.linear = nn.Linear(4, 4)
        self.count: Tensor
        self.register_buffer("count", torch.zeros(()))

    def forward(self, features: Tensor) -> Tensor:
        if self.how == "if":
            return self.linear(features) if features.sum() > 0 else features  # type: ignore[no-any-return]
        if self.how == "cond":
            return torch.cond(features.sum() > 0, torch.relu, torch.neg, (self.linear(features),))  # type: ignore[no-any-return]
        if self.how == "count":
            self.count += 1  # type: ignore[operator,assignment]
        if self.how == "batch":
            return self.linear(features.reshape(2, 4))  # type: ignore[no-any-return]
        return self.linear(features)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("how", "reason", "remedy"),
    [
        ("if", r"if features.sum\(\) > 0", "torch.where"),
        ("cond", "depends on values of tensors", "torch.where"),
        ("count", r"changes its own state in evaluation mode \(network.count\)", "Keep such counters out"),
        ("batch", "cannot be traced by torch.export", "sizes read from the batch"),
    ],
)
def test_a_network_that_cannot_be_traced_is_refused_with_reason_and_remedy(
    how: str, reason: str, remedy: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(NetworkError, match=reason) as caught:
        trace(Branches(how), torch.randn(2, 4))
    assert remedy in str(caught.value)
    assert capfd.readouterr() == ("", "")  # what the tracer prints is in the message, not on the screen


def test_inputs_that_the_network_rejects_are_told_in_its_own_terms() -> None:
    with pytest.raises(NetworkError, match=r"rejects inputs of shape \(2, 5\): RuntimeError: mat1 and mat2"):
        trace(nn.Linear(4, 2), torch.randn(3, 5))


def test_a_module_that_cannot_be_copied_is_refused() -> None:
    module = nn.Linear(2, 2)
    module.handle = (i for i in range(3))  # type: ignore[assignment]
    with pytest.raises(NetworkError, match=r"cannot be copied.*generators"):
        trace(module, torch.randn(2, 2))


@pytest.mark.parametrize(
    ("inputs", "message"), [({"x": torch.ones(1), "flag": "yes"}, "str"), ((torch.ones(1), 3), "int")]
)
def test_inputs_that_are_no_tensors_are_refused(inputs: Any, message: str) -> None:
    with pytest.raises(NetworkError, match=f"hold a {message}.*forward"):
        tensors_of(inputs)


OUTPUTS: list[tuple[Callable[[Tensor], Any], Any, str]] = [
    (lambda x: x, None, ""),
    (lambda x: (x, 3), 0, ""),
    (lambda x: [3, x], -1, ""),
    (lambda x: {"logits": x}, "logits", ""),
    (lambda x: (x, x), None, r"returns a tuple of 2.*one of 0, 1"),
    (lambda x: {"a": x, "b": 3}, None, r"mapping with the keys a, b.*one of a\."),
    (lambda x: {"a": x}, "b", r"no 'b'.*one of a"),
    (lambda x: (x,), 1, r"no 1.*one of 0"),
    (lambda x: {"a": 3}, "a", r"'a' is a int, not a tensor"),
    (lambda x: None, None, r"a NoneType"),
    (lambda x: 3, "logits", r"no 'logits'"),
]


@pytest.mark.parametrize(("wrap", "output", "message"), OUTPUTS)
def test_the_output_that_counts_is_found_or_the_choice_is_told(
    wrap: Callable[[Tensor], Any], output: Any, message: str
) -> None:
    x = torch.ones(2)
    if message:
        with pytest.raises(NetworkError, match=message):
            select_output(wrap(x), output)
    else:
        assert select_output(wrap(x), output) is x
