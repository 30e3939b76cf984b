"""Spaces with sums of factors for losses and costs, small ones to enumerate and large ones to be fast on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from evo_mpq.predict.factored import Factor, FactoredFunction
from evo_mpq.predict.tables.options import Estimates
from evo_mpq.predict.tables.tables import Tables
from evo_mpq.space.building import SpaceGroup, SpaceLayer, build_space
from evo_mpq.space.genes import DROP_KIND, PRUNE_KIND
from evo_mpq.space.search_space import SearchSpace
from evo_mpq.typing import FloatVector, Genomes

BITS = (2, 3, 4, 5, 6, 8)


class Allocation(NamedTuple):
    """What an allocation method has to solve.

    Attributes:
        space: of the genomes.
        loss: that measuring would give.
        cost: in bytes.
    """

    space: SearchSpace
    loss: FactoredFunction
    cost: FactoredFunction


def bits_allocation(n_layers: int, bits: Sequence[int] = BITS, seed: int = 0) -> Allocation:
    """Independent layers of random sizes, whose losses fall about fourfold with every bit."""
    rng = np.random.default_rng(seed)
    space = build_space([SpaceLayer(f"layers.{i}") for i in range(n_layers)], defaults={"weight_bits": list(bits)})
    steps = np.array(bits, dtype=float)
    sizes = rng.integers(100, 5000, n_layers)
    scales = np.exp(rng.normal(size=n_layers))
    noise = np.exp(0.2 * rng.normal(size=(n_layers, len(bits))))
    loss = [Factor((i,), scales[i] * noise[i] * (4.0**-steps - 4.0 ** -steps[-1])) for i in range(n_layers)]
    cost = [Factor((i,), np.ceil(sizes[i] * steps / 8)) for i in range(n_layers)]
    return Allocation(space, FactoredFunction(tuple(loss)), FactoredFunction((*cost, Factor((), np.array(64.0)))))


def residual_allocation(
    blocks_of_stages: Sequence[int] = (2, 2),
    bits: Sequence[int] = BITS[:5],
    ratios: Sequence[float] = (0.0, 0.25, 0.5, 0.75),
    seed: int = 0,
) -> Allocation:
    """Residual blocks of two layers that may be left out, on a stream of channels per stage, and a stem before them.

    A layer's bytes couple its bits with the channels it reads and writes and with its block. The first layer of every
    stage reads the stream of the one before, and its block cannot be left out.
    """
    rng = np.random.default_rng(seed)
    names, groups = ["stem"], []
    blocks: dict[str, tuple[str, ...] | str] = {}
    ends: dict[str, tuple[str | None, str]] = {"stem": (None, "stem")}
    stream = "stem"
    for stage, n_blocks in enumerate(blocks_of_stages):
        producers = ["stem"] if stage == 0 else []
        before = stream
        for block in range(n_blocks):
            first, second = f"s{stage}.b{block}.conv1", f"s{stage}.b{block}.conv2"
            names += [first, second]
            producers.append(second)
            stream = producers[0]
            ends[first] = (before if block == 0 else stream, first)
            ends[second] = (first, stream)
            groups.append(SpaceGroup(32, (first,)))
            if stage == 0 or block:
                blocks[f"s{stage}.b{block}"] = (first, second)
        groups.append(SpaceGroup(32, tuple(producers)))
    space = build_space(
        [SpaceLayer(name) for name in names],
        defaults={"weight_bits": list(bits)},
        groups=groups,
        blocks=blocks,
        prune={"ratios": list(ratios)},
        drop=list(blocks),
    )
    place = {gene.name: index for index, gene in enumerate(space.genes)}
    losses, costs = [Factor((), np.array(0.5))], [Factor((), np.array(64.0))]
    for name in names:
        channels = [place[f"{end}.{PRUNE_KIND}"] for end in ends[name] if f"{end}.{PRUNE_KIND}" in place]
        bit = place[f"{name}.weight_bits"]
        scope = sorted({bit, *channels, *space.homes[bit]})
        size = int(rng.integers(200, 3000))
        values = [np.array(space.genes[gene].values, dtype=float) for gene in scope]
        grid = dict(zip(scope, np.meshgrid(*values, indexing="ij"), strict=True))
        kept = np.prod([1.0 - grid[gene] for gene in channels], axis=0)
        there = np.prod([1.0 - grid[gene] for gene in space.homes[bit]], axis=0)
        costs.append(Factor(tuple(scope), there * np.ceil(size * kept * grid[bit] / 8)))
        wide = space.cardinalities[scope]
        noise = np.exp(0.3 * rng.normal(size=wide))
        harm = np.exp(rng.normal()) * noise * (4.0 ** -grid[bit] + 0.3 * (1.0 - kept))
        losses.append(Factor(tuple(scope), there * harm))
    for gene in (index for index, each in enumerate(space.genes) if each.kind == DROP_KIND):
        losses.append(Factor((gene,), np.array([float(np.exp(rng.normal())), 0.0])))
    return Allocation(space, FactoredFunction(tuple(losses)), FactoredFunction(tuple(costs)))


@dataclass
class Meter:
    """Measures a loss that is not what the factors say alone: genes below their last option make each other worse.

    Attributes:
        allocation: whose loss it is.
        interaction: how much.
        measured: all genomes that it was asked for.
    """

    allocation: Allocation
    interaction: float = 0.3
    measured: list[Genomes] = field(default_factory=list)

    def __call__(self, genomes: Genomes) -> Estimates:
        assert self.allocation.space.legal(genomes).all()
        self.measured.append(genomes.copy())
        return Estimates(self.losses(genomes), np.full(len(genomes), np.nan))

    def losses(self, genomes: Genomes) -> FloatVector:
        """``(n,)`` without keeping record."""
        lowered = (self.allocation.space.cardinalities - 1 - genomes) / self.allocation.space.cardinalities
        neighbors: FloatVector = (lowered[:, 1:] * lowered[:, :-1]).sum(axis=1)
        return self.allocation.loss(genomes) * (1 + self.interaction * neighbors)

    @property
    def n_measured(self) -> int:
        """Different genomes."""
        return len(np.unique(np.concatenate(self.measured), axis=0)) if self.measured else 0


def tables_of(allocation: Allocation, meter: Meter | None = None, seed: int = 0) -> Tables:
    """Tables whose measurements are synthetic, without a network behind them."""
    measure = Meter(allocation) if meter is None else meter
    return Tables(allocation.space, allocation.cost, measure, compressor=None, seed=seed)  # type: ignore[arg-type]


def spaced_budgets(allocation: Allocation, n: int) -> FloatVector:
    """``(n,)`` from the cost of the cheapest genome to that of the most expensive one."""
    ends = allocation.cost(np.stack([allocation.space.cheapest(), allocation.space.most_expensive()]))
    budgets = np.linspace(ends[0], ends[1], n)
    budgets[-1:] = ends[1]  # not a rounding error below it
    return budgets
