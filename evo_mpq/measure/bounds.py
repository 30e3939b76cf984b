"""Bounds on a quantity as a user writes them: ``size <= 40 kB``, ``accuracy >= 0.95``, ``macs <= 2 M``."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Literal, NamedTuple, TypeAlias, cast

from evo_mpq.errors import ConfigError

Comparison: TypeAlias = Literal["<=", ">="]

UNITS: Mapping[str, float] = {
    "": 1.0,
    "B": 1.0,
    "kB": 1e3,
    "MB": 1e6,
    "KiB": 2.0**10,
    "MiB": 2.0**20,
    "k": 1e3,
    "M": 1e6,
    "G": 1e9,
}
"""What a suffix multiplies a number with; ``kB`` is 1000 bytes and ``KiB`` is 1024."""

EXPECTED = 'a bound is written like "size <= 40 kB", "accuracy >= 0.95" or "macs <= 2 M"'

_BOUND = re.compile(r"\s*(?P<name>[^<>=,]*[^<>=,\s])\s*(?P<comparison><=|>=)\s*(?P<value>[^<>=,]*[^<>=,\s])\s*")
_VALUE = re.compile(r"(?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*(?P<unit>.*)")


class Bound(NamedTuple):
    """A limit on one quantity.

    Attributes:
        name: the quantity's name.
        comparison: ``"<="`` or ``">="``.
        value: the limit, in the unit of the quantity.
    """

    name: str
    comparison: Comparison
    value: float

    def holds(self, value: float) -> bool:
        """Whether a value is within the limit (NaN never is)."""
        return value <= self.value if self.comparison == "<=" else value >= self.value

    def __str__(self) -> str:
        return f"{self.name} {self.comparison} {self.value:.12g}"


def parse_bound(text: str, units: Mapping[str, str] | None = None) -> Bound:
    """The bound that a text states.

    Args:
        text: a name, ``<=`` or ``>=``, a number, and perhaps a suffix of `UNITS`.
        units: the unit of each quantity by name, where known: a number may carry the quantity's own unit
            (``"energy <= 3 mJ"``), and a suffix of bytes is refused for what is not counted in bytes.

    Raises:
        ConfigError: the text is no bound; the message says what one looks like.

    >>> parse_bound("size <= 40 kB")
    Bound(name='size', comparison='<=', value=40000.0)
    """
    match = _BOUND.fullmatch(text)
    if match is None:
        raise ConfigError(f"{text!r} is not a bound; {EXPECTED}{_hint(text)}")
    name = match["name"]
    own_unit = units.get(name) if units is not None else None
    value = _parse_value(match["value"], own_unit, f"{text!r}")
    return Bound(name, cast(Comparison, match["comparison"]), value)


def bounded_name(text: str) -> str:
    """The name of the quantity that a text bounds; its number and unit are not looked at, see `parse_bound`.

    Raises:
        ConfigError: the text is no bound; the message says what one looks like.

    >>> bounded_name("energy <= 3 mJ")
    'energy'
    """
    match = _BOUND.fullmatch(text)
    if match is None or _VALUE.fullmatch(match["value"]) is None:
        raise ConfigError(f"{text!r} is not a bound; {EXPECTED}{_hint(text)}")
    return match["name"]


def parse_bounds(text: str, units: Mapping[str, str] | None = None) -> list[Bound]:
    """The bounds of a text that joins them by commas, in order.

    Raises:
        ConfigError: a part of the text is no bound.

    >>> [str(bound) for bound in parse_bounds("size<=40kB, accuracy>=0.95")]
    ['size <= 40000', 'accuracy >= 0.95']
    """
    return [parse_bound(part, units) for part in text.split(",")]


def _parse_value(text: str, own_unit: str | None, where: str) -> float:
    match = _VALUE.fullmatch(text)
    if match is None:
        raise ConfigError(f"{where}: {text!r} is not a number; {EXPECTED}")
    number, unit = float(match["number"]), match["unit"]
    factor = 1.0 if unit in ("", own_unit) else _factor(unit, own_unit, where)
    if not math.isfinite(number * factor):
        raise ConfigError(f"{where}: the number is too large; {EXPECTED}")
    # in decimals, because 4.35 * 1000 in floats is less than the 4350 bytes that the user means
    return float(Decimal(match["number"]) * Decimal(factor)) if number else 0.0


def _factor(unit: str, own_unit: str | None, where: str) -> float:
    """What turns a number in ``unit`` into one in the quantity's own unit."""
    if unit not in UNITS:
        raise ConfigError(f"{where}: {_unknown_unit(unit, own_unit)}")
    if not unit.endswith("B"):
        return UNITS[unit]
    if own_unit is None or own_unit in ("byte", "bytes"):
        return UNITS[unit]
    if not own_unit.endswith("B") or own_unit not in UNITS:
        stated = f'is counted in "{own_unit}"' if own_unit else "has no unit"
        raise ConfigError(f'{where}: "{unit}" is a unit of bytes, but the quantity {stated}')
    return UNITS[unit] / UNITS[own_unit]


def _unknown_unit(unit: str, own_unit: str | None) -> str:
    known = [name for name in (*UNITS, own_unit) if name]
    same_letters = [name for name in known if name.lower() == unit.lower()]
    meant = same_letters or difflib.get_close_matches(unit, known, n=1, cutoff=0.5)
    hint = f'. Did you mean "{meant[0]}"?' if meant else ""
    return f'unknown unit "{unit}"; known are {", ".join(known)}{hint}'


def _hint(text: str) -> str:
    """What to change in a text that is nearly a bound."""
    if re.search(r"[<>](?!=)", text):
        return "; write <= or >= (a bound includes its limit)"
    if "≤" in text or "≥" in text:
        return "; write <= for ≤ and >= for ≥"
    if "=" in text and not re.search(r"[<>]=", text):
        return "; an objective can be bounded by <= or >=, not set to a value"
    return ""
