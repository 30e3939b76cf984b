"""The journal of a run: everything that was asked, measured and decided, one checked line a record.

A run is a pure function of its settings and its journal, so resuming is replaying: the search starts anew, is
answered from the journal as long as it can be, and goes on measuring from there.

Format: one record a line, ``crc32 of the JSON (8 hex digits), a space, compact JSON, newline``. The first
record is the header. Records are only ever appended. Not-a-number is null, infinities are the strings
``"inf"`` and ``"-inf"``; every other float is written so that it is read back bit for bit.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import hashlib
import itertools
import json
import math
import os
import re
import stat
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np

from evo_mpq.errors import RunError
from evo_mpq.measure.measurements import Values
from evo_mpq.measure.statistics import Interval
from evo_mpq.typing import FloatVector, Genomes

FORMAT = 1
"""Version of the format, in the header."""

Record: TypeAlias = dict[str, Any]
"""One line of the journal as JSON; ``record["kind"]`` says which."""

T = TypeVar("T")


class Row(NamedTuple):
    """What was measured of one genome, in the order of the run's quantities.

    Attributes:
        values: the raw values; None where there is none (NaN).
        standard_errors: None where unknown.
        failure: what went wrong, or None.
    """

    values: list[float | None]
    standard_errors: list[float | None]
    failure: str | None


@dataclass(frozen=True, eq=False)
class HeldOut:
    """What the test split says of one candidate; journalled once, and never decides anything.

    Attributes:
        intervals: each objective of outputs and each metric by name.
        per_sample: ``(n_samples,)`` values in the first measured objective, for paired verdicts; None where
            it has no per-sample values.
    """

    intervals: Mapping[str, Interval]
    per_sample: FloatVector | None = None


class RecordFile:
    """An append-only file of checked records: knows bytes and disks, and nothing of what a record means.

    Args:
        path: the file; created when missing.

    Attributes:
        records: what the file held when it was opened, the part after the last complete record cut off.

    Raises:
        RunError: damage before the last record, a file that is something else, or one that cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._failure: str | None = None
        self._descriptor: int | None = None
        self.records: list[Record] = []
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK, 0o666)
            data = _read(self._descriptor, path)
            self.records, self._end = parse_records(data, path)
            if self._end < len(data):
                os.ftruncate(self._descriptor, self._end)
            fsync_folder(path.parent)
        except OSError as error:
            self.close()
            raise RunError(f"cannot open the journal {path}: {error.strerror}") from error
        except RunError:
            self.close()
            raise

    def append(self, record: Record, *, durable: bool) -> None:
        """Write one record at the end.

        Args:
            record: JSON values only.
            durable: return only when the disk has it, and with it everything before.

        Raises:
            RunError: the disk is full or failing. What was complete before stays; nothing can be appended
                after, so that no later record ever stands behind a torn one.
        """
        if self._failure is not None:
            raise RunError(self._failure)
        if self._descriptor is None:
            raise RuntimeError("the journal is closed")
        line = encode_record(record)
        try:
            write_all(self._descriptor, line)
            if durable:
                os.fsync(self._descriptor)
        except OSError as error:
            # Should cutting fail, too, then the torn record is cut when the journal is opened next.
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, self._end)
            self._failure = full_disk_message(self._path, error)
            raise RunError(self._failure) from error
        except BaseException:  # Ctrl-C in the middle of a record; the caller may still append
            os.ftruncate(self._descriptor, self._end)
            raise
        self._end += len(line)

    def close(self) -> None:
        """Close the file; closing twice does nothing."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


class _Nowhere:
    """Stands for the file where what is appended must not be written."""

    def append(self, record: Record, *, durable: bool) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class Journal:
    """What a run has asked, measured and decided so far: the journal that the search loop is handed.

    Made by `Journal.open` (to go on), `Journal.read` (to look at) or `Journal.rehearse` (to find out what going on
    would come to). Look-ups are dictionary look-ups. Asks and decisions are replayed: the recorded ones are gone
    through in order, and only what is new is appended.

    Attributes:
        identity: what the run is a function of, as it was written when the journal was new.
        is_new: nothing but a header was on disk when the journal was opened, and that was just written.
    """

    def __init__(
        self, records: Sequence[Record], file: RecordFile | _Nowhere | None, versions: Mapping[str, str] | None
    ) -> None:
        self._file = file
        self._versions: list[dict[str, str]] = []
        self._budgets: list[dict[str, Any]] = []
        self._asked: dict[tuple[int, int], bytes] = {}
        self._asked_differently: list[int] = []
        self._asked_now: dict[int, int] = {}
        self._rows: dict[str, dict[tuple[int, ...], Row]] = {}
        self._references: dict[str, Row] = {}
        self._held_out: dict[tuple[int, ...] | None, HeldOut] = {}
        self._showings: set[int] = set()
        self._decisions: dict[str, list[Any]] = {}
        self._decided_now: dict[str, int] = {}
        self._cpu_seconds = 0.0
        self._samples = 0
        self.identity: dict[str, Any] = {}
        self.is_new = False
        for record in records:
            self._apply(record)
        self._versions_now = self._versions[-1] if versions is None else plain(versions)

    @classmethod
    def open(cls, path: Path, identity: Mapping[str, Any], versions: Mapping[str, str]) -> Journal:
        """The journal at ``path``, ready to be appended to.

        A torn record at the end (the process was killed, or the disk was full, while it was written) is cut.
        Where not even the header is complete, nothing was measured: the journal starts anew.

        Args:
            path: the file; created when missing.
            identity: written when the journal is new. For one that exists, the caller compares it with
                ``.identity``.
            versions: of the libraries that this process runs, by name.

        Raises:
            RunError: the journal is damaged before its end (the message has the byte offset), is another kind
                of file, was written by a newer evo-mpq, or cannot be written.
        """
        file = RecordFile(path)
        try:
            check_format(file.records, path)
            journal = cls(file.records, file, versions)
            if not file.records:
                journal._start(identity)
        except BaseException:
            file.close()
            raise
        file.records = []  # the journal holds what they say in a more compact form
        return journal

    @classmethod
    def read(cls, path: Path) -> Journal:
        """The journal at ``path`` as it is now, also while another process appends to it; nothing is changed.

        Raises:
            RunError: there is no journal, it has no complete header yet, or it is damaged.
        """
        return cls(_complete_records(path), None, None)

    @classmethod
    def rehearse(cls, path: Path) -> Journal:
        """As `read`, but it can be appended to; what is appended stays in memory.

        For finding out what a run has come to by replaying it, without going on with it.

        Raises:
            RunError: as `read`.
        """
        return cls(_complete_records(path), _Nowhere(), None)

    def close(self) -> None:
        """Close the file; look-ups go on working."""
        if self._file is not None:
            self._file.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Measurements

    def known(self, genome: tuple[int, ...], fidelity: str = "search") -> Row | None:
        """What was measured of a genome at a fidelity, or None."""
        rows = self._rows.get(fidelity)
        return None if rows is None else rows.get(genome)

    def measured(
        self,
        genomes: Genomes,
        values: Values,
        *,
        cpu_seconds: float,
        samples: int,
        fidelity: str = "search",
    ) -> None:
        """Append what was just measured; on return the disk has it.

        Args:
            genomes: ``(n, n_genes)``, none of them known at this fidelity.
            values: one row a genome.
            cpu_seconds: what measuring them took, over all processes.
            samples: how many samples went through the network for them.
            fidelity: ``"search"`` or ``"search[0.25]"``, a part of it.

        Raises:
            ValueError: rows that do not match, a genome that is known already, or the test split's values.
            RunError: the disk is full.
        """
        keys = [tuple(genome) for genome in np.asarray(genomes).tolist()]
        if len(keys) != len(values):
            raise ValueError(f"{len(keys)} genomes were measured, but there are {len(values)} rows of values")
        if fidelity == "test":
            raise ValueError("values on the test split are journalled by add_held_out")
        repeated = [key for key in keys if self.known(key, fidelity) is not None]
        if repeated or len(set(keys)) < len(keys):
            raise ValueError(f"a genome was measured twice at fidelity {fidelity!r}: {repeated[:1] or keys}")
        self._append(
            {
                "kind": "measured",
                "fidelity": fidelity,
                "genomes": keys,
                **_rows_to_json(values),
                **_cost(cpu_seconds, samples),
            }
        )

    def rows(self, fidelity: str = "search") -> tuple[Genomes, Values]:
        """All genomes measured at a fidelity, in the order they were measured, and their values.

        Returns:
            ``(n, n_genes)`` genomes and ``n`` rows of values; both ``(0, 0)`` when nothing was measured.
        """
        rows = self._rows.get(fidelity, {})
        genomes = np.array(list(rows), dtype=np.int64).reshape(len(rows), -1 if rows else 0)
        return genomes, Values(
            _matrix([row.values for row in rows.values()]),
            _matrix([row.standard_errors for row in rows.values()]),
            tuple(row.failure for row in rows.values()),
        )

    def reference(self, fidelity: str = "search") -> Row | None:
        """What was measured of the uncompressed network, or None."""
        return self._references.get(fidelity)

    def add_reference(self, values: Values, *, cpu_seconds: float, samples: int, fidelity: str = "search") -> None:
        """Append what was measured of the uncompressed network, once a fidelity.

        Raises:
            ValueError: not one row, or the reference is known already.
            RunError: the disk is full.
        """
        if len(values) != 1:
            raise ValueError(f"the reference is one network, got {len(values)} rows of values")
        if fidelity in self._references:
            raise ValueError(f"the reference was measured at fidelity {fidelity!r} already")
        self._append(
            {
                "kind": "reference",
                "fidelity": fidelity,
                **_rows_to_json(values),
                **_cost(cpu_seconds, samples),
            }
        )

    def held_out(self, genome: tuple[int, ...] | None) -> HeldOut | None:
        """What the test split said of a genome (None: of the uncompressed network), or None."""
        return self._held_out.get(genome)

    def add_held_out(
        self, genome: tuple[int, ...] | None, held_out: HeldOut, *, cpu_seconds: float, samples: int
    ) -> None:
        """Append what the test split says of a genome (None: of the uncompressed network), once.

        Raises:
            ValueError: it was shown for that genome already.
            RunError: the disk is full.
        """
        if genome in self._held_out:
            raise ValueError(f"the test split was shown for {genome or 'the reference'} already")
        per_sample = held_out.per_sample
        self._append(
            {
                "kind": "test",
                "genome": None if genome is None else [int(gene) for gene in genome],
                "values": {
                    name: [_to_json(end) for end in (interval.value, interval.low, interval.high)]
                    for name, interval in held_out.intervals.items()
                },
                # hundreds of floats a genome: as text they would outweigh all the rest
                "per_sample": None
                if per_sample is None
                else base64.b64encode(np.asarray(per_sample, dtype="<f8").tobytes()).decode("ascii"),
                **_cost(cpu_seconds, samples),
            }
        )

    # Replay

    def asked(self, generation: int, genomes: Genomes) -> None:
        """Say what the searcher asks for, before it is measured.

        While a run is replayed the same asks come again, and are compared with what was asked then; an ask
        that differs makes the journal `diverged` and takes the place of the recorded one.

        Args:
            generation: several asks of one generation are told apart by their order.
            genomes: ``(n, n_genes)``.

        Raises:
            RunError: the disk is full.
        """
        position = self._asked_now.get(generation, 0)
        self._asked_now[generation] = position + 1
        rows = np.asarray(genomes).tolist()
        if self._asked.get((generation, position)) != _digest(rows):
            self._append(
                {"kind": "asked", "generation": int(generation), "position": position, "genomes": rows},
                durable=False,
            )

    @property
    def diverged(self) -> bool:
        """Whether an ask differed from what was asked at its place in an earlier session.

        Then the front no longer follows from the settings alone, although every number on it was measured.
        """
        return bool(self._asked_differently)

    @property
    def divergence(self) -> str | None:
        """What differed and which versions changed, in a sentence for the user; None if nothing did."""
        if not self._asked_differently:
            return None
        changes = ", ".join(self.version_changes) or "no recorded version changed"
        return (
            f"generation {self._asked_differently[0]} asked for other candidates than when it first ran "
            f"({changes}). The run goes on from what its journal holds; it is not reproducible from its "
            "settings alone."
        )

    @property
    def version_changes(self) -> list[str]:
        """Versions that changed since the journal was new, like ``"numpy 2.1.0 -> 2.2.0"``."""
        sessions = [*self._versions, self._versions_now]
        changes = [
            f"{name} {then.get(name, 'absent')} -> {now.get(name, 'absent')}"
            for then, now in itertools.pairwise(sessions)
            for name in sorted({*then, *now})
            if then.get(name) != now.get(name)
        ]
        return list(dict.fromkeys(changes))

    def decision(self, key: str, decide: Callable[[], T]) -> T:
        """A decision that does not follow from the measurements (by the clock): as it was taken then, or now.

        Args:
            key: may repeat, once a generation say; the recorded decisions of a key are replayed in order.
            decide: called, and its answer appended, when no recorded decision is left.

        Returns:
            The recorded decision, or the new one.

        Raises:
            ValueError: the decision would not be read back as it is (a tuple, NaN, an array).
            RunError: the disk is full.
        """
        position = self._decided_now.get(key, 0)
        recorded = self._decisions.get(key, [])
        if position < len(recorded):
            self._decided_now[key] = position + 1
            replayed: T = recorded[position]
            return replayed
        value = decide()
        if not _survives_json(value):
            raise ValueError(f"decision {key!r} must be plain JSON values to be replayed, not {value!r}")
        self._append({"kind": "decision", "key": key, "value": value}, durable=False)
        self._decided_now[key] = position + 1
        return value

    def budgets(self) -> list[dict[str, Any]]:
        """The budgets that the run was given, in order; the result is a function of this sequence."""
        return [dict(budget) for budget in self._budgets]

    def add_budget(self, budget: Mapping[str, Any]) -> None:
        """Append a budget.

        Raises:
            RunError: the disk is full.
        """
        self._append({"kind": "budget", "budget": plain(budget)})

    # Totals

    @property
    def versions(self) -> dict[str, str]:
        """The versions that the journal was started with."""
        return dict(self._versions[0])

    @property
    def cpu_seconds(self) -> float:
        """What all measurements took, over all sessions and processes."""
        return self._cpu_seconds

    @property
    def samples(self) -> int:
        """How many samples went through a network, over all sessions."""
        return self._samples

    @property
    def n_measured(self) -> int:
        """Number of distinct genomes measured on the search split, at any fidelity."""
        distinct: set[tuple[int, ...]] = set()
        return len(distinct.union(*self._rows.values()))

    @property
    def n_held_out(self) -> int:
        """Number of distinct genomes that the test split was shown for."""
        return len(self._held_out.keys() - {None})

    @property
    def n_test_showings(self) -> int:
        """How often the test split was shown: under how many budgets new test values were measured."""
        return len(self._showings)

    # Records

    def _start(self, identity: Mapping[str, Any]) -> None:
        self._write(
            {
                "kind": "header",
                "format": FORMAT,
                "identity": plain(identity),
                "versions": plain(self._versions_now),
            },
            durable=True,
        )
        self.is_new = True

    def _append(self, record: Record, *, durable: bool = True) -> None:
        if self._versions[-1] != self._versions_now:
            self._write({"kind": "versions", "versions": plain(self._versions_now)}, durable=False)
        self._write(record, durable=durable)

    def _write(self, record: Record, *, durable: bool) -> None:
        if self._file is None:
            raise RuntimeError("the journal was opened for reading")
        self._file.append(record, durable=durable)
        # the same door as on opening, so that a running and a reopened journal cannot differ
        self._apply(record)

    def _apply(self, record: Record) -> None:
        """Take in one record; also what an older session wrote twice (the first stays)."""
        kind = record["kind"]
        self._cpu_seconds += record.get("cpu_seconds", 0.0)
        self._samples += record.get("samples", 0)
        if kind == "measured":
            known = self._rows.setdefault(record["fidelity"], {})
            for genome, row in zip(record["genomes"], _rows_from_json(record), strict=True):
                known.setdefault(tuple(genome), row)
        elif kind == "asked":
            place = (record["generation"], record["position"])
            digest = _digest(record["genomes"])
            if self._asked.setdefault(place, digest) != digest:
                self._asked_differently.append(record["generation"])
                self._asked[place] = digest
        elif kind == "decision":
            self._decisions.setdefault(record["key"], []).append(record["value"])
        elif kind == "test":
            genome = record["genome"]
            self._held_out.setdefault(None if genome is None else tuple(genome), _held_out_from_json(record))
            self._showings.add(len(self._budgets))
        elif kind == "reference":
            self._references.setdefault(record["fidelity"], _rows_from_json(record)[0])
        elif kind == "budget":
            self._budgets.append(record["budget"])
        elif kind == "versions":
            self._versions.append(record["versions"])
        elif kind == "header":
            self.identity = record["identity"]
            self._versions.append(record["versions"])


# Lines


def encode_record(record: Record) -> bytes:
    """The line that stands for a record.

    >>> encode_record({"kind": "decision", "key": "stop", "value": False}).decode().rstrip()
    '16d684c6 {"kind":"decision","key":"stop","value":false}'
    """
    body = json.dumps(record, separators=(",", ":"), allow_nan=False).encode("ascii")
    return b"%08x %s\n" % (zlib.crc32(body), body)


def parse_records(data: bytes, path: Path) -> tuple[list[Record], int]:
    """The records of a journal's bytes, and where the last of them ends.

    What follows that end is torn: an incomplete or damaged record, with no complete one after it.

    Raises:
        RunError: a complete record follows a damaged one (the message has the offset), or the bytes are not
            those of a journal.
    """
    records: list[Record] = []
    offset = 0
    while (end := data.find(b"\n", offset)) != -1 and _is_complete(data, offset, end):
        records.append(json.loads(data[offset + 9 : end].decode("ascii")))
        offset = end + 1
    if _holds_a_record(data, offset + 1):
        raise RunError(
            f"the journal {path} is damaged at byte {offset} (record {len(records) + 1}); complete records "
            "follow, so it is no interrupted write. Restore the file from a copy; or give up what follows "
            f"and keep the {len(records)} records before it: truncate -s {offset} {path}"
        )
    if not records and not _TORN_HEADER.fullmatch(data.rstrip(b"\0")):
        raise RunError(f"{path} is not the journal of a run; choose another directory, or move the file away")
    return records, offset


_TORN_HEADER = re.compile(rb'[0-9a-f]{0,8}|[0-9a-f]{8} (\{("(k(i(n(d(".*)?)?)?)?)?)?)?', re.DOTALL)
"""The start of a header, cut anywhere."""

_RECORD_START = re.compile(rb"(?=[0-9a-f]{8} \{)")


def _is_complete(data: bytes, start: int, end: int) -> bool:
    # digits are compared as text: an "a" that became an "A" is damage, too
    line = data[start:end]
    return line[8:9] == b" " and line[:8] == b"%08x" % zlib.crc32(line[9:])


def _holds_a_record(data: bytes, start: int) -> bool:
    """Whether a complete record begins at or after ``start``, even in a line (damage may eat newlines)."""
    for match in _RECORD_START.finditer(data, start):
        end = data.find(b"\n", match.start())
        if end != -1 and _is_complete(data, match.start(), end):
            return True
    return False


def _complete_records(path: Path) -> list[Record]:
    """The records of the journal at ``path``, at least its header."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        raise RunError(f"cannot read the journal {path}: {error.strerror}") from error
    try:
        records, _ = parse_records(_read(descriptor, path), path)
    finally:
        os.close(descriptor)
    check_format(records, path)
    if not records:
        raise RunError(f"{path} has no complete header: the run was stopped before it measured anything")
    return records


