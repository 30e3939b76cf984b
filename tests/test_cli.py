"""The commands: what they say when something is wrong, and what check, report, export, list, init and schema do."""

from __future__ import annotations

import io
import json
import math
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from small_runs import DATA, NETS, YAML, command, findings, front, run, write_project

import evo_mpq.cli
from evo_mpq.checking import Trial, trial_lines
from evo_mpq.cli import complete_directory, complete_pick, complete_setting, complete_space
from evo_mpq.config import Document, packaged_spaces
from evo_mpq.console import ConsoleReporter, print_front
from evo_mpq.optimize.loop import Progress
from evo_mpq.results.front import Front
from evo_mpq.results.run_directory import RunDirectory

BUILD = 'kind: "my_nets:build"'

RAISING = NETS.replace("        return Net(width)", '        raise KeyError("no such layer")')

CALLED = NETS + "\ndef call(net, x):\n    return net(x.nothing)\n"

RANDOM = """
import torch
class Random(torch.utils.data.Dataset):
    def __len__(self):
        return 4
    def __getitem__(self, i):
        return torch.randn(6), 0
def load():
    return {name: Random() for name in ("calibration", "search", "test")}
"""

OBJECTIVES = """
def plain(candidate):
    return 1.0

class Table:
    name, unit, direction = "table", "mJ", "minimize"
    def __init__(self, table):
        self.rows = open(table).read()
    def __call__(self, candidate):
        return 1.0
"""


def returning(what):
    """A module whose factory returns that."""
    return f"import torch\ndef build():\n    return {what}\ndef load(**options):\n    return {what}\n"


def mistake(name, change, said, **modules):
    """A mistake: what is changed in the YAML, what must be said of which place and key, other texts of modules."""
    return pytest.param(change, said, modules, id=name)


def section(text):
    """The change that puts a line before ``search:``, as the fourth of the YAML."""
    return ("search:", f"{text}\nsearch:")


AS_IT_IS = ("", "")

