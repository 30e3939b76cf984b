import errno
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Mapping, Sequence
from copy import copy
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evo_mpq.errors import RunError
from evo_mpq.measure.measurements import Values
from evo_mpq.measure.statistics import Interval
from evo_mpq.optimize import recorded
from evo_mpq.results.journal import HeldOut, Journal, encode_record, parse_records, plain
from evo_mpq.typing import Genomes

IDENTITY = {"seed": 0, "space": {"tie": ["stage1.*"]}, "data": {"sha256": "ab" * 32}}
VERSIONS = {"python": "3.12.1", "numpy": "2.1.0"}


def opened(path: Path, versions: Mapping[str, str] = VERSIONS) -> Journal:
    return Journal.open(path, IDENTITY, versions)


def row(*values: float, failure: str | None = None) -> Values:
    return Values(np.array([values], dtype=float), np.array([values], dtype=float) / 10, (failure,))


def genomes(*rows: Sequence[int]) -> Genomes:
    return np.array(rows, dtype=np.int64)


def small_run(path: Path) -> Path:
    """A run with a record of every kind; what it looks like afterwards is compared in several tests."""
    with opened(path) as journal:
        journal.add_budget({"evaluations": 4})
        journal.add_reference(row(0.0, 400.0), cpu_seconds=0.5, samples=10)
        for generation in range(3):
            asked = genomes([generation, 0], [generation, 1])
            journal.asked(generation, asked)
            values = Values.concatenate([row(0.1 / (generation + 1), 120.0), row(math.nan, math.inf, failure="é\n")])
            journal.measured(asked, values, cpu_seconds=0.25, samples=20)
            journal.decision("stop", partial(bool, generation == 2))
        journal.measured(genomes([0, 0]), row(0.2, 120.0), cpu_seconds=0.1, samples=5, fidelity="search[0.1]")
        shown = HeldOut({"accuracy": Interval(0.5, 0.25, 0.75)}, np.array([0.0, 1.0]))
        journal.add_held_out((2, 0), shown, cpu_seconds=0.5, samples=2)
        journal.add_held_out(None, HeldOut({"accuracy": Interval(1.0)}), cpu_seconds=0.5, samples=2)
    return path


def content(journal: Journal) -> tuple[Any, ...]:
    """Everything that can be asked of a journal."""
    held_out = {
        genome: (shown.intervals, np.array(shown.per_sample).tolist())
        for genome in [None, *((a, b) for a in range(3) for b in range(2))]
        if (shown := journal.held_out(genome)) is not None
    }
    rows = {
        (fidelity, tuple(genome)): journal.known(tuple(genome), fidelity)
        for fidelity in ("search", "search[0.1]")
        for genome in journal.rows(fidelity)[0].tolist()
    }
    return (
        journal.identity,
        journal.budgets(),
        journal.reference(),
        rows,
        held_out,
        journal.cpu_seconds,
        journal.samples,
        journal.n_measured,
        journal.n_held_out,
        journal.n_test_showings,
        journal.diverged,
    )


def prefix_content(lines: Sequence[bytes], path: Path) -> tuple[Any, ...]:
    """The content of a journal of whole lines."""
    path.write_bytes(b"".join(lines))
    return content(Journal.read(path))


# Round trips


