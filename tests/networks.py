"""Small networks for tests, each with a trouble of its own, their data, and what can be done to them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from evo_mpq.compress.compressor import Compressor
from evo_mpq.compress.quantizers import ActivationQuantizer, UniformAffine
from evo_mpq.network.builtin.digits_models import BUILDERS
from evo_mpq.network.builtin.training import trained
from evo_mpq.network.calling import Forward
from evo_mpq.network.data.kinds import digits
from evo_mpq.network.data.splits import Split, Splits, splits_from
from evo_mpq.network.network import Network, trace_network
from evo_mpq.network.products import Product
from evo_mpq.space.policy import LayerPolicy, Policy

BUILTIN = ("digits_resnet", "digits_mobilenet", "digits_mlp", "digits_vit")

CALIBRATION, SEARCH, TEST = 24, 20, 6
"""Samples of the splits of every network here; batches of 8, so that the last one of search is smaller."""


class Convolutions(nn.Module):
    """Grouped, depthwise, dilated and strided ones, paddings by name, a shortcut, in-place ReLUs, folded norms."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 8, 4, padding="same", bias=False)
        self.stem_norm = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.grouped = nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=2, bias=False)
        self.grouped_norm = nn.BatchNorm2d(8)
        self.shrink = nn.Conv2d(8, 6, 3, stride=2, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Linear(12, 3)

    def forward(self, images: Tensor) -> Tensor:
        """``(n, 2, 8, 8)`` to ``(n, 3)``."""
        features = self.relu(self.stem_norm(self.stem(images)))
        features = features + self.grouped_norm(self.grouped(self.relu(self.depthwise(features))))
        features = self.relu(self.shrink(features))
        pooled = torch.cat([self.pool(features), functional.avg_pool2d(features, 2)], dim=1)
        return self.head(pooled.mean(dim=(2, 3)))  # type: ignore[no-any-return]


class Signals(nn.Module):
    """One-dimensional convolutions, one of them with a padding by name, another grouped."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(3, 6, 4, padding="same")
        self.norm = nn.BatchNorm1d(6)
        self.second = nn.Conv1d(6, 4, 3, stride=2, padding=1, groups=2)
        self.head = nn.Linear(4, 2)

    def forward(self, signals: Tensor) -> Tensor:
        """``(n, 3, 10)`` to ``(n, 2)``."""
        features = functional.relu_(self.norm(self.first(signals)))
        return self.head(functional.gelu(self.second(features)).amax(dim=2))  # type: ignore[no-any-return]


class CalledTwice(nn.Module):
    """A linear layer that is called twice, around a block without gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.shared = nn.Linear(8, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, features: Tensor) -> Tensor:
        """``(n, 6)`` to ``(n, 3)``."""
        features = torch.relu(self.shared(torch.relu(self.first(features))))
        with torch.no_grad():
            features = torch.relu(self.shared(features)) * 0.5
            with torch.enable_grad():
                features = features + 1
        return self.head(features)  # type: ignore[no-any-return]


class TiedTokens(nn.Module):
    """A language model whose embedding is the head's weight, with padding and learned positions."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 8, padding_idx=0)
        self.positions = nn.Parameter(0.1 * torch.randn(1, 5, 8))
        self.norm = nn.LayerNorm(8)
        self.mixer = nn.Linear(8, 8)
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        """``(n, 5)`` indices to ``(n, 5, 11)``."""
        features = self.embedding(tokens) + self.positions
        features = features + functional.gelu(self.mixer(self.norm(features)))
        return self.head(features)  # type: ignore[no-any-return]


class Products(nn.Module):
    """Linear layers written as products: ``addmm`` as in GPT-2, ``matmul`` with bare parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.into = nn.Parameter(torch.randn(6, 9))
        self.into_bias = nn.Parameter(torch.randn(9))
        self.bare = nn.Parameter(torch.randn(9, 7))
        self.out_weight = nn.Parameter(torch.randn(4, 7))

    def forward(self, features: Tensor) -> Tensor:
        """``(n, 3, 6)`` to ``(n, 4)``."""
        rows = torch.addmm(self.into_bias, features.view(-1, 6), self.into)
        features = torch.relu(rows.view(-1, 3, 9)) @ self.bare
        return features.mean(dim=1) @ self.out_weight.T


class CrossAttention(nn.Module):
    """Attention to another sequence, so that its in-projection is read in three pieces; returns a mapping."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 3)
        nn.init.normal_(self.attention.in_proj_bias)

    def forward(self, queries: Tensor, memory: Tensor, *, ignored: Tensor) -> dict[str, Any]:
        """``(n, 4, 8)``, ``(n, 5, 8)`` and ``(n, 5)`` to ``(n, 4, 3)``."""
        attended, weights = self.attention(queries, memory, memory, key_padding_mask=ignored)
        return {"attention": weights, "logits": self.head(queries + attended)}


class Oddities(nn.Module):
    """Parameters that are read in more than one way, a branch that depends on no input, buffers of many types."""

    factor: Tensor
    turn: Tensor
    kept: Tensor
    order: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.second = nn.Linear(8, 8)
        self.second.bias = self.first.bias  # one bias, two layers
        self.queries = nn.Parameter(torch.randn(1, 3, 8))
        self.project = nn.Linear(8, 8)
        self.places = nn.Embedding(4, 8)
        self.head = nn.Linear(8, 5)
        self.turn: Tensor
        self.kept: Tensor
        self.register_buffer("order", torch.tensor([2, 0, 1]))
        self.register_buffer("factor", torch.tensor(0.5))
        self.register_buffer("turn", torch.exp(1j * torch.arange(4)))
        self.register_buffer("kept", torch.tensor([True, False, True]))

    def forward(self, features: Tensor) -> Tensor:
        """``(n, 6)`` to ``(n, 3, 5)``."""
        hidden = self.second(torch.relu(self.first(features))) + self.first.bias * self.first.weight.mean()
        queries = self.project(self.queries) + self.places(self.order)
        mixed = torch.tanh(hidden[:, None] * self.factor + queries)
        turned = torch.view_as_complex(mixed.unflatten(-1, (4, 2)).contiguous()) * self.turn
        turned = torch.view_as_real(turned).flatten(-2)
        return self.head(turned) * self.kept[:, None]  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Example:
    """A network of the collection.

    Attributes:
        build: the untrained module.
        sample: one sample of its inputs.
        forward: how it is called, None for the default.
        output: which output counts.
        layers: the names that its layers must have.
    """

    build: Callable[[], nn.Module]
    sample: Callable[[torch.Generator], Any]
    layers: tuple[str, ...]
    forward: Forward | None = None
    output: str | int | None = None


def _normal(*shape: int) -> Callable[[torch.Generator], Tensor]:
    return lambda generator: torch.randn(shape, generator=generator)


def _encoder() -> nn.Module:
    return nn.Sequential(nn.TransformerEncoderLayer(8, 2, 12, batch_first=True, norm_first=True), nn.Linear(8, 3))


EXAMPLES = {
    "convolutions": Example(Convolutions, _normal(2, 8, 8), ("stem", "depthwise", "grouped", "shrink", "head")),
    "signals": Example(Signals, _normal(3, 10), ("first", "second", "head")),
    "called_twice": Example(CalledTwice, _normal(6), ("first", "shared", "head")),
    "tied_tokens": Example(
        TiedTokens, lambda generator: torch.randint(0, 11, (5,), generator=generator), ("embedding", "mixer")
    ),
    "products": Example(Products, _normal(3, 6), ("into", "bare", "out")),
    "encoder": Example(
        _encoder,
        _normal(4, 8),
        ("0.self_attn.in_proj", "0.self_attn.out_proj", "0.linear1", "0.linear2", "1"),
    ),
    "cross_attention": Example(
        CrossAttention,
        lambda generator: {
            "memory": torch.randn(5, 8, generator=generator),
            "queries": torch.randn(4, 8, generator=generator),
            "ignored": torch.tensor([False, False, False, True, True]),
        },
        ("attention.in_proj", "attention.out_proj", "head"),
        output="logits",
    ),
    "oddities": Example(Oddities, _normal(6), ("first", "second", "project", "places", "head")),
}
"""By name; "the shape of a user's network", where the built-in ones are too plain."""

ALL = (*BUILTIN, *EXAMPLES)


@cache
def module_of(name: str) -> nn.Module:
    """The module behind a network, in training mode where that is what a user would forget; not to be changed."""
    if name in BUILTIN:
        return trained(name, steps=20)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        module = EXAMPLES[name].build()
        for part in module.modules():
            if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
                part.running_mean = torch.randn(part.num_features)
                part.running_var = torch.rand(part.num_features) + 0.5
                nn.init.normal_(part.weight)
                nn.init.normal_(part.bias)
    return module


def untrained(name: str, seed: int = 7) -> nn.Module:
    """The same network with other weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return BUILDERS[name]() if name in BUILTIN else EXAMPLES[name].build()


def samples(name: str, n: int, seed: int) -> list[tuple[Any, Any]]:
    """``n`` pairs of inputs and target for a network of the collection."""
    generator = torch.Generator().manual_seed(seed)
    return [(EXAMPLES[name].sample(generator), i % 3) for i in range(n)]


def same_splits(data: list[tuple[Any, Any]]) -> Splits:
    """The same samples in every split."""
    return splits_from({"calibration": data, "search": data, "test": data}, 8)


@cache
def splits_of(name: str) -> Splits:
    """Small splits for a network; batches of 8."""
    if name in BUILTIN:
        return splits_from(digits(calibration=CALIBRATION, search=SEARCH, test=TEST, train=60), 8)
    sizes = {"calibration": CALIBRATION, "search": SEARCH, "test": TEST}
    return splits_from({key: samples(name, n, seed) for seed, (key, n) in enumerate(sizes.items())}, 8)


@cache
def network_of(name: str) -> Network:
    """The traced network."""
    example = EXAMPLES.get(name)
    return trace_network(
        module_of(name),
        splits_of(name),
        name=name,
        forward=example.forward if example else None,
        output=example.output if example else None,
        prunable=name in PRUNABLE,
    )


PRUNABLE = ("digits_resnet", "digits_mobilenet", "digits_mlp", "convolutions", "signals")
"""Networks whose channels are pruned in tests."""


@cache
def blocks_of(name: str) -> tuple[str, ...]:
    """Blocks that may be dropped together: the outermost, without those whose pruned channels others read."""
    network = network_of(name)
    chosen: list[str] = []
    for path, found in network.blocks.items():
        if isinstance(found, str) or any(path.startswith(f"{other}.") for other in chosen):
            continue
        inside = {*found.layers}
        if all(inside.issuperset(group.columns) or not inside.issuperset(group.rows) for group in network.prune_groups):
            chosen.append(path)
    return tuple(chosen)


@cache
def compressor_of(
    name: str,
    rounding: str = "descent",
    correction: Any = "scale_bias",
    edges: int | None = 8,
    symmetric: bool = True,
    granularity: str | int = "channel",
) -> Compressor:
    """A compressor for a network, with ranges that are quick to find."""
    quantizer = UniformAffine(symmetric, granularity, "minmax", rounding)
    return Compressor(
        network_of(name),
        quantizer=quantizer,
        activations=ActivationQuantizer("minmax"),
        correction=correction,
        edges=edges,
        blocks=blocks_of(name),
    )


def random_policies(
    network: Network,
    n: int,
    seed: int,
    weight_bits: Sequence[int] = (2, 3, 4, 5, 6, 7, 8, 32),
    activation_bits: Sequence[int] = (2, 4, 8, 32),
) -> list[Policy]:
    """Policies of which many share their first layers, one twice, among them everything at 32 bits.

    Channels are pruned and blocks dropped in all but every third.
    """
    rng = np.random.default_rng(seed)
    names = [site.name for site in network.sites()]
    policies: list[Policy] = []
    for i in range(n):
        layers = {
            site.name: LayerPolicy(
                32 if isinstance(site, Product) else int(rng.choice(weight_bits)),
                int(rng.choice(activation_bits)) if isinstance(site, Product) or site.quantizes_input else 32,
            )
            for site in network.sites()
        }
        architecture = {}
        if i % 3:
            for group in network.prune_groups:
                ratio = float(rng.choice([0.0, 0.3, 0.5]))
                layers.update({name: replace(layers[name], prune_ratio=ratio) for name in group.rows})
            architecture = {f"{block}.drop": True for block in blocks_of(network.name) if rng.random() < 0.3}
        elif i:  # the second half of another one's layers is changed
            layers.update({name: policies[-3].layers[name] for name in names[: len(names) // 2]})
        policies.append(Policy(layers, architecture))
    return [*policies, Policy.uniform(names, 32, 32), policies[0]]


def outputs_of(module: nn.Module, split: Split) -> list[Tensor]:
    """A compressed module's outputs, batch by batch."""
    return [module(batch.inputs) for batch in split.batches()]


_FRESH = """
import hashlib, sys
from pathlib import Path
import torch
import networks
from evo_mpq.compress.module import load_packed
torch.set_num_threads(1)
name, file = sys.argv[1:]
module = load_packed(Path(file).read_bytes(), file, networks.untrained(name, seed=99))
outputs = networks.outputs_of(module, networks.splits_of(name).search)
print(networks.network_of(name).graph.hash())
print(hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in outputs)).hexdigest())
"""


def in_a_fresh_process(name: str, file: Path) -> tuple[str, str]:
    """The hash of a network's graph, and of what a packed file of it computes, by a process that knows nothing."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "PYTHONHASHSEED": "12345"}
    command = [sys.executable, "-W", "ignore", "-c", _FRESH, name, str(file)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    graph, outputs = done.stdout.split()
    return graph, outputs
