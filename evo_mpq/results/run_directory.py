"""The folder of a run: its lock, its journal, and the files that its user keeps.

``config.yaml`` (the resolved settings), ``environment.json`` (what it ran on), ``journal``, ``front.json``,
``report.html``, ``log.txt`` and ``lock``. Only this file writes into the folder.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.metadata
import json
import os
import platform
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from evo_mpq.errors import RunError, dotted
from evo_mpq.results.front import Front
from evo_mpq.results.journal import Journal, fsync_folder, full_disk_message, plain, write_all

PACKAGES = ("evo-mpq", "torch", "numpy", "pymoo", "moocore", "scikit-learn", "safetensors")
"""The packages whose versions can move a number of a run."""

_FILES = frozenset({"config.yaml", "environment.json", "journal", "front.json", "report.html", "log.txt", "lock"})


NOTE = "note: "
"""Begins what a line of the log says to the user, behind its time."""

_TIME_LENGTH = len("2026-01-31 12:00:00 ")


class RunDirectory:
    """The folder of one run.

    Reading and the atomic writes need no lock, so that a run can be looked at and reported while it goes on;
    the journal does, and one process at a time has it:

        with RunDirectory(Path("runs/mine")) as directory:
            journal = directory.open_journal(identity, versions())

    Args:
        path: the folder; made, with its parents, when it is locked.

    Attributes:
        path: the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._lock: int | None = None
        self._journal: Journal | None = None

    # The lock

    def lock(self) -> RunDirectory:
        """Take the folder for this process, until `close` or the end of the process, however it ends.

        Raises:
            RunError: another run has it, or the folder cannot be made.
        """
        if self._lock is not None:
            raise RuntimeError(f"{self.path} is locked by this object already")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            foreign = self._foreign_files()
            if foreign:
                raise RunError(
                    f"{self.path} is not the directory of a run, but its {', '.join(foreign)} would be "
                    "overwritten; choose another directory by --out"
                )
            descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise RunError(f"cannot make the run directory {self.path}: {error.strerror}") from error
        try:
            self._take(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        self._lock = descriptor
        self._remove_unfinished_writes()
        return self

    def close(self) -> None:
        """Close the journal and give the lock back; closing twice does nothing."""
        if self._journal is not None:
            self._journal.close()
            self._journal = None
        if self._lock is not None:
            # said explicitly: a forked child that has the descriptor, too, would keep the lock otherwise
            fcntl.flock(self._lock, fcntl.LOCK_UN)
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> RunDirectory:
        return self.lock() if self._lock is None else self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # The journal

    def open_journal(self, identity: Mapping[str, Any], versions: Mapping[str, str]) -> Journal:
        """The run's journal: new (``.is_new``) in a new or half-created folder, else the one to go on with.

        Args:
            identity: what the run is a function of, nested; not its budget, which goes on growing.
            versions: of the libraries of this process, see `versions`.

        Raises:
            RunError: the folder holds another run (the message names the settings that differ), or the
                journal is damaged.
            RuntimeError: the folder is not locked.
        """
        if self._lock is None:
            raise RuntimeError("lock the run directory before opening its journal")
        journal = Journal.open(self.path / "journal", identity, versions)
        differences = identity_differences(journal.identity, identity)
        if differences:
            journal.close()
            raise RunError(
                f"{self.path} holds another run. What differs (there -> here):\n  "
                + "\n  ".join(differences)
                + "\nChoose another directory by --out, or delete this one to start anew."
            )
        self._journal = journal
        return journal

    def read_journal(self) -> Journal:
        """The journal as it stands, for looking only; needs no lock.

        Raises:
            RunError: there is none, or it is damaged.
        """
        return Journal.read(self._existing_journal())

    def rehearse_journal(self) -> Journal:
        """The journal as it stands, for replaying in memory (see `Journal.rehearse`); needs no lock.

        Raises:
            RunError: there is none, or it is damaged.
        """
        return Journal.rehearse(self._existing_journal())

    def _existing_journal(self) -> Path:
        if not self.path.is_dir():
            raise RunError(f"there is no run directory {self.path}")
        if not (self.path / "journal").exists():
            raise RunError(f"{self.path} is not the directory of a run: it holds no journal")
        return self.path / "journal"

    # Files

    def write_config(self, text: str) -> None:
        """Write ``config.yaml``, the resolved settings.

        Raises:
            RunError: the disk is full.
        """
        write_atomically(self.path / "config.yaml", text)

    def write_environment(self, environment: Mapping[str, Any]) -> None:
        """Write ``environment.json``, see `environment`.

        Raises:
            RunError: the disk is full.
        """
        write_atomically(self.path / "environment.json", json.dumps(plain(environment), indent=2) + "\n")

    def write_front(self, front: Front) -> None:
        """Write ``front.json``.

        Raises:
            RunError: the disk is full.
        """
        text = json.dumps(front.to_json(), indent=1, allow_nan=False)
        write_atomically(self.path / "front.json", text + "\n")

    def write_report(self, html: str) -> None:
        """Write ``report.html``.

        Raises:
            RunError: the disk is full.
        """
        write_atomically(self.path / "report.html", html)

    def write_allocation(self, name: str, document: Mapping[str, Any]) -> Path:
        """Write ``allocations/<name>.json``, one choice of an allocation method; returns where it lies.

        Raises:
            RunError: the disk is full.
        """
        path = self.path / "allocations" / f"{name}.json"
        with _explained(path):
            path.parent.mkdir(exist_ok=True)
        write_atomically(path, json.dumps(plain(document), indent=1) + "\n")
        return path

    def write_contributions(self, document: Mapping[str, Any]) -> None:
        """Write ``contributions.json``, what each step of each gene contributes to the loss.

        Raises:
            RunError: the disk is full.
        """
        write_atomically(self.path / "contributions.json", json.dumps(plain(document), indent=1) + "\n")

    def write_predictions(self, document: Mapping[str, Any]) -> None:
        """Write ``predictions.json``, what a search expected of what it measured, and what it measured for what.

        Raises:
            RunError: the disk is full.
        """
        write_atomically(self.path / "predictions.json", json.dumps(plain(document), indent=1) + "\n")

    def read_predictions(self) -> dict[str, Any] | None:
        """The document in ``predictions.json``; None if there is none.

        Raises:
            RunError: it cannot be read.
        """
        return self._document("predictions.json")

    def write_export(self, name: str, document: Mapping[str, Any]) -> None:
        """Write ``exports/<name>.json``, what the exported file of a point computes.

        Raises:
            RunError: the disk is full, or the folder cannot be written.
        """
        path = self.path / "exports" / f"{name}.json"
        with _explained(path):
            path.parent.mkdir(exist_ok=True)
        write_atomically(path, json.dumps(plain(document), indent=1) + "\n")

    def read_exports(self) -> list[dict[str, Any]]:
        """The documents in ``exports``, in the order of their names.

        Raises:
            RunError: one of them cannot be read.
        """
        return self._documents("exports")

    def read_contributions(self) -> dict[str, Any] | None:
        """The document in ``contributions.json``; None if there is none.

        Raises:
            RunError: it cannot be read.
        """
        return self._document("contributions.json")

    def _document(self, name: str) -> dict[str, Any] | None:
        path = self.path / name
        try:
            document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise RunError(f"{path} cannot be read: {error}") from error
        return document

    def read_allocations(self) -> list[dict[str, Any]]:
        """The documents in ``allocations``, in the order of their names.

        Raises:
            RunError: one of them cannot be read.
        """
        return self._documents("allocations")

    def _documents(self, folder: str) -> list[dict[str, Any]]:
        found = []
        for path in sorted((self.path / folder).glob("*.json")):
            try:
                found.append(json.loads(path.read_text(encoding="utf-8")))
            except (OSError, ValueError) as error:
                raise RunError(f"{path} cannot be read: {error}") from error
        return found

    def log(self, message: str) -> None:
        """Append a line with the time to ``log.txt``.

        Raises:
            RunError: the disk is full.
        """
        path = self.path / "log.txt"
        line = f"{time.strftime('%Y-%m-%d %H:%M:%S')} {message}\n"
        with _explained(path):
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            try:
                write_all(descriptor, line.encode())
            finally:
                os.close(descriptor)

    def read_notes(self) -> list[str]:
        """What the user was told, each once, in order; see `log`."""
        try:
            lines = (self.path / "log.txt").read_text(encoding="utf-8").splitlines()
        except OSError:
            return []
        said = (line[_TIME_LENGTH:] for line in lines)
        return list(dict.fromkeys(line.removeprefix(NOTE) for line in said if line.startswith(NOTE)))

    def read_config(self) -> str:
        """The text of ``config.yaml``.

        Raises:
            RunError: it is missing or cannot be read.
        """
        return self._read("config.yaml")

    def read_environment(self) -> dict[str, Any] | None:
        """What ``environment.json`` holds, or None where there is none.

        Raises:
            RunError: it cannot be read.
        """
        if not (self.path / "environment.json").exists():
            return None
        try:
            environment: dict[str, Any] = json.loads(self._read("environment.json"))
        except ValueError as error:
            raise RunError(f"{self.path / 'environment.json'} is damaged: {error}") from error
        return environment

    def read_front(self) -> Front:
        """The front that ``front.json`` holds.

        Raises:
            RunError: it is missing, or cannot be read.
        """
        return Front.read(self.path / "front.json")

    def _read(self, name: str) -> str:
        try:
            return (self.path / name).read_text(encoding="utf-8")
        except FileNotFoundError as error:
            raise RunError(f"{self.path} is not the directory of a run: it holds no {name}") from error
        except OSError as error:
            raise RunError(f"cannot read {self.path / name}: {error.strerror}") from error

    def _foreign_files(self) -> list[str]:
        """Files that a run would overwrite, in a folder that no run has begun in.

        A run begins with its lock, so where there is neither lock nor journal, a ``config.yaml`` that says
        something is somebody else's.
        """
        there = {entry.name: entry.lstat().st_size for entry in self.path.iterdir()}
        if "lock" in there or "journal" in there:
            return []
        return sorted(name for name, size in there.items() if name in _FILES and size > 0)

    def _take(self, descriptor: int) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(descriptor, 200, 0).decode("utf-8", "replace").strip() or "another process"
            raise RunError(
                f"{self.path} is in use by {holder}: one run at a time writes there. Wait for it, or choose "
                "another directory by --out"
            ) from error
        except OSError as error:
            raise RunError(
                f"{self.path} cannot be locked ({error.strerror}); choose one on a file system with locks"
            ) from error
        with _explained(self.path / "lock"):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)

    def _remove_unfinished_writes(self) -> None:
        """Remove what writes that were killed have left."""
        for name in _FILES:
            for path in self.path.glob(f".{name}.*.tmp"):
                path.unlink(missing_ok=True)