MISTAKES = [
    mistake("unknown key", ("population: 6", "populaton: 6"), "4:10: search.populaton: .*did you mean population"),
    mistake(
        "duplicate key",
        ("evaluations: 24}", "evaluations: 24, population: 7}"),
        "4:42: search.population: is given twice",
    ),
    mistake("wrong type", ("evaluations: 24", "evaluations: many"), "4:38: search.evaluations: must be a whole number"),
    mistake("repeated option", ("[2, 3, 4, 8]", "[2, 3, 2]"), r"3:40: space.defaults.weight_bits\[2\]: 2 is repeated"),
    mistake("illegal value", ("[2, 3, 4, 8]", "[2, 9]"), r"3:37: space.defaults.weight_bits\[1\]: "),
    mistake("illegal name", section("name: a/b"), "4:7: name: "),
    mistake(
        "no layer", ("8]}}", "8]}, layers: {frist: {weight_bits: 8}}}"), '3:57: space.layers.frist: matches no.*"first"'
    ),
    mistake("no choice", ("[2, 3, 4, 8]", "[8]"), "3:1: space: nothing to search"),
    mistake("tie", ("8]}}", '8]}, tie: ["x*"]}'), r"3:54: space.tie\[0\]: matches no layer"),
    mistake("no module", ("my_nets:build", "my_netz:build"), "1:15: model.kind: there is no module my_netz .*my_nets"),
    mistake("no function", ("my_nets:build", "my_nets:biuld"), '1:15: model.kind: .* has no "biuld" .*build'),
    mistake("module raises", AS_IT_IS, r"1:15: .*No module named 'torhc' \(my_nets.py:1\)", my_nets="import torhc\n"),
    mistake("factory raises", AS_IT_IS, r"1:1: model: .*'no such layer' \(my_nets.py:18, in build", my_nets=RAISING),
    mistake("no network", AS_IT_IS, "1:1: model: .*returned nothing", my_nets=returning("None")),
    mistake("option", (BUILD, f"{BUILD}, widht: 4"), "1:32: model.widht: .*did you mean width"),
    mistake("no weights", (BUILD, f"{BUILD}, weights: nums.safetensors"), "1:41: model.weights: there is no file"),
    mistake(
        "unreadable weights", (BUILD, f"{BUILD}, weights: junk.safetensors"), "1:41: model.weights: .*cannot be read"
    ),
    mistake("other weights", (BUILD, f"{BUILD}, weights: other.safetensors"), "1:41: model.weights: .*do not fit"),
    mistake("NaN weights", (BUILD, f"{BUILD}, weights: nan.safetensors"), "1:1: model: .*NaN"),
    mistake("no forward", (BUILD, f'{BUILD}, forward: "my_nets:cal"'), "1:41: model.forward: ", my_nets=CALLED),
    mistake(
        "forward raises",
        (BUILD, f'{BUILD}, forward: "my_nets:call"'),
        r"1:1: model: .*rejects its own data.*attribute 'nothing' \(.*my_nets.py, line 21\)",
        my_nets=CALLED,
    ),
    mistake("output", (BUILD, f"{BUILD}, output: logits"), "1:1: model: .*logits"),
    mistake(
        "several outputs",
        AS_IT_IS,
        "1:1: model: The network returns a tuple of 2.*output",
        my_nets=NETS.replace("return self.head(", "return x, self.head("),
    ),
    mistake(
        "untraceable",
        AS_IT_IS,
        r"1:1: model: The network cannot be traced(.|\n)*my_nets.py(.|\n)*torch.where",
        my_nets=NETS.replace("return self.head(", "if x.sum() > 0: x = x + 1\n        return self.head("),
    ),
    mistake("no splits", AS_IT_IS, "2:1: data: Data is a mapping with the keys", my_data=returning("[1, 2]")),
    mistake("missing split", AS_IT_IS, "2:1: data: .*test is missing", my_data=DATA.replace(', "test"', "")),
    mistake("empty split", ("batch_size: 16", "search: 0"), "2:1: data: The search split is empty"),
    mistake(
        "shared samples",
        AS_IT_IS,
        "2:1: data: The search and test splits share 32 samples",
        my_data=DATA.replace("return {name: split(sizes.get(name, n))", "one = split(n)\n    return {name: one"),
    ),
    mistake("random data", AS_IT_IS, "2:1: data: The calibration split gave different samples", my_data=RANDOM),
    mistake(
        "data raises", AS_IT_IS, r"2:1: data: .*\(my_data.py:2", my_data="def load(**keys):\n    raise OSError('x')\n"
    ),
    mistake(
        "rejected data",
        AS_IT_IS,
        r"1:1: model: The network rejects its own data: a batch with inputs of shape \(16, 5\)",
        my_data=DATA.replace("randn(n, 6", "randn(n, 5"),
    ),
    mistake(
        "unknown objective", section("objectives: [size, klx]"), r"4:20: objectives\[1\].kind: there is no objective"
    ),
    mistake(
        "option of an objective",
        section("objectives: [size, {kind: flips, dm: 1}]"),
        r"4:34: objectives\[1\].dm: .*did you mean dim",
    ),
    mistake(
        "objective raises",
        section('objectives: [size, {kind: "my_objectives:Table", table: x.csv}]'),
        r"4:20: objectives\[1\]: my_objectives:Table raised FileNotFoundError.*\(my_objectives.py:8, in __init__",
        my_objectives=OBJECTIVES,
    ),
    mistake(
        "no direction",
        section('objectives: [size, {kind: "my_objectives:plain"}]'),
        r"4:20: objectives\[1\].direction: required",
        my_objectives=OBJECTIVES,
    ),
    mistake(
        "one name", section("objectives: [size, size]"), r'4:20: objectives\[1\]: 2 .*named "size"; give one.*name:'
    ),
    mistake(
        "name of a metric", section("metrics: [flips, {kind: bops, name: size}]"), r"4:18: metrics\[1\]: 2 objectives"
    ),
    mistake("unknown bound", section('constraints: ["sise <= 3"]'), r"4:15: constraints\[0\]: .*did you mean size"),
    mistake("unit of a bound", section('constraints: ["accuracy <= 3 kB"]'), r"4:15: constraints\[0\]: .*kB"),
    mistake("no bound", section('constraints: ["size < 3"]'), r"4:15: constraints\[0\]: .*write <= or >="),
    mistake(
        "accelerator", section("compute: {device: cuda:99}"), "4:19: compute.device: cuda:99 cannot be used: torch"
    ),
]


