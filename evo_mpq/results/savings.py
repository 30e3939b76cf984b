"""How many bytes of a point's size each kind of choice takes away from the uncompressed network."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING, TypeAlias

from evo_mpq.space.genes import BIT_KINDS, DROP_KIND, PRUNE_KIND
from evo_mpq.space.policy import UNTOUCHED, LayerPolicy, Policy

if TYPE_CHECKING:
    from evo_mpq.compress.compressor import Compressor

Coalition: TypeAlias = frozenset[str]

KINDS = (DROP_KIND, PRUNE_KIND, *BIT_KINDS)
"""The kinds of choices among which bytes are divided, from the coarsest to the finest."""


def savings(policy: Policy, compressor: Compressor, uncompressed: Compressor) -> dict[str, int]:
    """Bytes that each kind of choice saves: Shapley values of the size, in whole bytes.

    A kind saves what applying it makes the file smaller, averaged over all orders in which the kinds can be applied to
    the uncompressed network. So the parts sum to the difference of the two sizes, and a kind whose values leave the
    network as it is saves nothing. A kind that makes the file larger, such as activation bits, whose grids are
    stored, has a negative part.

    Args:
        policy: of the point.
        compressor: of the run.
        uncompressed: the same one without quantized edges. These belong to the activation bits.

    Returns:
        By kind, in the order of `KINDS`.
    """
    computed = {active.layer.name for active in compressor.active_layers(policy)}
    groups = [tuple(group.rows) for group in compressor.network.prune_groups]

    def applied(*kinds: str) -> tuple[Compressor, Policy]:
        by = compressor if "activation_bits" in kinds else uncompressed
        return by, partly_applied(policy, Coalition(kinds), computed, groups)

    def saved(kinds: Coalition) -> int:
        by, partly = applied(*kinds)
        return whole - by.packed_bytes(partly)

    untouched = applied()
    whole = uncompressed.packed_bytes(untouched[1])
    # what changes nothing saves nothing, and every kind less halves the number of sizes
    acting = [kind for kind in KINDS if applied(kind) != untouched]
    return {**dict.fromkeys(KINDS, 0), **whole_parts(shapley_values(acting, saved))}


def partly_applied(
    policy: Policy, kinds: Coalition, computed: Iterable[str], groups: Sequence[Sequence[str]]
) -> Policy:
    """The policy with its values of some kinds only; the others leave the network as it is.

    What a policy says about layers that it leaves out decides nothing, so it is never applied: all that happens to
    these layers is that they go. But channels that can only be pruned together stay together.

    Args:
        policy: of the point.
        kinds: that are applied, out of `KINDS`.
        computed: names of the layers and products that the policy does not leave out.
        groups: layers whose output channels can only be pruned together.
    """
    decided = {kind: {*computed} for kind in BIT_KINDS}
    decided[PRUNE_KIND] = {name for group in groups if not decided[BIT_KINDS[0]].isdisjoint(group) for name in group}

    def applied(name: str, layer: LayerPolicy) -> LayerPolicy:
        return replace(
            UNTOUCHED, **{kind: getattr(layer, kind) for kind in kinds & {*decided} if name in decided[kind]}
        )

    layers = {name: applied(name, layer) for name, layer in policy.layers.items()}
    return Policy(layers, policy.architecture if DROP_KIND in kinds else {})


def shapley_values(players: Sequence[str], worth: Callable[[Coalition], int]) -> dict[str, Fraction]:
    """What each player adds to a coalition, averaged over all orders of joining (Shapley 1953); exact.

    Args:
        players: with ``n`` of them, ``worth`` is asked ``2 ** n`` times.
        worth: of a coalition.

    >>> shapley_values(["left", "right"], lambda gloves: int(len(gloves) == 2))
    {'left': Fraction(1, 2), 'right': Fraction(1, 2)}
    """
    coalitions = [Coalition(c) for n in range(len(players) + 1) for c in itertools.combinations(players, n)]
    worths = {coalition: worth(coalition) for coalition in coalitions}
    # of all orders, the share in which exactly the coalition's k others came before the player
    share = [Fraction(1, len(players) * math.comb(len(players) - 1, k)) for k in range(len(players))]
    return {
        player: sum(
            (
                share[len(coalition)] * (worths[coalition | {player}] - worths[coalition])
                for coalition in coalitions
                if player not in coalition
            ),
            start=Fraction(),
        )
        for player in players
    }


def whole_parts(parts: Mapping[str, Fraction]) -> dict[str, int]:
    """The parts as whole numbers with the same sum, each less than one away; zero stays zero.

    The running sums are rounded, not the parts.

    >>> whole_parts({"a": Fraction(1, 2), "b": Fraction(0), "c": Fraction(1, 2)})
    {'a': 0, 'b': 0, 'c': 1}
    """
    ends = [round(end) for end in itertools.accumulate(parts.values(), initial=Fraction())]
    return {name: after - before for name, (before, after) in zip(parts, itertools.pairwise(ends), strict=True)}