def test_a_reopened_journal_says_what_the_writing_one_said(tmp_path):
    path = tmp_path / "journal"
    with opened(small_run(path)) as journal:
        assert not journal.is_new
        assert journal.identity == IDENTITY
        assert journal.versions == VERSIONS
        assert journal.budgets() == [{"evaluations": 4}]
        assert journal.reference() == ([0.0, 400.0], [0.0, 40.0], None)
        assert journal.known((1, 0)) == ([0.05, 120.0], [0.005, 12.0], None)
        assert journal.known((1, 1)) == ([None, math.inf], [None, math.inf], "é\n")
        assert journal.known((1, 0), "search[0.1]") is None
        assert journal.known((0, 0), "search[0.1]") == ([0.2, 120.0], [0.02, 12.0], None)
        assert journal.known((9, 9)) is None
        assert journal.n_measured == 6
        assert journal.samples == 10 + 3 * 20 + 5 + 2 + 2
        assert journal.cpu_seconds == pytest.approx(0.5 + 0.75 + 0.1 + 1.0)
        shown, reference = journal.held_out((2, 0)), journal.held_out(None)
        assert shown is not None and reference is not None
        assert shown.intervals == {"accuracy": Interval(0.5, 0.25, 0.75)}
        np.testing.assert_array_equal(shown.per_sample, [0.0, 1.0])
        assert reference.per_sample is None
        assert journal.held_out((0, 0)) is None
        assert (journal.n_held_out, journal.n_test_showings) == (1, 1)


def test_a_journal_says_the_same_before_and_after_it_is_reopened(tmp_path):
    path = small_run(tmp_path / "journal")
    with opened(path) as first:
        before = content(first)
        first.add_budget({"evaluations": 9})
        first.measured(genomes([7, 7]), row(1.5, -0.0), cpu_seconds=0.1, samples=3)
        first.add_held_out((7, 7), HeldOut({"f1": Interval(math.nan)}), cpu_seconds=0.0, samples=0)
        after = content(first)
        assert before != after
    assert repr(content(Journal.read(path))) == repr(after)


@given(st.lists(st.tuples(*[st.floats(allow_nan=True, allow_infinity=True)] * 3), min_size=1, max_size=8))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_float_is_read_back_bit_for_bit(tmp_path, rows):
    path = tmp_path / "journal"
    path.unlink(missing_ok=True)
    values = np.array(rows)
    asked = np.arange(len(rows), dtype=np.int64)[:, None]
    per_sample = values[:, 0]
    with opened(path) as journal:
        journal.measured(asked, Values(values, values[::-1], (None,) * len(rows)), cpu_seconds=0.1, samples=1)
        journal.add_held_out((0,), HeldOut({}, per_sample), cpu_seconds=0.0, samples=0)
    reopened = Journal.read(path)
    read_genomes, read = reopened.rows()
    np.testing.assert_array_equal(read_genomes, asked)
    for found, expected in [(read.values, values), (read.standard_errors, values[::-1])]:
        np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
        numbers = ~np.isnan(expected)
        assert found[numbers].tobytes() == expected[numbers].tobytes()
    first, shown = reopened.known((0,)), reopened.held_out((0,))
    assert first is not None and shown is not None and shown.per_sample is not None
    assert shown.per_sample.tobytes() == per_sample.tobytes()
    assert [value is None for value in first.values] == np.isnan(values[0]).tolist()


def test_rows_come_in_the_order_they_were_measured(tmp_path):
    with opened(tmp_path / "journal") as journal:
        for gene in (3, 1, 2):
            journal.measured(genomes([gene]), row(float(gene)), cpu_seconds=0.0, samples=1)
    found, values = Journal.read(tmp_path / "journal").rows()
    assert found.tolist() == [[3], [1], [2]]
    assert values.values.tolist() == [[3.0], [1.0], [2.0]]


def test_a_new_journal_is_empty_and_says_so(tmp_path):
    with opened(tmp_path / "journal") as journal:
        assert journal.is_new
        found, values = journal.rows()
        assert found.shape == (0, 0)
        assert len(values) == 0
        assert (journal.n_measured, journal.samples, journal.budgets()) == (0, 0, [])
    with opened(tmp_path / "journal") as journal:
        assert not journal.is_new


