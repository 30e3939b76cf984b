"""How benchmarks say what they found: one Markdown table, with the machine and the command that made it."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch


def show(question: str, columns: Sequence[str], rows: Sequence[Sequence[object]], *remarks: str) -> None:
    """Prints the question, the table, remarks, the machine and the command."""
    cells = [list(map(str, row)) for row in [columns, *rows]]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in cells
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    print("", question, "", lines[0], rule, *lines[1:], "", *remarks, machine(), f"`{command()}`", sep="\n", flush=True)


def spread(values: Sequence[float], form: str = ".3f") -> str:
    """Median, and the range of all values.

    >>> spread([3.0, 1.0, 2.0], ".1f")
    '2.0 (1.0–3.0)'
    """
    return f"{np.median(values):{form}} ({min(values):{form}}–{max(values):{form}})"


def command() -> str:
    """The command that runs this script again."""
    return f"OMP_NUM_THREADS=1 python -m benchmarks.{Path(sys.argv[0]).stem} {' '.join(sys.argv[1:])}".strip()


def machine() -> str:
    """What it ran on."""
    return (
        f"{_processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} thread a process; Python "
        f"{platform.python_version()}, torch {torch.__version__}, numpy {np.__version__}."
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
