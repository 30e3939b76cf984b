"""What may never lose data: kills, Ctrl-C, full disks, damaged files, two runs at once, code that changes."""

from __future__ import annotations

import json
import os
import random
import re
import resource
import shlex
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import ClassVar

import jsonschema
import pytest
from small_runs import YAML, command, findings, front, run, write_project

from evo_mpq.api import located_problem
from evo_mpq.config import load
from evo_mpq.results.front import front_schema
from evo_mpq.results.run_directory import RunDirectory
from evo_mpq.running import execute

SLOW = """
import time

def slow(candidate):
    candidate.module()
    time.sleep(0.02)
    return sum((i + 1) * layer.weight_bits for i, layer in enumerate(candidate.layers)) % 7
"""

SLOW_YAML = YAML + 'objectives: [kl_divergence, size, {kind: "my_objectives:slow", direction: minimize}]\n'


class Child:
    """A command in a process of its own, forked so that nothing has to be imported again."""

    alive_ones: ClassVar[list[Child]] = []

    def __init__(self, *words, file_bytes=None):
        self._reader, writer = os.pipe()
        self.pid = os.fork()
        Child.alive_ones.append(self)
        if self.pid == 0:
            code = 1
            try:
                if file_bytes is not None:
                    resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, resource.RLIM_INFINITY))
                result = command(*words)
                os.write(writer, (result.stdout + result.stderr).encode())
                code = result.exit_code
            except BaseException:
                os.write(writer, traceback.format_exc().encode())
            finally:
                os._exit(code)
        os.close(writer)

    def end(self):
        """Exit code (negative: the signal that killed it) and what it printed."""
        with open(self._reader, encoding="utf-8") as pipe:
            text = pipe.read()
        Child.alive_ones.remove(self)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1]), text

    def send(self, number):
        os.kill(self.pid, number)

    @property
    def alive(self):
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


@pytest.fixture(autouse=True)
def no_child_outlives_its_test():
    yield
    for child in list(Child.alive_ones):
        child.send(signal.SIGKILL)
        child.end()


def size_of(path):
    return path.stat().st_size if path.exists() else 0


