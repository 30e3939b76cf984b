"""The members of a front as a table for spreadsheets."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from evo_mpq.results.report.points import Axis, Points


def members_csv(
    front: Mapping[str, Any], axes: Sequence[Axis], members: Points, inactive: Sequence[Collection[str]]
) -> str:
    """One row a member: its id, search values, test values with their intervals, and the values of its genes.

    Numbers have all their digits. Missing ones are empty, and so are the values of genes that decide nothing.

    Args:
        front: the document of ``front.json``.
        axes: of the plots.
        members: on these axes.
        inactive: of each member, the names of the genes that decide nothing.
    """
    shown = [axis for axis in axes if axis.split != "order" and axis.known]
    header = ["id"]
    columns: list[list[Any]] = [[member["id"] for member in front["members"]]]
    for axis in shown:
        unit = f" [{axis.unit}]" if axis.unit else ""
        header.append(f"{axis.split} {axis.label.removesuffix(', test')}{unit}")
        columns.append(list(members.values[axis.key]))
        if axis.split == "test":
            header += [f"{header[-1]} low", f"{header[-1]} high"]
            columns += [list(members.low[axis.key]), list(members.high[axis.key])]
    for place, gene in enumerate(front["genes"]):
        header.append(str(gene["name"]))
        columns.append(
            [
                None if gene["name"] in idle else gene["values"][member["genome"][place]]
                for member, idle in zip(front["members"], inactive, strict=True)
            ]
        )
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow([_inert(name) for name in header])
    writer.writerows(["" if cell is None else cell for cell in row] for row in zip(*columns, strict=True))
    return text.getvalue()


def _inert(name: str) -> str:
    """A name that no spreadsheet takes for a formula."""
    return f"'{name}" if name.startswith(("=", "+", "-", "@", "\t", "\r")) else name
