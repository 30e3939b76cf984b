"""Every genome of a space, in order."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from evo_mpq.measure.measurements import Measurements
from evo_mpq.optimize.searcher import SeenGenomes, Turns
from evo_mpq.space.search_space import SearchSpace
from evo_mpq.typing import Genomes


class Exhaustive:
    """Asks all genomes in lexicographic order, so that neighbors share as much computation as possible.

    Args:
        space: what is enumerated.
        chunk: rows per ask.

    >>> from evo_mpq.space.building import SpaceLayer, build_space
    >>> space = build_space([SpaceLayer("a"), SpaceLayer("b")], defaults={"weight_bits": [2, 4]})
    >>> Exhaustive(space).ask().tolist()
    [[0, 0], [0, 1], [1, 0], [1, 1]]
    """

    def __init__(self, space: SearchSpace, chunk: int = 4096) -> None:
        self._chunk = chunk
        self._rest: Iterator[Genomes] = space.enumerate(chunk)
        self._buffer = np.empty((0, space.n_genes), dtype=np.int64)
        self._measured_elsewhere = SeenGenomes()
        self._turns = Turns()

    def ask(self, limit: int | None = None) -> Genomes:
        """The next genomes; see `Searcher.ask`."""
        n = self._turns.rows(self._chunk, limit)
        while len(self._buffer) < n:
            rows = next(self._rest, None)
            if rows is None:
                break
            self._buffer = np.concatenate([self._buffer, rows[self._measured_elsewhere.new(rows)]])
        genomes, self._buffer = self._buffer[:n], self._buffer[n:]
        return self._turns.asked(genomes)

    def tell(self, measurements: Measurements) -> None:
        """Nothing is learned; see `Searcher.tell`."""
        self._turns.told(measurements)

    def remember(self, genomes: Genomes, measurements: Measurements) -> None:
        """Leave ``genomes`` out; see `Searcher.remember`."""
        self._measured_elsewhere.add(genomes)
        self._buffer = self._buffer[self._measured_elsewhere.new(self._buffer)]
