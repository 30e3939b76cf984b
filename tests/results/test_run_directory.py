import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evo_mpq.errors import RunError
from evo_mpq.measure.measurements import Values
from evo_mpq.results.front import Front, Hypervolume
from evo_mpq.results.run_directory import (
    RunDirectory,
    changed_sources,
    environment,
    git_revision,
    identity_differences,
    versions,
    write_atomically,
)

IDENTITY = {"settings": {"seed": 0, "space": {"tie": ["a.*"], "layers": {"stem.*": {"weight_bits": [2, 4]}}}}}
EMPTY_FRONT = Front(False, True, (), {}, 0, 0.0, 0, Hypervolume(), {}, {}, (), ())


def measured_once(path: Path) -> None:
    """A run that measured one genome and ended."""
    with RunDirectory(path) as directory:
        journal = directory.open_journal(IDENTITY, {})
        values = Values(np.array([[1.0]]), np.array([[0.1]]), (None,))
        journal.measured(np.array([[0]]), values, cpu_seconds=1.0, samples=1)
        directory.write_config("seed: 0\n")


# What a folder is


@pytest.mark.parametrize("exists", [False, True])
def test_a_new_folder_is_a_new_run_and_then_the_same_run(tmp_path, exists):
    path = tmp_path / "runs" / "mine"
    if exists:
        path.mkdir(parents=True)
    with RunDirectory(path) as directory:
        assert directory.open_journal(IDENTITY, {}).is_new
    measured_once(tmp_path / "other")
    with RunDirectory(tmp_path / "other") as directory:
        journal = directory.open_journal(IDENTITY, {})
        assert not journal.is_new
        assert journal.known((0,)) is not None


@pytest.mark.parametrize("journal", [None, b"", b"12345678 {", b"\0\0\0"])
def test_a_half_created_folder_is_a_fresh_start(tmp_path, journal):
    with RunDirectory(tmp_path) as directory:
        directory.write_config("half: true\n")
    if journal is not None:
        (tmp_path / "journal").write_bytes(journal)
    with RunDirectory(tmp_path) as directory:
        assert directory.open_journal(IDENTITY, {}).is_new


def test_another_identity_is_refused_naming_every_key_that_differs_and_changes_nothing(tmp_path):
    measured_once(tmp_path)
    before = (tmp_path / "journal").read_bytes()
    other = {"settings": {"seed": 1, "space": {"tie": ["a.*"], "layers": {"stem.*": {"weight_bits": [2, 3, 4]}}}}}
    with RunDirectory(tmp_path) as directory, pytest.raises(RunError) as raised:
        directory.open_journal(other, {})
    message = str(raised.value)
    assert str(tmp_path) in message
    assert "settings.seed: 0 -> 1" in message
    assert 'settings.space.layers."stem.*".weight_bits: [2, 4] -> [2, 3, 4]' in message
    assert "tie" not in message
    assert "--out" in message and "delete" in message
    assert (tmp_path / "journal").read_bytes() == before


def test_files_of_somebody_else_are_not_overwritten(tmp_path):
    (tmp_path / "config.yaml").write_text("mine: true\n")
    (tmp_path / "notes.md").write_text("…")
    with pytest.raises(RunError, match=r"config\.yaml would be overwritten"):
        RunDirectory(tmp_path).lock()
    assert {path.name for path in tmp_path.iterdir()} == {"config.yaml", "notes.md"}
    (tmp_path / "config.yaml").unlink()
    RunDirectory(tmp_path).lock().close()