@pytest.mark.parametrize(("change", "said", "modules"), MISTAKES)
def test_a_mistake_is_told_with_its_place_and_a_caret_also_when_quiet(tmp_path, change, said, modules):
    yaml = write_project(tmp_path, YAML.replace(*change) if change[0] else YAML, **modules)
    write_weights(tmp_path)
    result = command("run", yaml, "--out", tmp_path / "out", "--quiet")
    assert result.exit_code == 2 and result.stdout == "" and "Traceback" not in result.stderr
    assert re.match(f"error: {re.escape(str(yaml))}:{said}", result.stderr), result.stderr
    line, column = map(int, re.match(r"(\d+):(\d+)", said).groups())  # type: ignore[union-attr]
    *_, source, caret, _ = result.stderr.split("\n")
    assert source == "  " + yaml.read_text().splitlines()[line - 1]
    assert caret == " " * (1 + column) + "^"
    assert not (tmp_path / "out" / "journal").exists()


def write_weights(folder):
    """Files that are no weights, those of another network, and some that hold NaN."""
    (folder / "junk.safetensors").write_bytes(b"junk")
    save_file({"first.weight": torch.zeros(3, 6)}, folder / "other.safetensors")
    shapes = {"first": (8, 6), "second": (8, 8), "head": (4, 8)}
    weights = {f"{name}.weight": torch.ones(shape) for name, shape in shapes.items()}
    biases = {f"{name}.bias": torch.zeros(shape[0]) for name, shape in shapes.items()}
    weights["head.weight"][0, 0] = math.nan
    save_file(weights | biases, folder / "nan.safetensors")


def test_every_mistake_is_told_at_once_in_the_order_of_the_text_even_those_behind_others(tmp_path):
    yaml = write_project(
        tmp_path,
        """
        model: {kind: "my_nets:build"}
        data: {kind: "my_data:load"}
        space:
          defaults: {weight_bits: [2, 4]}
          layers: {frist: {weight_bits: 8}, head: {weight_bits: [2, 2]}}
        objectives: [klx]
        constraints: ["size < 3"]
        search: {populaton: 3, evaluations: 0}
        compute: {device: "cuda:99", workers: 0}
        """,
    )
    result = command("check", yaml)
    places = re.findall(rf"{re.escape(str(yaml))}:(\d+):\d+: ([\w.\[\]]+): ", result.stderr)
    assert places == [
        ("5", "space.layers.frist"),
        ("5", "space.layers.head.weight_bits[1]"),
        ("6", "objectives[0].kind"),
        ("7", "constraints[0]"),
        ("8", "search.populaton"),
        ("8", "search.evaluations"),
        ("9", "compute.device"),
        ("9", "compute.workers"),
    ]


def test_model_and_data_that_both_raise_are_both_told(tmp_path):
    yaml = write_project(tmp_path, my_nets=RAISING, my_data="def load(**keys):\n    raise OSError('no disk')\n")
    message = command("check", yaml).stderr
    assert "model: my_nets:build raised KeyError" in message and "data: my_data:load raised OSError: no disk" in message


def test_a_mistake_in_an_option_names_the_option_and_the_yaml(tmp_path):
    yaml = write_project(tmp_path)
    result = command("run", yaml, "--device", "cuda:99", "--quiet", "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert result.stderr.startswith(
        f"error: {yaml}: --set compute.device=cuda:99: compute.device: cuda:99 cannot be used"
    )
    result = command("run", yaml, "--set", "space.layers.x.weight_bits=3", "--out", tmp_path / "out")
    assert "--set space.layers.x.weight_bits=3: space.layers.x: matches no layer" in result.stderr
    assert str(yaml) in result.stderr


def test_progress_tells_generation_budget_hypervolume_speed_and_time_left():
    progress = Progress(
        generation=3,
        measured=40,
        evaluations=400,
        hypervolume=1.25,
        candidates_per_second=8,
        seconds_left=45,
        front_size=7,
    )
    lines = io.StringIO()
    reporter = ConsoleReporter(file=lines)
    with reporter.running():
        reporter.search(progress)
    said = "measured 40 of 400, hypervolume 1.25, front 7, 8.0 candidates/s, 45 s left"
    assert lines.getvalue() == f"generation 3: {said}\n"