def test_lines_are_a_checksum_and_compact_json(tmp_path):
    lines = small_run(tmp_path / "journal").read_bytes().split(b"\n")
    assert lines.pop() == b""
    kinds = []
    for line in lines:
        assert re.fullmatch(rb"[0-9a-f]{8} \{.*\}", line)
        assert int(line[:8], 16) == zlib.crc32(line[9:])
        record = json.loads(line[9:], parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
        assert json.dumps(record, separators=(",", ":")).encode() == line[9:]
        kinds.append(record["kind"])
    assert kinds[0] == "header"
    assert set(kinds) == {"header", "budget", "reference", "asked", "measured", "decision", "test"}


def test_the_journal_is_what_the_search_loop_is_handed(tmp_path):
    def measure(asked: Genomes) -> tuple[Values, float, int]:
        calls.append(len(asked))
        return Values(asked / 3.0, asked / 7.0, (None,) * len(asked)), 0.5, 10

    calls: list[int] = []
    quantity: Any = SimpleNamespace(name="loss", loss=lambda values: values)
    asked = genomes([1], [2], [1])
    for _ in range(2):
        with opened(tmp_path / "journal") as journal:
            # the annotation is the test: the type checker compares the journal with the loop's protocol
            handed: recorded.Journal = journal
            evaluate = recorded.Recorded(measure, handed, [quantity], [quantity], least_chunk=9)
            np.testing.assert_array_equal(evaluate(asked).losses, asked / 3.0)
            assert handed.rows()[0].tolist() == [[1], [2]]
    assert calls == [2]


# What must not happen


def test_nothing_is_measured_twice(tmp_path):
    with opened(tmp_path / "journal") as journal:
        journal.measured(genomes([0, 1]), row(1.0), cpu_seconds=0.0, samples=1)
        with pytest.raises(ValueError, match="twice"):
            journal.measured(genomes([0, 1]), row(1.0), cpu_seconds=0.0, samples=1)
        with pytest.raises(ValueError, match="twice"):
            journal.measured(genomes([5, 5], [5, 5]), Values.concatenate([row(1.0)] * 2), cpu_seconds=0.0, samples=1)
        journal.measured(genomes([0, 1]), row(1.0), cpu_seconds=0.0, samples=1, fidelity="search[0.2]")
        journal.add_reference(row(1.0), cpu_seconds=0.0, samples=1)
        with pytest.raises(ValueError, match="already"):
            journal.add_reference(row(1.0), cpu_seconds=0.0, samples=1)
        assert journal.n_measured == 1


def test_the_test_split_is_shown_once_a_genome(tmp_path):
    with opened(tmp_path / "journal") as journal:
        journal.add_budget({"evaluations": 1})
        journal.add_held_out((0,), HeldOut({}), cpu_seconds=0.0, samples=1)
        with pytest.raises(ValueError, match="already"):
            journal.add_held_out((0,), HeldOut({}), cpu_seconds=0.0, samples=1)
        with pytest.raises(ValueError, match="add_held_out"):
            journal.measured(genomes([0]), row(1.0), cpu_seconds=0.0, samples=1, fidelity="test")
        assert journal.n_test_showings == 1
        journal.add_budget({"evaluations": 2})
        journal.add_held_out((1,), HeldOut({}), cpu_seconds=0.0, samples=1)
        assert (journal.n_held_out, journal.n_test_showings) == (2, 2)


def test_rows_that_do_not_match_are_refused(tmp_path):
    with opened(tmp_path / "journal") as journal:
        size = (tmp_path / "journal").stat().st_size
        with pytest.raises(ValueError, match="2 genomes"):
            journal.measured(genomes([0], [1]), row(1.0), cpu_seconds=0.0, samples=1)
        with pytest.raises(ValueError, match="one network"):
            journal.add_reference(Values.concatenate([row(1.0)] * 2), cpu_seconds=0.0, samples=1)
        assert (tmp_path / "journal").stat().st_size == size


def test_a_journal_opened_for_reading_changes_nothing(tmp_path):
    path = small_run(tmp_path / "journal")
    with path.open("ab") as file:
        file.write(b"torn")
    before = path.read_bytes()
    journal = Journal.read(path)
    with pytest.raises(RuntimeError, match="reading"):
        journal.add_budget({})
    assert path.read_bytes() == before
    assert journal.version_changes == []


def test_a_closed_journal_cannot_be_appended_to(tmp_path):
    journal = opened(tmp_path / "journal")
    journal.close()
    journal.close()
    with pytest.raises(RuntimeError, match="closed"):
        journal.add_budget({})


# Replay


def test_a_repeated_ask_is_not_written_again(tmp_path):
    path = small_run(tmp_path / "journal")
    before = path.read_bytes()
    with opened(path) as journal:
        for generation in range(3):
            journal.asked(generation, genomes([generation, 0], [generation, 1]))
        assert not journal.diverged
        assert journal.divergence is None
    assert path.read_bytes() == before


def test_several_asks_of_one_generation_are_told_apart_by_their_order(tmp_path):
    path = tmp_path / "journal"
    for _ in range(2):
        with opened(path) as journal:
            journal.asked(0, genomes([1]))
            journal.asked(0, genomes([2]))
            journal.asked(1, np.empty((0, 1), dtype=np.int64))
            assert not journal.diverged
    assert len(path.read_bytes().splitlines()) == 4


@pytest.mark.parametrize("other", [[[1, 0], [1, 2]], [[1, 1], [1, 0]], [[1, 0]], []])
def test_an_ask_that_differs_is_told_with_the_versions_that_changed_and_never_forgotten(tmp_path, other):
    path = small_run(tmp_path / "journal")
    newer = {"python": "3.12.1", "numpy": "2.2.0", "pymoo": "0.6.2"}
    changed = ["numpy 2.1.0 -> 2.2.0", "pymoo absent -> 0.6.2"]
    asks = [genomes([0, 0], [0, 1]), np.array(other, dtype=np.int64).reshape(-1, 2), genomes([2, 0], [2, 1])]
    with opened(path, newer) as journal:
        journal.asked(0, asks[0])
        assert not journal.diverged
        journal.asked(1, asks[1])
        assert journal.diverged
        assert "generation 1 " in journal.divergence
        assert all(change in journal.divergence for change in changed)
        # the run goes on from the journal
        assert journal.known((1, 0)) is not None
        journal.asked(2, asks[2])
    size = path.stat().st_size
    for versions in (newer, VERSIONS):
        with opened(path, versions) as journal:
            assert journal.diverged
            assert all(change in journal.divergence for change in changed)
            # what was asked last is what is compared with
            for generation, ask in enumerate(asks):
                journal.asked(generation, ask)
            assert path.stat().st_size == size
            assert journal.divergence.startswith("generation 1 ")


def test_other_versions_alone_are_no_divergence_but_are_noted_with_the_next_record(tmp_path):
    path = small_run(tmp_path / "journal")
    before = path.read_bytes()
    with opened(path, {"numpy": "3"}) as journal:
        assert path.read_bytes() == before
        journal.add_budget({"evaluations": 5})
    with opened(path, {"numpy": "3"}) as journal:
        assert not journal.diverged
        assert journal.versions == VERSIONS
        assert journal.version_changes == ["numpy 2.1.0 -> 3", "python 3.12.1 -> absent"]
    assert len(path.read_bytes().splitlines()) == len(before.splitlines()) + 2


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["stop", "stall"]),
            st.recursive(
                st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False),
                lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
                max_leaves=4,
            ),
        ),
        max_size=8,
    ),
    st.integers(0, 8),
)
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_decisions_are_replayed_in_the_order_of_their_key(tmp_path, taken, cut):
    path = tmp_path / "journal"
    path.unlink(missing_ok=True)
    with opened(path) as journal:
        for key, value in taken[:cut]:
            assert journal.decision(key, partial(copy, value)) == value
    calls: list[int] = []
    with opened(path) as journal:
        for place, (key, value) in enumerate(taken):

            def decide(value: Any = value, place: int = place) -> Any:
                calls.append(place)
                return value

            assert repr(journal.decision(key, decide)) == repr(value)
    assert calls == list(range(min(cut, len(taken)), len(taken)))


