"""A problem without a network: rounding errors of layers that interfere, and bytes."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from evo_mpq.config import validate
from evo_mpq.measure.objectives import Quantity
from evo_mpq.objectives.size import Size
from evo_mpq.optimize.pareto import non_dominated
from evo_mpq.optimize.programs.elimination import pareto_program
from evo_mpq.optimize.surrogate_search.proposals import relatives
from evo_mpq.predict.factored import Factor, FactoredFunction
from evo_mpq.predict.tables.options import Estimates, OptionTable, additive
from evo_mpq.problem import Problem
from evo_mpq.quantities import Quantities
from evo_mpq.space.building import SpaceLayer, build_space
from evo_mpq.space.policy import Policy
from evo_mpq.space.search_space import SearchSpace
from evo_mpq.typing import FloatVector, Genomes

BITS = (2, 3, 4, 5, 6, 8)
SATURATION = 70.0
"""Percent of accuracy that there are to lose."""

ALL_TWO_BITS = 19.7
"""Percent that 2 bits everywhere lose."""

RELATIVES = 4000
MOST_KEPT = 400
"""Of a front whose relatives are tried next."""


@dataclass(frozen=True, eq=False)
class Pairs:
    """A loss of 70 (1 - exp(-e'Ce)) percent, with ``e_i = sqrt(s_i r_ib) 2^-b_i``; made by `pairs`.

    Attributes:
        amplitudes: ``(n_layers, n_bits)`` of errors.
        interference: ``(n_layers, n_layers)`` C, of unit diagonal and positive semidefinite.
        sizes: ``(n_layers,)`` weights.
    """

    amplitudes: np.ndarray
    interference: np.ndarray
    sizes: np.ndarray
    seconds_each: float = field(default=0.0)
    sketch_seconds_each: float = field(default=0.0)

    @property
    def space(self) -> SearchSpace:
        names = [SpaceLayer(f"layer{place}") for place in range(len(self.sizes))]
        return build_space(names, defaults={"weight_bits": BITS})

    @property
    def bytes(self) -> FactoredFunction:
        """Weights times bits."""
        return FactoredFunction(
            tuple(Factor((gene,), size * np.array(BITS) / 8) for gene, size in enumerate(self.sizes))
        )

    def losses(self, genomes: Genomes) -> FloatVector:
        errors = self.amplitudes[np.arange(len(self.sizes)), genomes]
        return SATURATION * -np.expm1(-np.einsum("ni,ni->n", errors @ self.interference, errors))

    def search(self, genomes: Genomes, share: float = 1.0) -> Estimates:
        losses = self.losses(genomes)
        return Estimates(losses, np.zeros(len(losses)))

    def test(self, genomes: Genomes) -> FloatVector:
        """The same: there are no samples."""
        return self.losses(genomes)

    test_kl = test

    def without_interference(self) -> FactoredFunction:
        """``e'e``, which has the front of the loss where C is the identity."""
        return additive(self.space, OptionTable.of(list(self.amplitudes**2)))

    def front(self, rounds: int = 200, seed: int = 0) -> Genomes:
        """The best front that is known: the exact program of ``e'e``, and its relatives, again and again."""
        space, rng, cost = self.space, np.random.default_rng(seed), self.bytes
        genomes = pareto_program(space, self.without_interference(), cost).genomes
        for _ in range(rounds):
            values = np.stack([self.losses(genomes), cost(genomes)], axis=1)
            genomes = genomes[non_dominated(values)]
            genomes = genomes[np.argsort(cost(genomes))]
            start = rng.integers(max(1, len(genomes) - MOST_KEPT + 1))
            some = genomes[start : start + MOST_KEPT]  # a part of it at a time: its neighbors are its relatives
            genomes = np.unique(np.concatenate([genomes, relatives(space, some, RELATIVES, rng)]), axis=0)
        return genomes[non_dominated(np.stack([self.losses(genomes), cost(genomes)], axis=1))]


def pairs(n_layers: int, seed: int, *, interfering: bool = True) -> Pairs:
    """Sensitivities s are log-normal and larger for small layers, r is 15 % of roughness over bits.

    C is .35 of the identity, .35 of rank 4, and .3 of a band of neighbors.

    Args:
        n_layers: each with a choice of 2, 3, 4, 5, 6 or 8 bits.
        seed: of layers and interference.
        interfering: otherwise C is the identity.
    """
    rng = np.random.default_rng(seed)
    sizes = np.round(rng.lognormal(9.0, 1.0, n_layers))
    sensitivities = rng.lognormal(0.0, 0.8, n_layers) / np.sqrt(sizes)
    roughness = rng.lognormal(0.0, 0.15, (n_layers, len(BITS)))
    amplitudes = np.sqrt(sensitivities[:, None] * roughness) * 2.0 ** -np.array(BITS)
    directions = rng.normal(size=(n_layers, 4))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    band = np.eye(n_layers) + 0.5 * (np.eye(n_layers, k=1) + np.eye(n_layers, k=-1))
    interference = 0.35 * np.eye(n_layers) + 0.35 * directions @ directions.T + 0.3 * band
    interference = interference if interfering else np.eye(n_layers)
    lost = amplitudes[:, 0] @ interference @ amplitudes[:, 0]
    scale = -np.log1p(-ALL_TWO_BITS / SATURATION) / lost
    return Pairs(np.sqrt(scale) * amplitudes, interference, sizes)


@dataclass(frozen=True, eq=False)
class _Named:
    """What a search asks of a layer."""

    name: str


class _Layers:
    """What a search asks of a network that is none."""

    prune_groups = ()

    def __init__(self, names: tuple[str, ...]) -> None:
        self._names = names

    def sites(self) -> list[_Named]:
        return [_Named(name) for name in self._names]


class _Bytes:
    """What a search asks of a compressor that compresses nothing."""

    def __init__(self, space: SearchSpace, cost: FactoredFunction) -> None:
        self._space, self._cost = space, cost

    def packed_bytes(self, policy: Policy, as_candidate: bool = False) -> float:
        return float(self._cost(self._space.encode([policy]))[0])


def unmeasured_problem(space: SearchSpace, cost: FactoredFunction) -> Problem:
    """A problem as far as searches look at it: bytes, and a loss that is measured elsewhere."""
    loss = Quantity("kl_divergence", "nats", "minimize", "measured", True, None, "outputs")
    size = Quantity("size", "B", "minimize", "exact", False, Size(), "free")
    whole = {"fitness": {"table_share": 1.0}}  # there are no samples of which tables could be a part
    settings = validate({"model": {"kind": "digits_mlp"}, "data": {"kind": "digits"}, "search": whole})
    network, compressor = _Layers(tuple(space.layers)), _Bytes(space, cost)
    return Problem(settings, network, space, compressor, Quantities((loss, size)))  # type: ignore[arg-type]
