from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from networks import ALL, network_of
from torch import Tensor, nn

from evo_mpq.compress.sample_axes import SampleAxes, SampleAxis, find_sample_axes
from evo_mpq.network.data.splits import splits_from
from evo_mpq.network.network import Network, trace_network


class Around(nn.Module):
    """A linear layer, and what a test does with its outputs."""

    def __init__(self, tail: Any) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.tail = tail

    def forward(self, features: Tensor) -> Tensor:
        """``(n, ..., 4)``."""
        return self.tail(self.layer(features))  # type: ignore[no-any-return]


def traced(tail: Any, shape: tuple[int, ...] = (4,), search: tuple[int, ...] | None = None) -> Network:
    generator = torch.Generator().manual_seed(0)
    sizes = {"calibration": shape, "search": search or shape, "test": shape}
    splits = {name: [(torch.randn(size, generator=generator), 0) for _ in range(12)] for name, size in sizes.items()}
    return trace_network(Around(tail), splits_from(splits, 4))


@pytest.mark.parametrize(
    ("tail", "why"),
    [
        (lambda x: x - x.mean(0), "mixes all samples of a batch in one value"),
        (lambda x: x.softmax(0), "gives a sample another value where it stands in another batch"),
        (lambda x: x.cumsum(0), "gives a sample another value where it stands in another batch"),
        (lambda x: x + torch.arange(x.shape[0])[:, None], "gives a sample another value"),
        (lambda x: torch.cat([x, x[:1]])[1:], "mixes all samples|is not proportional to the number of samples"),
    ],
    ids=["mean", "softmax", "cumsum", "arange", "cat"],
)
def test_a_network_that_mixes_samples_is_refused_with_the_operation(tail: Any, why: str) -> None:
    found = find_sample_axes(traced(tail))
    assert isinstance(found, str)
    assert re.search(why, found), found
    assert "aten." in found


def test_sizes_that_differ_between_batches_are_refused() -> None:
    found = find_sample_axes(traced(torch.relu, (5, 4), (7, 4)))
    assert isinstance(found, str) and "has 2 axes whose sizes differ between batches" in found


@pytest.mark.parametrize("name", ALL)
def test_the_networks_of_the_tests_are_not_refused(name: str) -> None:
    found = find_sample_axes(network_of(name))
    assert isinstance(found, SampleAxes)
    graph = network_of(name).graph
    assert {*found.values, *found.tuples, *found.sizes} == graph.of_samples
    assert all(graph[node].shape[along.axis] is None for node, along in found.values.items())


def test_an_axis_that_is_merged_in_front_of_the_samples_stands_outside() -> None:
    found = find_sample_axes(
        traced(lambda x: torch.relu(x.transpose(0, 1).reshape(-1, 4)).view(5, -1, 4).transpose(0, 1), (5, 4))
    )
    assert isinstance(found, SampleAxes)
    assert {along.outer for along in found.values.values()} == {1, 5}


def test_batches_apart_are_put_together_again() -> None:
    along, value = SampleAxis(1, 3, 0.0), torch.arange(2 * 24 * 2).reshape(2, 24, 2)
    apart = along.apart(value, 4)
    assert apart.shape == (2, 3, 4, 2, 2)
    assert torch.equal(along.together(apart), value)


def test_several_tensors_of_one_operation_stand_side_by_side() -> None:
    found = find_sample_axes(traced(lambda x: x.chunk(2, -1)[0] * x.chunk(2, -1)[1]))
    assert isinstance(found, SampleAxes) and found.tuples
