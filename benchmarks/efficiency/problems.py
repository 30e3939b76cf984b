"""The problems on which searches are compared."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.efficiency.splits import Measured, Redrawn
from benchmarks.efficiency.synthetic import pairs, unmeasured_problem
from benchmarks.efficiency.worlds import Cached, World
from benchmarks.every_image import N_SEARCHED, EveryImage
from benchmarks.exact_front import JOINT, TABLES
from benchmarks.gene_kinds import RATIOS, SETTINGS, WEIGHTS
from benchmarks.gene_kinds import arms as gene_kinds
from benchmarks.problems import built_in, joint
from evo_mpq import plugins
from evo_mpq.costs import computed_costs, layer_scopes
from evo_mpq.measure.candidate import Candidate
from evo_mpq.network.builtin.digits_models import shifted_at_random
from evo_mpq.network.builtin.recipes import Recipe
from evo_mpq.network.builtin.training import train
from evo_mpq.network.data.kinds import digits
from evo_mpq.predict.factored import FactoredFunction, decomposed
from evo_mpq.problem import Problem
from evo_mpq.typing import FloatVector, Genomes

N_SYNTHETIC = 60
MLP_WIDTH, MLP_BLOCKS = 64, 9
MLP_BITS = (2, 3, 4, 5, 6, 8)
KERNELS = ((2, 0.25), (4, 0.5), (32, 1.0))
"""Most weight bits, and the time of a MAC."""


class ResidualMLP(nn.Module):
    """20 Linear layers: one in, nine residual blocks of two, one out."""

    def __init__(self) -> None:
        super().__init__()
        self.flatten, self.relu = nn.Flatten(), nn.ReLU()
        self.first = nn.Linear(64, MLP_WIDTH)
        self.up = nn.ModuleList(nn.Linear(MLP_WIDTH, MLP_WIDTH) for _ in range(MLP_BLOCKS))
        self.down = nn.ModuleList(nn.Linear(MLP_WIDTH, MLP_WIDTH) for _ in range(MLP_BLOCKS))
        self.head = nn.Linear(MLP_WIDTH, 10)

    def forward(self, images: Tensor) -> Tensor:
        """``(n, 1, 8, 8)`` images to ``(n, 10)`` logits."""
        features = self.relu(self.first(self.flatten(images)))
        for up, down in zip(self.up, self.down, strict=True):
            features = features + down(self.relu(up(features)))
        return self.head(features)  # type: ignore[no-any-return]


@functools.cache
def residual_mlp() -> nn.Module:
    """Trained on digits for seconds."""
    torch.set_num_threads(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = ResidualMLP()
    inputs, targets = digits(seed=0)["train"].tensors
    recipe = Recipe(steps=900, learning_rate=2e-3, weight_decay=0.1)
    train(module, inputs, targets, recipe, augment=shifted_at_random, seed=0)
    return module.eval()


@dataclass(frozen=True)
class KernelSwitches:
    """Time of kernels, in millions of 8-bit MACs: no sum over layers, because changes of precision cost time, too.

    A layer of at most 2 weight bits runs in .25 of its MACs, of at most 4 in .5; between neighbors of different
    kernels activations are repacked, which takes as long as a part of the network's MACs.
    """

    name = "kernel_time"
    unit = "MMAC"
    direction = "minimize"
    modelled = True
    switch: float = 0.03

    def __call__(self, candidate: Candidate) -> float:
        layers = candidate.layers
        kernels = [
            0 if (layer.weight_bits or 32) <= 2 else 1 if (layer.weight_bits or 32) <= 4 else 2 for layer in layers
        ]
        time = sum((0.25, 0.5, 1.0)[kernel] * layer.macs for kernel, layer in zip(kernels, layers, strict=True))
        changes = sum(one != other for one, other in itertools.pairwise(kernels))
        whole = sum(layer.macs for layer in candidate.network.layers)
        return float(time + self.switch * whole * changes) / 1e6


def with_seeders(problem: Problem) -> Problem:
    """The problem with the default allocation methods, however it was made."""
    names = problem.settings.search.fitness.seeds
    return replace(problem, seeders={str(name): plugins.resolve(name, "seeders", None) for name in names})


def world(name: str) -> World:
    """A problem by its name, see `NAMES`; of images that can be split anew, on the first split."""
    return NAMES[name]()


def worlds(name: str, n_seeds: int) -> list[World]:
    """A problem once a seed: on a split of its own where every network is known on every image."""
    place = world(name)
    source = place.source
    if not isinstance(source, Redrawn):
        return [place] * n_seeds
    return [place, *(place.on(source.again(seed)) for seed in range(1, n_seeds))]


def _costs(problem: Problem) -> list[Any]:
    costs = computed_costs(problem)
    return [costs[quantity.name] for quantity in problem.objectives[1:]]


def _cached(name: str, problem: Problem) -> Cached:
    return Cached(problem, TABLES / f"efficiency_{name}.npz")


def _enumerated(space: str) -> World:
    every = EveryImage(space)
    problem = with_seeders(every.problem)
    costs = _costs(problem)
    source = Redrawn(every, N_SEARCHED, 0)
    return World(space, problem, source, costs, costs, every.genomes, N_SEARCHED)


def _switches() -> World:
    joint_space = _enumerated("joint")
    objectives = ["soft_kl_divergence", "size", {"kind": KernelSwitches}]
    problem = with_seeders(joint(weight_bits=(2, 4), seed=0, objectives=objectives, **JOINT))
    size = _costs(problem)[0]
    quantity, space = problem.objectives[2], problem.space

    def times(genomes: Genomes) -> FloatVector:
        return np.array([quantity.value(Candidate(policy, problem.compressor)) for policy in space.decode(genomes)])

    scopes = layer_scopes(problem)
    layers = [scope for scope in scopes if scope][: len(space.layers)]
    near = [one | other for one, other in itertools.pairwise(layers)]
    # where a block is left out, what stands before it meets what follows it
    across = [
        frozenset({gene}) | layers[min(inside) - 1] | layers[max(inside) + 1]
        for gene, inside in (
            (gene, [space.layers.index(layer) for layer in space.genes[gene].layers])
            for gene in range(space.n_genes)
            if space.genes[gene].kind == "drop"
        )
    ]
    exact: FactoredFunction = decomposed(space, times, [*scopes, *near, *across], np.random.default_rng(0))
    source, everything = joint_space.source, joint_space.everything
    return World("kernel_switches", problem, source, [size, exact], [size, exact], everything, N_SEARCHED)


def _synthetic() -> World:
    made = pairs(N_SYNTHETIC, 0)
    problem = with_seeders(unmeasured_problem(made.space, made.bytes))
    return World("pairs_60", problem, made, [made.bytes], [made.bytes], made.front())


def _measured(name: str, problem: Problem) -> World:
    problem = with_seeders(problem)
    costs = _costs(problem)
    samples = len(problem.network.splits.search)
    return World(name, problem, _cached(name, problem), costs, costs, samples=samples)


def _redrawn(name: str, problem: Problem) -> World:
    """Of which all networks are measured on the samples of both sides, to be split anew."""
    problem = with_seeders(problem)
    costs, n_searched = _costs(problem), len(problem.network.splits.search)
    return World(name, problem, Redrawn(Measured(problem), n_searched, 0), costs, costs, samples=n_searched)


def _residual_mlp() -> World:
    module = residual_mlp()
    return _redrawn("residual_mlp", built_in("digits_mlp", MLP_BITS, model={"kind": module}))


def network_problem(network: str, data: Mapping[str, int] | None = None, **arms: Any) -> Problem:
    """A network with signal in the small setting of `benchmarks.gene_kinds`; with all kinds of genes by default."""
    setting = SETTINGS[network]
    arms = arms or {"activation_bits": (4, 8), "prune": {"ratios": RATIOS}, "drop": list(setting.drop)}
    data = setting.data if data is None else data
    return joint(network, WEIGHTS, seed=0, model={"kind": network, "seed": 0}, data=data, **arms)


def split_sizes(network: str, sizes: Sequence[int]) -> dict[int, World]:
    """A network with all kinds of genes, by the size of the search split."""
    return {
        size: _measured(f"{network}_{size}", network_problem(network, data={**SETTINGS[network].data, "search": size}))
        for size in sizes
    }


def kinds(network: str) -> dict[str, World]:
    """A network with bits alone, with each other kind of gene besides, and with all; see `benchmarks.gene_kinds`."""
    found = {}
    for name, arm in gene_kinds(SETTINGS[network]).items():
        problem = joint(
            network, WEIGHTS, seed=0, model={"kind": network, "seed": 0}, data=SETTINGS[network].data, **arm
        )
        plain = "".join(letter if letter.isalpha() else "_" for letter in name)
        found[name] = _measured(network if name == "all" else f"{network}_{plain}", problem)
    return found


def _canvas_resnet() -> World:
    return _measured("canvas_resnet", network_problem("canvas_resnet"))


def _canvas_splits() -> World:
    """The same, each seed on a split of its own."""
    return _redrawn("canvas_splits", network_problem("canvas_resnet"))


def _canvas_mixed() -> World:
    """The same on mixed pairs, of which others of other images rank candidates alike: reproducible."""
    arms: dict[str, Any] = {
        "activation_bits": (4, 8),
        "prune": {"ratios": RATIOS},
        "drop": list(SETTINGS["canvas_resnet"].drop),
    }
    objectives = [{"kind": "kl_divergence", "mix": 1000}, "size"]
    return _measured("canvas_mixed", network_problem("canvas_resnet", objectives=objectives, **arms))


def _tiny_gpt() -> World:
    drop = list(SETTINGS["tiny_gpt"].drop)
    return _measured("tiny_gpt", network_problem("tiny_gpt", prune={"ratios": RATIOS}, drop=drop))


NAMES: Mapping[str, Callable[[], World]] = {
    "bits": lambda: _enumerated("bits"),
    "joint": lambda: _enumerated("joint"),
    "pairs_60": _synthetic,
    "residual_mlp": _residual_mlp,
    "kernel_switches": _switches,
    "canvas_resnet": _canvas_resnet,
    "canvas_splits": _canvas_splits,
    "canvas_mixed": _canvas_mixed,
    "tiny_gpt": _tiny_gpt,
}
"""The first two and `kernel_switches` against exact fronts of each split, the others against the best that is known."""
