"""What was searched: the kinds of choices with their options, and the constraints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from evo_mpq.results.report.formatting import format_count, format_percent, format_value
from evo_mpq.results.report.layers import UNTOUCHED_BITS

Document: TypeAlias = Mapping[str, Any]

_BITS = {"weight_bits": "weight bits", "activation_bits": "activation bits"}
_SIGNS = {"<=": "≤", ">=": "≥"}


@dataclass(frozen=True)
class Searched:
    """One kind of choice.

    Attributes:
        label: what is chosen.
        options: all of them, with the number of choices.
        summary: both in a few words.
    """

    label: str
    options: str
    summary: str


def searched(front: Document) -> list[Searched]:
    """Every kind of choice of the space, from the bits to the blocks, with the options of all genes of that kind.

    >>> genes = [{"name": "stem.weight_bits", "values": [2, 3, 4]}, {"name": "stage1.0.drop", "values": [True, False]}]
    >>> [kind.summary for kind in searched({"genes": genes})]
    ['weight bits 2–4', '1 block']
    """
    genes: dict[str, list[Document]] = {}
    for gene in front["genes"]:
        genes.setdefault(str(gene["name"]).rpartition(".")[2], []).append(gene)
    found = [_bits(label, genes[kind]) for kind, label in _BITS.items() if kind in genes]
    found += [_channels(genes["prune_ratio"])] if "prune_ratio" in genes else []
    return [*found, _blocks(genes["drop"])] if "drop" in genes else found


def searched_sentence(front: Document, meta: Document) -> str:
    """What is searched, within which constraints, and what is best within the bounds to pick by."""
    kinds = ", ".join(kind.summary for kind in searched(front))
    bounds, best = constraint_texts(meta), pick_texts(meta)
    parts = [
        f"Searched: {kinds}." if kinds else "",
        f"{'Constraint' if len(bounds) == 1 else 'Constraints'}: {', '.join(bounds)}." if bounds else "",
        f"Best within {'; within '.join(best)}." if best else "",
    ]
    return " ".join(filter(None, parts))


def constraint_texts(meta: Document) -> list[str]:
    """The constraints to read.

    >>> constraint_texts({"constraints": [{"name": "size", "comparison": "<=", "bound": 40_000, "unit": "B"}]})
    ['size ≤ 40 kB']
    """
    return [_bound_text(bound) for bound in meta.get("constraints", ())]


def pick_texts(meta: Document) -> list[str]:
    """The bounds to pick by, each with the best member.

    >>> bound = {"name": "size", "comparison": "<=", "bound": 40_000, "unit": "B"}
    >>> pick_texts({"picks": [{"bounds": [bound], "best": "5d3dfc36"}, {"bounds": [bound], "best": None}]})
    ['size ≤ 40 kB: 5d3dfc36', 'size ≤ 40 kB: nothing']
    """
    return [
        f"{', '.join(map(_bound_text, pick['bounds']))}: {pick['best'] or 'nothing'}" for pick in meta.get("picks", ())
    ]


def _bound_text(bound: Document) -> str:
    return f"{bound['name']} {_SIGNS[bound['comparison']]} {format_value(bound['bound'], bound['unit'])}"


def _bits(label: str, genes: Sequence[Document]) -> Searched:
    bits = sorted({int(value) for gene in genes for value in gene["values"]})
    texts = ["float" if value >= UNTOUCHED_BITS else str(value) for value in bits]
    whole = [text for text in texts if text != "float"]
    shown = [f"{whole[0]}–{whole[-1]}"] if len(whole) > 2 else whole
    return Searched(
        label,
        f"{', '.join(texts)} in {_counted(len(genes), 'place')}",
        f"{label} {'/'.join([*shown, *texts[len(whole) :]])}",
    )


def _channels(genes: Sequence[Document]) -> Searched:
    ratios = sorted({float(value) for gene in genes for value in gene["values"]})
    groups = _counted(len(genes), "group")
    options = f"{', '.join(map(format_percent, ratios))} removed of {groups}"
    return Searched("channels", options, f"{groups} of channels")


def _blocks(genes: Sequence[Document]) -> Searched:
    names = [str(gene["name"]).removesuffix(".drop") for gene in genes]
    return Searched("blocks", f"{', '.join(names)} may be left out", _counted(len(genes), "block"))


def _counted(n: int, noun: str) -> str:
    return f"{format_count(n)} {noun}{'' if n == 1 else 's'}"
