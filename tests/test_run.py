"""``evo-mpq run``: from a YAML to a front, and what giving the command again does."""

import itertools
import json
import re

import jsonschema
import pytest
from small_runs import NETS, YAML, command, findings, front, run, write_project

from evo_mpq import enumeration
from evo_mpq.api import located_problem
from evo_mpq.compress.packing import FORMAT
from evo_mpq.compress.placement import Placement
from evo_mpq.config import load
from evo_mpq.errors import ConfigError
from evo_mpq.results.front import front_schema
from evo_mpq.results.run_directory import RunDirectory


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run: its YAML and its directory; not to be changed."""
    folder = tmp_path_factory.mktemp("finished")
    yaml, out = write_project(folder), folder / "out"
    run(yaml, out)
    return yaml, out


def test_a_run_writes_front_report_configuration_environment_journal_and_log(finished):
    yaml, out = finished
    assert {path.name for path in out.iterdir()} == {
        "config.yaml", "environment.json", "front.json", "journal", "lock", "log.txt", "predictions.json",
        "report.html",
    }  # fmt: skip
    document = front(out)
    jsonschema.validate(document, front_schema())
    assert document["finished"] and document["reproducible"]
    assert [objective["name"] for objective in document["objectives"]] == ["soft_kl_divergence", "size"]
    assert document["measurements"] == 23  # the uncompressed network is the 24th
    environment = json.loads((out / "environment.json").read_text())
    assert {"torch", "numpy", "pymoo"} <= set(environment["packages"]) and environment["device"] == "cpu"
    assert {str(yaml.parent / "my_nets.py"), str(yaml.parent / "my_data.py")} == set(environment["sources"])
    log = (out / "log.txt").read_text()
    assert re.search(r"started: soft_kl_divergence, size; 3 genes", log) and "generation 2: measured" in log
    assert re.search(r"finished: 23 genomes measured in .* CPU seconds, front of \d+", log)


def test_every_number_of_the_front_is_what_a_measurement_gave(finished):
    _, out = finished
    journal = RunDirectory(out).read_journal()
    for member in front(out)["members"]:
        row = journal.known(tuple(member["genome"]))
        assert row is not None
        assert [member["search"]["soft_kl_divergence"], member["search"]["size"]] == row.values[:2]
        held_out = journal.held_out(tuple(member["genome"]))
        assert held_out is not None
        assert member["test"]["kl_divergence"]["value"] == held_out.intervals["kl_divergence"].value
        assert member["test"]["accuracy"]["low"] <= member["test"]["accuracy"]["value"]


def test_the_front_weakly_dominates_every_seed_and_no_member_another(finished):
    _, out = finished
    document = front(out)
    members = [tuple(member["search"][key] for key in ("soft_kl_divergence", "size")) for member in document["members"]]
    assert [seed["name"] for seed in document["seeds"]] == ["uniform W2", "uniform W3", "uniform W4", "uniform W8"]
    for seed in document["seeds"]:
        point = (seed["search"]["soft_kl_divergence"], seed["search"]["size"])
        assert any(member[0] <= point[0] and member[1] <= point[1] for member in members)
        assert seed["verdict"] in ("dominated", "tied", "not")
    assert sorted(members) == members
    assert all(after[1] < before[1] for before, after in itertools.pairwise(members))


def test_the_front_is_a_table_on_stdout_and_progress_goes_to_stderr(tmp_path):
    yaml = write_project(tmp_path)
    result = command("run", yaml, "--out", tmp_path / "out")
    assert "points on the front" in result.stdout and "soft_kl_divergence [nats]" in result.stdout
    assert f"Report: {tmp_path / 'out' / 'report.html'}" in result.stdout.replace("\n", "")
    for step in ("tracing the network", "calibrating", "measuring the uncompressed network", "test split"):
        assert step in result.stderr and step not in result.stdout


def test_the_directory_is_named_after_the_run_by_default(tmp_path, monkeypatch):
    yaml = write_project(tmp_path, YAML.replace("evaluations: 24", "evaluations: 6"))
    monkeypatch.chdir(tmp_path)
    assert command("run", yaml, "--quiet").exit_code == 0
    assert front(tmp_path / "runs" / "tiny")["finished"]


def test_a_finished_run_is_said_to_be_finished_and_reported_again(finished):
    yaml, out = finished
    before, journal = findings(out), (out / "journal").read_bytes()
    (out / "report.html").unlink()
    result = run(yaml, out)
    assert "was finished already" in result.stderr and "points on the front" in result.stdout
    assert findings(out) == before and (out / "journal").read_bytes() == journal
    assert (out / "report.html").exists()


def test_the_written_configuration_is_the_same_run(finished):
    _, out = finished
    assert load(out / "config.yaml").base == out.parent
    assert "was finished already" in run(out / "config.yaml", out).stderr


def test_auto_and_cpu_are_the_same_device_and_name_workers_and_memory_make_no_other_run(finished):
    yaml, out = finished
    changes = ["--device", "cpu", "--set", "compute.memory=1 GiB", "--set", "compute.workers=1", "--set", "name=other"]
    assert "was finished already" in run(yaml, out, *changes).stderr


def test_a_run_from_an_accelerator_is_opened_and_exported_where_there_is_none(tmp_path, monkeypatch):
    yaml, out = write_project(tmp_path), tmp_path / "out"
    place = "evo_mpq.measure.breadth_first.Placement"  # what is said to be on cuda is computed here
    with monkeypatch.context() as there:
        there.setattr("evo_mpq.problem.why_unavailable", lambda device: None)
        there.setattr("evo_mpq.session.full_name", lambda device: device)
        there.setattr(place, lambda compressor, device, memory: Placement(compressor, "cpu", memory))
        run(yaml, out, "--device", "cuda:0")
    assert json.loads((out / "environment.json").read_text())["device"] == "cuda"
    assert "cuda cannot be used" in run(yaml, out, "--device", "cuda", code=2).stderr
    run(yaml, tmp_path / "on_cpu")
    sides = [
        {member["id"]: member["search"] for member in front(folder)["members"]} for folder in (out, tmp_path / "on_cpu")
    ]
    assert sides[0].keys() == sides[1].keys()
    for member, values in sides[0].items():
        assert values == pytest.approx(sides[1][member], rel=1e-4)
    assert command("export", out, "--out", tmp_path / "knee.safetensors").exit_code == 0


def test_another_run_is_refused_and_the_keys_that_differ_are_named(finished):
    yaml, out = finished
    changes = ["--set", "seed=1", "--set", "space.defaults.weight_bits=[2, 4]", "--set", "model.width=4"]
    message = run(yaml, out, *changes, code=2).stderr
    for line in (
        "seed: 0 -> 1",
        "space.defaults.weight_bits: [2, 3, 4, 8] -> [2, 4]",
        "model.width: absent -> 4",
        "fingerprints.weights",
    ):
        assert line in message
    assert "fingerprints.data" not in message and yaml.name in message


def test_a_run_from_before_weights_were_packed_otherwise_is_not_continued(finished, monkeypatch):
    yaml, out = finished
    monkeypatch.setattr("evo_mpq.problem.FORMAT", "evo-mpq packed 9")
    assert f'packed_format: "{FORMAT}" -> "evo-mpq packed 9"' in run(yaml, out, code=2).stderr


@pytest.mark.parametrize(
    ("module", "change", "named"),
    [
        ("my_nets", ("seed=0", "seed=5"), "fingerprints.weights"),
        ("my_nets", ("torch.relu(self.first(x))", "torch.tanh(self.first(x))"), "fingerprints.graph"),
        ("my_data", ("seed=1", "seed=2"), "fingerprints.data"),
    ],
)
def test_other_weights_another_graph_or_other_data_are_another_run(tmp_path, finished, module, change, named):
    _, out = finished
    changed = write_project(tmp_path)
    path = tmp_path / f"{module}.py"
    path.write_text(path.read_text().replace(*change))
    message = run(changed, out, code=2).stderr
    assert named in message and message.count("fingerprints") == 1


def test_a_larger_budget_goes_on_where_the_run_ended_and_a_smaller_one_changes_nothing(tmp_path):
    yaml, out = write_project(tmp_path), tmp_path / "out"
    run(yaml, out, "--set", "search.evaluations=12")
    first = RunDirectory(out).read_journal()
    again = run(yaml, out)
    journal = RunDirectory(out).read_journal()
    assert "finished already" not in again.stderr
    assert (first.n_measured, journal.n_measured) == (11, 23)
    assert [budget["evaluations"] for budget in journal.budgets()] == [12, 24]
    assert journal.rows()[0][:11].tolist() == first.rows()[0].tolist()
    assert front(out)["measurements"] == 23 and "shown after each of 2 budgets" in again.stderr
    before = findings(out)
    smaller = run(yaml, out, "--set", "search.evaluations=12")
    assert "evaluations 24 before; a smaller budget changes nothing" in smaller.stderr
    assert findings(out) == before


def test_no_genome_is_shown_the_test_split_twice(tmp_path):
    yaml, out = write_project(tmp_path), tmp_path / "out"
    run(yaml, out, "--set", "search.evaluations=12")
    tested = (out / "journal").read_text().count('"kind":"test"')
    run(yaml, out)
    lines = [line for line in (out / "journal").read_text().splitlines() if '"kind":"test"' in line]
    genomes = [json.loads(line[9:])["genome"] for line in lines]
    assert len(genomes) > tested
    assert len({str(genome) for genome in genomes}) == len(genomes)


def test_a_changed_source_file_is_a_warning_with_its_name_at_every_later_run(tmp_path):
    yaml, out = write_project(tmp_path), tmp_path / "out"
    run(yaml, out)
    (tmp_path / "my_nets.py").write_text(NETS + "\n# changed\n")
    for _ in range(2):
        result = run(yaml, out)
        assert f"{tmp_path / 'my_nets.py'} changed since this run was started" in result.stderr
        assert "my_data.py" not in result.stderr


def test_two_runs_in_one_directory_are_refused(finished):
    yaml, out = finished
    with RunDirectory(out):
        message = run(yaml, out, code=2).stderr
    assert "is in use by process" in message and "--out" in message and yaml.name in message


def test_a_directory_with_files_of_somebody_else_is_not_written_to(tmp_path):
    yaml = write_project(tmp_path)
    (tmp_path / "config.yaml").write_text("mine: true")
    message = run(yaml, tmp_path, code=2).stderr
    assert "config.yaml would be overwritten" in message
    assert (tmp_path / "config.yaml").read_text() == "mine: true"


@pytest.mark.parametrize("content", ["", '1a2b3c4d {"kind":"hea'])
def test_a_half_created_directory_is_a_fresh_start(tmp_path, finished, content):
    yaml, out = finished
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "lock").touch()
    (tmp_path / "out" / "journal").write_text(content)
    run(yaml, tmp_path / "out")
    assert findings(tmp_path / "out") == findings(out)


@pytest.mark.parametrize("workers", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_the_front_is_the_same_for_every_number_of_workers(tmp_path, finished, workers):
    yaml, out = finished
    run(yaml, tmp_path, "--workers", workers)
    assert findings(tmp_path) == findings(out)


def test_exhaustive_search_measures_every_genome_once_and_finds_the_exact_front(tmp_path):
    yaml, out = write_project(tmp_path), tmp_path / "out"
    run(yaml, out, "--set", "search={algorithm: exhaustive}")
    genomes, values = RunDirectory(out).read_journal().rows()
    assert len({tuple(genome) for genome in genomes.tolist()}) == len(genomes) == 4**3
    points = values.values[:, :2]
    best = {
        tuple(point)
        for point in points.tolist()
        if not any((other <= point).all() and (other < point).any() for other in points)
    }
    members = [
        tuple(float(member["search"][key]) for key in ("soft_kl_divergence", "size"))
        for member in front(out)["members"]
    ]
    assert sorted(members) == sorted(best)


EXHAUSTIVE = YAML.replace("{population: 6, evaluations: 24}", "{algorithm: exhaustive}")


def test_a_large_enumeration_is_refused_with_count_and_time_unless_it_is_asked_for(tmp_path, monkeypatch):
    yaml, out = write_project(tmp_path, EXHAUSTIVE), tmp_path / "out"
    monkeypatch.setattr(enumeration, "PATIENCE_SECONDS", 1e-6)
    message = run(yaml, out, code=2).stderr
    assert f"{yaml}:4:21: search.algorithm: exhaustive search of 64 genomes would take about" in message
    assert re.search(r"about \d+ seconds \(.* ms each on one CPU\)", message) and "--yes" in message
    assert RunDirectory(out).read_journal().n_measured == 0
    run(yaml, out, "--yes")
    assert front(out)["measurements"] == 64
    run(yaml, out)  # nothing is left to wait for


@pytest.mark.parametrize("limit", ["evaluations: 8", "minutes: 5"])
def test_an_enumeration_with_a_budget_that_is_short_is_not_refused(tmp_path, monkeypatch, limit):
    monkeypatch.setattr(enumeration, "seconds_per_neighbor", lambda problem: 60.0)
    yaml = write_project(tmp_path, EXHAUSTIVE.replace("exhaustive", f"exhaustive, {limit}"))
    enumeration.refuse_large_enumeration(located_problem(load(yaml)))
    with pytest.raises(ConfigError, match="64 genomes would take about 64 minutes"):
        enumeration.refuse_large_enumeration(located_problem(load(yaml, ["search={algorithm: exhaustive}"])))


@pytest.mark.parametrize(
    ("search", "most"),
    [
        ("{algorithm: random, population: 6, evaluations: 20}", 19),
        ("{population: 6, minutes: 0.01}", 64),
        ("{population: 6, stall: 2}", 64),
    ],
)
def test_every_way_to_end_a_search_ends_it_and_replays_to_the_same(tmp_path, search, most):
    yaml, out = write_project(tmp_path), tmp_path / "out"
    run(yaml, out, "--set", f"search={search}")
    found = findings(out)
    assert found["finished"] and 4 <= found["measurements"] <= most
    (out / "front.json").unlink()
    assert "finished already" in run(yaml, out, "--set", f"search={search}").stderr
    assert findings(out) == found


@pytest.mark.parametrize(
    "objectives", [["accuracy"], ["kl_divergence", "size", "bops"], ["size"]], ids=["one", "three", "free"]
)
def test_any_number_of_objectives_can_be_traded_off(tmp_path, objectives):
    yaml, out = write_project(tmp_path), tmp_path / "out"
    run(yaml, out, "--set", f"objectives={json.dumps(objectives)}")
    document = front(out)
    jsonschema.validate(document, front_schema())
    assert [objective["name"] for objective in document["objectives"]] == objectives
    assert len(document["members"]) == 1 if len(objectives) == 1 else len(document["members"]) > 1
    assert document["hypervolume"]["value"] > 0 and len(document["hypervolume"]["reference_point"]) == len(objectives)


def test_feasible_members_meet_every_constraint_and_free_ones_are_checked_before_measuring(tmp_path):
    yaml, out = write_project(tmp_path), tmp_path / "out"
    constraints = 'constraints=["size <= 1050", "kl_divergence <= 1", "average_bits >= 2.5"]'
    run(yaml, out, "--set", constraints, "--set", "search.fitness.seeds=[uniform]")
    _, values = RunDirectory(out).read_journal().rows()
    sizes = values.values[4:, 1]  # what follows the uniform recipes
    assert len(sizes) and (sizes <= 1050).all()
    for member in front(out)["members"]:
        search = member["search"]
        assert search["size"] <= 1050 and search["kl_divergence"] <= 1 and search["average_bits"] >= 2.5


@pytest.mark.parametrize("constraint", ["accuracy >= 1.5", "cross_entropy <= 0.001"])
def test_constraints_that_nothing_can_meet_are_told_with_the_nearest_value(tmp_path, constraint):
    yaml, out = write_project(tmp_path), tmp_path / "out"
    metrics = "--set", "metrics=[accuracy, cross_entropy]"
    result = run(yaml, out, "--set", f'constraints=["{constraint}"]', *metrics)
    assert "The front is empty" in result.stdout
    assert re.search(rf"none of \d+ measured candidates meets {constraint}.*\(nearest: [\d.]+\)", result.stderr)
    document = front(out)
    assert document["finished"] and document["members"] == []
    jsonschema.validate(document, front_schema())
    assert command("export", out, "--out", out.parent / "x.safetensors").exit_code == 2


OBJECTIVES = """
import math
calls = 0

