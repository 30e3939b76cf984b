"""How messages show values and suggest names."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from typing import Any

_LONGEST = 70


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`` (did you mean …?)`` with the known word closest to ``word``, or nothing; capitals do not matter.

    >>> did_you_mean("populaton", ["algorithm", "population"])
    ' (did you mean population?)'
    """
    by_lower = {name.lower(): name for name in known}
    close = difflib.get_close_matches(word.lower(), list(by_lower), n=1)
    return f" (did you mean {by_lower[close[0]]}?)" if close else ""


def shown(value: Any) -> str:
    """A value as a YAML says it, short.

    >>> shown({"kind": "size"}), shown([None, "two"])
    ('a mapping with kind', '[null, "two"]')
    """
    if value is None or isinstance(value, bool | int | float):
        text = json.dumps(value)
    elif isinstance(value, str):
        text = json.dumps(value, ensure_ascii=False)
    elif isinstance(value, Mapping):
        text = f"a mapping with {', '.join(map(str, value))}" if value else "an empty mapping"
    elif isinstance(value, list | tuple):
        text = f"[{', '.join(map(shown, value))}]"
    else:
        text = f"an object of {type(value).__module__}.{type(value).__qualname__}"
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
