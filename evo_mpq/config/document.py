"""A YAML text that knows where each of its keys and values stands (the one file that imports PyYAML)."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import yaml

from evo_mpq.config.wording import shown
from evo_mpq.errors import ConfigError, EvoMpqError, Mistake, dotted

KeyPath: TypeAlias = tuple[str | int, ...]

_LINE_BREAK = re.compile("\r\n|[\r\n\x85\u2028\u2029]")  # what YAML takes for one
_WIDEST_LINE = 110

# YAML 1.1 reads 1e-3 as text, 2024-01-01 as a date, 1:30 as 90 and 010 as 8. Here numbers are what a reader
# expects, and the other three are text.
_SCALARS = {
    "null": ("~|null|Null|NULL|", ["~", "n", "N", ""]),
    "bool": (
        "yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF",
        list("yYnNtTfFoO"),
    ),
    "int": (r"[-+]?(?:0|[1-9][0-9_]*|0x[0-9a-fA-F]+)", list("-+0123456789")),
    "float": (
        r"[-+]?(?:(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?|[0-9][0-9_]*[eE][-+]?[0-9]+"
        r"|\.(?:inf|Inf|INF))|\.(?:nan|NaN|NAN)",
        list("-+0123456789."),
    ),
    "merge": ("<<", ["<"]),
}


class Key(str):
    """The last part of a mistake's path if the key itself is wrong: it gets the caret, not its value."""

    __slots__ = ()


class Place(NamedTuple):
    """Where something stands in a text; both count from 1."""

    line: int
    column: int


class Override(NamedTuple):
    """What ``--set key=value`` asks for.

    Attributes:
        text: as it was given, ``"search.evaluations=100"``.
        path: of the key.
        value: what the text after ``=`` says as YAML.
        number: of those before it.
    """

    text: str
    path: KeyPath
    value: Any
    number: int


class Located(NamedTuple):
    """A mistake and where it is: in the text, in an override, or (None) nowhere in particular."""

    place: Place | Override | None
    mistake: Mistake


class LocatedConfigError(ConfigError):
    """Mistakes whose message has the lines of the file already."""


