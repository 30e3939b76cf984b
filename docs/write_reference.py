"""Writes the tables of docs/yaml.md and docs/front-json.md, which follow from the schemas: python docs/write_reference.py

A table stands between ``<!-- name -->`` and ``<!-- end -->``; the text around it is written by hand.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from evo_mpq.config import Settings, json_schema

DOCS = Path(__file__).parent

_BLOCK = re.compile(r"<!-- (?P<name>[\w.]+) -->\n(?:.*?\n)?<!-- end -->", re.DOTALL)

Schema = Mapping[str, Any]


def written(text: str, tables: Mapping[str, str]) -> str:
    """A document with its tables as they should be.

    Raises:
        KeyError: the document names a table that there is not, or lacks one.
    """
    named = [match["name"] for match in _BLOCK.finditer(text)]
    if sorted(named) != sorted(tables):
        raise KeyError(f"the document has the tables {sorted(named)}, the schema {sorted(tables)}")
    return _BLOCK.sub(lambda match: f"<!-- {match['name']} -->\n{tables[match['name']]}\n<!-- end -->", text)


def yaml_tables() -> dict[str, str]:
    """One table for every section of the YAML, by the section's key path; ``top`` is the file itself."""
    schema = json_schema()
    tables = {"top": _settings_table(schema, schema, _defaults(Settings))}
    _add_sections(tables, schema, schema, Settings, "")
    return tables


def front_tables() -> dict[str, str]:
    """One table for every object of front.json, by its place; ``top`` is the document itself."""
    schema = json.loads((files("evo_mpq.results") / "front.schema.json").read_text(encoding="utf-8"))
    tables: dict[str, str] = {}
    _add_objects(tables, schema, schema, "top")
    for name in ("search", "test"):
        tables[name] = _values_row(schema["$defs"][name])
    return tables


# The YAML


def _add_sections(tables: dict[str, str], schema: Schema, whole: Schema, section: Any, path: str) -> None:
    for key, field in section.model_fields.items():
        own = _section_schema(schema["properties"][key], whole)
        inner = next(iter(_sections(field.annotation)), None)
        if own is not None and inner is not None:
            name = f"{path}{key}"
            if inner.__name__ not in {"ObjectiveSettings"} or key == "objectives":
                tables[name] = _settings_table(own, whole, _defaults(inner))
                _add_sections(tables, own, whole, inner, f"{name}.")


def _settings_table(schema: Schema, whole: Schema, defaults: Mapping[str, Any]) -> str:
    rows = []
    for key, said in schema["properties"].items():
        needed = key in schema.get("required", ())
        default = "required" if needed else _default(defaults.get(key))
        rows.append((f"`{key}`", _kind(said, whole), default, _sentence(said, whole)))
    return _table(("key", "value", "default", "meaning"), rows)


def _sections(annotation: Any) -> list[Any]:
    if hasattr(annotation, "model_fields"):
        return [annotation]
    return [found for part in getattr(annotation, "__args__", ()) for found in _sections(part)]


def _defaults(section: Any) -> dict[str, Any]:
    fields = section.model_fields.items()
    return {key: None if field.is_required() else field.get_default(call_default_factory=True) for key, field in fields}


def _default(value: Any) -> str:
    if hasattr(value, "plain"):
        return ""  # the section's own table says it
    if isinstance(value, tuple) and value and hasattr(value[0], "kind"):
        return f"`[{', '.join(entry.kind for entry in value)}]`"
    return "" if value is None or value in ((), {}) else f"`{json.dumps(value).strip(chr(34))}`"


def _section_schema(said: Schema, whole: Schema) -> Schema | None:
    """The schema of a key's section, where the key has one, alone, in a list or by pattern."""
    for part in [said, *said.get("anyOf", ())]:
        inner = part.get("items") or part.get("additionalProperties") or part
        if isinstance(inner, Mapping):
            found = _followed(inner, whole)
            found = next((option for option in map(lambda o: _followed(o, whole), found.get("anyOf", ())) if "properties" in option), found)
            if "properties" in found and "title" in found:
                return found
    return None


