"""From patterns on layer names to a search space, with every mistake reported at once."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, TypeAlias

from evo_mpq.errors import ConfigError, Mistake
from evo_mpq.space.genes import BIT_KINDS, DROP_KIND, PRUNE_KIND, Gene, n_kept
from evo_mpq.space.policy import LayerPolicy
from evo_mpq.space.search_space import SearchSpace

LEGAL_BITS = (2, 3, 4, 5, 6, 7, 8, 32)
"""Bits that a weight or an activation may have; 32 is float."""

EDGE_BITS = 8

KeyPath: TypeAlias = tuple[str | int, ...]
Options: TypeAlias = tuple[int, ...]
Ratios: TypeAlias = tuple[float, ...]


@dataclass(frozen=True)
class SpaceLayer:
    """What building a search space needs to know of a layer.

    Attributes:
        name: the path of its weight without ``.weight``.
        quantizes_input: False for embeddings, whose inputs are indices: they get no activation gene.
        has_weight: False for products of two activations: they get no weight gene.
    """

    name: str
    quantizes_input: bool = True
    has_weight: bool = True

    def has(self, kind: str) -> bool:
        """Whether bits of a kind can be chosen for the layer."""
        return self.quantizes_input if kind == "activation_bits" else self.has_weight


@dataclass(frozen=True)
class SpaceGroup:
    """Channels that can only be pruned together.

    Attributes:
        n_channels: how many.
        producers: layers that lose output channels, in graph order; the group is named after the first.
        consumers: layers that lose input channels.
    """

    n_channels: int
    producers: tuple[str, ...]
    consumers: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The name of its first producer."""
        return self.producers[0]


