"""What every search algorithm offers, and the memory that keeps it from asking a genome twice."""

from __future__ import annotations

from collections.abc import Container, Hashable, Sequence
from typing import Any, Protocol

import numpy as np

from evo_mpq.measure.measurements import Measurements
from evo_mpq.space.search_space import SearchSpace
from evo_mpq.typing import BoolVector, Genomes


class Searcher(Protocol):
    """Proposes genomes and learns from their measurements."""

    def ask(self, limit: int | None = None) -> Genomes:
        """The genomes to measure next.

        Args:
            limit: return at most so many rows; default: as many as the algorithm likes.

        Returns:
            ``(n, n_genes)`` canonical genomes, none of which was asked or remembered before. No row means
            that the space is exhausted.

        Raises:
            RuntimeError: the genomes asked last have not been told yet.
        """

    def tell(self, measurements: Measurements) -> None:
        """Take the measurements of exactly the rows asked last, in their order.

        Raises:
            RuntimeError: nothing was asked.
            ValueError: another number of rows.
        """

    def remember(self, genomes: Genomes, measurements: Measurements) -> None:
        """Take genomes that were measured elsewhere, such as seeds: learn from them, never ask them."""


def genome_keys(genomes: Genomes) -> list[bytes]:
    """One hashable key per row of ``(n, n_genes)`` genomes, small because runs keep many thousands."""
    rows = np.ascontiguousarray(genomes, dtype=np.int16)  # a gene has at most `MOST_VALUES` values
    return [row.tobytes() for row in rows]


def first_of_new(keys: Sequence[Hashable], known: Container[Any]) -> BoolVector:
    """``(n,)`` which keys are not known and repeat no earlier one."""
    first = {key: row for row, key in reversed(list(enumerate(keys)))}
    return np.array([key not in known and first[key] == row for row, key in enumerate(keys)], dtype=bool)


class SeenGenomes:
    """A set of genomes.

    >>> seen = SeenGenomes()
    >>> seen.add(np.array([[0, 1]]))
    >>> seen.new(np.array([[0, 1], [1, 1], [1, 1]]))
    array([False,  True, False])
    """

    def __init__(self) -> None:
        self._keys: set[bytes] = set()

    def __len__(self) -> int:
        return len(self._keys)

    def copy(self) -> SeenGenomes:
        """A set that grows on its own."""
        twin = SeenGenomes()
        twin._keys = self._keys.copy()
        return twin

    def add(self, genomes: Genomes) -> None:
        """Add all rows of ``(n, n_genes)`` genomes."""
        self._keys.update(genome_keys(genomes))

    def new(self, genomes: Genomes) -> BoolVector:
        """``(n,)`` rows that are not in the set and repeat no earlier row."""
        return first_of_new(genome_keys(genomes), self._keys)


class UnseenGenomes:
    """Draws genomes uniformly among those that are not in a set, down to the last one.

    While the set is small against the space, drawing and rejecting is fast. Before rejection gets slow the
    remaining genomes are listed and shuffled once; the list is at most about as long as the set.

    Args:
        space: what is drawn from.
        seen: what is left out; the caller adds what it uses.
        rng: the source of chance.
    """

    def __init__(self, space: SearchSpace, seen: SeenGenomes, rng: np.random.Generator) -> None:
        self._space = space
        self._seen = seen
        self._rng = rng
        self._listed: Genomes | None = None

    def draw(self, n: int) -> Genomes:
        """``(min(n, unseen genomes), n_genes)`` different unseen genomes, which stay unseen until added."""
        if self._listed is None and self._space.n_genomes > 2 * (len(self._seen) + n):
            return self._rejection(n)
        if self._listed is None:
            unseen = [rows[self._seen.new(rows)] for rows in self._space.enumerate()]
            self._listed = self._rng.permutation(np.concatenate(unseen))
        return self._from_list(n)

    def _from_list(self, n: int) -> Genomes:
        assert self._listed is not None
        drawn = self._listed[:0]
        start, window = 0, max(n, 256)
        while len(drawn) < n and start < len(self._listed):
            rows = self._listed[start : start + window]
            drawn = np.concatenate([drawn, rows[self._seen.new(rows)]])
            start += window
        self._listed = np.concatenate([drawn, self._listed[start:]])  # forgets what was seen meanwhile
        return drawn[:n]

    def _rejection(self, n: int) -> Genomes:
        drawn = np.empty((0, self._space.n_genes), dtype=np.int64)
        # At least every other draw is new, because the space has twice the genomes of ``seen`` and ``drawn``.
        while len(drawn) < n:
            drawn = np.concatenate([drawn, self._space.sample(2 * (n - len(drawn)), self._rng)])
            drawn = drawn[self._seen.new(drawn)][:n]
        return drawn


class Turns:
    """Keeps ``ask`` and ``tell`` in turn, and holds the genomes that are out for measuring."""

    def __init__(self) -> None:
        self._open: Genomes | None = None

    def rows(self, most: int, limit: int | None) -> int:
        """How many genomes to ask: ``most``, or ``limit`` if that is less.

        Raises:
            RuntimeError: the genomes asked last have not been told.
            ValueError: a limit below 1.
        """
        if self._open is not None:
            raise RuntimeError("tell() the measurements of the genomes asked last before the next ask()")
        if limit is not None and limit < 1:
            raise ValueError(f"limit must be at least 1, got {limit}")
        return most if limit is None else min(limit, most)

    def asked(self, genomes: Genomes) -> Genomes:
        """Note that ``genomes`` are out, unless there are none; returns a copy for the caller."""
        self._open = genomes if len(genomes) else None
        return genomes.copy()

    def told(self, measurements: Measurements) -> Genomes:
        """The genomes that ``measurements`` belong to, which are not out any more.

        Raises:
            RuntimeError: nothing was asked.
            ValueError: another number of rows than was asked.
        """
        if self._open is None:
            raise RuntimeError("tell() must follow an ask() that returned genomes")
        genomes = self._open
        if len(measurements) != len(genomes):
            raise ValueError(f"{len(genomes)} genomes were asked, {len(measurements)} measurements told")
        self._open = None
        return genomes