@pytest.mark.parametrize("value", [(1, 2), math.nan, math.inf, np.float64(1.0), np.bool_(True), {1: 2}, object()])
def test_a_decision_that_could_not_be_replayed_is_refused(tmp_path, value):
    with opened(tmp_path / "journal") as journal, pytest.raises(ValueError, match="JSON"):
        journal.decision("stop", lambda: value)
    assert len((tmp_path / "journal").read_bytes().splitlines()) == 1


def test_a_decision_that_raises_is_not_recorded(tmp_path):
    with opened(tmp_path / "journal") as journal:
        with pytest.raises(KeyboardInterrupt):
            journal.decision("stop", lambda: (_ for _ in ()).throw(KeyboardInterrupt))
        assert journal.decision("stop", lambda: True) is True


# Faults


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The bytes of a small run, and the content of each prefix of whole records."""
    folder = tmp_path_factory.mktemp("whole")
    data = small_run(folder / "journal").read_bytes()
    lines = data.splitlines(keepends=True)
    return data, {n: prefix_content(lines[:n], folder / "prefix") for n in range(1, len(lines) + 1)}


@given(st.data())
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_journal_cut_anywhere_reopens_to_its_complete_records(tmp_path, whole, data):
    full, prefixes = whole
    length = data.draw(st.integers(0, len(full)))
    path = tmp_path / "journal"
    path.write_bytes(full[:length])
    n_complete = full[:length].count(b"\n")
    with opened(path) as journal:
        if n_complete == 0:
            assert journal.is_new
            assert journal.n_measured == 0
        else:
            assert not journal.is_new
            assert repr(content(journal)) == repr(prefixes[n_complete])
        journal.measured(genomes([8, 8]), row(1.0), cpu_seconds=0.0, samples=1)
    with opened(path) as journal:
        assert journal.known((8, 8)) == ([1.0], [0.1], None)


@given(st.binary(max_size=200), st.booleans())
@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_bytes_after_the_last_record_are_cut(tmp_path, whole, tail, after_a_tear):
    full, prefixes = whole
    kept = full.count(b"\n") - after_a_tear
    path = tmp_path / "journal"
    path.write_bytes(full[:-20] + tail if after_a_tear else full + tail)
    with opened(path) as journal:
        assert repr(content(journal)) == repr(prefixes[kept])
    assert path.read_bytes() == b"".join(full.splitlines(keepends=True)[:kept])


@given(st.data())
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_byte_in_the_middle_is_refused_with_its_offset_and_nothing_is_changed(tmp_path, whole, data):
    full, _ = whole
    # even a lost newline between the last two records leaves the last one complete
    last = full.rindex(b"\n", 0, -1)
    place = data.draw(st.integers(0, last))
    damaged = bytearray(full)
    damaged[place] ^= data.draw(st.integers(1, 255))
    path = tmp_path / "journal"
    path.write_bytes(damaged)
    start = full.rfind(b"\n", 0, place) + 1
    for reopen in (opened, Journal.read):
        with pytest.raises(RunError, match=rf"damaged at byte {start} "):
            reopen(path)
    assert path.read_bytes() == bytes(damaged)


@given(st.data())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_last_record_is_cut(tmp_path, whole, data):
    full, prefixes = whole
    last = full.rindex(b"\n", 0, -1)
    place = data.draw(st.integers(last + 1, len(full) - 1))
    damaged = bytearray(full)
    damaged[place] ^= data.draw(st.integers(1, 255))
    path = tmp_path / "journal"
    path.write_bytes(damaged)
    with opened(path) as journal:
        assert repr(content(journal)) == repr(prefixes[full.count(b"\n") - 1])


def test_the_remedy_that_the_message_gives_works(tmp_path, whole):
    full, prefixes = whole
    lines = full.splitlines(keepends=True)
    offset = len(b"".join(lines[:4]))
    path = tmp_path / "journal"
    path.write_bytes(full[:offset] + b"\0" * 10 + full[offset + 10 :])
    with pytest.raises(RunError) as raised:
        opened(path)
    command = re.search(r"truncate -s (\d+) (\S+)$", str(raised.value))
    assert command is not None
    os.truncate(command[2], int(command[1]))
    with opened(path) as journal:
        assert repr(content(journal)) == repr(prefixes[4])


@pytest.mark.parametrize("zeros", [1, 4096])
def test_a_header_of_zeros_is_a_fresh_start(tmp_path, zeros):
    (tmp_path / "journal").write_bytes(b"\0" * zeros)
    with opened(tmp_path / "journal") as journal:
        assert journal.is_new


@pytest.mark.parametrize("text", ["Dear diary,\n", "{}", "12345678 {}\n", "a\nb\n"])
def test_a_file_that_is_no_journal_is_refused_and_left_as_it_is(tmp_path, text):
    (tmp_path / "journal").write_text(text)
    with pytest.raises(RunError, match="not the journal of a run"):
        opened(tmp_path / "journal")
    assert (tmp_path / "journal").read_text() == text


def test_a_journal_without_its_header_or_of_a_newer_version_is_refused(tmp_path, whole):
    full, _ = whole
    path = tmp_path / "journal"
    path.write_bytes(full.split(b"\n", 1)[1])
    with pytest.raises(RunError, match="header"):
        opened(path)
    versions = {"evo-mpq": "9.0"}
    path.write_bytes(encode_record({"kind": "header", "format": 2, "identity": {}, "versions": versions}))
    with pytest.raises(RunError, match=r"format 2.*9\.0"):
        opened(path)
    path.write_bytes(full + encode_record({"kind": "dream"}))
    with pytest.raises(RunError, match="dream"):
        opened(path)


@pytest.mark.parametrize("special", ["/dev/full", "/dev/null", "."])
def test_what_is_no_regular_file_is_refused(tmp_path, special):
    (tmp_path / "journal").symlink_to(special)
    with pytest.raises(RunError, match="journal"):
        opened(tmp_path / "journal")


def test_reading_what_is_not_there_says_so(tmp_path):
    with pytest.raises(RunError, match="No such file"):
        Journal.read(tmp_path / "journal")
    (tmp_path / "journal").write_bytes(b"12345678 {")
    with pytest.raises(RunError, match="no complete header"):
        Journal.read(tmp_path / "journal")


def fill_disk(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Let the disk take ``after`` more bytes; then write to /dev/full, so that the kernel says no itself."""
    write, full = os.write, os.open("/dev/full", os.O_WRONLY)
    left = after

    def limited(descriptor, data):
        nonlocal left
        if left == 0:
            return write(full, data)
        n_written = write(descriptor, bytes(data)[:left])
        left -= n_written
        return n_written

    monkeypatch.setattr(os, "write", limited)


