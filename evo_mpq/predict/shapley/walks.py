"""Walks from the most expensive genome down to the cheapest: what permutations and lattice paths have in common."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from evo_mpq.predict.shapley.games import Game
from evo_mpq.space.search_space import Genome
from evo_mpq.typing import BoolVector, FloatMatrix, FloatVector, Genomes


@dataclass(frozen=True)
class Averages:
    """Averages over walks of ``n`` numbers that each of them has.

    Attributes:
        means: ``(n,)``; NaN for what no walk came to.
        standard_errors: ``(n,)``; NaN where fewer than two independent walks came to it.
        visits: ``(n,)`` walks that did.
    """

    means: FloatVector
    standard_errors: FloatVector
    visits: npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Walks:
    """What the moves of walks add to the loss.

    Attributes:
        added: ``(n_walks, n_moves)``; the moves of a gene stand together, genes in their order, from the top. NaN
            where a walk had stopped before.
        units: ``(n_walks,)`` number of the independent draw that a walk belongs to; an order and its reverse share it.
    """

    added: FloatMatrix
    units: npt.NDArray[np.int64]

    def averages(self, values: FloatMatrix, momentum: float | None) -> Averages:
        """Averages of ``(n_walks, n)`` numbers over the walks that have them.

        The error is that of a weighted mean of independent units. With ``momentum``, a walk's weight falls by this
        factor with every unit after it, as an exponential average does (Shapley-NAS, Wang et al., CVPR 2022,
        mu = 0.8); it serves games that change while they are played.
        """
        there = np.isfinite(values)
        age = self.units[-1] - self.units
        weights = there * (1.0 if momentum is None else momentum ** age[:, None])
        sums = weights.sum(axis=0)
        weights = np.divide(weights, sums, out=np.zeros_like(weights), where=sums > 0)
        means = np.where(sums > 0, (weights * np.where(there, values, 0.0)).sum(axis=0), np.nan)
        by_unit = np.zeros((self.units[-1] + 1, values.shape[1]))
        np.add.at(by_unit, self.units, weights * np.where(there, values - means, 0.0))
        seen = np.zeros_like(by_unit)
        np.add.at(seen, self.units, there)
        n_units = (seen > 0).sum(axis=0)
        scale = np.divide(n_units, n_units - 1, out=np.full(len(means), np.nan), where=n_units > 1)
        return Averages(means, np.sqrt(scale * (by_unit**2).sum(axis=0)), there.sum(axis=0))


def walked(
    game: Game,
    stride: Genome,
    n_measurements: int,
    rng: np.random.Generator,
    *,
    antithetic: bool,
    truncation: float | None,
) -> Walks:
    """Walks in random orders, as many as the measurements pay for.

    All walks that can be paid are measured at once, or, where they may stop early, step by step side by side. What is
    left at the end pays for states evenly spread over a last walk: the moves between two of them share what they add.
    It is made only if at least half of its states can be measured, or if it is the only one. At most as many walks
    are made as there are measurements, for the states of small spaces are all known at some time.

    Args:
        game: that is played.
        stride: ``(n_genes,)`` options that a gene goes down in a move; they divide its steps.
        n_measurements: most states that may be measured, with those that the game knows.
        rng: of the orders.
        antithetic: whether every order is followed by its reverse.
        truncation: share of the game's range beyond which a walk stops; None: none does.
    """
    moves = np.repeat(np.arange(game.space.n_genes), (game.space.cardinalities - 1) // stride)
    bound = None if truncation is None else game.top + truncation * game.range
    orders = _orders(moves, rng, antithetic)
    order = next(orders)
    added: list[FloatMatrix] = []
    n_walks = 0
    while n_walks < n_measurements:
        chosen: list[Genome] = []
        fresh: set[bytes] = set()
        while n_walks + len(chosen) < n_measurements:
            new = game.unknown(_states(game, order, stride))
            if game.n_measured + len(fresh | new) > n_measurements:
                break
            chosen.append(order)
            fresh |= new
            order = next(orders)
        if not chosen:
            break
        added.append(_measured(game, np.array(chosen), stride, None, bound))
        n_walks += len(chosen)
    left, missing = n_measurements - game.n_measured, len(game.unknown(_states(game, order, stride)))
    if not n_walks or (n_walks < n_measurements and 2 * left >= missing):
        added.append(_measured(game, order[None], stride, left, bound))
        n_walks += 1
    return Walks(np.concatenate(added), np.arange(n_walks) // (2 if antithetic else 1))


def _orders(moves: Genome, rng: np.random.Generator, antithetic: bool) -> Iterator[Genome]:
    """Random orders of moves, named by their genes: those of a gene are alike, so that all paths are as likely."""
    while True:
        order = rng.permutation(moves)
        yield order
        if antithetic:
            yield order[::-1]


def _states(game: Game, order: Genome, stride: Genome) -> Genomes:
    """``(n_moves + 1, n_genes)`` the states of a walk."""
    taken = np.zeros((len(order) + 1, game.space.n_genes), dtype=np.int64)
    taken[np.arange(1, len(order) + 1), order] = stride[order]
    states: Genomes = game.space.cardinalities - 1 - np.cumsum(taken, axis=0)
    return states


def _measured(
    game: Game, orders: npt.NDArray[np.int64], stride: Genome, n_new: int | None, bound: float | None
) -> FloatMatrix:
    """``(n_walks, n_moves)`` what moves add, those of a gene together.

    Args:
        game: that is played.
        orders: ``(n_walks, n_moves)``.
        stride: ``(n_genes,)``.
        n_new: of one walk, the number of states to measure; None for all.
        bound: the loss beyond which a walk stops.
    """
    paths = np.array([_states(game, order, stride) for order in orders])
    wanted = np.ones(paths.shape[:2], dtype=bool) if n_new is None else _spread(game, paths[0], n_new)[None]
    losses = np.full(wanted.shape, np.nan)
    if bound is None:
        losses[wanted] = game.losses(paths[wanted])
    else:
        running = np.ones(len(paths), dtype=bool)
        for place in range(paths.shape[1]):
            now = running & wanted[:, place]
            losses[now, place] = game.losses(paths[now, place]) if now.any() else np.nan
            running[now] &= ~(losses[now, place] > bound)
    for row in losses:
        known = np.flatnonzero(np.isfinite(row))
        row[: known[-1]] = np.interp(np.arange(known[-1]), known, row[known])
    # A stable sort of the genes of an order puts the moves of a gene together, its first one first.
    return np.take_along_axis(np.diff(losses, axis=1), np.argsort(orders, axis=1, kind="stable"), axis=1)


def _spread(game: Game, states: Genomes, n_new: int) -> BoolVector:
    """Which states of a walk to measure: those that are known, and ``n_new`` others, evenly spread."""
    unknown = np.array([bool(game.unknown(state[None])) for state in states])
    places = np.flatnonzero(unknown)
    chosen = ~unknown
    chosen[places[np.round(np.linspace(0, len(places) - 1, n_new + 2)[1:-1]).astype(np.int64)]] = True
    return chosen
