"""Paired leverage-score KernelSHAP: totals of genes by a regression on coalitions and their complements."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from evo_mpq.predict.shapley.contributions import Contributions, expected_if_positive
from evo_mpq.predict.shapley.games import Game, checked_allowance
from evo_mpq.predict.shapley.levels import expected_steps, in_shares
from evo_mpq.predict.tables.options import Measure, OptionTable
from evo_mpq.space.search_space import SearchSpace
from evo_mpq.typing import BoolVector, FloatMatrix, FloatVector

Coalitions = npt.NDArray[np.bool_]
"""``(n, n_genes)`` whether a gene stands at its cheapest option, or at its most expensive one."""

PENALTIES = (0.0, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
"""Ridge penalties to choose from, in mean squared singular values."""


def kernel(
    space: SearchSpace,
    measure: Measure,
    n_measurements: int,
    rng: np.random.Generator,
    *,
    levels: OptionTable | None = None,
) -> Contributions:
    """Regression on pairs of opposite coalitions, then a profile over levels: the most exact at equal cost.

    Most of the loss comes with the last step of genes, so that is the game: every gene stands at its cheapest option or
    at the one above it (paired leverage SHAP, Musco and Witter 2024, "Provably accurate Shapley value estimation via
    leverage score sampling"). Shapley values depend on the odd part of the loss alone, and a coalition measured
    together with its complement has no other part in their difference: all pairwise interactions cancel. What all steps
    above lose together is measured as one, and divided by the level profile, see `upper_contributions`.

    In the game of whole genes others stand at either end, never between: however much is measured, its values are 9 to
    19 % off those of the game of steps on `digits_mobilenet`, and these 4 to 14 %. (Pairing states of all levels goes
    wrong: the curvature over levels is even.)

    Args:
        space: of the genes.
        measure: measures genomes.
        n_measurements: most genomes that may be measured; 4 a gene is a good number.
        rng: of the coalitions.
        levels: what options cost alone: the profile over levels, and what contributions are drawn towards where the
            pairs disagree or are few. Without it genes are taken for equal, the game is that of whole genes, and the
            profile is `levels.expected_losses`. Whole genes are also played where the network of all options above
            the cheapest cannot be measured.
    """
    allowance = checked_allowance(n_measurements)
    game = Game(space, measure)
    above = np.minimum(space.cardinalities - 1, 1)
    playable = levels is not None and allowance >= 2 + len(game.unknown(above[None]))
    middle = float(game.losses(above[None])[0]) if playable else np.nan
    if not np.isfinite(middle):
        above, middle = space.cardinalities - 1, game.top  # the game of whole genes
    pairs = drawn_pairs(space.n_genes, (allowance - game.n_measured) // 2, rng)
    both = np.concatenate([pairs.coalitions, ~pairs.coalitions])
    losses = game.losses(np.where(both, 0, above)).reshape(2, len(pairs.coalitions))
    usable: BoolVector = np.isfinite(losses.sum(axis=0))
    steps = expected_steps(space, levels)
    lower, upper = zip(*((part[:top], part[top:]) for part, top in zip(steps, above, strict=True)), strict=True)
    expected = np.array([part.sum() for part in lower])
    last, errors = solved(pairs.chosen(usable), losses[:, usable], game.bottom - middle, expected)
    alone = np.array([part.sum() for part in upper])
    if not alone.any():
        alone = np.array([float(len(part)) for part in upper])
    first = upper_contributions(expected_if_positive(last, errors), expected, alone, middle - game.top)
    # what a gene's error of the last step adds to that of the steps above, which follow its square root
    growth = np.abs(np.divide(first, 2 * last, out=np.zeros_like(last), where=last > 0))
    visits = int(usable.sum())
    return Contributions(
        increments=_divided(last, lower, first, upper),
        standard_errors=_divided(errors, lower, errors * growth, upper),
        visits=tuple(np.full(len(part), visits, dtype=np.int64) for part in steps),
        total_errors=errors * (1.0 + growth),
        n_measurements=game.n_measured,
        top=game.top,
        bottom=game.bottom,
    )


def upper_contributions(last: FloatVector, expected: FloatVector, upper: FloatVector, total: float) -> FloatVector:
    """``(n_genes,)`` what all but the last steps of genes contribute, by what was found of the last ones.

    A loss that is quadratic in the errors of genes, ``e'Ce``, has contributions ``c e^2 + e s`` with what others do to
    a gene in ``s``. How much larger than expected the last step's is, which is in the square, is halved on a
    logarithmic scale: interactions carry over where losses are quadratic, and vanish in healthy networks where they
    are not. (Not carried over at all, totals were 8.1 % off on a quadratic game and 15.2 % on `digits_mobilenet`, in
    full 1.5 and 16.4 %, by halves 3.8 and 15.2 %.)

    Args:
        last: ``(n_genes,)`` contributions of the last steps; those below 0 count as 0.
        expected: likewise what was expected, up to a factor.
        upper: ``(n_genes,)`` what is expected of the steps above, up to the same factor.
        total: what these contribute together.
    """
    known = expected > 0
    ratios = np.ones_like(last)
    if known.any():
        ratios[known] = np.maximum(last[known] / expected[known], 0.0)
        ratios[~known] = np.median(ratios[known])
    weights = upper * np.sqrt(ratios)
    return total * in_shares(weights if weights.sum() > 0 else upper)


def _divided(
    last: FloatVector, lower: Sequence[FloatVector], first: FloatVector, upper: Sequence[FloatVector]
) -> tuple[FloatVector, ...]:
    """Per gene ``(cardinality - 1,)`` its two parts divided over its steps."""
    return tuple(
        np.concatenate([one * in_shares(steps), other * in_shares(others)])
        for one, steps, other, others in zip(last, lower, first, upper, strict=True)
    )


@dataclass(frozen=True, eq=False)
class Pairs:
    """Coalitions that stand for themselves and their complements.

    Attributes:
        coalitions: ``(n, n_players)``, none of them empty, all different, also from all complements.
        weights: ``(n,)`` in the regression: the Shapley kernel over the probability.
        probabilities: ``(n,)`` that each of these pairs is drawn.
    """

    coalitions: Coalitions
    weights: FloatVector
    probabilities: FloatVector

    def chosen(self, which: BoolVector) -> Pairs:
        """Some of the pairs."""
        return Pairs(self.coalitions[which], self.weights[which], self.probabilities[which])


def drawn_pairs(n_players: int, n_pairs: int, rng: np.random.Generator) -> Pairs:
    """Pairs of opposite coalitions by their leverage scores, without replacement.

    All sizes of coalitions have the same leverage together, and all coalitions of a size the same. So every size gets
    the same number of pairs, or all that it has; fractions are drawn.

    Args:
        n_players: of the game.
        n_pairs: to draw; all there are, if it is more.
        rng: of the draw.
    """
    sizes = np.arange(1, n_players // 2 + 1)
    # Of the middle size, a coalition's complement has the same size, too: half as many pairs, half the leverage.
    shares = np.where(2 * sizes == n_players, 0.5, 1.0)
    counts = shares * [float(min(math.comb(n_players, int(size)), 10**300)) for size in sizes]
    expected = _filled(counts, shares, n_pairs)
    numbers = np.minimum(_rounded(expected, rng), counts).astype(np.int64)
    drawn = [_of_one_size(n_players, int(size), int(n), rng) for size, n in zip(sizes, numbers, strict=True)]
    coalitions = np.concatenate([np.zeros((0, n_players), dtype=bool), *drawn])
    # the kernel is 1 / (comb(n, s) s (n - s)), the probability expected / counts: the binomials cancel
    weights = shares / (sizes * (n_players - sizes) * np.maximum(expected, 1e-300))
    return Pairs(coalitions, np.repeat(weights, numbers), np.repeat(expected / counts, numbers))


def solved(
    pairs: Pairs, losses: FloatMatrix, total: float, prior: FloatVector | None = None
) -> tuple[FloatVector, FloatVector]:
    """Shapley values of players, and their standard errors.

    Weighted least squares under the constraint that the values sum to ``total``. A pair is one row, for the rows of
    a coalition and of its complement differ by their sign. Values are drawn towards the prior by a ridge penalty that
    cross-validation chooses: a quarter off the errors where much of the game are interactions of high order, and none
    where there are none. Errors are the sandwich HC3 (MacKinnon and White 1985), near to the jackknife over pairs,
    with the correction for a finite population: all pairs leave no error. The pull of the prior is not in them.

    Args:
        pairs: that were measured.
        losses: ``(2, n)`` of the coalitions and of their complements.
        total: what the values sum to.
        prior: ``(n_players,)`` values up to a factor; None: all equal.

    Returns:
        ``(n_players,)`` values and errors; errors are NaN where there are too few pairs for them.
    """
    n_players = pairs.coalitions.shape[1]
    values = np.full(n_players, total / n_players)
    if prior is not None and np.isfinite(prior).all() and prior.sum() > 0:
        values = total * prior / prior.sum()
    share = pairs.coalitions.mean(axis=1)
    scale = np.sqrt(pairs.weights)
    rows = scale[:, None] * (pairs.coalitions - share[:, None])
    rest = scale * ((losses[0] - losses[1]) / 2 - total * (share - 0.5)) - rows @ values
    # All rows are orthogonal to the constant, so that no solution below changes the sum. Rounding gives the constant
    # a singular value of its own, which grows with the number of rows.
    left, singular, right = np.linalg.svd(rows, full_matrices=False)
    left, singular, right = (
        part[..., singular > 1e-10 * singular.max(initial=0.0)] for part in (left, singular, right.T)
    )
    penalty = _penalty(left, singular, rest, float(1.0 - pairs.probabilities.mean()) if len(rows) else 0.0)
    inverse = right * (singular / (singular**2 + penalty)) @ left.T
    values = values + inverse @ rest
    leverages = np.sum(rows.T * inverse, axis=0)
    residuals = (rest - rows @ (inverse @ rest)) / np.maximum(1.0 - leverages, 1e-6)
    errors: FloatVector = np.sqrt(inverse**2 @ (residuals**2 * (1.0 - pairs.probabilities)))
    rank = len(singular)
    if rank < n_players - 1 or (len(rows) == rank and np.any(pairs.probabilities < 1)):
        errors = np.full(n_players, np.nan)
    return values, errors


def _penalty(left: FloatMatrix, singular: FloatVector, rest: FloatVector, unseen: float) -> float:
    """The ridge penalty of the least generalized cross-validation (Golub, Heath and Wahba 1979).

    None where all is explained without one, as in games of pairwise interactions; none where nothing is unseen.
    """
    along = left.T @ rest
    scores = []
    penalties = np.array(PENALTIES) * unseen * (np.mean(singular**2) if len(singular) else 0.0)
    for penalty in penalties:
        kept = singular**2 / (singular**2 + penalty)
        residual = np.sum((rest - left @ (kept * along)) ** 2)
        scores.append(residual / max(1.0 - kept.sum() / max(len(rest), 1), 1e-9) ** 2)
    return float(penalties[int(np.argmin(scores))])


def _filled(counts: FloatVector, shares: FloatVector, n: int) -> FloatVector:
    """``n`` divided in proportion to shares, but no more to each than its count."""
    full = np.zeros(len(counts), dtype=bool)
    while n < counts.sum():
        level = (n - counts[full].sum()) / shares[~full].sum()
        over = ~full & (level * shares >= counts)
        if not over.any():
            return np.where(full, counts, level * shares)
        full |= over
    return counts


def _rounded(expected: FloatVector, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Whole numbers with these expectations, whose sum is the rounded sum of them (systematic sampling)."""
    ends = np.floor(np.append(0.0, np.cumsum(expected)) + rng.uniform(1e-9, 1.0 - 1e-9)).astype(np.int64)
    return np.diff(ends)


def _of_one_size(n_players: int, size: int, n: int, rng: np.random.Generator) -> Coalitions:
    """``(n, n_players)`` different coalitions of a size; of the middle size no two that are complements."""
    middle = 2 * size == n_players
    count = math.comb(n_players, size) // (2 if middle else 1)
    drawn: dict[tuple[int, ...], None] = {}
    if count <= 4 * n:
        # combinations come in lexicographic order, so that the first half of the middle size holds player 0
        everything = list(itertools.islice(itertools.combinations(range(n_players), size), count))
        drawn = dict.fromkeys(everything[place] for place in rng.choice(count, n, replace=False))
    while len(drawn) < n:  # three of four draws at least are new
        members = rng.permutation(n_players)
        chosen = members[size:] if middle and 0 in members[size:] else members[:size]
        drawn[tuple(sorted(chosen.tolist()))] = None
    coalitions = np.zeros((n, n_players), dtype=bool)
    for row, coalition in zip(coalitions, drawn, strict=True):
        row[list(coalition)] = True
    return coalitions