@pytest.mark.parametrize("after", [0, 1, 60, 10_000_000])
def test_a_full_disk_is_told_and_the_journal_goes_on_once_there_is_space(tmp_path, monkeypatch, whole, after):
    full, prefixes = whole
    path = tmp_path / "journal"
    path.write_bytes(full)
    with opened(path) as journal, monkeypatch.context() as patched:
        fill_disk(patched, after)
        if after > 1e6:
            # a disk that takes the bytes, and finds no place for them when they must be kept
            patched.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left")))
        for _ in range(2):
            with pytest.raises(RunError, match=r"No space left.*can be resumed"):
                journal.measured(genomes([8, 8]), row(1.0), cpu_seconds=1.0, samples=1)
        assert journal.known((8, 8)) is None
        patched.undo()
        # whatever the disk says later: nothing may ever stand behind a torn record
        with pytest.raises(RunError, match="No space left"):
            journal.add_budget({})
    assert path.read_bytes() == full
    with opened(path) as journal:
        assert repr(content(journal)) == repr(prefixes[full.count(b"\n")])
        journal.measured(genomes([8, 8]), row(1.0), cpu_seconds=1.0, samples=1)
    assert Journal.read(path).known((8, 8)) is not None


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_an_interrupt_in_the_middle_of_a_record_leaves_no_torn_one_behind(tmp_path, monkeypatch, share):
    path = small_run(tmp_path / "journal")
    before = path.read_bytes()
    write = os.write

    def interrupted(descriptor: int, data: bytes) -> int:
        write(descriptor, bytes(data)[: int(share * len(data))])
        raise KeyboardInterrupt

    with opened(path) as journal:
        with monkeypatch.context() as patched:
            patched.setattr(os, "write", interrupted)
            with pytest.raises(KeyboardInterrupt):
                journal.measured(genomes([8, 8]), row(1.0), cpu_seconds=1.0, samples=1)
        assert path.read_bytes() == before
        journal.measured(genomes([8, 8]), row(1.0), cpu_seconds=1.0, samples=1)
    assert Journal.read(path).known((8, 8)) == ([1.0], [0.1], None)


