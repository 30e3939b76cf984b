"""Laws of the network for canvases: what it is made of, and that it is searched as it was trained."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from evo_mpq.config import validate
from evo_mpq.errors import ConfigError
from evo_mpq.network.builtin.canvas_resnet import canvas_resnet
from evo_mpq.network.builtin.training import trained
from evo_mpq.network.data.canvas import digits_canvas
from evo_mpq.network.data.splits import splits_from
from evo_mpq.network.network import trace_network
from evo_mpq.problem import build_problem


def canvases(n: int) -> torch.Tensor:
    return torch.randn(n, 1, 24, 24, generator=torch.Generator().manual_seed(n))


def test_canvases_become_ten_logits_each():
    network = canvas_resnet().eval()
    assert network(canvases(3)).shape == (3, 10)


def test_it_has_sixteen_layers_and_69_thousand_parameters():
    network = canvas_resnet()
    layers = [name for name, part in network.named_modules() if isinstance(part, nn.Conv2d | nn.Linear)]
    assert len(layers) == 16 and layers[0] == "stem" and layers[-1] == "head"
    assert [name for name in layers if "shortcut" in name] == ["stage2.0.shortcut", "stage3.0.shortcut"]
    assert round(sum(parameter.numel() for parameter in network.parameters()), -3) == 69_000
    assert "16 layers, 69 thousand parameters" in (canvas_resnet.__doc__ or "")


def test_every_parameter_takes_part():
    network = canvas_resnet()
    nn.functional.cross_entropy(network(canvases(8)), torch.arange(8)).backward()
    assert [key for key, value in network.named_parameters() if value.grad is None or not value.grad.any()] == []


def test_it_traces_on_its_data():
    splits = splits_from(digits_canvas(calibration=4, search=5, test=4), 4)
    network = trace_network(trained("canvas_resnet", steps=2), splits)
    assert len(network.layers) == 16
    assert network.splits.search.groups is not None


@pytest.mark.parametrize(("model", "data"), [(0, 1), (1, 0)])
def test_canvases_of_another_seed_than_the_networks_are_refused(model, data):
    settings = validate(
        {
            "model": {"kind": "canvas_resnet", "seed": model, "steps": 1},
            "data": {"kind": "digits_canvas", "seed": data},
        }
    )
    with pytest.raises(ConfigError, match=f"trained on the digits_canvas of seed {model}, among which are"):
        build_problem(settings)
