"""The report: one HTML file that works without a network and without a server."""

from __future__ import annotations

import base64
import gzip
import html
import json
import shlex
from collections.abc import Mapping
from dataclasses import asdict
from functools import lru_cache
from importlib.resources import files
from string import Template
from typing import Any

from evo_mpq.results.report.contributions import contributions
from evo_mpq.results.report.exports import onnx_command, verified_lines
from evo_mpq.results.report.formatting import format_count
from evo_mpq.results.report.headline import (
    cost_sentence,
    emptiness,
    failure_lines,
    figures,
    gains,
    knee_position,
    statuses,
    subtitle,
    verdict_sentence,
)
from evo_mpq.results.report.hypervolume import hypervolume_curve
from evo_mpq.results.report.layers import layer_rows, layer_tables, parameter_rows, row_order
from evo_mpq.results.report.optimism import optimism
from evo_mpq.results.report.parallel import parallel_axes
from evo_mpq.results.report.path import chosen_kinds, path_sentence, size_parts
from evo_mpq.results.report.points import (
    best_so_far,
    cloud,
    first_measured,
    marks,
    plot_axes,
    points,
    projected_fronts,
    starting_axes,
)
from evo_mpq.results.report.predictions import predictions
from evo_mpq.results.report.recipes import allocations, methods, unmeasured
from evo_mpq.results.report.searched import constraint_texts, searched, searched_sentence
from evo_mpq.results.report.spent import levels, spent
from evo_mpq.results.report.spreadsheet import members_csv


def write_report(front: Mapping[str, Any], candidates: Mapping[str, Any], meta: Mapping[str, Any]) -> str:
    """The text of ``report.html``.

    All numbers are in the file, and so is plotly.js, compressed (about 2 MB together). The same arguments give
    the same text.

    Args:
        front: the document of ``front.json``.
        candidates: everything that was measured on the whole search split, in order: ``genomes``, ``search``
            (objective name to values, None where there is none), ``feasible``, and ``failures`` (pairs of
            genome and message).
        meta: what else is told about the run, see `report_data`.
    """
    data = report_data(front, candidates, meta)
    folder = files("evo_mpq.results.report")
    return Template((folder / "report.html").read_text(encoding="utf-8")).substitute(
        title=html.escape(data["run"].encode(errors="replace").decode()),
        style=(folder / "report.css").read_text(encoding="utf-8"),
        data=script_json(data),
        plotly=_compressed_plotly(),
        script=(folder / "report.js").read_text(encoding="utf-8"),
    )


