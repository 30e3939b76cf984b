"""The report that a run writes: what it says of the network and the space, read back from the page."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from small_runs import front, run, write_project

NETS = """
import torch
from torch import nn

class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.first = nn.Linear(width, 12)
        self.second = nn.Linear(12, width)

    def forward(self, x):
        return x + self.second(torch.relu(self.first(x)))

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(6, 8)
        self.blocks = nn.ModuleList([Block(8), Block(8)])
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)

def build():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Net()
"""

JOINT = """
model: {kind: "my_nets:build"}
data: {kind: "my_data:load", batch_size: 16}
space:
  defaults: {weight_bits: [2, 4, 8], activation_bits: [4, 8]}
  prune: {ratios: [0.0, 0.5], layers: {stem: [0.0]}}
  architecture: {drop: ["blocks.*"]}
constraints: ["size <= 3.2 kB"]
search: {population: 6, evaluations: 60}
"""


def data_of(out: Path) -> dict[str, Any]:
    """What a report draws."""
    text = (out / "report.html").read_text(encoding="utf-8")
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    data: dict[str, Any] = json.loads(found[1])
    return data


@pytest.fixture(scope="module")
def joint(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any]]:
    """Front and report of a run over bits, channels and blocks."""
    folder = tmp_path_factory.mktemp("joint")
    run(write_project(folder, JOINT, my_nets=NETS), folder / "out")
    return front(folder / "out"), data_of(folder / "out")


def read_bytes(text: str) -> float:
    """What a text of the bar says, to three digits."""
    number, unit = text.split(" ")
    return float(number.replace("−", "-")) * {"B": 1, "kB": 1000}[unit]


def test_the_parts_of_a_members_size_are_told(joint):
    document, data = joint
    reference = document["reference"]["search"]["size"]
    for member, parts in zip(document["members"], data["members"]["sizes"], strict=True):
        assert [part["key"] for part in parts] == ["drop", "prune_ratio", "weight_bits", "activation_bits", "left"]
        told = {part["key"]: read_bytes(part["text"]) for part in parts}
        left = told.pop("left")
        assert left == pytest.approx(member["search"]["size"], rel=0.005)
        # texts have three digits
        assert reference + sum(told.values()) == pytest.approx(left, abs=0.01 * reference)


def test_members_lack_the_layers_of_blocks_that_they_leave_out(joint):
    document, data = joint
    names = [layer["name"] for layer in data["layers"]]
    assert names == ["stem", *(f"blocks.{i}.{part}" for i in (0, 1) for part in ("first", "second")), "head"]
    assert [layer["block"] for layer in data["layers"]] == ["", "blocks.0", "blocks.0", "blocks.1", "blocks.1", ""]
    table = data["tables"][0]
    dropped = 0
    for member, row, path in zip(document["members"], table["rows"], data["members"]["paths"], strict=True):
        blocks = [name.removesuffix(".drop") for name in member["policy"]["architecture"]]
        for name, place in zip(names, row, strict=True):
            assert (place is None) == any(name.startswith(f"{block}.") for block in blocks)
        assert all(block in path for block in blocks)
        assert blocks or path.startswith("All blocks kept")
        dropped += len(blocks)
    assert dropped > 0


def test_channels_and_bits_are_those_of_the_policies(joint):
    document, data = joint
    channels = next(table for table in data["tables"] if table["key"] == "prune_ratio")
    assert [data["layers"][place]["name"] for place in channels["columns"]] == ["blocks.0.first", "blocks.1.first"]
    for member, row, path in zip(document["members"], channels["texts"], data["members"]["paths"], strict=True):
        layers = member["policy"]["layers"]
        left = [text for text in row if text]
        ratios = [
            layers[f"blocks.{i}.first"]["prune_ratio"]
            for i in (0, 1)
            if f"blocks.{i}.drop" not in member["policy"]["architecture"]
        ]
        assert left == ["6/12" if ratio else "12/12" for ratio in ratios]
        if left:
            removed = 100 * sum(text == "6/12" for text in left) / 2 / len(left)
            assert (f"{removed:g} % of prunable" if removed else "no channel removed") in path


def test_the_page_says_what_was_searched(joint):
    assert joint[1]["searched"] == (
        "Searched: weight bits 2–8, activation bits 4/8, 2 groups of channels, 2 blocks. Constraint: size ≤ 3.2 kB."
    )
    about = dict(joint[1]["about"]["space"])
    assert about["blocks"] == "blocks.0, blocks.1 may be left out"
    assert about["constraint"] == "size ≤ 3.2 kB"


def test_a_run_over_weight_bits_alone_tells_of_nothing_else(tmp_path):
    run(write_project(tmp_path), tmp_path / "out")
    data = data_of(tmp_path / "out")
    assert data["searched"] == "Searched: weight bits 2–8."
    assert [table["key"] for table in data["tables"]] == ["weight_bits"]
    for path, parts in zip(data["members"]["paths"], data["members"]["sizes"], strict=True):
        assert re.fullmatch(r"[\d.]+ bits per weight on average\.", path)
        assert [part["key"] for part in parts] == ["weight_bits", "left"]
