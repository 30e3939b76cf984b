"""What was exported of a run: the command for an ONNX file of each point, and what the files computed."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any


def onnx_command(meta: Mapping[str, Any], member: str) -> str:
    """What a user types to get an ONNX file of a member, verified.

    >>> onnx_command({"run": "mine", "directory": "runs/mine"}, "1a2b3c4d")
    'evo-mpq export runs/mine --pick 1a2b3c4d --format onnx --out mine-1a2b3c4d.onnx'
    """
    out = f"{meta['run']}-{member}.onnx"
    return shlex.join(["evo-mpq", "export", str(meta["directory"]), "--pick", member, "--format", "onnx", "--out", out])


def verified_lines(exports: Sequence[Mapping[str, Any]], member: str) -> list[str]:
    """What the exported files of a member computed, beside what was measured; a line for every number.

    Args:
        exports: the documents of the run directory.
        member: its id.

    >>> check = {"runtime": "ONNX Runtime", "split": "test", "quantity": "accuracy", "shown": 0.98, "found": 0.978}
    >>> export = {"id": "1a2b3c4d", "file": "small.onnx", "verification": {"checks": [check], "file_bytes": 12345}}
    >>> verified_lines([export], "1a2b3c4d")
    ['small.onnx, 12,345 bytes', 'accuracy on test: 0.978 in ONNX Runtime, 0.98 measured']
    """
    lines = []
    for export in exports:
        if export.get("id") != member:
            continue
        verification = export["verification"]
        lines.append(f"{export['file']}, {verification['file_bytes']:,} bytes")
        lines += [
            f"{check['quantity']} on {check['split']}: {check['found']:.4g} in {check['runtime']}, "
            f"{check['shown']:.4g} measured"
            for check in verification["checks"]
        ]
    return lines