def report_data(front: Mapping[str, Any], candidates: Mapping[str, Any], meta: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that the page draws and writes, as one JSON document without NaN.

    Args:
        front: as for `write_report`.
        candidates: as for `write_report`.
        meta: ``run`` (name), ``network`` (name), ``layers`` (each ``name, kind, shape, n_parameters, macs``, in
            the order of the network, and perhaps ``block``, which may be left out, and ``prunable``), ``points``
            (below) and ``directory`` (of the run, as its user writes it) are required.
            Optional: ``knee`` (id of a member), ``space`` (text to value, a summary), ``log10_genomes``,
            ``settings`` (text), ``versions`` (name to version), ``samples`` (split to number of samples),
            ``test_shown`` (to how many networks), ``notes`` (texts), ``log_scale`` (names of objectives),
            ``constraints`` (each ``name, comparison, bound, unit``), ``picks`` (each ``bounds``, likewise, and
            ``best``, the id of a member or None), ``contributions`` (document of
            ``contributions.json``, or None), ``predictions`` (document of ``predictions.json``, or None),
            ``allocations`` (documents of the folder of that name), ``methods`` (name of every allocation method that
            there is to what it does).

            A point describes a member, in their order: ``blocks, parameters, channels, removed_channels,
            weight_bits, activation_bits`` as in `evo_mpq.results.remains.Remains`; ``n_bytes`` (of its file),
            ``savings`` (by kind, see `evo_mpq.results.savings`), and ``inactive_genes`` (names).
    """
    axes = plot_axes(front, candidates, meta.get("log_scale", ()))
    order = first_measured(candidates)
    members = points(front["members"], axes, order, finished=front["finished"])
    layers, described = meta["layers"], meta["points"]
    kinds = chosen_kinds(front, described)
    across, up, color = starting_axes(front)
    inactive = [point["inactive_genes"] for point in described]
    matters = contributions(front, meta.get("contributions"), inactive)
    missing = unmeasured(front, meta)
    chosen = allocations(front, meta.get("allocations", ()), axes)
    explained = meta.get("predictions")
    predicted, purposes = predictions(explained, front, candidates), spent(explained)
    return {
        "run": str(meta["run"]),
        "subtitle": subtitle(meta),
        "searched": searched_sentence(front, meta),
        "statuses": [asdict(status) for status in statuses(front)],
        "figures": [asdict(figure) for figure in figures(front, meta)],
        "emptiness": emptiness(front, candidates),
        "cost": cost_sentence(front, meta),
        "objectives": [f"search:{objective['name']}" for objective in front["objectives"]],
        "axes": [asdict(axis) for axis in axes],
        "start": {"across": across, "up": up, "color": color},
        "members": {
            "ids": [member["id"] for member in front["members"]],
            "commands": [export_command(meta, member["id"]) for member in front["members"]],
            "onnx_commands": [onnx_command(meta, member["id"]) for member in front["members"]],
            "verified": [verified_lines(meta.get("exports", ()), member["id"]) for member in front["members"]],
            "gains": [gains(front, member) for member in front["members"]],
            "paths": [path_sentence(point, kinds) for point in described],
            "sizes": [[asdict(part) for part in size_parts(point, kinds)] for point in described],
            "parameters": parameter_rows(layers, described),
            **asdict(members),
        },
        "knee": knee_position(front, meta),
        "cloud": asdict(cloud(front, candidates, axes)),
        "marks": asdict(marks(front, axes, order)),
        "fronts": projected_fronts(front),
        "best": best_so_far(front, candidates),
        "parallel": [asdict(axis) for axis in parallel_axes(axes, members)],
        "layers": [asdict(layer) for layer in layer_rows(layers)],
        "tables": [asdict(table) for table in layer_tables(front, layers, described)],
        "row_order": asdict(row_order(front)),
        "hypervolume": {**asdict(hypervolume_curve(front)), "levels": asdict(levels(front, explained))},
        "spent": None if purposes is None else asdict(purposes),
        "predictions": None if predicted is None else asdict(predicted),
        "optimism": [asdict(entry) for entry in optimism(front["objectives"], axes, members)],
        "verdicts": [seed["verdict"] for seed in front["seeds"]],
        "verdict_sentence": verdict_sentence(front),
        "methods": [asdict(method) for method in methods(front)],
        "unmeasured": None if missing is None else asdict(missing),
        "allocations": None if chosen is None else asdict(chosen),
        "contributions": None if matters is None else asdict(matters),
        "csv": members_csv(front, axes, members, inactive),
        "csv_name": f"{meta['run']}-front.csv",
        "about": {
            "space": [
                *((kind.label, kind.options) for kind in searched(front)),
                *((str(key), str(value)) for key, value in meta.get("space", {}).items()),
                *(("constraint", text) for text in constraint_texts(meta)),
            ],
            "samples": [(key, format_count(count)) for key, count in meta.get("samples", {}).items()],
            "versions": [(str(key), str(value)) for key, value in meta.get("versions", {}).items()],
            "notes": [str(note) for note in meta.get("notes", ())],
            "failures": failure_lines(candidates),
            "failed": format_count(len(candidates["failures"])),
            "settings": str(meta.get("settings", "")),
        },
    }


def export_command(meta: Mapping[str, Any], member: str) -> str:
    """What a user types to get the file of a member.

    >>> export_command({"run": "mine", "directory": "my runs/mine"}, "1a2b3c4d")
    "evo-mpq export 'my runs/mine' --pick 1a2b3c4d --format safetensors --out mine-1a2b3c4d.safetensors"
    """
    out = f"{meta['run']}-{member}.safetensors"
    words = ["evo-mpq", "export", str(meta["directory"]), "--pick", member, "--format", "safetensors", "--out", out]
    return shlex.join(words)


def script_json(data: Mapping[str, Any]) -> str:
    r"""JSON that can stand inside a script element, whatever its texts hold.

    Not only ``</script>`` would end the element early: ``<!--`` and ``<script`` change how its end is found. A
    path that is no Unicode stays readable as the escape of a lone surrogate.

    >>> print(script_json({"name": "</script>"}))
    {"name":"\u003c/script\u003e"}
    """
    text = json.dumps(data, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for character in "<>&":  # in JSON, these stand inside strings only
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


@lru_cache(maxsize=1)
def _compressed_plotly() -> str:
    from plotly.offline import get_plotlyjs

    # without the time, so that the same report has the same bytes
    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), compresslevel=9, mtime=0)).decode()