def check_format(records: Sequence[Record], path: Path) -> None:
    """Check that records begin with a header that this version reads.

    Raises:
        RunError: they do not.
    """
    if not records:
        return
    header = records[0]
    if header.get("kind") != "header":
        raise RunError(f"{path} does not begin with the header of a run; its first record was cut off")
    if header.get("format") != FORMAT:
        raise RunError(
            f"{path} has format {header.get('format')}, this evo-mpq reads format {FORMAT}; "
            f"use the version that wrote it ({header.get('versions', {}).get('evo-mpq', 'unknown')})"
        )
    unknown = {record["kind"] for record in records} - _KINDS
    if unknown:
        raise RunError(
            f"{path} has records of a kind that this evo-mpq does not know: {', '.join(sorted(unknown))}; "
            "use the version that wrote them"
        )


_KINDS = {"header", "versions", "budget", "asked", "measured", "decision", "reference", "test"}


def _read(descriptor: int, path: Path) -> bytes:
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        raise RunError(f"{path} is not a regular file, and cannot be a journal")
    with open(descriptor, "rb", closefd=False) as file:
        return file.read()


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of ``data``, however little the system takes at a time.

    Raises:
        OSError: as the system says, e.g. that no space is left.
    """
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def fsync_folder(folder: Path) -> None:
    """Return when the disk has the folder's list of files: a new or renamed file survives a power cut.

    Raises:
        OSError: as the system says.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def full_disk_message(path: Path, error: OSError) -> str:
    """What to tell the user when a file of a run cannot be written."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    remedy = "Free some space" if full else "Repair the cause"
    return (
        f"cannot write {path}: {error.strerror}. {remedy} and give the same command again: the run can be "
        "resumed with what is on disk, and everything that the journal holds is kept."
    )


# Values


def plain(value: Any) -> Any:
    """A value as JSON gives it back: mappings with text keys, lists, numbers, text; anything else as text.

    Identities are compared in this form, because one of the two was read from disk.

    >>> plain({"ratios": (0.0, 0.5), "limit": float("inf"), "weights": Path("net.safetensors")})
    {'ratios': [0.0, 0.5], 'limit': 'inf', 'weights': 'net.safetensors'}
    """
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    if isinstance(value, (set, frozenset)):
        return sorted((plain(entry) for entry in value), key=repr)
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        return plain(value.item())
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return str(value)


def _survives_json(value: object) -> bool:
    try:
        text = json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    # repr, because 1 == True == 1.0 and JSON makes keys into text
    return repr(json.loads(text)) == repr(value)


def _to_json(value: float | None) -> float | str | None:
    if value is None or math.isnan(value):
        return None
    return float(value) if math.isfinite(value) else str(float(value))


def _from_json(value: float | str | None) -> float | None:
    return float(value) if isinstance(value, str) else value


def _rows_to_json(values: Values) -> Record:
    return {
        "values": [[_to_json(value) for value in row] for row in values.values.tolist()],
        "standard_errors": [[_to_json(value) for value in row] for row in values.standard_errors.tolist()],
        "failures": list(values.failures),
    }


def _rows_from_json(record: Record) -> list[Row]:
    return [
        Row([_from_json(value) for value in values], [_from_json(error) for error in errors], failure)
        for values, errors, failure in zip(record["values"], record["standard_errors"], record["failures"], strict=True)
    ]


def _held_out_from_json(record: Record) -> HeldOut:
    intervals = {
        name: Interval(math.nan if value is None else float(value), _from_json(low), _from_json(high))
        for name, (value, low, high) in record["values"].items()
    }
    text = record["per_sample"]
    per_sample = None if text is None else np.frombuffer(base64.b64decode(text), "<f8").astype(np.float64)
    return HeldOut(intervals, per_sample)


def _cost(cpu_seconds: float, samples: int) -> Record:
    return {"cpu_seconds": float(cpu_seconds), "samples": int(samples)}


def _matrix(rows: Sequence[Sequence[float | None]]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """``(n, m)`` floats with NaN for None."""
    return np.array(rows, dtype=np.float64).reshape(len(rows), -1 if rows else 0)


def _digest(rows: Sequence[Sequence[int]]) -> bytes:
    """A short stand-in for an ask: the journal of a long run need not hold every ask in memory."""
    return hashlib.sha256(repr(rows).encode("ascii")).digest()
