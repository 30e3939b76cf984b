"""Checks of single values in the settings: each returns the value in its one form, or says what it must be.

They raise ``ValueError``, or ``ConfigError`` where parts of a value are wrong (its paths lead to the parts).
"""

from __future__ import annotations

import functools
import math
import numbers
import os
import re
from collections.abc import Mapping
from typing import Any

from evo_mpq.config.wording import did_you_mean, shown
from evo_mpq.errors import ConfigError, Mistake
from evo_mpq.measure.bounds import bounded_name
from evo_mpq.space.building import LEGAL_BITS

RUN_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
"""What the name of a run looks like."""

DEVICE = r"auto|cpu|(?:cuda|mps|xpu)(?::[0-9]+)?"
"""What a device looks like."""

MEMORY = r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]+)\s*"
"""What an amount of memory looks like."""

LEAST_MEMORY = 2**20
DEFAULT_PERCENTILE = 99.9

_MEMORY_UNITS = {
    "B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40,
}  # fmt: skip


def number(value: Any) -> Any:
    """Numbers as Python's own; truth values are refused, and text is left to whoever reads it."""
    if isinstance(value, bool):
        raise ValueError(f"must be a number, got {shown(value)}")
    if _is_whole(value):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    return value


def finite(value: float) -> float:
    """A number that is not infinite."""
    if not math.isfinite(value):
        raise ValueError(f"must be a finite number, got {value}")
    return value


def one_of(value: Any, choices: tuple[str | int, ...]) -> str | int:
    """The choice that equals the value."""
    if isinstance(value, str | int | float) and value in choices:
        return choices[choices.index(value)]
    names = [str(choice) for choice in choices]
    hint = did_you_mean(value, names) if isinstance(value, str) else ""
    if value is None and "none" in names:
        hint = " (did you mean none?)"
    expected = f"{', '.join(names[:-1])} or {names[-1]}"
    raise ValueError(f"must be {expected}, got {shown(value)}{hint}")


def run_name(value: str) -> str:
    """A name that a folder can have."""
    if not re.fullmatch(RUN_NAME, value):
        raise ValueError(
            "must be letters, digits, dots, underscores and hyphens and begin with a letter or a digit, "
            f"got {shown(value)}"
        )
    return value


def kind(value: Any) -> Any:
    """A name, ``module:attribute`` or a Python object."""
    plain_value = value is None or isinstance(value, bool | int | float | Mapping | list | tuple | set)
    if plain_value or (isinstance(value, str) and not value.strip()):
        raise ValueError(f'must be a name or "module:attribute", got {shown(value)}')
    return value


def function(value: Any) -> Any:
    """``module:function``, or the function itself."""
    if callable(value) or (isinstance(value, str) and re.fullmatch(r"[^:\s]+:[^:\s]+", value)):
        return value
    raise ValueError(f'must be "module:function", got {shown(value)}')


