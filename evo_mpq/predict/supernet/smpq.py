"""What each option contributes to a supernet, as Shapley values: SMPQ-style.

SMPQ (Kang et al. 2025, arXiv 2508.03002) has no public code; the estimator here is that of Shapley-NAS, which it adapts
(Xiao et al. 2022, CVPR, arXiv 2206.09811), changed where a reason is given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from evo_mpq.predict.supernet.mixture import Supernet
from evo_mpq.predict.supernet.training import (
    BATCH_SIZE,
    LEARNING_RATE,
    Minibatch,
    ReportSteps,
    accuracy_of,
    loss_of,
    minibatches,
    train,
)
from evo_mpq.typing import BoolVector, FloatVector

Worth = Literal["loss", "accuracy"]
"""What a coalition of options is worth: minus the loss, or the accuracy."""


@dataclass(frozen=True, eq=False)
class Contributions:
    """What the options of a supernet contribute.

    Attributes:
        values: per gene that is mixed, by its position, ``(cardinality,)`` Shapley values.
        visits: likewise how often each option was removed while what was left still worked.
    """

    values: dict[int, FloatVector]
    visits: dict[int, FloatVector]


def removal_walk(
    worth: Callable[[BoolVector], float], order: Sequence[int], everything: float, floor: float
) -> FloatVector:
    """``(n_players,)`` what is lost when each player is removed, in an order; NaN for those that are not reached.

    The walk ends below ``floor`` (truncation): what players contribute to something that has broken down says nothing.
    A walk that is not truncated sums to the worth of all players minus that of none (efficiency).

    Args:
        worth: of the players that are True.
        order: in which they are removed.
        everything: the worth of all players.
        floor: the smallest worth from which the walk goes on; ``-inf`` for never truncated.

    >>> removal_walk(lambda active: float(active @ [1.0, 2.0, 4.0]), [2, 0, 1], 7.0, 2.5)
    array([ 1., nan,  4.])
    """
    active = np.ones(len(order), dtype=bool)
    marginals = np.full(len(order), np.nan)
    before = everything
    for player in order:
        active[player] = False
        now = worth(active)
        marginals[player] = before - now
        before = now
        if now < floor:
            break
    return marginals


def contributions(
    supernet: Supernet,
    *,
    rounds: int = 4,
    walks: int = 16,
    steps: int = 25,
    momentum: float = 0.8,
    step_size: float = 0.1,
    worth: Worth = "loss",
    batch_size: int = 128,
    seed: int = 0,
    progress: ReportSteps | None = None,
) -> Contributions:
    """The Shapley values of all options, estimated by removing them from the supernet in random orders.

    Per round: walks on a minibatch of the train split each; then the mixture moves towards what contributes,
    ``alpha += step_size * s``, ``s`` being the running mean of the round's values, standardized per gene; then weights
    are trained. The shares of the others do not grow when an option is removed, as in the code of Shapley-NAS. What
    differs from it: the worth is minus the loss, which is less noisy than the accuracy of a minibatch (and chose the
    better policies: on one digits_resnet at the size of 3 bits a KL of .001 against .014); a walk ends half-way between
    the worths of all options and of none, which is the same rule for accuracies whose floor is 0; a value is the mean
    over the walks that reached the option, not over all, nor minus the standard deviation, which would punish options
    for being reached late. Values are returned as they are, running means over the rounds: after standardizing, layers
    could not be compared.

    It takes about ``rounds * walks * n_options / 5`` forward passes: a walk ends after about a fifth of all options.

    Args:
        supernet: trained; it is not changed.
        rounds: of estimating.
        walks: per round; half of them are the others in reverse, so that all options are removed early and late.
        steps: of training the weights, between two rounds.
        momentum: of running means.
        step_size: of the mixture's parameters, ``eps`` in the paper.
        worth: of a coalition.
        batch_size: samples that a walk looks at.
        seed: of orders and samples.
        progress: told about every walk.
    """
    own = supernet.copy()
    rng = np.random.default_rng(seed)
    network = own.compressor.network
    seen, to_train = minibatches(network, batch_size, rng), minibatches(network, BATCH_SIZE, rng)
    optimizer = torch.optim.Adam(list(own.parameters.values()), LEARNING_RATE)
    alphas = own.even_logits()
    players = [(gene, option) for gene in own.genes for option in range(own.space.genes[gene].cardinality)]
    places = {gene: [k for k, (owner, _) in enumerate(players) if owner == gene] for gene in own.genes}
    direction, total, weight, visits = (np.zeros(len(players)) for _ in range(4))
    for now in range(rounds):
        if now:
            train(own, lambda: [alpha.softmax(0) for alpha in alphas], optimizer, to_train, steps)
        shares, options = [alpha.softmax(0) for alpha in alphas], own.weight_options()
        marginals = np.empty((walks, len(players)))
        for walk, order in enumerate(_orders(len(players), walks, rng)):
            value = _value(own, players, shares, options, next(seen), worth)
            everything, nothing = (value(np.full(len(players), active)) for active in (True, False))
            marginals[walk] = removal_walk(value, order, everything, (everything + nothing) / 2)
            if progress is not None:
                progress(now * walks + walk + 1, rounds * walks)
        reached = np.sum(~np.isnan(marginals), axis=0)
        mean = np.nansum(marginals, axis=0) / np.maximum(reached, 1)
        total = np.where(reached > 0, momentum * total + (1 - momentum) * mean, total)
        weight = np.where(reached > 0, momentum * weight + (1 - momentum), weight)
        visits += reached
        direction *= momentum
        for gene, own_players in places.items():
            direction[own_players] += (1 - momentum) * _standardized(mean[own_players], reached[own_players])
            alphas[gene] = alphas[gene] + step_size * torch.from_numpy(direction[own_players]).float()
    means = np.divide(total, weight, out=np.full(len(players), np.nan), where=weight > 0)
    return Contributions(
        {gene: _filled(means[own_players]) for gene, own_players in places.items()},
        {gene: visits[own_players] for gene, own_players in places.items()},
    )


def _filled(values: FloatVector) -> FloatVector:
    """A gene's values, with the mean of the others for options that no walk reached; 0 if there are no others."""
    known = values[~np.isnan(values)]
    filled: FloatVector = np.where(np.isnan(values), known.mean() if len(known) else 0.0, values)
    return filled