def wait_until(condition, child, seconds=120.0):
    """Returns when a condition holds or the child has ended; the time is for machines that hang."""
    deadline = time.monotonic() + seconds
    while not condition() and child.alive:
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """What the slow run finds if nothing happens to it, and the size of its journal."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    run(write_project(folder, SLOW_YAML, my_objectives=SLOW), folder / "out")
    return findings(folder / "out"), size_of(folder / "out" / "journal")


@pytest.fixture
def project(tmp_path):
    """The slow run: its YAML and its directory."""
    return write_project(tmp_path, SLOW_YAML, my_objectives=SLOW), tmp_path / "out"


def measured_once(out):
    """Whether no genome stands in the journal twice."""
    records = [json.loads(line[9:]) for line in (out / "journal").read_text().splitlines()]
    genomes = [tuple(genome) for record in records if record["kind"] == "measured" for genome in record["genomes"]]
    return len(set(genomes)) == len(genomes)


@pytest.mark.parametrize("seed", [*range(3), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(3, 23))])
def test_a_run_that_is_killed_again_and_again_ends_on_the_same_front(project, uninterrupted, seed):
    yaml, out = project
    expected, journal_size = uninterrupted
    chance = random.Random(seed)
    codes = []
    for _ in range(chance.choice([1, 2])):
        enough = size_of(out / "journal") + chance.random() * journal_size / 2
        child = Child("run", yaml, "--out", out, "--quiet")
        wait_until(lambda enough=enough: size_of(out / "journal") > enough, child)
        time.sleep(chance.random() * 0.02)
        child.send(signal.SIGKILL)
        codes.append(child.end()[0])
    assert codes[0] == -signal.SIGKILL and set(codes) <= {-signal.SIGKILL, 0}
    run(yaml, out)
    assert findings(out) == expected and measured_once(out)


def test_a_killed_run_can_be_reported_and_exported_as_it_stands(project, uninterrupted):
    yaml, out = project
    child = Child("run", yaml, "--out", out, "--quiet")
    wait_until(lambda: size_of(out / "journal") > uninterrupted[1] / 5, child)
    child.send(signal.SIGKILL)
    child.end()
    assert not (out / "front.json").exists()
    journal = (out / "journal").read_bytes()
    result = command("report", out)
    assert result.exit_code == 0 and "points on the front" in result.stdout
    document = front(out)
    assert not document["finished"] and (out / "report.html").exists()
    assert document["measurements"] == RunDirectory(out).read_journal().n_measured > 3
    assert all(value["value"] is None for member in document["members"] for value in member["test"].values())
    result = command("export", out, "--pick", document["members"][0]["id"], "--out", out / "point.safetensors")
    assert result.exit_code == 0, result.stderr
    assert size_of(out / "point.safetensors") == document["members"][0]["search"]["size"]
    assert (out / "journal").read_bytes() == journal  # looking changes nothing
    run(yaml, out)
    assert findings(out) == uninterrupted[0]


def test_ctrl_c_keeps_everything_and_prints_the_command_that_goes_on(project, uninterrupted):
    yaml, out = project
    child = Child("run", yaml, "--out", out, "--quiet")
    wait_until(lambda: size_of(out / "journal") > uninterrupted[1] / 6, child)
    child.send(signal.SIGINT)
    code, text = child.end()
    assert code == 130 and "Traceback" not in text
    document = front(out)
    assert not document["finished"] and document["members"] and (out / "report.html").exists()
    assert document["measurements"] < uninterrupted[0]["measurements"]
    assert all(value["value"] is None for member in document["members"] for value in member["test"].values())
    assert "interrupted: " in (out / "log.txt").read_text()
    resuming = re.search(r"Go on with:\n  evo-mpq (.*)", text)
    assert resuming and command(*shlex.split(resuming[1])).exit_code == 0
    assert findings(out) == uninterrupted[0] and measured_once(out)


def test_an_interruption_between_search_and_test_loses_nothing(project, uninterrupted):
    yaml, out = project
    problem = located_problem(load(yaml))
    with RunDirectory(out) as directory:
        outcome = execute(
            problem, directory, base=yaml.parent, interrupted=lambda: '"test"' in (out / "journal").read_text()
        )
    assert not outcome.finished and not outcome.front.finished
    assert outcome.front.measurements == uninterrupted[0]["measurements"]
    run(yaml, out)
    assert findings(out) == uninterrupted[0]


def test_a_run_that_is_stopped_at_once_has_an_empty_front_and_goes_on(project, uninterrupted):
    yaml, out = project
    problem = located_problem(load(yaml))
    with RunDirectory(out) as directory:
        outcome = execute(problem, directory, base=yaml.parent, interrupted=lambda: True)
    assert not outcome.finished and outcome.front.members == () and outcome.notes == ()
    jsonschema.validate(front(out), front_schema())
    assert command("report", out).exit_code == 0
    run(yaml, out)
    assert findings(out) == uninterrupted[0]


def test_ctrl_c_before_anything_is_measured_ends_at_once(tmp_path):
    waiting = (
        "import pathlib, time\ndef build():\n    pathlib.Path(__file__).with_name('now').touch()\n    time.sleep(600)\n"
    )
    yaml = write_project(tmp_path, my_nets=waiting)
    child = Child("run", yaml, "--out", tmp_path / "out")
    wait_until((tmp_path / "now").exists, child)
    child.send(signal.SIGINT)
    code, text = child.end()
    assert code == 130 and "Interrupted. " in text and "evo-mpq run" in text and "Traceback" not in text


def test_a_second_ctrl_c_does_not_wait_for_the_measurement_in_hand(project, uninterrupted):
    yaml, out = project
    hanging = SLOW.replace("time.sleep(0.02)", "time.sleep(0.02 if candidate.layers[0].weight_bits != 8 else 600)")
    yaml.with_name("my_objectives.py").write_text(hanging)
    child = Child("run", yaml, "--out", out, "--quiet")
    wait_until(lambda: '"asked"' in (out / "journal").read_text() if (out / "journal").exists() else False, child)
    time.sleep(0.3)
    child.send(signal.SIGINT)
    time.sleep(0.1)
    child.send(signal.SIGINT)
    code, text = child.end()
    assert code == 130 and "Go on with:\n  evo-mpq run" in text
    yaml.with_name("my_objectives.py").write_text(SLOW)
    sys.modules.pop("my_objectives", None)
    run(yaml, out)
    assert findings(out) == uninterrupted[0]


@pytest.mark.slow
@pytest.mark.parametrize("record", ["asked", "measured"], ids=["while workers start", "while they measure"])
def test_ctrl_c_with_workers_reaches_the_whole_group_and_still_finishes_the_chunk(project, uninterrupted, record):
    yaml, out = project
    program = Path(sys.executable).with_name("evo-mpq")
    words = [program, "run", yaml, "--out", out, "--quiet", "--workers", "2"]
    process = subprocess.Popen(words, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not (size_of(out / "journal") and f'"{record}"' in (out / "journal").read_text()) and process.poll() is None:
        time.sleep(0.01)
    time.sleep(0.5 if record == "asked" else 0)
    os.killpg(process.pid, signal.SIGINT)
    _, text = process.communicate(timeout=120)
    assert process.returncode == 130 and "Traceback" not in text and "Go on with" in text
    run(yaml, out)
    assert findings(out) == uninterrupted[0]


@pytest.mark.parametrize("full_at", ["header", "middle", "report"])
def test_a_full_disk_ends_with_a_clear_error_and_the_run_can_be_resumed(project, uninterrupted, full_at):
    yaml, out = project
    file_bytes = {"header": 100, "middle": uninterrupted[1] // 5, "report": 500_000}[full_at]
    code, text = Child("run", yaml, "--out", out, "--quiet", file_bytes=file_bytes).end()
    assert code == 2 and "Traceback" not in text
    assert "Free some space and give the same command again" in text and str(yaml) in text
    assert f"cannot write {out / ('report.html' if full_at == 'report' else 'journal')}" in text
    run(yaml, out)
    assert findings(out) == uninterrupted[0] and measured_once(out)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 6))])
def test_a_journal_with_random_bytes_at_its_end_resumes(project, uninterrupted, seed):
    yaml, out = project
    chance = random.Random(seed)
    run(yaml, out)
    journal = (out / "journal").read_bytes()
    kept = journal[: chance.randrange(1000, len(journal))]
    (out / "journal").write_bytes(kept + chance.randbytes(chance.randrange(300)))
    run(yaml, out)
    assert findings(out) == uninterrupted[0]


def test_a_journal_that_is_damaged_in_the_middle_is_refused_with_the_offset(project):
    yaml, out = project
    run(yaml, out, "--set", "search.evaluations=8")
    journal = bytearray((out / "journal").read_bytes())
    record = journal.index(b'"kind":"asked"')
    journal[record + 10] ^= 1
    (out / "journal").write_bytes(journal)
    offset = journal.rindex(b"\n", 0, record) + 1
    for words in (["run", yaml, "--out", out], ["report", out], ["export", out, "--out", out / "x.safetensors"]):
        result = command(*words)
        assert result.exit_code == 2 and f"is damaged at byte {offset}" in result.stderr
    assert (out / "journal").read_bytes() == bytes(journal)


def test_a_second_run_in_a_directory_is_refused_as_long_as_the_first_goes_on(project, uninterrupted):
    yaml, out = project
    child = Child("run", yaml, "--out", out, "--quiet")
    wait_until(lambda: size_of(out / "journal") > 0, child)
    os.kill(child.pid, signal.SIGSTOP)  # so that it goes on for as long as this one takes
    try:
        result = run(yaml, out, code=2)
    finally:
        os.kill(child.pid, signal.SIGCONT)
    assert f"is in use by process {child.pid} on" in result.stderr
    assert child.end()[0] == 0
    assert findings(out) == uninterrupted[0]


FREE = """
def cost(candidate):
    return sum(layer.n_parameters * layer.weight_bits for layer in candidate.layers)