@dataclass(frozen=True)
class Document:
    """A parsed YAML text.

    Attributes:
        name: what messages call it; the file's path.
        text: as it was read.
        values: what it says, overrides included: mappings with text keys, lists and scalars. Keys are text as
            written, so that a layer may be called ``1.10``.
        mistakes: what could be read around: duplicate keys, tags that are not read, wrong overrides.
        overrides: in the order of their application.
    """

    name: str
    text: str = field(repr=False)
    values: dict[str, Any]
    mistakes: tuple[Located, ...] = ()
    overrides: tuple[Override, ...] = ()
    _root: yaml.MappingNode = field(default_factory=lambda: _mapping_node(), repr=False, compare=False)

    @classmethod
    def read(cls, path: str | Path) -> Document:
        """The document in a file.

        Raises:
            ConfigError: the file cannot be read, or is no YAML mapping.
        """
        try:
            text = Path(path).read_bytes().decode("utf-8-sig")
        except OSError as error:
            raise LocatedConfigError(f"{path}: cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise LocatedConfigError(f"{path}: is not text in UTF-8 (byte {error.start})") from error
        return cls.parse(text, str(path))

    @classmethod
    def parse(cls, text: str, name: str = "settings") -> Document:
        r"""The document that a text is.

        Only plain values are made: mappings, lists, text, numbers, true, false and null; aliases and merge
        keys (``<<``) are followed.

        Raises:
            ConfigError: the syntax is wrong, the top level is no mapping, or an alias contains itself.

        >>> document = Document.parse("search:\n  evaluations: 1e2")
        >>> document.values, document.place(("search", "evaluations"))
        ({'search': {'evaluations': 100.0}}, Place(line=2, column=16))
        """
        try:
            root, values, mistakes = _read(text)
        except _UnreadableError as error:
            raise _fatal(text, name, error.place, error.message) from None
        if root is None:
            message = "is empty; the least is `model:` and `data:`, and `evo-mpq init` writes a first one"
            raise _fatal(text, name, None, message)
        if not isinstance(root, yaml.MappingNode) or not isinstance(values, dict):
            message = "must be a mapping of keys to values, such as `model: {kind: digits_resnet}`"
            raise _fatal(text, name, _place(root), message)
        return cls(name, text, values, tuple(mistakes), _root=root)

    def with_overrides(self, texts: Iterable[str]) -> Document:
        """The document with ``key=value`` texts applied in order; what is wrong in them is in ``mistakes``.

        A key is written with dots and, in lists, positions; what has dots itself is quoted. Values are YAML:
        ``search.evaluations=100``, ``space.layers."stem.*".weight_bits=[4, 8]``, ``objectives[0]=flips``.
        """
        values, mistakes, overrides = copy.deepcopy(self.values), list(self.mistakes), list(self.overrides)
        for number, text in enumerate(texts, start=len(overrides)):
            path: KeyPath = ()
            try:
                path, value = _parse_override(text)
                _assign(values, path, copy.deepcopy(value))
                overrides.append(Override(text, path, value, number))
            except ConfigError as error:
                at = Override(text, path, None, number)
                mistakes += [Located(at, Mistake(path, mistake.message)) for mistake in error.mistakes]
        return replace(self, values=values, mistakes=tuple(mistakes), overrides=tuple(overrides))

    def place(self, path: Sequence[str | int]) -> Place | Override | None:
        """Where a key path stands, or the nearest part of it that exists; the last override that set it.

        It is the place of the key if its value is a mapping or the path ends in a `Key`, else of the value.
        """
        path = tuple(path)
        setting = [override for override in self.overrides if path[: len(override.path)] == override.path]
        if setting:
            return setting[-1]
        if not path:
            return None
        key, node, depth = _descend(self._root, path)
        within = [override for override in self.overrides if override.path[: len(path)] == path]
        if depth < len(path) and within:
            return within[-1]
        at_key = isinstance(node, yaml.MappingNode) or (depth == len(path) and isinstance(path[-1], Key))
        return _place(key if at_key else node)

    def error(self, mistakes: Iterable[Mistake | Located]) -> LocatedConfigError:
        """The error that tells mistakes with their lines and carets, in the order of the text."""
        located = [
            mistake if isinstance(mistake, Located) else Located(self.place(mistake.path), mistake)
            for mistake in mistakes
        ]
        located.sort(key=lambda found: _order(found.place))
        text = "\n".join(_render(found, self.name, self.text) for found in located)
        return LocatedConfigError([found.mistake for found in located], text)


def locate(error: EvoMpqError, document: Document | None, default_path: Sequence[str | int] = ()) -> ConfigError:
    """The same mistakes, told with the lines of the document that they are about.

    Args:
        error: raised while the settings were used: building the space, resolving names, reading data.
        document: the settings' text; None if they come from memory, which leaves the key paths only.
        default_path: what an error that is no ``ConfigError`` is about, e.g. ``("data",)``.
    """
    if isinstance(error, LocatedConfigError):
        return error
    if not isinstance(error, ConfigError):
        error = ConfigError([Mistake(tuple(default_path), str(error))])
    return error if document is None else document.error(error.mistakes)


def dump(values: Mapping[str, Any]) -> str:
    """YAML that `Document.parse` reads back as equal values; keys keep their order."""
    text: str = yaml.dump(
        dict(values), Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=None, width=110
    )
    return text


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = {}  # noqa: RUF012 - PyYAML's own way to say it


class _Dumper(yaml.SafeDumper):
    yaml_implicit_resolvers = {}  # noqa: RUF012

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    # PyYAML forgets to quote the line breaks of Unicode.
    quotes = '"' if _LINE_BREAK.search(text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=quotes)


_Dumper.add_representer(str, _represent_text)

for _tag, (_pattern, _first) in _SCALARS.items():
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first)