@pytest.mark.parametrize(
    ("columns", "said"), [(80, "40 of 400, hypervolume 1234.5, front 70, 8.0/s, 45 s left"), (140, "8.0 candidates/s")]
)
def test_the_line_that_moves_on_a_terminal_is_not_cut_off(monkeypatch, columns, said):
    monkeypatch.setenv("COLUMNS", str(columns))
    terminal = io.StringIO()
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    reporter = ConsoleReporter(file=terminal)
    with reporter.running():
        reporter.stage(1, 2, "training [bold]")
        reporter.search(Progress(12, 40, 400, 1234.5, 8, 45, 70))
    shown = re.sub(r"\x1b\[[0-9;?]*\w", "", terminal.getvalue())
    assert "generation 12" in shown and said in shown and "…" not in shown


def test_an_estimate_carries_the_word_modelled_wherever_it_is_shown(tmp_path):
    modelled = "def energy(candidate):\n    return candidate.packed_bytes / 10\nenergy.modelled = True\n"
    yaml = write_project(tmp_path, my_objectives=modelled)
    yaml.write_text(
        yaml.read_text()
        + 'objectives: [kl_divergence, {kind: "my_objectives:energy", unit: mJ, direction: minimize}]\n'
        'constraints: ["energy <= 1e6"]\n'
    )
    out = tmp_path / "out"
    assert "energy [mJ] (modelled)" in run(yaml, out, "--set", "search.evaluations=8").stdout
    assert front(out)["objectives"][1]["kind"] == "modelled"
    assert re.search(
        r"energy [\d.]+ mJ \(modelled\)", command("export", out, "--out", tmp_path / "x.safetensors").stdout
    )
    command("export", out, "--out", tmp_path / "x.json")
    assert json.loads((tmp_path / "x.json").read_text())["quantities"]["energy"]["kind"] == "modelled"
    printed = command("check", yaml).stdout
    assert "minimize energy [mJ] (modelled)" in printed and "subject to energy <= 1000000 mJ (modelled)" in printed


@pytest.mark.parametrize("name", ["digits_resent", "nowhere/tiny.yaml"])
def test_a_search_space_that_does_not_exist_is_told(name):
    result = command("run", name)
    assert result.exit_code == 2 and name in result.stderr
    assert name == "nowhere/tiny.yaml" or "did you mean digits_resnet" in result.stderr


def test_debug_shows_where_an_error_comes_from_before_its_message(tmp_path):
    yaml = write_project(tmp_path, my_nets=RAISING)
    result = command("check", yaml, "--debug")
    assert result.exit_code == 2
    assert "Traceback" in result.stderr and 'raise KeyError("no such layer")' in result.stderr
    assert result.stderr.index("Traceback") < result.stderr.index("error: ")


