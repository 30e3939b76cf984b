"""Laws of the built-in networks: what they take, what they are made of, and that torch can export them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from evo_mpq.errors import NetworkError
from evo_mpq.network.builtin.digits_models import (
    BUILDERS,
    digits_mlp,
    digits_mobilenet,
    digits_resnet,
    digits_vit,
)
from evo_mpq.network.builtin.training import trained

every_network = pytest.mark.parametrize("name", sorted(BUILDERS))


def images(n: int) -> torch.Tensor:
    return torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(n))


def built(name: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return BUILDERS[name]().eval()


def layers(module: nn.Module) -> dict[str, nn.Module]:
    """Modules with weights that can be quantized; attention counts by its output projection."""
    return {name: part for name, part in module.named_modules() if isinstance(part, nn.Conv2d | nn.Linear)}


def n_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@every_network
def test_images_become_ten_logits_each(name):
    network = built(name)
    for n in (1, 3):
        assert network(images(n)).shape == (n, 10)


@every_network
def test_an_image_is_judged_for_itself(name):
    network, batch = built(name), images(4)
    alone = torch.cat([network(image[None]) for image in batch])
    torch.testing.assert_close(network(batch), alone, rtol=1e-4, atol=1e-5)


@every_network
def test_judging_images_changes_no_state(name):
    network = built(name)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    network(images(3))
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


@every_network
def test_every_parameter_takes_part(name):
    network = built(name)
    nn.functional.cross_entropy(network(images(8)), torch.arange(8)).backward()
    without = [key for key, value in network.named_parameters() if value.grad is None or not value.grad.any()]
    assert without == []


@every_network
def test_torch_exports_it_for_any_batch(name):
    network = built(name)
    exported = torch.export.export(network, (images(2),), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    for n in (2, 5):
        assert torch.equal(exported.module()(images(n)), network(images(n)))


def test_the_residual_network_has_ten_layers_named_by_stage():
    network = digits_resnet()
    assert list(layers(network)) == [
        "stem",
        "stage1.0.conv1",
        "stage1.0.conv2",
        "stage2.0.conv1",
        "stage2.0.conv2",
        "stage2.0.shortcut",
        "stage3.0.conv1",
        "stage3.0.conv2",
        "stage3.0.shortcut",
        "head",
    ]
    assert 60_000 <= n_parameters(network) <= 150_000
    assert 3 ** len(layers(network)) == 59_049  # genomes over three choices each: can be enumerated


def test_the_mobile_network_alternates_expansion_depthwise_and_projection():
    found = layers(digits_mobilenet())
    assert list(found)[:4] == ["stem", "blocks.0.expand", "blocks.0.depthwise", "blocks.0.project"]
    assert len(found) == 17
    for name, layer in found.items():
        if isinstance(layer, nn.Conv2d):
            assert layer.groups == (layer.in_channels if name.endswith("depthwise") else 1)


def test_the_perceptron_is_six_linear_layers():
    assert [type(layer) for layer in layers(digits_mlp()).values()] == [nn.Linear] * 6


def test_the_transformer_attends_twice_through_multihead_attention():
    attentions = [part for part in digits_vit().modules() if isinstance(part, nn.MultiheadAttention)]
    assert len(attentions) >= 2
    assert all(part.in_proj_weight is not None for part in attentions)


@every_network
def test_the_first_line_of_its_description_says_how_many_layers_it_has(name):
    said = BUILDERS[name].__doc__ or ""
    words = {"digits_resnet": "10 layers", "digits_mobilenet": "17 layers", "digits_mlp": "6 Linear layers"}
    assert words.get(name, "vision transformer") in said.splitlines()[0]


def test_options_change_the_sizes():
    assert len(layers(digits_resnet(blocks=2))) == 16
    assert n_parameters(digits_resnet(widths=(8, 16, 32))) < n_parameters(digits_resnet()) / 3
    assert n_parameters(digits_mobilenet(expansion=2)) < n_parameters(digits_mobilenet())
    assert len(layers(digits_mlp(widths=(32, 32)))) == 3
    assert len(layers(digits_vit(depth=3))) == len(layers(digits_vit(depth=2))) + 3  # fc1, fc2, out_proj


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("digits_resnet", {"width": 3}),
        ("digits_resnet", {"widths": [8, 16]}),
        ("digits_vit", {"width": 50, "heads": 4}),
    ],
)
def test_options_that_do_not_fit_are_told(name, options):
    with pytest.raises(NetworkError, match=f"{name} cannot be built with the options"):
        trained(name, **options)