class _UnreadableError(Exception):
    """A text that is no YAML, or none that ends."""

    def __init__(self, message: str, place: Place | None) -> None:
        super().__init__(message)
        self.message = message
        self.place = place


def _read(text: str) -> tuple[yaml.Node | None, Any, list[Located]]:
    """The text's nodes, what they say, and what could be read around."""
    mistakes: list[Located] = []
    try:
        root: yaml.Node | None = yaml.compose(text, Loader=_Loader)
        if root is None:
            return None, None, []
        cycle = _cycle(root, ())
        if cycle is not None:
            raise _UnreadableError("contains itself by an alias", _place(cycle))
        return root, _build(root, (), mistakes), mistakes
    except yaml.YAMLError as error:
        raise _UnreadableError(*_explain(error, text)) from None
    except RecursionError:
        raise _UnreadableError("is nested too deeply", None) from None


def _mapping_node() -> yaml.MappingNode:
    return yaml.MappingNode("tag:yaml.org,2002:map", [])


def _place(node: yaml.Node) -> Place:
    return Place(node.start_mark.line + 1, node.start_mark.column + 1)


def _cycle(node: yaml.Node, above: tuple[yaml.Node, ...], seen: set[int] | None = None) -> yaml.Node | None:
    """The first node that lies inside itself."""
    seen = set() if seen is None else seen
    if any(node is other for other in above):
        return node
    if id(node) in seen or isinstance(node, yaml.ScalarNode):
        return None
    seen.add(id(node))
    children = [part for pair in node.value for part in (pair if isinstance(pair, tuple) else (pair,))]
    found = (_cycle(child, (*above, node), seen) for child in children)
    return next((cycle for cycle in found if cycle is not None), None)


class _Item(NamedTuple):
    key: str
    key_node: yaml.Node
    value: yaml.Node
    merged: bool


def _items(node: yaml.MappingNode) -> list[_Item]:
    """Own entries in order, then those of merged mappings; entries whose key is no scalar are left out."""
    own, merged = [], []
    for key, value in node.value:
        if key.tag.endswith(":merge"):
            sources = value.value if isinstance(value, yaml.SequenceNode) else [value]
            for source in sources:
                if isinstance(source, yaml.MappingNode):
                    merged += [item._replace(merged=True) for item in _items(source)]
        elif isinstance(key, yaml.ScalarNode):
            own.append(_Item(key.value, key, value, False))
    return own + merged


def _step(node: yaml.Node, part: str | int) -> tuple[yaml.Node, yaml.Node] | None:
    """The key's and the value's node one step down, or None."""
    if isinstance(node, yaml.MappingNode):
        return next(((item.key_node, item.value) for item in _items(node) if item.key == part), None)
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        return node.value[part], node.value[part]
    return None


def _descend(root: yaml.Node, path: KeyPath) -> tuple[yaml.Node, yaml.Node, int]:
    """As far along a path as it exists: the last key's node, its value's, and the number of steps."""
    key = node = root
    for depth, part in enumerate(path):
        step = _step(node, part)
        if step is None:
            return key, node, depth
        key, node = step
    return key, node, len(path)


def _build(node: yaml.Node, path: KeyPath, mistakes: list[Located]) -> Any:
    """What a node says; what cannot be read becomes None and a mistake."""
    kind = node.tag.removeprefix("tag:yaml.org,2002:")
    if isinstance(node, yaml.MappingNode) and kind == "map":
        return _build_mapping(node, path, mistakes)
    if isinstance(node, yaml.SequenceNode) and kind == "seq":
        return [_build(child, (*path, place), mistakes) for place, child in enumerate(node.value)]
    if isinstance(node, yaml.ScalarNode) and kind in {*_SCALARS, "str"}:
        try:
            return _scalar(kind, node.value)
        except (ValueError, KeyError):
            message = f"{shown(node.value)} cannot be read as {kind}"
    else:
        tag = kind if kind.startswith("!") else f"!!{kind}"
        message = f"the tag {tag} is not read here, only text, numbers, lists and mappings; write the value plainly"
    mistakes.append(Located(_place(node), Mistake(path, message)))
    return None