def test_an_interrupted_command_exits_with_130(tmp_path, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("evo_mpq.config.json_schema", interrupt)
    result = command("schema")
    assert result.exit_code == 130 and result.stderr == "Interrupted.\n"


def test_a_usage_mistake_is_told_by_typer_with_exit_code_2():
    assert command("run").exit_code == 2
    assert "Did you mean 'export'" in command("exprot").stderr


def test_the_program_is_what_is_installed(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["evo-mpq", "list", "search-spaces"])
    with pytest.raises(SystemExit) as end:
        evo_mpq.cli.main()
    assert end.value.code == 0 and "digits_resnet" in capsys.readouterr().out


# check


def test_check_says_what_a_yaml_means_and_what_a_measurement_costs(tmp_path):
    yaml = write_project(tmp_path)
    constraint = 'constraints=["size <= 2 kB"]'
    result = command("check", yaml, "--set", constraint, "--set", "space.defaults.activation_bits=[4, 8]")
    assert result.exit_code == 0
    for text in (
        "my_nets:build",
        "first  │ linear │ 8×6    │ 48",
        "first.activation_bits  │ 4 8",
        "space: 6 genes, 10^2.7 genomes; tensors between layers at 8 bits",
        "search: nsga2, evaluations 24",
        "samples: calibration 32, search 32, test 32",
        "minimize soft_kl_divergence [nats] (measured)",
        "minimize size [B] (exact)",
        "subject to size <= 2000 B",
        "on the test split: soft_kl_divergence, accuracy, kl_divergence",
        "a lower bound of the memory",
        "nats on 32 search samples",
        "the standard error falls below 5 % of it with about",
        f"{yaml} is right",
    ):
        assert text in result.stdout.replace("\n  ", " "), text
    assert not (tmp_path / "runs").exists()


def test_check_measures_the_uniform_genome_of_middle_bits(tmp_path):
    yaml = write_project(tmp_path)
    run(yaml, tmp_path / "out", "--set", "search={algorithm: exhaustive}")
    seed = next(seed for seed in front(tmp_path / "out")["seeds"] if seed["name"] == "uniform W4")
    printed = command("check", yaml).stdout
    assert f"the uniform genome of middle bits: {seed['search']['size']:,} bytes" in printed
    assert f"its soft_kl_divergence to the float network: {seed['search']['soft_kl_divergence']:.4g} ± " in printed


@pytest.mark.parametrize(
    ("kl", "error", "needed", "said"),
    [
        (0.1, 0.01, 1600, "falls below 5 % of it with about 1,600 search samples"),
        (0.1, 0.0025, 100, "about 100 search samples would do"),
        (0.0, 0.0, None, "its kl_divergence to the float network: 0 ± 0 nats"),
        (0.1, math.nan, None, "0.1, standard error unknown nats on 400 search samples"),
    ],
)
def test_the_search_split_that_tells_candidates_apart_follows_from_the_standard_error(kl, error, needed, said):
    trial = Trial(size=1000, seconds=0.1, alive=2**20, kl=kl, standard_error=error, samples=400)
    assert trial.samples_needed == needed
    assert said in " ".join(trial_lines(trial))


# report and export


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run: its folder; not to be changed."""
    folder = tmp_path_factory.mktemp("finished")
    run(write_project(folder), folder / "out")
    return folder


def test_report_writes_the_same_front_and_report_anew_and_prints_the_front(finished, tmp_path):
    out = shutil.copytree(finished / "out", tmp_path / "out")
    expected, page = findings(out), (out / "report.html").read_text()
    (out / "report.html").unlink()
    (out / "front.json").unlink()
    result = command("report", out)
    assert result.exit_code == 0 and "points on the front" in result.stdout
    assert findings(out) == expected
    assert (out / "report.html").read_text().replace(str(out), str(finished / "out")) == page


def test_an_exported_file_is_as_long_as_the_size_objective_and_a_policy_is_json(finished, tmp_path):
    for member in front(finished / "out")["members"][::5]:
        file = tmp_path / f"{member['id']}.safetensors"
        result = command("export", finished / "out", "--pick", member["id"], "--out", file)
        assert result.exit_code == 0 and f"point {member['id']}" in result.stdout
        assert file.stat().st_size == member["search"]["size"]
    result = command("export", finished / "out", "--pick", member["id"], "--out", tmp_path / "policy.json")
    document = json.loads((tmp_path / "policy.json").read_text())
    assert document["policy"] == member["policy"] and document["search"] == member["search"]
    assert (
        document["compressor"]["weights"]["rounding"] == "descent"
        and document["compressor"]["correction"] == "scale_bias"
    )
    command("export", finished / "out", "--pick", member["id"], "--out", tmp_path / "x", "--format", "policy")
    assert json.loads((tmp_path / "x").read_text()) == document


def test_export_picks_the_best_within_bounds_by_search_values(finished, tmp_path):
    members = front(finished / "out")["members"]
    bound = sorted(member["search"]["size"] for member in members)[len(members) // 2]
    best = min(
        (member for member in members if member["search"]["size"] <= bound),
        key=lambda m: m["search"]["soft_kl_divergence"],
    )
    result = command("export", finished / "out", "--pick", f"size<={bound}B", "--out", tmp_path / "a.safetensors")
    assert f"point {best['id']}" in result.stdout


@pytest.mark.parametrize(
    ("pick", "said"),
    [
        ("kneee", 'Did you mean "knee"'),
        ("size<=1B", "the nearest is"),
        ("sise<=1B", 'Did you mean "size"'),
        ("size<=1 lb", "unknown unit"),
        ("deadbeef", "neither"),
    ],
)
def test_a_pick_that_means_no_member_is_told_with_the_nearest(finished, tmp_path, pick, said):
    result = command("export", finished / "out", "--pick", pick, "--out", tmp_path / "x.safetensors")
    assert result.exit_code == 2 and said in result.stderr and not (tmp_path / "x.safetensors").exists()


def test_a_file_that_cannot_be_written_is_told_and_nothing_half_written_stays(finished, tmp_path):
    (tmp_path / "folder").mkdir()
    result = command("export", finished / "out", "--out", tmp_path / "folder")
    assert result.exit_code == 2 and "cannot be written" in result.stderr
    assert [path.name for path in tmp_path.rglob("*")] == ["folder"]


@pytest.mark.parametrize("words", [["report"], ["export", "--out", "x.safetensors"]])
def test_what_is_no_run_directory_is_told(tmp_path, words):
    (tmp_path / "empty").mkdir()
    result = command(*words, tmp_path / "empty")
    assert result.exit_code == 2 and "is not the directory of a run" in result.stderr
    assert "there is no run directory" in command(*words, tmp_path / "nowhere").stderr


def test_the_users_folder_is_found_again_where_it_was_or_where_base_says_it_is(finished, tmp_path, monkeypatch):
    moved = shutil.copytree(finished, tmp_path / "moved")
    config = moved / "out" / "config.yaml"
    monkeypatch.chdir("/")
    assert command("report", moved / "out").exit_code == 0
    config.write_text(config.read_text().replace(str(finished), str(tmp_path / "gone")))
    result = command("report", moved / "out")
    assert result.exit_code == 2 and f"{tmp_path / 'gone'}, where there is no folder" in result.stderr
    assert "--base" in result.stderr
    assert command("report", moved / "out", "--base", moved).exit_code == 0
    file = tmp_path / "x.safetensors"
    assert command("export", moved / "out", "--base", moved, "--out", file).exit_code == 0


def test_the_yaml_may_lie_elsewhere_than_the_modules(finished, tmp_path):
    yaml = tmp_path / "tiny.yaml"
    yaml.write_text(YAML.lstrip())
    assert command("run", yaml, "--out", finished / "out", "--quiet", "--base", finished).exit_code == 0


def test_a_front_with_many_points_is_shown_by_some_of_them_and_brackets_in_names_are_kept(finished, capsys):
    few = Front.from_json(front(finished / "out"))
    members = tuple(
        replace(
            few.members[0],
            id=f"{i:08x}",
            search={"soft_kl_divergence": 2.0 ** -min(i, 3), "size": 1000.0 + i},
            test={"[bold]x": None},
        )
        for i in range(100)
    )
    print_front(replace(few, members=members), ["size<=1041.5", "size<=1"])
    printed = capsys.readouterr().out
    assert f"{3:08x} knee, size<=1041.5" in printed and "size<=1 " not in printed
    assert "100 points on the front" in printed and "shown here" in printed
    assert "00000003 knee" in printed and "test [bold]x" in printed and f"{99:08x}" in printed
    assert len(printed.splitlines()) < 35


# list, init, schema, help and completion


@pytest.mark.parametrize(
    ("what", "names"),
    [
        ("models", ["digits_resnet", "digits_mobilenet", "digits_mlp", "digits_vit"]),
        ("data", ["digits", "arrays", "image_folder"]),
        ("objectives", ["kl_divergence", "accuracy", "size", "bops", "flips", "mean_squared_error"]),
        ("quantizers", ["uniform_affine"]),
        ("search-spaces", list(packaged_spaces())),
    ],
)
def test_everything_that_can_be_named_is_listed_with_a_line_about_it(what, names):
    lines = dict(line.split(maxsplit=1) for line in command("list", what).stdout.splitlines())
    assert set(names) <= set(lines)
    assert all(len(text) > 15 and "cannot be loaded" not in text for text in lines.values())


def test_what_cannot_be_listed_is_told_with_what_can():
    result = command("list", "networks")
    assert result.exit_code == 2 and "search-spaces" in result.stderr


def test_init_writes_a_yaml_that_check_accepts_and_run_searches(tmp_path):
    write_project(tmp_path)
    yaml = tmp_path / "mine.yaml"
    result = command("init", "--model", "my_nets:build", "--out", yaml)
    assert result.exit_code == 0 and f"evo-mpq check {yaml}" in result.stdout
    text = yaml.read_text()
    assert "first, second, head" in text and text.startswith("# yaml-language-server")
    assert command("check", yaml).exit_code == 0
    assert Document.read(yaml).values["data"]["kind"] == "my_data:load"
    run(yaml, tmp_path / "out", "--set", "search.evaluations=6")
    assert front(tmp_path / "out")["finished"]


def test_init_overwrites_nothing_unless_it_is_told_to(tmp_path):
    write_project(tmp_path)
    yaml = tmp_path / "mine.yaml"
    yaml.write_text("mine")
    result = command("init", "--model", "my_nets:build", "--out", yaml)
    assert result.exit_code == 2 and "exists" in result.stderr and yaml.read_text() == "mine"
    assert command("init", "--model", "my_nets:build", "--out", yaml, "--force").exit_code == 0
    assert yaml.read_text() != "mine"


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("my_netz:build", "--model: there is no module my_netz"),
        ("my_nets:biuld", "did you mean build"),
        ("digits_resent", "did you mean digits_resnet"),
        ("my_nets:Net.forward", "--model: my_nets:Net.forward needs self"),
    ],
)
def test_init_tells_what_is_no_network(tmp_path, model, said):
    write_project(tmp_path)
    result = command("init", "--model", model, "--out", tmp_path / "mine.yaml")
    assert result.exit_code == 2 and said in result.stderr and not (tmp_path / "mine.yaml").exists()


def test_the_schema_is_printed_as_json():
    schema = json.loads(command("schema").stdout)
    assert {"model", "data", "space", "search"} <= set(schema["properties"])


@pytest.mark.parametrize("name", ["", "run", "check", "report", "export", "list", "init", "schema"])
def test_help_teaches(name):
    result = command(*([name] if name else []), "--help")
    assert result.exit_code == 0
    text = " ".join(result.stdout.split())
    expected = {
        "": ["evo-mpq run digits_resnet", "evo-mpq init --model", "run", "check", "export"],
        "run": ["resumes", "Ctrl-C", "--set search.evaluations=800", "--workers", "--yes", "--quiet", "--debug"],
        "check": ["without searching", "search samples"],
        "report": ["finished or not", "Nothing is measured"],
        "export": ["size<=40kB", "knee", "evo_mpq.load", "--format"],
        "list": ["models", "search-spaces"],
        "init": ["my_nets:build", "my_data:load", "calibration"],
        "schema": ["evo-mpq schema > evo-mpq.schema.json"],
    }[name]
    assert [word for word in expected if word not in text] == []


def test_completion_offers_what_exists(finished, tmp_path, monkeypatch):
    shutil.copytree(finished / "out", tmp_path / "runs" / "tiny")
    (tmp_path / "mine.yaml").touch()
    monkeypatch.chdir(tmp_path)
    assert {"digits_resnet", "digits_vit"} <= set(complete_space("digits")) and complete_space("mi") == ["mine.yaml"]
    assert complete_directory("ru") == ["runs/tiny"] and complete_directory("x") == []
    ids = [member["id"] for member in front(Path("runs/tiny"))["members"]]
    typed: Any = SimpleNamespace(params={"directory": Path("runs/tiny")})
    nothing: Any = SimpleNamespace(params={})
    assert complete_pick(typed, "") == ["knee", *ids] and complete_pick(typed, ids[0][:7]) == [ids[0]]
    assert complete_pick(nothing, "k") == ["knee"]
    assert complete_setting("search.ev") == ["search.evaluations="] and "seed=" in complete_setting("")


def test_the_journal_of_a_finished_run_is_not_touched_by_looking(finished):
    assert RunDirectory(finished / "out").read_front().finished
    before = (finished / "out" / "journal").read_bytes()
    command("report", finished / "out")
    assert (finished / "out" / "journal").read_bytes() == before