def build_space(
    layers: Sequence[SpaceLayer],
    *,
    defaults: Mapping[str, Any] | None = None,
    layer_rules: Mapping[str, Mapping[str, Any]] | None = None,
    tie: Sequence[str] = (),
    groups: Sequence[SpaceGroup] = (),
    prune: Mapping[str, Any] | None = None,
    blocks: Mapping[str, tuple[str, ...] | str] | None = None,
    drop: Sequence[str] = (),
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
        groups: channels that can be pruned together, in graph order.
        prune: ``ratios``, the fractions of channels that may be removed of every group, and ``layers``, other
            ratios by shell pattern on producers; the last one that matches any producer of a group wins. Ratios
            that leave the same number of channels are one option.
        blocks: by module path the layers of a block that can be left out, or why a module is none.
        drop: patterns on module paths, compared part by part (``*`` does not cross a dot); of the modules that a
            pattern matches the outermost of those that can be left out get a gene.
        edges: 8 to quantize also the tensors between quantized layers, or ``"none"``. Matters only where
            activations are quantized.

    Raises:
        ConfigError: patterns that match nothing, illegal or repeated options, ties that overlap or that join
            layers with different options, activation bits for embeddings, patterns that only match modules that
            cannot be left out, or nothing to search.

    >>> space = build_space(
    ...     [SpaceLayer("stem"), SpaceLayer("stage.0"), SpaceLayer("stage.1")],
    ...     defaults={"weight_bits": [2, 4, 8]}, layer_rules={"stem": {"weight_bits": 8}}, tie=["stage.*"],
    ... )
    >>> [(gene.name, gene.layers) for gene in space.genes]
    [('stage.0.weight_bits', ('stage.0', 'stage.1'))]
    """
    mistakes: list[Mistake] = []
    options = _options(layers, defaults or {}, layer_rules or {}, mistakes)
    ties = _tied_layers(layers, options, tie, mistakes)
    ratios = _ratios(groups, prune, mistakes)
    dropped = _dropped_blocks(blocks or {}, drop, mistakes)
    _check_readers(groups, ratios, dropped, mistakes)
    edge_bits = _edge_bits(edges, mistakes)
    tied_groups = _tied_groups(groups, ratios, tie, ties, mistakes)
    genes = [
        *_drop_genes(dropped),
        *_prune_genes(tied_groups, ratios),
        *_bit_genes(layers, options, ties),
    ]
    if not mistakes and not genes:
        mistakes.append(_nothing_to_search(layers))
    if mistakes:
        raise ConfigError(mistakes)
    fixed = {
        name: LayerPolicy(**{kind: choice[0] for kind, choice in kinds.items() if len(choice) == 1})
        for name, kinds in options.items()
    }
    for group in groups:
        if len(ratios[group.name]) == 1 and ratios[group.name][0] > 0:
            for name in group.producers:
                fixed[name] = replace(fixed[name], prune_ratio=ratios[group.name][0])
    quantized = any(min(choice["activation_bits"]) < 32 for choice in options.values())
    names = [layer.name for layer in layers]
    return SearchSpace(names, _in_order(genes, names), fixed, edges=edge_bits if quantized else None)


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
        for kind, lacking in (("activation_bits", "activation to quantize, only indices"), ("weight_bits", "weight")):
            if matched and said.get(kind, (32,)) != (32,) and not any(layer.has(kind) for layer in matched):
                names = _listing([layer.name for layer in matched])
                mistakes.append(Mistake((*path, kind), f"{names} has no {lacking}. Remove the key."))
        for layer in matched:
            options[layer.name].update(said)
    for layer in layers:
        options[layer.name].update({kind: (32,) for kind in BIT_KINDS if not layer.has(kind)})
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


def _tied_layers(
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
    names = [layer.name for layer in tied if layer.has(kind)]
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


def _bit_genes(
    layers: Sequence[SpaceLayer], options: Mapping[str, Mapping[str, Options]], ties: Mapping[str, int]
) -> list[Gene]:
    members: dict[tuple[str, str | int], list[str]] = {}
    for layer in layers:
        for kind in BIT_KINDS:
            if len(options[layer.name][kind]) > 1:
                members.setdefault((kind, ties.get(layer.name, layer.name)), []).append(layer.name)
    return [
        Gene(f"{names[0]}.{kind}", options[names[0]][kind], kind, tuple(names)) for (kind, _), names in members.items()
    ]


def _ratios(
    groups: Sequence[SpaceGroup], prune: Mapping[str, Any] | None, mistakes: list[Mistake]
) -> dict[str, Ratios]:
    """For every group its options, ascending; ``(0.0,)`` where nothing was said."""
    path: KeyPath = ("space", "prune")
    if prune is None:
        return {group.name: (0.0,) for group in groups}
    said = _read_ratios(prune.get("ratios", (0.0,)), (*path, "ratios"), mistakes)
    ratios = dict.fromkeys([group.name for group in groups], said)
    if not groups:
        mistakes.append(Mistake(path, "the network has no channels that can be pruned; `evo-mpq check` tells why."))
    for pattern, options in prune.get("layers", {}).items():
        place = (*path, "layers", pattern)
        own = _read_ratios(options, place, mistakes)
        matched = [group.name for group in groups if any(fnmatchcase(name, pattern) for name in group.producers)]
        if groups and not matched:
            producers = [name for group in groups for name in group.producers]
            message = f"matches no layer whose channels can be pruned. They are {_naming(producers)}."
            mistakes.append(Mistake(place, message + _near(pattern, producers)))
        ratios.update(dict.fromkeys(matched, own))
    return {group.name: _merged(ratios[group.name], [group.n_channels]) for group in groups}


def _read_ratios(value: Any, path: KeyPath, mistakes: list[Mistake]) -> Ratios:
    """The ratios ascending; ``(0.0,)`` in place of what is wrong, so that reading goes on."""
    single = not isinstance(value, Sequence) or isinstance(value, str)
    places = [(path, value)] if single else [((*path, place), ratio) for place, ratio in enumerate(value)]
    if not places:
        mistakes.append(Mistake(path, "the list of ratios is empty. Remove the key to prune nothing."))
    ratios: list[float] = []
    for place, ratio in places:
        if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not 0 <= ratio < 1:
            message = f"{ratio!r} is no fraction of channels to remove; legal: from 0 up to, but not including, 1."
            mistakes.append(Mistake(place, message))
        elif ratio in ratios:
            mistakes.append(Mistake(place, f"{ratio} is repeated. Every option stands once."))
        else:
            ratios.append(float(ratio))
    return tuple(sorted(ratios)) or (0.0,)


def _merged(ratios: Ratios, sizes: Sequence[int]) -> Ratios:
    """The ratios without those that leave as many channels of every group as a smaller one does."""
    different = {tuple(n_kept(n, ratio) for n in sizes): ratio for ratio in reversed(ratios)}
    return tuple(sorted(different.values()))


def _tied_groups(
    groups: Sequence[SpaceGroup],
    ratios: dict[str, Ratios],
    tie: Sequence[str],
    ties: Mapping[str, int],
    mistakes: list[Mistake],
) -> list[list[SpaceGroup]]:
    """Groups that share a gene: those that have a producer in one tie. Their options are merged anew, together."""
    readable = not mistakes
    members: dict[str | int, list[SpaceGroup]] = {}
    for group in groups:
        tied = sorted({ties[name] for name in group.producers if name in ties})
        if len(tied) > 1:
            patterns = " and ".join(f'"{tie[number]}"' for number in tied)
            message = f"the channels of {_listing(group.producers)} are pruned together, but {patterns} tie them apart."
            mistakes.append(Mistake(("space", "tie", tied[1]), message))
        members.setdefault(tied[0] if tied else group.name, []).append(group)
    for number, tied_groups in members.items():
        for group in tied_groups[1:] if readable else ():
            mine, first = ratios[group.name], ratios[tied_groups[0].name]
            if mine != first:
                message = (
                    f'tied layers need equal options: ratios of "{tied_groups[0].name}" are {list(first)}, of '
                    f'"{group.name}" {list(mine)}.'
                )
                mistakes.append(Mistake(("space", "tie", int(number)), message))
                break
    return list(members.values())


def _prune_genes(tied_groups: Sequence[Sequence[SpaceGroup]], ratios: Mapping[str, Ratios]) -> list[Gene]:
    genes = []
    for groups in tied_groups:
        options = ratios[groups[0].name]
        if len(options) > 1:
            producers = tuple(dict.fromkeys(name for group in groups for name in group.producers))
            genes.append(Gene(f"{groups[0].name}.{PRUNE_KIND}", options[::-1], PRUNE_KIND, producers))
    return genes


def _dropped_blocks(
    blocks: Mapping[str, tuple[str, ...] | str], patterns: Sequence[str], mistakes: list[Mistake]
) -> dict[str, tuple[str, ...]]:
    """The blocks that get a gene, with their layers."""
    path: KeyPath = ("space", "architecture", "drop")
    chosen: dict[str, tuple[str, ...]] = {}
    for place, pattern in enumerate(patterns):
        matched = [name for name in blocks if matches_by_part(name, pattern)]
        if not matched:
            message = f"matches no module with a layer. Modules are named like {_naming(list(blocks))}."
            mistakes.append(Mistake((*path, place), message + _near(pattern, list(blocks))))
        possible = {name: found for name in matched if not isinstance(found := blocks[name], str)}
        if matched and not possible:
            reasons = " ".join(f'"{name}" cannot be left out: {blocks[name]}' for name in matched)
            mistakes.append(Mistake((*path, place), reasons))
        chosen.update(possible)
    return {
        name: layers
        for name, layers in chosen.items()
        if not any(name != other and name.startswith(f"{other}.") for other in chosen)
    }


def _check_readers(
    groups: Sequence[SpaceGroup],
    ratios: Mapping[str, Ratios],
    dropped: Mapping[str, tuple[str, ...]],
    mistakes: list[Mistake],
) -> None:
    """Refuses to prune channels that blocks produce for layers outside of them, which then read other channels."""
    block_of = {name: block for block, layers in dropped.items() for name in layers}
    for group in groups:
        blocks = [block_of.get(name) for name in group.producers]
        outside = [name for name in group.consumers if block_of.get(name) not in blocks]
        if None in blocks or not outside or ratios[group.name] == (0.0,):
            continue
        message = (
            f'"{blocks[0]}" may be left out, and then {_listing(outside)} would read channels that are not pruned with '
            f'"{group.name}". Keep these, prune: {{layers: {{"{group.name}": [0.0]}}}}, or the block.'
        )
        mistakes.append(Mistake(("space", "prune"), message))


def matches_by_part(name: str, pattern: str) -> bool:
    """Whether a shell pattern matches the path of a module part by part: ``*`` crosses no dot.

    >>> matches_by_part("stage1.0", "stage*.[01]"), matches_by_part("stage1.0.conv1", "stage*")
    (True, False)
    """
    parts, wanted = name.split("."), pattern.split(".")
    return len(parts) == len(wanted) and all(map(fnmatchcase, parts, wanted))


def _drop_genes(blocks: Mapping[str, tuple[str, ...]]) -> list[Gene]:
    return [Gene(f"{name}.{DROP_KIND}", (True, False), DROP_KIND, layers) for name, layers in blocks.items()]


_ORDER = (DROP_KIND, PRUNE_KIND, *BIT_KINDS)


def _in_order(genes: Sequence[Gene], layers: Sequence[str]) -> list[Gene]:
    """Genes in the order of their first layers, so that shared prefixes of genomes are shared computation."""
    place = {name: position for position, name in enumerate(layers)}
    return sorted(genes, key=lambda gene: (place[gene.layers[0]], _ORDER.index(gene.kind)))


def _nothing_to_search(layers: Sequence[SpaceLayer]) -> Mistake:
    return Mistake(
        ("space",),
        f"nothing to search: no layer has a choice. Give a list of at least two options, for example "
        f"defaults: {{weight_bits: [2, 3, 4, 8]}}. The {len(layers)} layers are named like "
        f"{_naming([layer.name for layer in layers])}."
        if layers
        else "nothing to search: the network has no layer that can be compressed.",
    )