def _build_mapping(node: yaml.MappingNode, path: KeyPath, mistakes: list[Located]) -> dict[str, Any]:
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            mistakes.append(Located(_place(key), Mistake(path, "a key must be text, not a list or a mapping")))
        elif key.tag.endswith(":merge") and not _merges(value):
            mistakes.append(Located(_place(value), Mistake((*path, "<<"), "only mappings can be merged")))
    values: dict[str, Any] = {}
    first: dict[str, _Item] = {}
    for item in _items(node):
        if item.key not in first:
            first[item.key] = item
            values[item.key] = _build(item.value, (*path, item.key), mistakes)
        elif not item.merged:
            line = _place(first[item.key].key_node).line
            message = f"is given twice, first in line {line}; keep one of the two"
            mistakes.append(Located(_place(item.key_node), Mistake((*path, Key(item.key)), message)))
    return values


def _merges(value: yaml.Node) -> bool:
    sources = value.value if isinstance(value, yaml.SequenceNode) else [value]
    return all(isinstance(source, yaml.MappingNode) for source in sources)


def _scalar(kind: str, text: str) -> Any:
    if kind == "null":
        return None
    if kind == "bool":
        return {"yes": True, "true": True, "on": True, "no": False, "false": False, "off": False}[text.lower()]
    if kind == "int":
        return int(text.replace("_", ""), 0)
    if kind == "float":
        special = text.lower().lstrip("+-")
        if special in (".inf", ".nan"):
            return math.copysign(float(special[1:]), -1.0 if text.startswith("-") else 1.0)
        return float(text.replace("_", ""))
    return text


_KEY = re.compile(r'(?:^|\.)"(?P<quoted>[^"]*)"|(?:^|\.)(?P<plain>[^."\[\]]+)|\[(?P<place>\d+)\]')


def _parse_override(text: str) -> tuple[KeyPath, Any]:
    """The key path and the value of ``key=value``; a ConfigError without the path says what is wrong."""
    match = re.fullmatch(r'((?:"[^"]*"|[^"=])+)=(.*)', text, re.DOTALL)
    if match is None:
        raise ConfigError("is not of the form key=value, for example search.evaluations=100")
    path: list[str | int] = []
    end = 0
    key = match[1].strip()
    for part in _KEY.finditer(key):
        if part.start() != end:
            break
        end = part.end()
        path.append(int(part["place"]) if part["place"] else part["quoted"] or part["plain"] or "")
    if end != len(key) or not path or isinstance(path[0], int):
        raise ConfigError(
            f"{key!r} is no key; write the parts with dots and what has dots itself in quotes, for example "
            'space.layers."stem.*".weight_bits'
        )
    try:
        _, value, mistakes = _read(match[2])
    except _UnreadableError as error:
        raise ConfigError(f"the value is no YAML: {error.message}") from None
    if mistakes:
        raise ConfigError([found.mistake for found in mistakes])
    return tuple(path), value


def _assign(values: dict[str, Any], path: KeyPath, value: Any) -> None:
    """Set one value in place; mappings on the way are made, list positions must exist."""
    here: Any = values
    for depth, part in enumerate(path):
        _check_step(here, part, dotted(path[:depth]))
        if depth == len(path) - 1:
            here[part] = value
        elif isinstance(here, dict) and here.get(part) is None:
            here[part] = {}
        here = here[part]