@pytest.mark.parametrize("after", [0, 30])
def test_a_disk_that_is_full_from_the_start_leaves_a_fresh_start(tmp_path, monkeypatch, after):
    with monkeypatch.context() as patched:
        fill_disk(patched, after)
        with pytest.raises(RunError, match="No space left"):
            opened(tmp_path / "journal")
    with opened(tmp_path / "journal") as journal:
        assert journal.is_new


WRITER = """
import sys
from pathlib import Path
import numpy as np
from evo_mpq.measure.measurements import Values
from evo_mpq.results.journal import Journal

journal = Journal.open(Path(sys.argv[1]), {"seed": 0}, {})
start = journal.n_measured
for gene in range(start, start + 100_000):
    genome = np.array([[gene]])
    journal.asked(gene, genome)
    journal.measured(genome, Values(genome / 3, genome / 7, (None,)), cpu_seconds=0.0, samples=1)
    print(gene, flush=True)
"""


def test_killing_the_writer_at_any_moment_loses_nothing_that_it_had_written(tmp_path):
    path = tmp_path / "journal"
    rng = np.random.default_rng(0)
    acknowledged = -1
    for _ in range(4):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        acknowledged = int(writer.stdout.readline())
        time.sleep(rng.uniform(0, 0.1))
        writer.send_signal(signal.SIGKILL)
        acknowledged = int(([str(acknowledged), *writer.stdout.read().split()])[-1])
        writer.wait()
        writer.stdout.close()
        with Journal.open(path, {"seed": 0}, {}) as journal:
            found, values = journal.rows()
            assert found[:, 0].tolist() == list(range(len(found)))
            assert len(found) > acknowledged
            np.testing.assert_array_equal(values.values, found / 3)


