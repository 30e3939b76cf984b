"""Writes the tables of yaml.md and front-json.md anew from the schemas: python docs/write_reference.py

A table stands between ``<!-- table NAME -->`` and ``<!-- end -->``; the text around it is written by hand.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeAlias

from evo_mpq.config import json_schema

DOCS = Path(__file__).parent
Schema: TypeAlias = Mapping[str, Any]

_BLOCK = re.compile(r"<!-- table (?P<name>\w+) -->.*?<!-- end -->", re.DOTALL)


def documents() -> dict[Path, str]:
    """The documents that hold tables, and their texts as they should be."""
    front = json.loads((files("evo_mpq.results") / "front.schema.json").read_text(encoding="utf-8"))
    return {
        DOCS / "yaml.md": _filled(DOCS / "yaml.md", settings_tables(json_schema())),
        DOCS / "front-json.md": _filled(DOCS / "front-json.md", {"front": front_table(front)}),
    }


def settings_tables(schema: Schema) -> dict[str, str]:
    """A table for every section of the YAML by the section's name in the schema; ``Settings`` is the file itself."""
    sections = {"Settings": schema, **schema["$defs"]}
    return {name: _settings_table(_mapping(section), schema) for name, section in sections.items()}


def _mapping(section: Schema) -> Schema:
    """Of a section that may also be said by a name alone, the long form."""
    return next((form for form in section.get("anyOf", ()) if "properties" in form), section)


def _settings_table(section: Schema, whole: Schema) -> str:
    rows = []
    for key, said in section["properties"].items():
        default = said.get("default")
        shown = "" if default in (None, [], {}) else _code(default)
        if key in section.get("required", ()):
            shown = "required"
        choices = f"One of {', '.join(map(_code, said['enum']))}." if "enum" in said else ""
        meaning = said.get("description") or _followed(said, whole)["description"]
        rows.append((f"`{key}`", shown, f"{_text(meaning)} {choices}".strip()))
    return _table(("key", "default", "meaning"), rows)


def front_table(schema: Schema) -> str:
    """One table of all keys; ``[]`` stands for the entries of a list, ``<name>`` for any key."""
    return _table(("key", "value", "meaning"), list(_front_rows(schema, schema, "", {})))


def _front_rows(said: Schema, whole: Schema, path: str, told: dict[str, str]) -> Iterator[tuple[str, str, str]]:
    entries = {**said.get("properties", {})}
    if isinstance(said.get("additionalProperties"), Mapping):
        entries["<name>"] = said["additionalProperties"]
    for key, entry in entries.items():
        name, value = f"{path}{key}", _followed(entry, whole)
        known = told.setdefault(entry["$ref"], name) if "$ref" in entry else name
        if known != name:
            yield f"`{name}`", _kinds(value), f"As `{known}`."
            continue
        yield f"`{name}`", _kinds(value), _text(value.get("description", ""))
        yield from _front_rows(value, whole, f"{name}.", told)
        yield from _front_rows(value.get("items", {}), whole, f"{name}[].", told)


def _followed(said: Schema, whole: Schema) -> Schema:
    return whole["$defs"][said["$ref"].rpartition("/")[2]] if "$ref" in said else said


def _kinds(said: Schema) -> str:
    if "enum" in said:
        return ", ".join(map(_code, said["enum"]))
    return said["type"] if isinstance(said["type"], str) else " or ".join(said["type"])


def _code(value: Any) -> str:
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def _text(words: str) -> str:
    """Words in which a renderer sees no tags."""
    return words.replace("<", "\\<")


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _filled(path: Path, tables: Mapping[str, str]) -> str:
    text = path.read_text(encoding="utf-8")
    named = sorted(match["name"] for match in _BLOCK.finditer(text))
    if named != sorted(tables):
        raise ValueError(f"{path.name} has places for the tables {named}, the schema gives {sorted(tables)}")
    return _BLOCK.sub(lambda match: f"<!-- table {match['name']} -->\n{tables[match['name']]}\n<!-- end -->", text)


if __name__ == "__main__":
    for file, text in documents().items():
        file.write_text(text, encoding="utf-8")
