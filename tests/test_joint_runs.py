"""Runs over bits, pruned channels and dropped blocks together: same laws, same files, same errors."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

import numpy as np
import pytest
from small_runs import DATA, command, front, run, write_project

import evo_mpq
from evo_mpq.config import load
from evo_mpq.errors import ConfigError
from evo_mpq.feasibility import refuse_infeasible
from evo_mpq.problem import Problem, build_problem

NETS = """
import torch
from torch import nn

class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv1 = nn.Conv2d(width, 2 * width, 3, padding=1)
        self.conv2 = nn.Conv2d(2 * width, width, 3, padding=1)

    def forward(self, x):
        return torch.relu(x + self.conv2(torch.relu(self.conv1(x))))

class Net(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1)
        self.blocks = nn.Sequential(Block(width), Block(width))
        self.head = nn.Linear(width, 4)

    def forward(self, x):
        return self.head(self.blocks(torch.relu(self.stem(x))).mean((2, 3)))

def build(width=4, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Net(width)
"""

IMAGES = DATA.replace("torch.randn(n, 6,", "torch.randn(n, 1, 4, 4,")

YAML = """
model: {kind: "my_nets:build"}
data: {kind: "my_data:load", batch_size: 16}
space:
  defaults: {weight_bits: [2, 4, 8], activation_bits: [4, 8]}
  prune: {ratios: [0.0, 0.25, 0.5]}
  architecture: {drop: ["blocks.*"]}
search: {population: 6, evaluations: 40}
"""


def project(folder: Path, yaml: str = YAML) -> Path:
    return write_project(folder, yaml, my_nets=NETS, my_data=IMAGES)


def problem_of(yaml: Path, *overrides: str) -> Problem:
    document = load(yaml, list(overrides))
    return build_problem(document.settings, yaml.parent)


def test_every_point_of_a_front_is_exported_as_it_was_measured(tmp_path: Path) -> None:
    yaml, out = project(tmp_path), tmp_path / "out"
    run(yaml, out)
    members = front(out)["members"]
    joint = [m for m in members if m["policy"]["architecture"] or any(_ratios(m))]
    assert joint
    for member in joint[:4]:
        file = tmp_path / f"{member['id']}.safetensors"
        result = command("export", out, "--pick", member["id"], "--out", file)
        assert result.exit_code == 0, result.stderr
        assert file.stat().st_size == member["search"]["size"]


def _ratios(member: dict) -> list[float]:
    return [layer["prune_ratio"] for layer in member["policy"]["layers"].values()]


def test_the_same_search_from_python_has_the_same_front(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    yaml, out = project(tmp_path), tmp_path / "out"
    run(yaml, out)
    monkeypatch.syspath_prepend(str(tmp_path))
    import my_data  # type: ignore[import-not-found]
    import my_nets  # type: ignore[import-not-found]

    found = evo_mpq.search(
        my_nets.build(),
        **my_data.load(),
        batch_size=16,
        space={
            "defaults": {"weight_bits": [2, 4, 8], "activation_bits": [4, 8]},
            "prune": {"ratios": [0.0, 0.25, 0.5]},
            "architecture": {"drop": ["blocks.*"]},
        },
        population=6,
        evaluations=40,
        out=tmp_path / "python",
    )
    assert json.loads(json.dumps(found.front.to_json()["members"])) == front(out)["members"]


def test_a_run_with_a_larger_budget_goes_on(tmp_path: Path) -> None:
    yaml, out, whole = project(tmp_path), tmp_path / "out", tmp_path / "whole"
    run(yaml, out, "--set", "search.evaluations=25")
    run(yaml, out)
    run(yaml, whole, "--set", "search.evaluations=25")
    run(yaml, whole)
    assert front(out)["members"] == front(whole)["members"]


def test_the_criterion_is_part_of_what_a_run_is(tmp_path: Path) -> None:
    yaml, out = project(tmp_path), tmp_path / "out"
    run(yaml, out)
    refused = command("run", yaml, "--out", out, "--quiet", "--set", "space.prune.criterion=l2")
    assert refused.exit_code == 2
    assert "space.prune.criterion" in refused.stderr


def test_check_lists_groups_and_blocks_with_reasons(tmp_path: Path) -> None:
    yaml = project(tmp_path)
    printed = command("check", yaml, "--set", 'space.architecture.drop=["blocks.*", "blocks", "*"]').stdout
    assert "channels that are pruned together" in printed
    assert "not pruned: head." in printed
    assert "block blocks.0, left out" not in printed  # the outermost that can be left out counts
    assert "block blocks, left out: passes its input on" in printed
    assert "not left out: stem. Its output has the shape" in printed
    assert "blocks that could be left out" in command("check", yaml, "--set", "space.architecture.drop=[]").stdout


def test_modules_that_a_pattern_matches_in_vain_are_told(tmp_path: Path) -> None:
    yaml = project(tmp_path)
    assert problem_of(yaml).notes == ()
    (note,) = problem_of(yaml, 'space.architecture.drop=["*"]').notes
    assert note == "matched by drop but not left out: stem; evo-mpq check tells why"


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("space.prune.ratios=[0.0, 1.0]", ["space.prune.ratios[1]", "not including, 1, got 1.0"]),
        ("space.prune.ratios=[-0.5]", ["space.prune.ratios[0]", "got -0.5"]),
        ("space.prune.ratios=[0.5, 0.5]", ["space.prune.ratios[1]", "repeated"]),
        ("space.prune.ratios=[half]", ["space.prune.ratios[0]", "half"]),
        ("space.prune.ratios=[]", ["space.prune.ratios", "must not be empty"]),
        ("space.prune.criterion=l3", ["space.prune.criterion", "l1, l2"]),
        ('space.prune.layers={"stam": [0.0]}', ["matches no layer whose channels can be pruned", "stem"]),
        ('space.prune.layers={"head": [0.0]}', ["matches no layer whose channels can be pruned"]),
        ('space.architecture.drop=["stage*"]', ["matches no module with a layer", "blocks"]),
        ('space.architecture.drop=["stem"]', ["cannot be left out", "shape"]),
        ("space.architecture={dorp: []}", ["dorp", "drop"]),
        ('constraints=["size <= 1 kB"]', ["no candidate of the space keeps size <= 1000", "nearest"]),
        ('constraints=["macs >= 1 G"]', ["no candidate of the space keeps macs >= 1000000000 MACs", "nearest"]),
    ],
)
def test_mistakes_are_told_with_their_keys_before_anything_is_measured(
    tmp_path: Path, override: str, words: list[str]
) -> None:
    yaml, out = project(tmp_path), tmp_path / "out"
    extra = [] if "macs" not in override else ["--set", "metrics=[macs]"]
    result = command("run", yaml, "--out", out, "--quiet", "--set", override, *extra)
    assert result.exit_code == 2
    for word in words:
        assert word in result.stderr, result.stderr
    assert "tiny.yaml" in result.stderr or "--set" in result.stderr


def test_pruning_a_network_without_any_group_is_refused(tmp_path: Path) -> None:
    yaml = write_project(
        tmp_path,
        textwrap.dedent(
            """
            model: {kind: "my_nets:build"}
            data: {kind: "my_data:load", batch_size: 16}
            space: {defaults: {weight_bits: [2, 4]}, prune: {ratios: [0.0, 0.5]}}
            """
        ),
        my_nets="from torch import nn\ndef build():\n    return nn.Sequential(nn.Linear(6, 4))\n",
    )
    result = command("check", yaml)
    assert result.exit_code == 2
    assert "no channels that can be pruned" in result.stderr


def test_constraints_that_some_candidate_keeps_are_let_pass_and_the_nearest_value_is_exact(tmp_path: Path) -> None:
    yaml = project(tmp_path)
    problem = problem_of(yaml)
    sizes = [
        problem.compressor.packed_bytes(policy)
        for rows in problem.space.enumerate()
        for policy in problem.space.decode(rows[:: max(1, len(rows) // 50)])
    ]
    cheapest = problem.compressor.packed_bytes(problem.space.decode(problem.space.cheapest()[None])[0])
    assert cheapest <= min(sizes)
    refuse_infeasible(problem_of(yaml, f'constraints=["size <= {cheapest}"]'))
    with pytest.raises(ConfigError, match=f"nearest: {cheapest}"):
        refuse_infeasible(problem_of(yaml, f'constraints=["size <= {cheapest - 1}"]'))
    # two bounds that only some candidate in between keeps
    middle = int(np.median(sizes))
    refuse_infeasible(problem_of(yaml, f'constraints=["size <= {middle + 300}", "size >= {middle - 300}"]'))