def test_a_path_that_cannot_be_a_folder_is_an_error_for_the_user(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot make the run directory"):
        RunDirectory(tmp_path / "file").lock()
    with pytest.raises(RunError, match="cannot make the run directory"):
        RunDirectory(tmp_path / "file" / "below").lock()


def test_what_is_no_run_directory_has_no_journal_to_read(tmp_path):
    with pytest.raises(RunError, match="there is no run directory"):
        RunDirectory(tmp_path / "nowhere").read_journal()
    with pytest.raises(RunError, match="holds no journal"):
        RunDirectory(tmp_path).read_journal()
    with pytest.raises(RunError, match=r"holds no config\.yaml"):
        RunDirectory(tmp_path).read_config()
    with pytest.raises(RunError, match=r"no .*front\.json"):
        RunDirectory(tmp_path).read_front()
    assert RunDirectory(tmp_path).read_environment() is None


# The lock


def test_a_second_lock_is_refused_naming_directory_and_holder_until_the_first_is_closed(tmp_path):
    first = RunDirectory(tmp_path).lock()
    with pytest.raises(RunError) as raised:
        RunDirectory(tmp_path).lock()
    assert str(tmp_path) in str(raised.value)
    assert f"process {os.getpid()}" in str(raised.value)
    first.close()
    first.close()
    with RunDirectory(tmp_path) as second:
        assert second.open_journal(IDENTITY, {}).is_new


HOLDER = """
import sys, time
from pathlib import Path
from evo_mpq.results.run_directory import RunDirectory
directory = RunDirectory(Path(sys.argv[1])).lock()
print("locked", flush=True)
time.sleep(60)
"""


def test_the_lock_of_another_process_holds_until_it_dies_however_it_dies(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, tmp_path], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(RunError, match=f"in use by process {holder.pid} "):
            RunDirectory(tmp_path).lock()
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        holder.stdout.close()
    RunDirectory(tmp_path).lock().close()


def test_a_forked_child_does_not_keep_the_lock(tmp_path):
    directory = RunDirectory(tmp_path).lock()
    wait, go = os.pipe()
    child = os.fork()
    if child == 0:  # it has the open lock file, too, as long as it lives
        os.read(wait, 1)
        os._exit(0)
    try:
        directory.close()
        RunDirectory(tmp_path).lock().close()
    finally:
        os.write(go, b"x")
        os.waitpid(child, 0)
        os.close(wait)
        os.close(go)


def test_the_journal_needs_the_lock_and_reading_does_not(tmp_path):
    with pytest.raises(RuntimeError, match="lock"):
        RunDirectory(tmp_path).open_journal(IDENTITY, {})
    with RunDirectory(tmp_path) as directory:
        journal = directory.open_journal(IDENTITY, {})
        with pytest.raises(RuntimeError, match="already"):
            directory.lock()
        journal.add_budget({"evaluations": 3})
        assert RunDirectory(tmp_path).read_journal().budgets() == [{"evaluations": 3}]


def test_closing_the_directory_closes_its_journal(tmp_path):
    with RunDirectory(tmp_path) as directory:
        journal = directory.open_journal(IDENTITY, {})
    with pytest.raises(RuntimeError, match="closed"):
        journal.add_budget({})


# Files


def test_files_are_read_as_they_were_written(tmp_path):
    with RunDirectory(tmp_path) as directory:
        directory.write_config("name: å\n")
        directory.write_environment({"device": "cpu", "limit": float("inf"), "path": Path("x")})
        directory.write_front(EMPTY_FRONT)
        directory.write_report("<html>é</html>")
        directory.log("first")
        directory.log("second é")
    assert directory.read_config() == "name: å\n"
    assert directory.read_environment() == {"device": "cpu", "limit": "inf", "path": "x"}
    assert directory.read_front() == EMPTY_FRONT
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == "<html>é</html>"
    lines = (tmp_path / "log.txt").read_text(encoding="utf-8").splitlines()
    assert [line.split(" ", 2)[2] for line in lines] == ["first", "second é"]
    names = {"config.yaml", "environment.json", "front.json", "report.html", "log.txt", "lock"}
    assert {path.name for path in tmp_path.iterdir()} == names


def test_a_damaged_file_is_an_error_for_the_user(tmp_path):
    directory = RunDirectory(tmp_path)
    (tmp_path / "front.json").write_text('{"finished": true}')
    with pytest.raises(RunError, match=r"front\.json is not a front"):
        directory.read_front()
    (tmp_path / "environment.json").write_text("{")
    with pytest.raises(RunError, match=r"environment\.json is damaged"):
        directory.read_environment()


def test_a_reader_sees_the_old_or_the_new_content_never_a_part(tmp_path):
    path = tmp_path / "front.json"
    contents = ["a" * 300_000, "b" * 200_000]
    write_atomically(path, contents[0])
    seen, stop = set(), threading.Event()

    def read():
        while not stop.is_set():
            seen.add(path.read_text())

    reader = threading.Thread(target=read)
    reader.start()
    for turn in range(40):
        write_atomically(path, contents[turn % 2])
    stop.set()
    reader.join()
    assert seen <= set(contents)


def test_a_full_disk_keeps_the_old_file_and_leaves_no_rest(tmp_path, monkeypatch):
    directory = RunDirectory(tmp_path).lock()
    directory.write_config("old: 1\n")
    directory.log("old")
    write, full = os.write, os.open("/dev/full", os.O_WRONLY)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with monkeypatch.context() as patched:
        # one byte fits, then the kernel says itself that no space is left
        sizes = iter([1] + [0] * 99)
        patched.setattr(os, "write", lambda to, data: write(to, bytes(data)[:1]) if next(sizes) else write(full, data))
        with pytest.raises(RunError, match=r"config\.yaml: No space left.*can be resumed"):
            directory.write_config("new: 22\n")
        with pytest.raises(RunError, match=r"front\.json: No space left"):
            directory.write_front(EMPTY_FRONT)
        with pytest.raises(RunError, match=r"log\.txt: No space left"):
            directory.log("new")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    directory.close()


def test_what_a_killed_write_left_is_removed_with_the_next_lock(tmp_path):
    RunDirectory(tmp_path).lock().close()
    (tmp_path / ".front.json.12345.tmp").write_text("{")
    (tmp_path / ".mine.tmp").write_text("")
    RunDirectory(tmp_path).lock().close()
    assert {path.name for path in tmp_path.iterdir()} == {"lock", ".mine.tmp"}


# Identity


trees = st.recursive(
    st.none() | st.booleans() | st.integers(0, 2) | st.text("ab", max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("xyz"), inner, max_size=3),
    max_leaves=8,
)
identities = st.dictionaries(st.sampled_from("abc"), trees, max_size=3)


@given(identities, identities)
def test_identities_differ_exactly_where_a_difference_is_named(old, new):
    assert identity_differences(old, old) == []
    same = json.dumps(old, sort_keys=True) == json.dumps(new, sort_keys=True)
    assert (identity_differences(old, new) == []) == same
    assert len(identity_differences(old, new)) == len(identity_differences(new, old))


@given(identities, st.sampled_from("abc"), st.text("pq", min_size=1, max_size=3))
def test_a_changed_key_is_named_with_what_it_was_and_is(identity, key, value):
    changed = {**identity, key: {"deep": [0, value]}}
    before = {**identity, key: {"deep": [0, "before"]}}
    assert identity_differences(before, changed) == [f'{key}.deep[1]: "before" -> "{value}"']


def test_identities_are_compared_as_they_stand_on_disk():
    assert identity_differences({"ratios": [0.0, 0.5]}, {"ratios": (0.0, 0.5)}) == []
    assert identity_differences({"limit": "inf"}, {"limit": float("inf")}) == []
    assert identity_differences({"bits": 1}, {"bits": True}) == ["bits: 1 -> true"]
    assert identity_differences({"bits": 1}, {"bits": 1.0}) == []
    assert identity_differences({}, {"weights": "x"}) == ['weights: absent -> "x"']
    assert identity_differences({"tie": ["a"]}, {"tie": []}) == ['tie: ["a"] -> []']
    assert len(identity_differences({"files": "a" * 500}, {"files": "b" * 500})[0]) < 200


# The environment


def test_the_environment_names_what_can_move_a_number_and_loads_nothing_heavy():
    script = (
        "import sys, json; from evo_mpq.results.run_directory import environment, versions;"
        "found = environment('cpu'), versions();"
        "assert not {'torch', 'pymoo', 'optuna', 'plotly'} & set(sys.modules);"
        "print(json.dumps(found))"
    )
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    found, named = json.loads(answer.stdout)
    assert found["device"] == "cpu"
    assert found["git"] is None
    assert found["cpu"] and found["platform"]
    assert found["packages"]["numpy"] == named["numpy"] == np.__version__
    assert {"torch", "pymoo"} <= found["packages"].keys()
    assert named["python"] == found["python"] == sys.version.split()[0]


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_the_users_repository_is_named_with_its_revision_and_whether_it_was_modified(tmp_path):
    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        command = ["git", "-C", tmp_path, *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    assert git_revision(tmp_path) is None
    git("init")
    assert git_revision(tmp_path) is None
    (tmp_path / "nets.py").write_text("a = 1\n")
    git("add", ".")
    git("commit", "-m", "first")
    assert git_revision(tmp_path) == {"revision": git("rev-parse", "HEAD"), "modified": False}
    (tmp_path / "nets.py").write_text("a = 2\n")
    assert environment("cpu", tmp_path)["git"] == {"revision": git("rev-parse", "HEAD"), "modified": True}


def test_without_git_there_is_no_revision(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_revision(tmp_path) is None


def test_a_source_file_that_changed_between_two_runs_is_named(tmp_path):
    nets, data = tmp_path / "my_nets.py", tmp_path / "my_data.py"
    nets.write_text("a = 1\n")
    data.write_text("b = 1\n")
    old = environment("cpu", sources=[nets])
    nets.write_text("a = 2\n")
    assert changed_sources(old, environment("cpu", sources=[nets, data])) == [str(nets)]
    assert changed_sources(None, environment("cpu", sources=[nets])) == []
    assert changed_sources(old, old) == []


def test_versions_are_what_a_journal_compares():
    assert all(isinstance(version, str) for version in versions().values())