"""


def test_export_refuses_when_the_users_code_gives_other_numbers_than_the_front(tmp_path):
    yaml = write_project(tmp_path, my_objectives=FREE)
    out, file = tmp_path / "out", tmp_path / "point.safetensors"
    run(yaml, out, "--set", 'objectives=[kl_divergence, {kind: "my_objectives:cost", direction: minimize}]')
    assert command("export", out, "--out", file).exit_code == 0
    file.unlink()
    (tmp_path / "my_objectives.py").write_text(FREE.replace("weight_bits", "weight_bits * 1.00001"))
    sys.modules.pop("my_objectives")
    result = command("export", out, "--out", file)
    assert result.exit_code == 2 and not file.exists()
    assert re.search(r"cost of \w{8} is [\d.]+ now and was [\d.]+ in the search", result.stderr)


def test_export_in_another_environment_allows_for_last_bits_with_a_note(tmp_path, monkeypatch):
    yaml = write_project(tmp_path, my_objectives=FREE)
    out, file = tmp_path / "out", tmp_path / "point.safetensors"
    run(yaml, out, "--set", 'objectives=[kl_divergence, {kind: "my_objectives:cost", direction: minimize}]')
    (tmp_path / "my_objectives.py").write_text(FREE.replace("weight_bits", "weight_bits * 1.00001"))
    sys.modules.pop("my_objectives")
    monkeypatch.setattr("evo_mpq.results.export.remeasuring.versions", lambda: {"torch": "another"})
    result = command("export", out, "--out", file)
    assert result.exit_code == 0 and file.exists()
    assert re.search(r"note: cost of \w{8} is .* here and was .* where the run was made", result.stderr)


@pytest.mark.parametrize("changed", ["my_nets", "my_data"])
def test_a_run_whose_network_or_data_changed_cannot_be_reported_or_exported(tmp_path, changed):
    yaml, out = write_project(tmp_path), tmp_path / "out"
    run(yaml, out)
    path = tmp_path / f"{changed}.py"
    path.write_text(path.read_text().replace("seed=0" if changed == "my_nets" else "seed=1", "seed=77"))
    sys.modules.pop(changed)
    for words in (["report", out], ["export", out, "--out", tmp_path / "x.safetensors"]):
        result = command(*words)
        assert result.exit_code == 2
        assert f"fingerprints.{'weights' if changed == 'my_nets' else 'data'}: " in result.stderr