def _check_step(here: Any, part: str | int, above: str) -> None:
    """That ``here``, which is at the key path ``above``, has or may get the part."""
    if isinstance(here, list):
        if not isinstance(part, int):
            raise ConfigError(f"{above} is a list; say which entry, such as {above}[0]")
        if part >= len(here):
            raise ConfigError(f"{above} has {len(here)} entries, counted from [0]")
    elif not isinstance(here, dict):
        raise ConfigError(f"{above} is {shown(here)}, which has no parts; set {above} as a whole")
    elif isinstance(part, int):
        raise ConfigError(f"{above} is no list, so it has no [{part}]")


def _order(place: Place | Override | None) -> tuple[int, int, int]:
    if isinstance(place, Place):
        return (1, *place)
    return (0, 0, 0) if place is None else (2, place.number, 0)


def _render(found: Located, name: str, text: str) -> str:
    if isinstance(found.place, Override):
        return f"--set {found.place.text}: {found.mistake}"
    if found.place is None:
        return f"{name}: {found.mistake}"
    line, column = found.place
    head = f"{name}:{line}:{column}: {found.mistake}"
    source = [*_LINE_BREAK.split(text), ""][line - 1]
    start = max(0, min(column - _WIDEST_LINE // 2, len(source) - _WIDEST_LINE))
    shown, before = source[start : start + _WIDEST_LINE], source[start : column - 1]
    # Tabs are kept in front of the caret, so that it stands right whatever their width.
    return f"{head}\n  {shown}\n  {''.join(c if c == chr(9) else ' ' for c in before)}^"


def _fatal(text: str, name: str, place: Place | None, message: str) -> LocatedConfigError:
    mistake = Mistake((), message)
    return LocatedConfigError([mistake], _render(Located(place, mistake), name, text))


def _explain(error: yaml.YAMLError, text: str) -> tuple[str, Place | None]:
    """PyYAML's complaint in words that say what to do, and where."""
    if isinstance(error, yaml.reader.ReaderError):
        lines = _LINE_BREAK.split(text[: error.position])
        message = f"the character {chr(int(error.character))!r} is not allowed in YAML"
        return message, Place(len(lines), len(lines[-1]) + 1)
    if not isinstance(error, yaml.MarkedYAMLError):
        return str(error), None
    problem, context = error.problem or "", error.context or ""
    mark, opened = error.problem_mark or error.context_mark, error.context_mark
    since = f" that is opened in line {opened.line + 1}" if opened is not None else ""
    if "scanning an alias" in context or "undefined alias" in problem:
        mark = opened or mark
        message = 'a text that begins with * must be in quotes, for example "*.conv1"'
    elif "cannot start any token" in problem and "\\t" in problem:
        message = "a tab; YAML is indented with spaces"
    elif "cannot start any token" in problem:
        message = f"a text that begins with {problem.split(chr(39))[1]} must be in quotes"
    elif problem.startswith("mapping values are not allowed"):
        message = (
            'a ":" is not expected here; give the line the indentation of its neighbors, or put a text that '
            "contains a colon and a space in quotes"
        )
    elif problem.startswith("could not find expected ':'"):
        message = 'expected "key: value"; a colon is missing, or a bracket or quote is not closed'
    elif "unexpected end of stream" in problem:
        mark = opened or mark
        message = "the quote is never closed"
    elif context.startswith("while parsing a flow"):
        bracket = "}" if "mapping" in context else "]"
        message = f'expected "," or "{bracket}" to go on with the bracket{since}'
    elif context.startswith("while parsing a block"):
        what = "list" if "collection" in context else "mapping"
        message = f"does not go on with the {what}{since}; is it indented like the rest of it?"
    elif "single document" in context:
        message = "a second document; the settings are one, so remove the ---"
    else:
        message = f"is no YAML: {problem}{f' ({context})' if context else ''}"
    return message, None if mark is None else Place(mark.line + 1, mark.column + 1)
