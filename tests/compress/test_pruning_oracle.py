"""Masked networks against physically smaller ones, cut by Torch-Pruning and counted by torch's flop counter."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch_pruning
from networks import blocks_of, module_of, network_of
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from evo_mpq.compress.channels import WeightForm
from evo_mpq.compress.compressor import Compressor, Pruning
from evo_mpq.measure.candidate import Candidate
from evo_mpq.network.graph import run
from evo_mpq.objectives.macs import MACs
from evo_mpq.objectives.parameters import Parameters
from evo_mpq.space.policy import LayerPolicy, Policy

NAMES = ("digits_resnet", "digits_mobilenet", "digits_mlp")


def random_policy(name: str, seed: int) -> Policy:
    """Pruned channels and dropped blocks, nothing quantized."""
    rng, network = np.random.default_rng(seed), network_of(name)
    layers = dict.fromkeys([site.name for site in network.sites()], LayerPolicy())
    for group in network.prune_groups:
        ratio = float(rng.choice([0.0, 0.3, 0.5]))
        layers.update({layer: replace(layers[layer], prune_ratio=ratio) for layer in group.rows})
    # a layer that is dropped alone takes the normalization behind it along, which stands in another module
    blocks = [block for block in blocks_of(name) if block not in layers]
    return Policy(layers, {f"{block}.drop": True for block in blocks if rng.random() < 0.4})


def cut_out(name: str, compressor: Compressor, policy: Policy) -> nn.Module:
    """A copy of the module without the removed channels and the dropped blocks."""
    network = network_of(name)
    module = copy.deepcopy(module_of(name)).eval()
    example = network.splits.search.whole().inputs[:2]
    layers = {layer.name: layer for layer in network.layers}
    for group in network.prune_groups:
        ratio = policy.layers[group.name].prune_ratio
        kept = compressor.channels.rows(layers[group.name], WeightForm(32, ratio))
        if kept is None:
            continue
        removed = sorted(set(range(group.n_channels)) - set(kept.tolist()))
        graph = torch_pruning.DependencyGraph().build_dependency(module, example)
        part = module.get_submodule(group.name)
        function = (
            torch_pruning.prune_linear_out_channels
            if isinstance(part, nn.Linear)
            else torch_pruning.prune_conv_out_channels
        )
        graph.get_pruning_group(part, function, idxs=removed).prune()
    for block in policy.architecture:
        path, _, last = block.removesuffix(".drop").rpartition(".")
        setattr(module.get_submodule(path), last, nn.Identity())
    return module


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", NAMES)
def test_a_masked_network_gives_and_costs_what_a_smaller_one_does(name: str, seed: int) -> None:
    network, policy = network_of(name), random_policy(name, seed)
    compressor = Compressor(
        network, correction="none", edges=None, pruning=Pruning("l2", compensate=False), blocks=blocks_of(name)
    )
    smaller = cut_out(name, compressor, policy)
    inputs = network.splits.search.whole().inputs
    with torch.no_grad():
        expected = smaller(inputs)
        with FlopCounterMode(display=False) as counter:
            smaller(inputs[:1])
    outputs = compressor.apply(policy)(inputs)
    # biases of the packed file are float16
    torch.testing.assert_close(outputs, expected, rtol=2e-2, atol=2e-3 * float(expected.abs().max()))
    candidate = Candidate(policy, compressor)
    assert 2 * MACs()(candidate) == counter.get_total_flops()
    weights = sum(part.weight.numel() for part in smaller.modules() if isinstance(part, nn.Conv2d | nn.Linear))
    biases = sum(
        part.bias.numel() if isinstance(part, nn.Linear) else part.out_channels  # a folded normalization is a bias
        for part in smaller.modules()
        if isinstance(part, nn.Conv2d | nn.Linear)
    )
    assert Parameters()(candidate) == weights + biases


def test_compensation_brings_pruned_outputs_closer() -> None:
    network = network_of("digits_resnet")
    inputs = network.splits.calibration.whole().inputs
    with torch.no_grad():
        expected = run(network.graph, network.tensors, [inputs])
    errors: list[list[float]] = []
    for compensate in (False, True):
        compressor = Compressor(network, edges=None, pruning=Pruning(compensate=compensate))
        errors.append([])
        for group in network.prune_groups:
            layers = dict.fromkeys([site.name for site in network.sites()], LayerPolicy())
            layers.update(dict.fromkeys(group.rows, LayerPolicy(prune_ratio=0.5)))
            outputs = compressor.apply(Policy(layers))(inputs)
            errors[-1].append(float((outputs - expected).square().mean()))
    assert sum(with_it < without for without, with_it in zip(*errors, strict=True)) >= len(errors[0]) - 1
    assert sum(errors[1]) < sum(errors[0]) / 2


@pytest.mark.parametrize("criterion", ["l1", "l2", "taylor"])
def test_channels_that_do_nothing_are_removed_first(criterion: str) -> None:
    network = network_of("digits_resnet")
    group = next(group for group in network.prune_groups if group.name.endswith("conv1"))
    (consumer,) = group.columns
    layer = next(layer for layer in network.layers if layer.name == consumer)
    dead = [1, 4, 6]
    tensors = {name: tensor.clone() for name, tensor in network.tensors.items()}
    producer = next(layer for layer in network.layers if layer.name == group.name)
    tensors[producer.parameter][group.rows[group.name][dead].reshape(-1)] = 0.0
    tensors[layer.parameter].view(layer.n_rows, -1)[:, group.columns[consumer][dead].reshape(-1)] = 0.0
    compressor = Compressor(replace(network, tensors=tensors), edges=None, pruning=Pruning(criterion))  # type: ignore[arg-type]
    ratio = len(dead) / group.n_channels
    kept = compressor.channels.rows(producer, WeightForm(32, ratio))
    assert kept is not None and sorted(set(range(group.n_channels)) - set(kept.tolist())) == dead


def test_a_layer_outside_of_all_groups_cannot_be_pruned() -> None:
    network = network_of("digits_resnet")
    layers = dict.fromkeys([site.name for site in network.sites()], LayerPolicy(4))
    with pytest.raises(ValueError, match="head cannot be pruned"):
        Compressor(network).packed_bytes(Policy({**layers, "head": LayerPolicy(4, prune_ratio=0.5)}))
