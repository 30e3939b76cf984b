"""From patterns on layer names to a search space, with every mistake reported at once."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, TypeAlias

from evo_mpq.errors import ConfigError, Mistake
from evo_mpq.space.genes import BIT_KINDS, Gene
from evo_mpq.space.policy import LayerPolicy
from evo_mpq.space.search_space import SearchSpace

LEGAL_BITS = (2, 3, 4, 5, 6, 7, 8, 32)
"""Bits that a weight or an activation may have; 32 is float."""

EDGE_BITS = 8

KeyPath: TypeAlias = tuple[str | int, ...]
Options: TypeAlias = tuple[int, ...]


@dataclass(frozen=True)
class SpaceLayer:
    """What building a search space needs to know of a layer.

    Attributes:
        name: the path of its weight without ``.weight``.
        quantizes_input: False for embeddings, whose inputs are indices: they get no activation gene.
    """

    name: str
    quantizes_input: bool = True


def build_space(
    layers: Sequence[SpaceLayer],
    *,
    defaults: Mapping[str, Any] | None = None,
    layer_rules: Mapping[str, Mapping[str, Any]] | None = None,
    tie: Sequence[str] = (),
    edges: int | str | None = EDGE_BITS,
) -> SearchSpace:
    """The search space that the user's patterns describe.

    ``weight_bits`` and ``activation_bits`` are a number or a list of numbers out of ``LEGAL_BITS``; a key
    that is absent or None says nothing, and what nothing is said about stays at 32. A list becomes a gene, a
    single option is applied to every candidate.

    Args:
        layers: all layers of the network, in graph order.
        defaults: options of every layer, by kind.
        layer_rules: options by shell pattern on layer names (``*`` crosses dots); for each kind, the last
            rule that matches and names it wins.
        tie: patterns; the layers that one of them matches share one gene per kind.
        edges: 8 to quantize also the tensors between quantized layers, or ``"none"``. Matters only where
            activations are quantized.

    Raises:
        ConfigError: patterns that match no layer, illegal or repeated options, ties that overlap or that join
            layers with different options, activation bits for embeddings, or nothing to search.

    >>> space = build_space(
    ...     [SpaceLayer("stem"), SpaceLayer("stage.0"), SpaceLayer("stage.1")],
    ...     defaults={"weight_bits": [2, 4, 8]}, layer_rules={"stem": {"weight_bits": 8}}, tie=["stage.*"],
    ... )
    >>> [(gene.name, gene.layers) for gene in space.genes]
    [('stage.0.weight_bits', ('stage.0', 'stage.1'))]
    """
    mistakes: list[Mistake] = []
    options = _options(layers, defaults or {}, layer_rules or {}, mistakes)
    groups = _tied_groups(layers, options, tie, mistakes)
    edge_bits = _edge_bits(edges, mistakes)
    genes = _genes(layers, options, groups)
    if not mistakes and not genes:
        mistakes.append(_nothing_to_search(layers))
    if mistakes:
        raise ConfigError(mistakes)
    fixed = {
        name: LayerPolicy(**{kind: choice[0] for kind, choice in kinds.items() if len(choice) == 1})
        for name, kinds in options.items()
    }
    quantized = any(min(choice["activation_bits"]) < 32 for choice in options.values())
    return SearchSpace([layer.name for layer in layers], genes, fixed, edges=edge_bits if quantized else None)


def space_table(space: SearchSpace) -> list[dict[str, Any]]:
    """One row per gene, for people: ``gene``, ``values`` and the ``layers`` that share it."""
    return [{"gene": gene.name, "values": list(gene.values), "layers": list(gene.layers)} for gene in space.genes]


def _options(
    layers: Sequence[SpaceLayer],
    defaults: Mapping[str, Any],
    rules: Mapping[str, Mapping[str, Any]],
    mistakes: list[Mistake],
) -> dict[str, dict[str, Options]]:
    """For every layer and kind the options, ascending; ``(32,)`` where nothing was said."""
    said = _read_rule(defaults, ("space", "defaults"), mistakes)
    options = {layer.name: {kind: said.get(kind, (32,)) for kind in BIT_KINDS} for layer in layers}
    for pattern, rule in rules.items():
        path = ("space", "layers", pattern)
        said = _read_rule(rule, path, mistakes)
        matched = _matches(pattern, layers, path, mistakes)
        if (
            matched
            and said.get("activation_bits", (32,)) != (32,)
            and not any(layer.quantizes_input for layer in matched)
        ):
            names = _listing([layer.name for layer in matched])
            message = f"{names} has no activation to quantize, only indices. Remove the key."
            mistakes.append(Mistake((*path, "activation_bits"), message))
        for layer in matched:
            options[layer.name].update(said)
    for layer in layers:
        if not layer.quantizes_input:
            options[layer.name]["activation_bits"] = (32,)
    return options


def _read_rule(rule: Mapping[str, Any], path: KeyPath, mistakes: list[Mistake]) -> dict[str, Options]:
    if not isinstance(rule, Mapping):
        mistakes.append(Mistake(path, f"expected keys such as {{weight_bits: [2, 4, 8]}}, got {rule!r}."))
        return {}
    said = {}
    for key, value in rule.items():
        if key not in BIT_KINDS:
            near = difflib.get_close_matches(str(key), BIT_KINDS, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            mistakes.append(Mistake((*path, key), f"unknown key; legal: {', '.join(BIT_KINDS)}.{hint}"))
        elif value is not None:
            said[key] = _read_options(value, (*path, key), mistakes)
    return said


def _read_options(value: Any, path: KeyPath, mistakes: list[Mistake]) -> Options:
    """The options ascending; ``(32,)`` in place of what is wrong, so that reading goes on."""
    places: list[tuple[KeyPath, Any]]
    if isinstance(value, Sequence) and not isinstance(value, str):
        places = [((*path, place), option) for place, option in enumerate(value)]
        if not places:
            mistakes.append(Mistake(path, "the list of options is empty. Remove the key to leave the layer as it is."))
    else:
        places = [(path, value)]
    options: list[int] = []
    for place, option in places:
        if isinstance(option, bool) or not isinstance(option, int) or option not in LEGAL_BITS:
            mistakes.append(Mistake(place, f"{option!r} is no legal number of bits; legal: 2 to 8, and 32 for float."))
        elif option in options:
            mistakes.append(Mistake(place, f"{option} is repeated. Every option stands once."))
        else:
            options.append(option)
    return tuple(sorted(options)) or (32,)


def _matches(pattern: str, layers: Sequence[SpaceLayer], path: KeyPath, mistakes: list[Mistake]) -> list[SpaceLayer]:
    matched = [layer for layer in layers if fnmatchcase(layer.name, pattern)]
    if not matched:
        names = [layer.name for layer in layers]
        mistakes.append(
            Mistake(path, f"matches no layer. Layers are named like {_naming(names)}.{_near(pattern, names)}")
        )
    return matched


def _naming(names: Sequence[str]) -> str:
    """How layers are named: the first two and the last."""
    quoted = [f'"{name}"' for name in names]
    return ", ".join(quoted if len(quoted) <= 3 else [*quoted[:2], "…", quoted[-1]])


def _near(pattern: str, names: Sequence[str]) -> str:
    # A pattern is compared with names and with the patterns that a user would write for a module.
    parts = [name.split(".") for name in names]
    modules = [".".join(part[:depth]) + ".*" for part in parts for depth in range(1, len(part))]
    close = difflib.get_close_matches(pattern, list(dict.fromkeys([*names, *modules])), n=3)
    return f" Did you mean {_listing(close, 'or')}?" if close else ""


def _listing(names: Sequence[str], word: str = "and", most: int = 3) -> str:
    quoted = [f'"{name}"' for name in names[:most]]
    if len(names) > most:
        quoted.append(f"{len(names) - most} more")
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} {word} {quoted[-1]}"


def _tied_groups(
    layers: Sequence[SpaceLayer],
    options: Mapping[str, Mapping[str, Options]],
    tie: Sequence[str],
    mistakes: list[Mistake],
) -> dict[str, int]:
    """For every tied layer the number of its tie."""
    readable = not mistakes  # otherwise differing options may only be a consequence of other mistakes
    groups: dict[str, int] = {}
    for number, pattern in enumerate(tie):
        path = ("space", "tie", number)
        matched = _matches(pattern, layers, path, mistakes)
        twice = [layer.name for layer in matched if layer.name in groups]
        if twice:
            message = f'{_listing(twice)} is already tied by "{tie[groups[twice[0]]]}". Narrow one of the two.'
            mistakes.append(Mistake(path, message))
        groups.update({layer.name: number for layer in matched if layer.name not in groups})
        for kind in BIT_KINDS if readable else ():
            mistakes.extend(_different_options(kind, matched, options, path))
    return groups


def _different_options(
    kind: str,
    tied: Sequence[SpaceLayer],
    options: Mapping[str, Mapping[str, Options]],
    path: KeyPath,
) -> list[Mistake]:
    names = [layer.name for layer in tied if kind != "activation_bits" or layer.quantizes_input]
    for name in names:
        mine, first = list(options[name][kind]), list(options[names[0]][kind])
        if mine != first:
            message = f'tied layers need equal options: {kind} of "{names[0]}" is {first}, of "{name}" {mine}.'
            return [Mistake(path, message)]
    return []


def _edge_bits(edges: int | str | None, mistakes: list[Mistake]) -> int | None:
    if edges in (None, "none"):
        return None
    if edges not in (EDGE_BITS, str(EDGE_BITS)):
        mistakes.append(Mistake(("quantizer", "activations", "edges"), f"{edges!r} is neither 8 nor none."))
    return EDGE_BITS


def _genes(
    layers: Sequence[SpaceLayer], options: Mapping[str, Mapping[str, Options]], groups: Mapping[str, int]
) -> list[Gene]:
    """Genes in the order of their first layers, so that shared prefixes of genomes are shared computation."""
    members: dict[tuple[str, str | int], list[str]] = {}
    for layer in layers:
        for kind in BIT_KINDS:
            if len(options[layer.name][kind]) > 1:
                members.setdefault((kind, groups.get(layer.name, layer.name)), []).append(layer.name)
    return [
        Gene(f"{names[0]}.{kind}", options[names[0]][kind], kind, tuple(names)) for (kind, _), names in members.items()
    ]


def _nothing_to_search(layers: Sequence[SpaceLayer]) -> Mistake:
    return Mistake(
        ("space",),
        f"nothing to search: no layer has a choice. Give a list of at least two options, for example "
        f"defaults: {{weight_bits: [2, 3, 4, 8]}}. The {len(layers)} layers are named like "
        f"{_naming([layer.name for layer in layers])}."
        if layers
        else "nothing to search: the network has no layer that can be compressed.",
    )