def constant(candidate):
    return 3.0

def picky(candidate):
    bits = candidate.layers[0].weight_bits
    if bits == 2:
        raise ValueError("two bits are not for me")
    return math.nan if bits == 3 else float(bits)

def hopeless(candidate):
    raise RuntimeError("always")

def weight_norm(candidate):
    module = candidate.module()
    return float(sum(module(x[None]).norm() for x in [candidate.network.calibration_inputs[0][0]]))
"""


def own(name, **keys):
    said = ", ".join(f"{key}: {value}" for key, value in {"direction": "minimize", **keys}.items())
    return f'objectives=[kl_divergence, {{kind: "my_objectives:{name}", {said}}}]'


def test_an_objective_that_is_constant_over_the_first_population_is_said_so(tmp_path):
    yaml, out = write_project(tmp_path, my_objectives=OBJECTIVES), tmp_path / "out"
    result = run(yaml, out, "--set", own("constant"))
    assert (
        result.stderr.count("constant is 3 for all of the first") == 1 and "does not tell them apart" in result.stderr
    )
    assert "constant is 3 for all" in (out / "log.txt").read_text()


def test_candidates_for_which_an_objective_raises_or_is_nan_fail_alone(tmp_path):
    yaml, out = write_project(tmp_path, my_objectives=OBJECTIVES), tmp_path / "out"
    result = run(yaml, out, "--set", own("picky"), "--set", "search={algorithm: exhaustive}")
    assert "32 of 64 candidates failed; the first with: picky raised ValueError: two bits" in result.stderr
    genomes, values = RunDirectory(out).read_journal().rows()
    for genome, failure in zip(genomes.tolist(), values.failures, strict=True):
        assert (failure is None) == (genome[0] >= 2)
        assert failure is None or ("not for me" in failure) == (genome[0] == 0)
    assert {member["genome"][0] for member in front(out)["members"]} <= {2, 3}
    assert len(front(out)["members"]) >= 2


def test_a_run_in_which_nothing_succeeds_ends_with_what_went_wrong_and_where_it_is_named(tmp_path):
    yaml, out = write_project(tmp_path, my_objectives=OBJECTIVES), tmp_path / "out"
    yaml.write_text(yaml.read_text() + 'objectives: [{kind: "my_objectives:hopeless", direction: minimize}]\n')
    message = run(yaml, out, code=2).stderr
    assert re.search(rf"{re.escape(str(yaml))}:5:13: objectives: every one of the \d+ candidates", message)
    assert "hopeless raised RuntimeError: always" in message and "Traceback" not in message
    assert "failed: every one" in (out / "log.txt").read_text()


def test_a_function_may_run_the_candidates_module_itself(tmp_path):
    yaml, out = write_project(tmp_path, my_objectives=OBJECTIVES), tmp_path / "out"
    run(yaml, out, "--set", own("weight_norm", unit="V"), "--workers", 1)
    document = front(out)
    assert document["objectives"][1] == {
        "name": "weight_norm", "unit": "V", "direction": "minimize", "kind": "measured", "scale": "linear",
    }  # fmt: skip
    assert len({member["search"]["weight_norm"] for member in document["members"]}) == len(document["members"])
    assert "weight_norm" not in document["members"][0]["test"]  # it has no test value


@pytest.mark.parametrize("split", ["calibration", "search", "test"])
def test_a_split_of_one_sample_is_enough(tmp_path, split):
    yaml, out = write_project(tmp_path), tmp_path / "out"
    run(yaml, out, "--set", f"data.{split}=1", "--set", "search.evaluations=8")
    document = front(out)
    jsonschema.validate(document, front_schema())
    test = document["members"][0]["test"]["kl_divergence"]
    assert (test["low"] is None) == (split == "test") and test["value"] >= 0


def test_metrics_are_what_is_reported_on_the_test_split(tmp_path):
    yaml, out = write_project(tmp_path), tmp_path / "out"
    run(yaml, out, "--set", "metrics=[error_rate, kl_divergence, macs]", "--set", "search.evaluations=8")
    document = front(out)
    assert set(document["members"][0]["test"]) == {"soft_kl_divergence", "kl_divergence", "error_rate"}
    assert set(document["members"][0]["search"]) == {
        "soft_kl_divergence",
        "size",
        "kl_divergence",
        "error_rate",
        "macs",
    }
    assert set(document["reference"]["test"]) == {"soft_kl_divergence", "kl_divergence", "error_rate"}


def test_activation_bits_and_edges_are_searched_too(tmp_path):
    yaml, out = write_project(tmp_path), tmp_path / "out"
    yaml.write_text(yaml.read_text().replace("[2, 3, 4, 8]}", "[4, 8], activation_bits: [4, 8]}"))
    run(yaml, out, "--set", "search.fitness.seeds=[uniform]")
    document = front(out)
    assert [gene["name"] for gene in document["genes"]][:2] == ["first.weight_bits", "first.activation_bits"]
    assert document["reference"]["search"]["kl_divergence"] == 0  # float edges
    assert [seed["name"] for seed in document["seeds"]] == [f"uniform W{w}A{a}" for w in (4, 8) for a in (4, 8)]


def test_the_uncompressed_network_is_on_the_front_only_if_the_space_has_it(tmp_path):
    yaml, out = write_project(tmp_path), tmp_path / "out"
    run(yaml, out, "--set", "space.defaults.weight_bits=[4, 32]", "--set", "search={algorithm: exhaustive}")
    document = front(out)
    assert document["members"][0]["search"] == document["reference"]["search"]
    assert document["members"][0]["test"] == document["reference"]["test"]


def test_built_in_data_of_another_seed_than_the_built_in_network_is_refused(tmp_path):
    yaml = tmp_path / "leak.yaml"
    yaml.write_text("model: {kind: digits_mlp, seed: 1}\ndata: {kind: digits}\n")
    message = run(yaml, tmp_path / "out", code=2).stderr
    assert f"{yaml}:1:33: model.seed: the network is trained on the digits of seed 1" in message
    message = run(yaml, tmp_path / "out", "--set", "data.seed=2", code=2).stderr
    assert "data.seed: the network is trained on the digits of seed 1" in message and str(yaml) in message


GROUPED = """
import torch
from torch.utils.data import Dataset

class Grouped(Dataset):
    def __init__(self, name, n, generator):
        self.inputs = torch.randn(n, 6, generator=generator)
        self.groups = [f"{name} {sample // 2}" for sample in range(n)]

    def __len__(self):
        return len(self.inputs)

    def __getitem__(self, place):
        return self.inputs[place], 0

def load():
    generator = torch.Generator().manual_seed(1)
    return {name: Grouped(name, 32, generator) for name in ("calibration", "search", "test")}
"""


@pytest.mark.parametrize("mixtures", [20, 32])
def test_mixed_pairs_are_searched_and_judged_on_data_whose_samples_belong_together(tmp_path, mixtures):
    yaml = YAML + f"objectives: [{{kind: kl_divergence, mix: {mixtures}}}, size]\nmetrics: []\n"
    run(write_project(tmp_path, yaml, my_data=GROUPED), tmp_path / "run")
    found = front(tmp_path / "run")
    assert found["finished"]
    assert all(seed["verdict"] in ("dominated", "tied", "not") for seed in found["seeds"])
