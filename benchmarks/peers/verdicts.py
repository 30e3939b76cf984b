"""What paired comparisons of divergences say, one alone and many together."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.stats import norm

from evo_mpq.measure.statistics import Interval


@dataclass(frozen=True)
class Verdict:
    """Of one comparison, on the same samples.

    Attributes:
        interval: mean of ours minus the other's, with its 95 % interval.
        word: better, tied or worse, by that interval alone; or unknown.
        p: two-sided, that both are equal; 1 if unknown.
    """

    interval: str
    word: str
    p: float = 1.0


def verdict_of(found: Interval) -> Verdict:
    """What an interval of ours minus the other's says."""
    if found.low is None or found.high is None:
        return Verdict(f"{found.value:+.2g}", "unknown")
    word = "better" if found.high < 0 else "worse" if found.low > 0 else "tied"
    error = (found.high - found.low) / (2 * norm.ppf(0.975))
    p = float(2 * norm.sf(abs(found.value) / error)) if error > 0 else 1.0
    return Verdict(f"{found.value:+.2g} ({found.low:+.2g} to {found.high:+.2g})", word, p)


def n_worse_beyond_chance(verdicts: Sequence[Verdict]) -> int:
    """Verdicts of worse that remain where all comparisons together err in 5 % (Holm 1979)."""
    ordered = sorted(verdicts, key=lambda verdict: verdict.p)
    kept = itertools.takewhile(lambda item: item[1].p <= 0.05 / (len(ordered) - item[0]), enumerate(ordered))
    return sum(verdict.word == "worse" for _, verdict in kept)