def _kind(said: Schema, whole: Schema) -> str:
    """What may stand behind a key, in words."""
    options = [part for part in said.get("anyOf", [said]) if part.get("type") != "null"]
    return " or ".join(dict.fromkeys(_option(part, whole) for part in options))


def _option(part: Schema, whole: Schema) -> str:
    if "$ref" in part:
        found = _followed(part, whole)
        return "a name or a mapping" if "anyOf" in found else "a mapping"
    if "const" in part:
        return f"`{part['const']}`"
    if "enum" in part:
        return ", ".join(f"`{value}`" for value in part["enum"])
    if part["type"] == "array":
        return f"a list of {_plural(_option(part['items'], whole))}"
    if part["type"] == "object":
        keys = part.get("properties")
        return "{" + ", ".join(f"`{key}: …`" for key in keys) + "}" if keys else "a mapping by pattern"
    return _plain_option(part)


def _plain_option(part: Schema) -> str:
    if part["type"] in ("integer", "number"):
        words = "a whole number" if part["type"] == "integer" else "a number"
        if "exclusiveMinimum" in part:
            return f"{words} above {part['exclusiveMinimum']:g}"
        return f"{words} from {part['minimum']:g}" if part.get("minimum") else words
    return {"string": "text", "boolean": "`true`, `false`"}[part["type"]]


def _plural(words: str) -> str:
    return {"a name or a mapping": "names or mappings", "text": "texts"}.get(words, words)


def _sentence(said: Schema, whole: Schema) -> str:
    text = said.get("description") or _followed(said, whole).get("description", "")
    example = said.get("examples")
    return f"{_escaped(text)} E.g. `{_yaml(example[0])}`." if example and not said.get("default") else _escaped(text)


# front.json


def _add_objects(tables: dict[str, str], schema: Schema, whole: Schema, path: str) -> None:
    properties = schema.get("properties", {})
    tables[path] = _table(
        ("key", "value", "meaning"),
        [(f"`{key}`", _json_kind(said), _escaped(_json_meaning(said))) for key, said in properties.items()],
    )
    for key, said in properties.items():
        inner = said.get("items", said)
        if "properties" in inner and key != "layers":
            _add_objects(tables, inner, whole, key if path == "top" else f"{path}.{key}")


def _values_row(schema: Schema) -> str:
    values = schema["additionalProperties"]
    inner = values.get("properties")
    return _escaped(schema["description"]) + (
        "\n\n" + _table(("key", "value", "meaning"), [(f"`{k}`", _json_kind(v), _escaped(v.get("description", ""))) for k, v in inner.items()])
        if inner
        else ""
    )


def _json_kind(said: Schema) -> str:
    if "$ref" in said:
        return {"genome": "list of integers", "search": "[values](#search-and-test)", "test": "[values](#search-and-test)"}[
            said["$ref"].rpartition("/")[2]
        ]
    if "enum" in said:
        return ", ".join("null" if value is None else f"`{value}`" for value in said["enum"])
    kinds = said["type"] if isinstance(said["type"], list) else [said["type"]]
    if kinds == ["array"]:
        inner = said["items"]
        return f"list of {'objects' if inner.get('type') == 'object' else 'values' if isinstance(inner['type'], list) else inner['type'] + 's'}"
    return " or ".join(kinds)


def _json_meaning(said: Schema) -> str:
    return str(said.get("description", ""))


# Both


def _followed(said: Schema, whole: Schema) -> Schema:
    if "$ref" not in said:
        return said
    found: Schema = whole["$defs"][said["$ref"].rpartition("/")[2]]
    return found


def _yaml(value: Any) -> str:
    return json.dumps(value) if isinstance(value, list) else str(value)


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def documents() -> dict[Path, dict[str, str]]:
    """The documents that have tables, and the tables."""
    return {DOCS / "yaml.md": yaml_tables(), DOCS / "front-json.md": front_tables()}


def main() -> None:
    """Write the tables into the documents."""
    for path, tables in documents().items():
        path.write_text(written(path.read_text(encoding="utf-8"), tables), encoding="utf-8")


if __name__ == "__main__":
    main()
