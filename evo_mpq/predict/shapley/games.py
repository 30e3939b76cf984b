"""The game whose players are the steps of genes, played downwards from the most expensive genome.

A gene of cardinality c has c - 1 steps; step k takes it from option k + 1 down to option k, so that a gene's steps can
only be taken from the top. The empty coalition is the most expensive genome, the grand coalition the cheapest one, and
every network between them is a healthy one ("progressive lowering").

The value of a state is its **loss**, and a contribution is how much loss a step adds. With the negative KL as the value
of a network, as SMPQ and Shapley-NAS would have it, everything is the same with the sign turned.

States are canonical genomes: once a block is left out, the steps of genes inside of it change nothing and contribute
nothing. Contributions still sum to loss(cheapest) - loss(most expensive).
"""

from __future__ import annotations

import numpy as np

from evo_mpq.errors import MeasurementError
from evo_mpq.predict.tables.options import Measure
from evo_mpq.space.search_space import SearchSpace
from evo_mpq.typing import FloatVector, Genomes


class Game:
    """Losses of states, each measured once.

    Args:
        space: of the genes.
        measure: measures genomes; its two ends are measured at once.

    Raises:
        MeasurementError: the most expensive or the cheapest genome cannot be measured.
    """

    def __init__(self, space: SearchSpace, measure: Measure) -> None:
        self.space = space
        self._measure = measure
        self._known: dict[bytes, float] = {}
        ends = self.losses(np.array([space.most_expensive(), space.cheapest()]))
        for loss, name in zip(ends, ("most expensive", "cheapest"), strict=True):
            if not np.isfinite(loss):
                raise MeasurementError(
                    f"the {name} genome cannot be measured, so that there is no loss to divide among the steps"
                )
        self.top, self.bottom = map(float, ends)

    @property
    def range(self) -> float:
        """What all contributions sum to: loss(cheapest) - loss(most expensive)."""
        return self.bottom - self.top

    @property
    def n_measured(self) -> int:
        """States measured so far, the two ends included."""
        return len(self._known)

    def losses(self, states: Genomes) -> FloatVector:
        """``(n,)`` losses of ``(n, n_genes)`` states, canonical or not; NaN where measuring failed."""
        rows = self.space.canonical(states)
        keys = [row.tobytes() for row in rows]
        new = {key: place for place, key in enumerate(keys) if key not in self._known}
        if new:
            losses = self._measure(rows[list(new.values())]).losses
            self._known.update(zip(new, map(float, losses), strict=True))
        return np.array([self._known[key] for key in keys], dtype=np.float64)

    def unknown(self, states: Genomes) -> set[bytes]:
        """The distinct states among ``(n, n_genes)`` that are not measured yet; as many as asking for them costs."""
        return {row.tobytes() for row in self.space.canonical(states)} - self._known.keys()


def checked_allowance(n_measurements: int) -> int:
    """The number of measurements, if the two ends of the game can be had for it.

    Raises:
        ValueError: they cannot.
    """
    if n_measurements < 2:
        raise ValueError(f"contributions take at least 2 measurements, of the two ends; got {n_measurements}")
    return n_measurements
