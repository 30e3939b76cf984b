"""Round numbers to write beside an axis."""

from __future__ import annotations

import math

MOST_TICKS = 6


def decade_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten from ``low`` to ``high``, both positive.

    >>> decade_ticks(3.0, 100.0)
    [5.0, 10.0, 20.0, 50.0, 100.0]
    """
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [float(f"{factor}e{exponent}") for exponent in exponents for factor in (1, 2, 5)]
    return [tick for tick in ticks if low <= tick <= high]


def is_decade(tick: float) -> bool:
    """Whether a tick is a power of ten."""
    return f"{tick:e}".startswith("1.000000e")


def nice_ticks(low: float, high: float, log: bool) -> list[float]:
    """Round numbers between two ends, at most six of them.

    On a logarithmic axis within one decade, the ticks of a linear one.

    >>> nice_ticks(0.0, 1.0, log=False)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    >>> nice_ticks(3.0, 4000.0, log=True)
    [10.0, 100.0, 1000.0]
    """
    if not high > low:
        return [low]
    if log:
        ticks = decade_ticks(low, high)
        if len(ticks) > MOST_TICKS:
            ticks = [tick for tick in ticks if is_decade(tick)]
        if len(ticks) > 1:  # of very many decades every second one, every third, ...
            return ticks[:: math.ceil(len(ticks) / MOST_TICKS)]
    step = 10.0 ** math.floor(math.log10((high - low) / MOST_TICKS))
    step = next(s for s in (step, 2 * step, 5 * step, 10 * step) if (high - low) / s < MOST_TICKS)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{place * step:.12g}") for place in range(first, last + 1)]
