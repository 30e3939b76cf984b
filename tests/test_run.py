"""``evo-mpq run``: from a YAML to a front, and what giving the command again does."""

import json
import re

import jsonschema
import pytest
from small_runs import NETS, YAML, command, findings, front, run, write_project

from evo_mpq.config import load
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
        "config.yaml", "environment.json", "front.json", "journal", "lock", "log.txt", "report.html",
    }  # fmt: skip
    document = front(out)
    jsonschema.validate(document, front_schema())
    assert document["finished"] and document["reproducible"]
    assert [objective["name"] for objective in document["objectives"]] == ["kl_divergence", "size"]
    assert document["measurements"] == 23  # the uncompressed network is the 24th
    environment = json.loads((out / "environment.json").read_text())
    assert {"torch", "numpy", "pymoo"} <= set(environment["packages"]) and environment["device"] == "cpu"
    assert {str(yaml.parent / "my_nets.py"), str(yaml.parent / "my_data.py")} == set(environment["sources"])
    log = (out / "log.txt").read_text()
    assert re.search(r"started: kl_divergence, size; 3 genes", log) and "generation 2: measured" in log
    assert re.search(r"finished: 23 genomes measured in .* CPU seconds, front of \d+", log)


def test_every_number_of_the_front_is_what_a_measurement_gave(finished):
    _, out = finished
    journal = RunDirectory(out).read_journal()
    for member in front(out)["members"]:
        row = journal.known(tuple(member["genome"]))
        assert [member["search"]["kl_divergence"], member["search"]["size"]] == row.values[:2]
        held_out = journal.held_out(tuple(member["genome"]))
        assert member["test"]["kl_divergence"]["value"] == held_out.intervals["kl_divergence"].value
        assert member["test"]["accuracy"]["low"] <= member["test"]["accuracy"]["value"]


def test_the_front_weakly_dominates_every_seed_and_no_member_another(finished):
    _, out = finished
    document = front(out)
    members = [tuple(member["search"][key] for key in ("kl_divergence", "size")) for member in document["members"]]
    assert [seed["name"] for seed in document["seeds"]] == ["uniform W2", "uniform W3", "uniform W4", "uniform W8"]
    for seed in document["seeds"]:
        point = (seed["search"]["kl_divergence"], seed["search"]["size"])
        assert any(member[0] <= point[0] and member[1] <= point[1] for member in members)
        assert seed["verdict"] in ("dominated", "tied", "not")
    assert sorted(members) == members
    assert all(after[1] < before[1] for before, after in zip(members, members[1:], strict=False))


def test_the_front_is_a_table_on_stdout_and_progress_goes_to_stderr(tmp_path):
    yaml = write_project(tmp_path)
    result = command("run", yaml, "--out", tmp_path / "out")
    assert "points on the front" in result.stdout and "kl_divergence [nats]" in result.stdout
    assert f"Report: {tmp_path / 'out' / 'report.html'}" in result.stdout.replace("\n", "")
    for step in ("tracing the network", "calibrating", "measuring the uncompressed network", "test values"):
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


@pytest.mark.parametrize(
    ("module", "change", "named"),
    [
        ("my_nets", ("seed=0", "seed=5"), "fingerprints.weights"),
        ("my_nets", ("torch.relu(self.first(x))", "torch.tanh(self.first(x))"), "fingerprints.graph"),
        ("my_data", ("seed=1", "seed=2"), "fingerprints.data"),
    ],
)
def test_other_weights_another_graph_or_other_data_are_another_run(tmp_path, finished, module, change, named):
    yaml, out = finished
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


@pytest.mark.parametrize("content", ["", "1a2b3c4d {\"kind\":\"hea"])
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
    members = [tuple(float(member["search"][key]) for key in ("kl_divergence", "size")) for member in front(out)["members"]]
    assert sorted(members) == sorted(best)


LARGE = YAML.replace("[2, 3, 4, 8]", "[2, 3, 4, 5, 6, 7, 8]").replace("{population: 6, evaluations: 24}", "{algorithm: exhaustive}")
SLOW = """
import time
def slow(candidate):
    candidate.module()
    time.sleep(0.3)
    return 1.0
"""


def test_a_large_enumeration_is_refused_with_count_and_time_unless_asked_for(tmp_path):
    objectives = '\nobjectives: [kl_divergence, size, {kind: "my_objectives:slow", direction: minimize}]\n'
    yaml = write_project(tmp_path, LARGE + "compute: {device: auto}" + objectives, my_objectives=SLOW)
    yaml.write_text(yaml.read_text().replace("[2, 3, 4, 5, 6, 7, 8]", "[2, 3, 4, 5, 6, 7, 8, 32]"))
    lines = yaml.read_text().splitlines()
    line = next(i for i, text in enumerate(lines, 1) if "exhaustive" in text)
    # 512 genomes of .3 s are waited for, 512 of which some could take a minute each are not
    yaml.write_text(yaml.read_text().replace("space: {", "space: {layers: {}, "))
    (tmp_path / "my_objectives.py").write_text(SLOW.replace("0.3", "2"))
    message = run(yaml, tmp_path / "out", code=2).stderr
    assert f"tiny.yaml:{line}:" in message and "search.algorithm" in message
    assert re.search(r"exhaustive search of 512 genomes would take about \d+ minutes", message) and "--yes" in message
    assert RunDirectory(tmp_path / "out").read_journal().n_measured == 0
