"""Random search, the baseline that every search must beat."""

from __future__ import annotations

import numpy as np

from evo_mpq.measure.measurements import Measurements
from evo_mpq.optimize.searcher import SeenGenomes, Turns, UnseenGenomes
from evo_mpq.space.search_space import SearchSpace
from evo_mpq.typing import Genomes


class RandomSearch:
    """Asks genomes uniformly at random, without repetition.

    Args:
        space: what is drawn from.
        chunk: rows per ask.
        seed: of all random choices.
    """

    def __init__(self, space: SearchSpace, chunk: int = 40, seed: int = 0) -> None:
        self._chunk = chunk
        self._seen = SeenGenomes()
        self._unseen = UnseenGenomes(space, self._seen, np.random.default_rng(seed))
        self._turns = Turns()

    def ask(self, limit: int | None = None) -> Genomes:
        """The next genomes; see `Searcher.ask`."""
        genomes = self._unseen.draw(self._turns.rows(self._chunk, limit))
        self._seen.add(genomes)
        return self._turns.asked(genomes)

    def tell(self, measurements: Measurements) -> None:
        """Nothing is learned; see `Searcher.tell`."""
        self._turns.told(measurements)

    def remember(self, genomes: Genomes, measurements: Measurements) -> None:
        """Leave ``genomes`` out; see `Searcher.remember`."""
        self._seen.add(genomes)
