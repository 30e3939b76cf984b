"""Modelled losses of whole policies: sums over layers of what the error of each layer's weight costs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, TypeAlias, TypeVar
from weakref import WeakKeyDictionary

from evo_mpq.compress.channels import WeightForm
from evo_mpq.compress.compressor import Compressor
from evo_mpq.network.network import Network
from evo_mpq.predict.statistics.perturbations import forms_of, is_float
from evo_mpq.space.policy import Policy

S = TypeVar("S")

Forms: TypeAlias = Mapping[str, Iterable[WeightForm]]
"""Forms of layers' weights, by the layers' names."""

Losses: TypeAlias = Mapping[tuple[str, WeightForm], float]
"""By layer and form."""


class LayerLosses(Generic[S]):
    """The loss of a policy as the sum of its layers' losses, each computed when a policy first needs it.

    What is computed is kept per compressor, and gone with it. A policy that leaves all weights as they are loses
    nothing, and nothing is computed for it.

    Args:
        statistics: of the float network; computed once.
        losses: ``losses(compressor, forms, statistics)`` of every layer in every form that is given.

    Pickles without what was computed.
    """

    def __init__(self, statistics: Callable[[Network], S], losses: Callable[[Compressor, Forms, S], Losses]) -> None:
        self._statistics = statistics
        self._losses = losses
        self._open()

    def _open(self) -> None:
        # Nothing that is kept may refer to the compressor, or it would live forever.
        self._known: WeakKeyDictionary[Compressor, dict[tuple[str, WeightForm], float]] = WeakKeyDictionary()
        self._found: WeakKeyDictionary[Compressor, S] = WeakKeyDictionary()

    def __getstate__(self) -> dict[str, Any]:
        return {"_statistics": self._statistics, "_losses": self._losses}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()

    def __call__(self, compressor: Compressor, policy: Policy) -> float:
        """The loss of a policy."""
        self.prepare(compressor, [policy])
        known = self._known[compressor]
        return sum((known[item] for item in _judged(compressor, policy)), 0.0)

    def prepare(self, compressor: Compressor, policies: Iterable[Policy]) -> None:
        """Computes all that policies need of what is not known, together."""
        known = self._known.setdefault(compressor, {})
        new: dict[str, dict[WeightForm, None]] = {}
        for policy in policies:
            for name, form in _judged(compressor, policy):
                if (name, form) not in known:
                    new.setdefault(name, {})[form] = None
        if new:
            known.update(self._losses(compressor, new, self._statistics_of(compressor)))

    def _statistics_of(self, compressor: Compressor) -> S:
        if compressor not in self._found:
            self._found[compressor] = self._statistics(compressor.network)
        return self._found[compressor]


def _judged(compressor: Compressor, policy: Policy) -> list[tuple[str, WeightForm]]:
    """The layers whose weights a policy changes, in the order of the network, and their forms."""
    return [item for item in forms_of(compressor, policy).items() if not is_float(item[1])]