def identity_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What differs between two identities: ``"dotted.key: old -> new"`` each, in the order of the keys.

    >>> identity_differences({"seed": 0, "space": {"tie": []}}, {"seed": 1, "space": {"tie": []}})
    ['seed: 0 -> 1']
    """
    return list(_differences(plain(old), plain(new), ()))


def write_atomically(path: Path, text: str) -> None:
    """Write a file so that, whatever happens, it has either its old or its new content, whole.

    Raises:
        RunError: the disk is full, or the folder cannot be written; the old content stays.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with _explained(path):
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
            try:
                write_all(descriptor, text.encode("utf-8"))
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            os.replace(temporary, path)
            fsync_folder(path.parent)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def versions() -> dict[str, str]:
    """What can move a number of a run although its settings stay: Python, packages and the processor."""
    return {"python": platform.python_version(), **_package_versions(), "processor": cpu_model()}


def environment(device: str, folder: Path | None = None, sources: Sequence[Path] = ()) -> dict[str, Any]:
    """What a run runs on and with, for ``environment.json``; imports nothing heavy.

    Args:
        device: the resolved device.
        folder: the folder of the user's YAML or script, for its git revision.
        sources: the user's source files that the run uses, for `changed_sources`.
    """
    return {
        "python": platform.python_version(),
        "packages": _package_versions(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpu": cpu_model(),
        "cpu_count": os.cpu_count(),
        "device": device,
        "git": None if folder is None else git_revision(folder),
        "sources": {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in sources},
    }


def changed_sources(old: Mapping[str, Any] | None, new: Mapping[str, Any]) -> list[str]:
    """The user's source files, in both environments, whose content differs."""
    before, now = ({} if old is None else old.get("sources", {})), new.get("sources", {})
    return [name for name in now if name in before and before[name] != now[name]]


def cpu_model() -> str:
    """The processor's name as the system gives it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def git_revision(folder: Path) -> dict[str, Any] | None:
    """``{"revision", "modified"}`` of the git repository that a folder lies in; None without one, or git."""
    revision = _git(folder, "rev-parse", "HEAD")
    if revision is None:
        return None
    status = _git(folder, "status", "--porcelain")
    return {"revision": revision, "modified": None if status is None else bool(status)}


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        answer = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None


def _package_versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


_ABSENT = object()


def _differences(old: Any, new: Any, path: tuple[str | int, ...]) -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            yield from _differences(old.get(key, _ABSENT), new.get(key, _ABSENT), (*path, key))
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for position, (before, now) in enumerate(zip(old, new, strict=True)):
            yield from _differences(before, now, (*path, position))
    elif isinstance(old, bool) != isinstance(new, bool) or old != new:
        yield f"{dotted(path)}: {_shown(old)} -> {_shown(new)}"


def _shown(value: Any) -> str:
    if value is _ABSENT:
        return "absent"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turn what the system says about writing ``path`` into an error for the user."""
    try:
        yield
    except OSError as error:
        raise RunError(full_disk_message(path, error)) from error
