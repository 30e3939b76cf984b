"""A user's folder with a tiny network, data and objectives, and the commands run on it in this process."""

from __future__ import annotations

import json
import sys
import textwrap
from pathlib import Path
from typing import Any

from typer.testing import CliRunner, Result

from evo_mpq.cli import app

NETS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.first = nn.Linear(6, width)
        self.second = nn.Linear(width, width)
        self.head = nn.Linear(width, 4)

    def forward(self, x):
        return self.head(torch.relu(self.second(torch.relu(self.first(x)))))

def build(width=8, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Net(width)
"""

DATA = """
import torch
from torch.utils.data import TensorDataset

def load(n=32, seed=1, **sizes):
    generator = torch.Generator().manual_seed(seed)
    def split(n):
        inputs = torch.randn(n, 6, generator=generator)
        return TensorDataset(inputs, torch.randint(0, 4, (n,), generator=generator))
    return {name: split(sizes.get(name, n)) for name in ("calibration", "search", "test")}
"""

YAML = """
model: {kind: "my_nets:build"}
data: {kind: "my_data:load", batch_size: 16}
space: {defaults: {weight_bits: [2, 3, 4, 8]}}
search: {population: 6, evaluations: 24}
"""


def write_project(folder: Path, yaml: str = YAML, **modules: str) -> Path:
    """Writes the modules (by default only ``my_nets`` and ``my_data``) and ``tiny.yaml``, whose path is returned."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in {"my_nets": NETS, "my_data": DATA, **modules}.items():
        (folder / f"{name}.py").write_text(textwrap.dedent(text))
    path = folder / "tiny.yaml"
    path.write_text(textwrap.dedent(yaml).lstrip())
    return path


def command(*words: object) -> Result:
    """What a command prints and its exit code; a defect of evo-mpq is raised."""
    texts = [str(word) for word in words]
    before, sys.argv = sys.argv, ["evo-mpq", *texts]
    try:
        result = CliRunner().invoke(app, texts)
    finally:
        sys.argv = before
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def run(yaml: Path, out: Path, *words: object, code: int = 0) -> Result:
    """``evo-mpq run`` in a directory, which must end with an exit code."""
    result = command("run", yaml, "--out", out, "--quiet", *words)
    assert result.exit_code == code, result.stderr
    return result


def front(out: Path) -> dict[str, Any]:
    """The document of a run's ``front.json``."""
    document: dict[str, Any] = json.loads((out / "front.json").read_text())
    return document


def findings(out: Path) -> dict[str, Any]:
    """What of ``front.json`` must not depend on how a run came to its end: all but what it cost."""
    return {key: value for key, value in front(out).items() if key != "cost"}