def test_a_long_journal_is_reopened_whole(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "journal"
    opened(path).close()
    asked = np.unique(rng.integers(0, 7, size=(5000, 60)), axis=0)
    with path.open("ab") as file:
        for number, genome in enumerate(asked.tolist()):
            values = {"values": [rng.random(3).tolist()], "standard_errors": [[0.1, None, None]]}
            file.write(
                encode_record(
                    {
                        "kind": "measured",
                        "fidelity": "search",
                        "genomes": [genome],
                        **values,
                        "failures": [None],
                        "cpu_seconds": 0.1,
                        "samples": number,
                    }
                )
            )
    with opened(path) as journal:
        assert journal.n_measured == 5000
        assert journal.samples == sum(range(5000))
        found, _ = journal.rows()
        np.testing.assert_array_equal(found, asked)


# Plain values


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.dates(),
        lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner),
        max_leaves=10,
    )
)
def test_plain_values_survive_json(value):
    form = plain(value)
    assert json.loads(json.dumps(form, allow_nan=False)) == form
    assert plain(form) == form


def test_plain_values_of_arrays_sets_and_paths():
    value = {1: np.arange(3), "set": {3, 1}, "path": Path("a/b"), "number": np.float32(0.5)}
    assert plain(value) == {"1": [0, 1, 2], "set": [1, 3], "path": "a/b", "number": 0.5}


def test_parsing_nothing_gives_nothing():
    assert parse_records(b"", Path("journal")) == ([], 0)