def _orders(n: int, walks: int, rng: np.random.Generator) -> list[list[int]]:
    """Random orders of ``n`` players, every second one the reverse of the one before."""
    orders: list[list[int]] = []
    while len(orders) < walks:
        order = rng.permutation(n).tolist()
        orders += [order, order[::-1]]
    return orders[:walks]


def _value(
    supernet: Supernet,
    players: Sequence[tuple[int, int]],
    shares: Sequence[Tensor],
    options: dict[str, Tensor],
    batch: Minibatch,
    worth: Worth,
) -> Callable[[BoolVector], float]:
    """The worth of coalitions of players on a minibatch."""

    def value(active: BoolVector) -> float:
        left = [share.clone() for share in shares]
        for gene, option in (player for player, stays in zip(players, active, strict=True) if not stays):
            left[gene][option] = 0.0
        with torch.no_grad():
            outputs = supernet(batch.inputs, left, options)
            return accuracy_of(outputs, batch) if worth == "accuracy" else -float(loss_of(outputs, batch))

    return value


def _standardized(values: FloatVector, reached: FloatVector) -> FloatVector:
    """Values with mean 0 and deviation 1; 0 for those that were not reached, and where all are equal."""
    known = values[reached > 0]
    if not len(known) or np.ptp(known) == 0:
        return np.zeros(len(values))
    standardized: FloatVector = np.where(reached > 0, (values - known.mean()) / known.std(), 0.0)
    return standardized
