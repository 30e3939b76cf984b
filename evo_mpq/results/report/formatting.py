"""Numbers as a reader wants them: three or four digits, units, and the words for a missing one."""

from __future__ import annotations

import math

MISSING = "–"
"""What stands where there is no value."""

_PREFIXES = ("", "k", "M", "G", "T", "P", "E")
_BYTES = frozenset({"B", "byte", "bytes"})
_COUNTED = frozenset({"", "BOPs", "MACs", "FLOPs", "OPs"})


def format_value(value: float | None, unit: str) -> str:
    """A value with its unit.

    Bytes and counted operations get decimal prefixes (1 kB is 1000 bytes), other units never do.

    Args:
        value: None, NaN and infinities become a dash.
        unit: as the objective states it; empty for plain numbers.

    >>> [format_value(38_412, "B"), format_value(0.97183, ""), format_value(2.5e6, "MACs")]
    ['38.4 kB', '0.9718', '2.5 MMACs']
    """
    if value is None or not math.isfinite(value):
        return MISSING
    if unit in _BYTES:
        number, prefix = _scaled(value)
        return f"{number} {prefix}B"
    if unit in _COUNTED and abs(value) >= 10_000:
        number, prefix = _scaled(value)
        return f"{number} {prefix}{unit}".rstrip()
    return f"{_digits(value)} {unit}".rstrip()


def format_tick(value: float) -> str:
    """A round number beside an axis.

    >>> [format_tick(value) for value in (2e-5, 0.02, 500.0)]
    ['2e−5', '0.02', '500']
    """
    if 0 < abs(value) < 1e-3:
        return f"{value:.0e}".replace("e-0", "e−").replace("e-", "e−")
    return _digits(value)


def format_cell(value: float | None, unit: str) -> str:
    """A value as it stands in a table whose heading is by `heading`: with its unit only where that has a prefix.

    >>> [format_cell(38_412, "B"), format_cell(0.0012, "nats")]
    ['38.4 kB', '0.0012']
    """
    return format_value(value, unit if has_prefix(unit) else "")


def format_interval(low: float | None, high: float | None, unit: str) -> str:
    """The two ends of an interval, as `format_cell` writes values; empty where it is unknown.

    >>> format_interval(0.9574, 0.9866, "")
    '[0.9574, 0.9866]'
    """
    if low is None or high is None:
        return ""
    return f"[{format_cell(low, unit)}, {format_cell(high, unit)}]"


def heading(label: str, unit: str) -> str:
    """A label with its unit, unless every value carries that itself.

    >>> [heading("size", "B"), heading("kl_divergence", "nats")]
    ['size', 'kl_divergence (nats)']
    """
    return label if not unit or has_prefix(unit) else f"{label} ({unit})"


def has_prefix(unit: str) -> bool:
    """Whether values in this unit are written with decimal prefixes."""
    return unit in _BYTES or unit in _COUNTED


def prefixed(largest: float, unit: str) -> tuple[float, str]:
    """What the values of an axis are divided by, and the unit that they have then.

    >>> [prefixed(472_000, "B"), prefixed(0.98, ""), prefixed(3.1e7, "MACs")]
    [(1000.0, 'kB'), (1.0, ''), (1000000.0, 'MMACs')]
    """
    if not has_prefix(unit) or (unit in _COUNTED and abs(largest) < 10_000):
        return 1.0, unit
    power = 0
    # a thousand and a bit of one prefix still reads better than the next one's fractions
    while abs(largest) >= 5e3 * 1e3**power and power < len(_PREFIXES) - 1:
        power += 1
    name = "B" if unit in _BYTES else unit
    return 1e3**power, f"{_PREFIXES[power]}{name}"


def format_ratio(ratio: float) -> str:
    """A factor, e.g. of how many times smaller something is.

    >>> [format_ratio(12.34), format_ratio(1.204), format_ratio(1503.0)]
    ['12.3×', '1.20×', '1,503×']
    """
    if ratio >= 100:
        return f"{ratio:,.0f}×"
    return f"{ratio:.1f}×" if ratio >= 10 else f"{ratio:.2f}×"


def format_percent(fraction: float) -> str:
    """A fraction with three digits.

    >>> [format_percent(fraction) for fraction in (0.5, 0.3816, 0.0)]
    ['50 %', '38.2 %', '0 %']
    """
    return f"{100 * fraction:.3g} %"


def format_count(count: float) -> str:
    """A whole number with thousands separators; powers of ten where it is astronomical.

    >>> [format_count(59_049), format_count(3.2e14)]
    ['59,049', '3.2 × 10¹⁴']
    """
    if count < 1e7:
        return f"{round(count):,}"
    return format_power(math.log10(count))


def format_power(log10: float) -> str:
    """A number that is given by its decimal logarithm, because it may overflow a float.

    >>> format_power(14.5)
    '3.2 × 10¹⁴'
    """
    if log10 < 7:
        return format_count(10**log10)
    exponent = math.floor(log10)
    mantissa = f"{10 ** (log10 - exponent):.1f}"
    if mantissa == "10.0":
        mantissa, exponent = "1.0", exponent + 1
    return f"{mantissa} × 10{str(exponent).translate(str.maketrans('0123456789', '⁰¹²³⁴⁵⁶⁷⁸⁹'))}"


def format_seconds(seconds: float) -> str:
    """A duration in the unit that suits it.

    >>> [format_seconds(83.1), format_seconds(5000), format_seconds(0.31)]
    ['83.1 s', '83.3 min', '0.31 s']
    """
    if seconds < 600:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.1f} min" if seconds < 36_000 else f"{seconds / 3600:.1f} h"


def middle_out(text: str, longest: int) -> str:
    """A text shortened in its middle, because names of layers differ at both ends.

    >>> middle_out("encoder.layer.11.attention.query", 21)
    'encoder.l…ntion.query'
    """
    if len(text) <= longest:
        return text
    head = (longest - 1) * 9 // 20
    return f"{text[:head]}…{text[len(text) - (longest - 1 - head) :]}"


def _scaled(value: float) -> tuple[str, str]:
    """Three digits and a decimal prefix."""
    power = 0
    scaled = value
    while abs(scaled) >= 999.5 and power < len(_PREFIXES) - 1:
        power, scaled = power + 1, scaled / 1000
    return f"{scaled:.3g}", _PREFIXES[power]


def _digits(value: float) -> str:
    if value == 0:
        return "0"
    size = abs(value)
    if size < 1e-3:
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{mantissa}e−{-int(exponent)}"  # a minus sign: lines break after a hyphen
    if size >= 10_000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if size < 0.1 else f"{value:.4g}"