def path_text(value: Any) -> Any:
    """A path as text."""
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def output(value: Any) -> str | int:
    """The name or the position of a network's output."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError(f"must be the name or the position of an output, got {shown(value)}")
    return value


def bits(value: Any) -> tuple[int, ...]:
    """Options ascending, from one number or a list; every wrong one is a mistake of its own."""
    listed = isinstance(value, list | tuple)
    mistakes: list[Mistake] = []
    options: list[int] = []
    for place, option in enumerate(value if listed else [value]):
        if not _is_whole(option) or option not in LEGAL_BITS:
            message = f"must be 2 to 8, or 32 to leave it as it is, got {shown(option)}"
        elif option in options:
            message = f"{option} is repeated; every option stands once"
        else:
            options.append(int(option))
            continue
        mistakes.append(Mistake((place,) if listed else (), message))
    if not options and not mistakes:
        mistakes.append(Mistake((), "must not be empty; remove the key to leave the layers as they are"))
    if mistakes:
        raise ConfigError(mistakes)
    return tuple(sorted(options))


def ratios(value: Any) -> tuple[float, ...]:
    """Fractions ascending, from one number or a list; every wrong one is a mistake of its own."""
    listed = isinstance(value, list | tuple)
    mistakes: list[Mistake] = []
    options: list[float] = []
    for place, option in enumerate(value if listed else [value]):
        if isinstance(option, bool) or not isinstance(option, int | float) or not 0 <= option < 1:
            message = (
                f"must be a fraction of channels to remove, from 0 up to, but not including, 1, got {shown(option)}"
            )
        elif option in options:
            message = f"{option:g} is repeated; every option stands once"
        else:
            options.append(float(option))
            continue
        mistakes.append(Mistake((place,) if listed else (), message))
    if not options and not mistakes:
        mistakes.append(Mistake((), "must not be empty; remove the key to prune nothing"))
    if mistakes:
        raise ConfigError(mistakes)
    return tuple(sorted(options))


def granularity(value: Any) -> str | int:
    """``"channel"``, ``"tensor"`` or the size of a group."""
    if isinstance(value, str) and value in ("channel", "tensor"):
        return value
    if isinstance(value, Mapping) and set(value) == {"group"}:
        if _is_whole(value["group"]) and value["group"] >= 1:
            return int(value["group"])
        message = f"must be a whole number of at least 1, got {shown(value['group'])}"
        raise ConfigError([Mistake(("group",), message)])
    match = re.fullmatch(r"group of ([1-9][0-9]*)", value) if isinstance(value, str) else None
    if match is not None:
        return int(match[1])
    hint = did_you_mean(value, ("channel", "tensor")) if isinstance(value, str) else ""
    raise ValueError(f"must be channel, tensor, or a group such as {{group: 64}}, got {shown(value)}{hint}")


def clip(value: Any) -> str | float:
    """``"mse"``, ``"minmax"`` or a percentile."""
    if isinstance(value, str) and value in ("mse", "minmax"):
        return value
    if value == "percentile":
        return DEFAULT_PERCENTILE
    if isinstance(value, Mapping) and set(value) == {"percentile"}:
        percentile = number(value["percentile"])
        if isinstance(percentile, int | float) and 50 < percentile <= 100:
            return float(percentile)
        message = f"must be more than 50 and at most 100, got {shown(percentile)}"
        raise ConfigError([Mistake(("percentile",), message)])
    hint = did_you_mean(value, ("mse", "minmax", "percentile")) if isinstance(value, str) else ""
    raise ValueError(f"must be mse, minmax, or {{percentile: 99.9}}, got {shown(value)}{hint}")


def share(value: Any) -> str | float:
    """``"auto"`` or a part of a whole."""
    if value == "auto":
        return "auto"
    part = number(value)
    if isinstance(part, int | float) and 0 < part <= 1:
        return float(part)
    raise ValueError(f"must be auto, or more than 0 and at most 1, got {shown(value)}")


def memory(value: Any) -> str:
    """An amount of memory as text, with its unit."""
    text = f"{int(value)} B" if _is_whole(value) else value
    if not isinstance(text, str):
        raise ValueError(f'must be a number and a unit, such as "2 GiB" or "500 MB", got {shown(value)}')
    if memory_bytes(text) < LEAST_MEMORY:
        raise ValueError(f"must be at least 1 MiB, got {shown(value)}; give a unit, such as 2 GiB")
    return text.strip()


def memory_bytes(text: str) -> int:
    """Bytes of ``"2 GiB"``, ``"500 MB"`` and the like; capitals do not matter.

    >>> memory_bytes("1.5 MiB")
    1572864
    """
    match = re.fullmatch(MEMORY, text)
    by_lower = {unit.lower(): size for unit, size in _MEMORY_UNITS.items()}
    if match is None or match[2].lower() not in by_lower:
        hint = did_you_mean(f"{match[2]}iB", _MEMORY_UNITS) if match is not None else ""
        raise ValueError(f'must be a number and a unit, such as "2 GiB" or "500 MB", got {shown(text)}{hint}')
    return int(float(match[1]) * by_lower[match[2].lower()])


def workers(value: Any) -> str | int:
    """``"auto"`` or a number of processes."""
    if value == "auto":
        return "auto"
    if _is_whole(value) and value >= 1:
        return int(value)
    raise ValueError(f"must be auto or a number of processes of at least 1, got {shown(value)}")


def device(value: Any) -> str:
    """``"auto"`` or a device's name."""
    if isinstance(value, str) and re.fullmatch(DEVICE, value):
        return value
    hint = did_you_mean(value, ("auto", "cpu", "cuda")) if isinstance(value, str) else ""
    raise ValueError(f"must be auto, cpu, or an accelerator such as cuda or cuda:1, got {shown(value)}{hint}")


def distinct(value: tuple[Any, ...]) -> tuple[Any, ...]:
    """A list without repeated entries."""
    repeated = [entry for place, entry in enumerate(value) if entry in value[:place]]
    if repeated:
        raise ValueError(f"{shown(repeated[0])} is repeated")
    return value


def not_empty(value: tuple[Any, ...]) -> tuple[Any, ...]:
    """A list with at least one entry."""
    if not value:
        raise ValueError("must not be empty; remove the key for the default")
    return value


def bound(value: str) -> str:
    """A text of the form of a bound; whether its unit fits is known only with the quantity."""
    bounded_name(value)
    return value


def bounds(value: str) -> str:
    """A text of bounds that are joined by commas."""
    for part in value.split(","):
        bound(part)
    return value


def _is_whole(value: Any) -> bool:
    """Whether it is an integer, numpy's included, and no truth value."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def plain(value: Any) -> Any:
    """A value as JSON and YAML can hold it; objects become ``"module:qualname"`` of them or their class.

    >>> plain({"widths": (8, 16), "loss": dict})
    {'widths': [8, 16], 'loss': 'builtins:dict'}
    """
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, numbers.Real):
        return number(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return object_name(value)


def object_name(value: object) -> str:
    """``"module:qualname"`` of a function or class, of what a partial binds, or of an object's class.

    >>> object_name(functools.partial(re.compile, flags=0))
    're:compile'
    """
    if isinstance(value, functools.partial):
        return object_name(value.func)
    named = value if hasattr(value, "__qualname__") and hasattr(value, "__module__") else type(value)
    return f"{named.__module__}:{named.__qualname__}"
