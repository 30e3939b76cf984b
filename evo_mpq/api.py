"""The same search from Python, and what a user does with a run: look, pick, export, load."""

from __future__ import annotations

import ast
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from torch import nn

from evo_mpq.compress.compressor import CompressedModule, load_packed
from evo_mpq.config import Config, locate, validate
from evo_mpq.config import load as load_config
from evo_mpq.console import ConsoleReporter
from evo_mpq.errors import ConfigError, EvoMpqError, Mistake, RunError
from evo_mpq.measure.executors import InProcess
from evo_mpq.measure.measurer import Measurer
from evo_mpq.network.calling import Forward
from evo_mpq.problem import Problem, build_problem, fixed_threads
from evo_mpq.results.export import FORMATS, exported_bytes, measured_again, same_environment, write_file
from evo_mpq.results.front import Front, Member
from evo_mpq.results.run_directory import RunDirectory, environment
from evo_mpq.running import Outcome, Reporter, Silent, execute, report


class Run:
    """A run and its directory.

    Attributes:
        path: the run directory.
        front: what was found, as in ``front.json``.
        finished: whether the budget was spent.
        notes: what the user should know.
    """

    def __init__(self, problem: Problem, path: Path, front: Front, notes: Sequence[str] = ()) -> None:
        self.problem = problem
        self.path = path
        self.front = front
        self.finished = front.finished
        self.notes = tuple(notes)

    @classmethod
    def open(cls, path: str | Path, base: str | Path | None = None, reporter: Reporter | None = None) -> Run:
        """The run in a directory that ``evo-mpq run`` made.

        Args:
            path: the run directory.
            base: the folder of the user's modules, if it moved.
            reporter: told about steps that may take long.

        Raises:
            RunError: there is no run, or it was started from Python objects.
            EvoMpqError: its network or data are not there any more, or not the same.
        """
        directory = RunDirectory(Path(path))
        front = directory.read_front()
        config = load_config(Path(path) / "config.yaml", base=base)
        if "base" not in config.document.values and base is None:
            raise RunError(
                f"{path} was started from Python with objects that no file names; use the object that evo_mpq.search "
                "returned (run.export, run.report), or give the folder of the modules by --base."
            )
        problem = located_problem(config, reporter)
        return cls(problem, Path(path), front)

    def pick(self, what: str) -> Member:
        """The member that is meant by ``"knee"``, an id, or bounds like ``"size<=40kB"``; see ``Front.pick``."""
        return self.front.pick(what)

    def report(self) -> Path:
        """Where the report lies; open it in a browser."""
        return self.path / "report.html"

    def write_report(self) -> Path:
        """Writes the report anew from the journal."""
        directory = RunDirectory(self.path)
        journal = directory.read_journal()
        directory.write_report(report(self.problem, directory, journal, self.front, self.notes))
        return self.report()

    def module(self, pick: str | Member = "knee") -> CompressedModule:
        """The standalone compressed network of a member."""
        with fixed_threads(self.problem.settings.compute.threads):
            return self.problem.compressor.apply(self._member(pick).policy)

    def export(self, pick: str | Member = "knee", *, format: str = "safetensors", out: str | Path) -> list[str]:
        """Measures a member again and writes it to a file.

        Args:
            pick: the member, or what ``pick`` takes.
            format: ``"safetensors"`` (packed weights; as many bytes as the ``size`` objective says) or ``"policy"``
                (JSON).
            out: the file.

        Returns:
            Notes for the user.

        Raises:
            RunError: the member does not measure as the front shows, or the file cannot be written.
        """
        if format not in FORMATS:
            raise ConfigError(f"there is no format {format!r}; there are {', '.join(FORMATS)}")
        problem, member = self.problem, self._member(pick)
        executor = InProcess(problem.compressor, problem.quantities, problem.settings.compute.memory_bytes)
        measurer = Measurer(problem.space, problem.compressor, problem.quantities, executor)
        recorded = RunDirectory(self.path).read_environment()
        same = same_environment(recorded, environment("cpu"))
        with fixed_threads(problem.settings.compute.threads):
            notes = measured_again(member, measurer, problem.quantities, same_environment=same)
            content = exported_bytes(member, problem.compressor, format)
        write_file(Path(out), content)
        return notes

    def _member(self, pick: str | Member) -> Member:
        return pick if isinstance(pick, Member) else self.pick(pick)


def search(
    model: Any,
    *,
    calibration: Any,
    search: Any,
    test: Any,
    train: Any = None,
    batch_size: int = 256,
    forward: Any = None,
    output: str | int | None = None,
    out: str | Path | None = None,
    workers: int = 1,
    quiet: bool = False,
    **settings: Any,
) -> Run:
    """Searches the Pareto front of a network; the same as a YAML that says the same.

    Args:
        model: the network, a torch module; never modified.
        calibration: torch Dataset or list of ``(inputs, target)``: sets ranges and statistics.
        search: likewise: ranks candidates.
        test: likewise: shown once, at the end.
        train: likewise, for methods that need labels to train.
        batch_size: samples per forward pass.
        forward: ``forward(model, inputs)``, where inputs are no plain arguments.
        output: which output counts, where there are several.
        out: the run directory; default: a temporary one. A directory with the same run is resumed.
        workers: processes that measure; more than one needs a script with a main guard.
        quiet: no progress.
        **settings: the YAML's other keys: ``space``, ``objectives``, ``constraints``, ``metrics``, ``quantizer``,
            ``correction``, ``seed``, ``name``, ``compute``; and those of its ``search:`` section: ``algorithm``,
            ``population``, ``evaluations``, ``minutes``, ``stall``.

    Returns:
        The run, with its front.

    Raises:
        EvoMpqError: anything is wrong with settings, network or data; nothing that was measured is lost.
        KeyboardInterrupt: interrupted; the same call with the same ``out`` goes on.

    >>> run = search(model, calibration=a, search=b, test=c, evaluations=400)  # doctest: +SKIP
    >>> run.export(run.pick("size<=40kB"), out="small.safetensors")  # doctest: +SKIP
    """
    if workers > 1:
        _require_main_guard()

    def given_splits() -> dict[str, Any]:
        splits = {"calibration": calibration, "search": search, "test": test, "train": train}
        return {key: split for key, split in splits.items() if split is not None}

    budget = {
        key: settings.pop(key)
        for key in ("algorithm", "population", "evaluations", "minutes", "stall")
        if key in settings
    }
    values: dict[str, Any] = {
        "model": {"kind": model, "forward": forward, "output": output},
        "data": {"kind": given_splits, "batch_size": batch_size},
        "search": budget,
        **settings,
    }
    reporter = ConsoleReporter(quiet=quiet)
    with reporter.running():
        problem = build_problem(validate(values), progress=reporter.stage)
        path = Path(out) if out is not None else Path(tempfile.mkdtemp(prefix="evo-mpq-"))
        with RunDirectory(path) as directory, stop_on_interrupt() as interrupted:
            outcome = execute(problem, directory, workers=workers, reporter=reporter, interrupted=interrupted)
    if not outcome.finished:
        raise KeyboardInterrupt(f"interrupted; the same call with out={str(path)!r} goes on")
    return Run(problem, path, outcome.front, outcome.notes)


def load(file: str | Path, module: nn.Module, forward: Forward | None = None) -> CompressedModule:
    """The compressed network in a packed file, with the measured numbers exactly.

    Args:
        file: from ``Run.export`` or ``evo-mpq export``.
        module: the user's network; only its structure is used, whatever its weights.
        forward: the user's way to call the network, where the run had one.

    Raises:
        PackedFileError: the file is damaged, or was made of another network.
        RunError: the file cannot be read.
    """
    try:
        data = Path(file).read_bytes()
    except OSError as error:
        raise RunError(f"{file} cannot be read: {error.strerror}.") from error
    return load_packed(data, str(file), module, forward)


def run_config(
    config: Config,
    path: Path,
    *,
    reporter: Reporter | None = None,
    interrupted: Callable[[], bool] = lambda: False,
    before_search: Callable[[Problem], None] = lambda problem: None,
) -> tuple[Run, Outcome]:
    """Runs what a YAML says in a run directory; see ``running.execute``."""
    with RunDirectory(path) as directory:
        problem = located_problem(config, reporter)
        before_search(problem)
        outcome = execute(problem, directory, base=config.base, reporter=reporter, interrupted=interrupted)
    return Run(problem, path, outcome.front, outcome.notes), outcome


def located_problem(config: Config, reporter: Reporter | None = None) -> Problem:
    """The problem of a YAML; mistakes are told with its lines."""
    try:
        return build_problem(config.settings, config.base, (reporter or Silent()).stage)
    except EvoMpqError as error:
        section = ("data",) if "data" in type(error).__name__.lower() else ("model",)
        raise locate(error, config.document, section) from error


@contextmanager
def stop_on_interrupt() -> Iterator[Callable[[], bool]]:
    """Turns the first Ctrl-C into a flag that is looked at between chunks; the second one interrupts at once."""
    asked = threading.Event()

    def handle(number: int, frame: FrameType | None) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _require_main_guard() -> None:
    """Refuses to spawn processes from a script that they would run again."""
    main = sys.modules.get("__main__")
    file = getattr(main, "__file__", None)
    if file is not None and (getattr(main, "__spec__", None) is not None or _has_main_guard(Path(file))):
        return
    raise ConfigError(
        [
            Mistake(
                ("workers",),
                "worker processes import your script again, so what starts the search must stand under a main guard:\n"
                "    def main():\n        run = evo_mpq.search(…, workers=2)\n"
                '    if __name__ == "__main__": main()',
            )
        ]
    )


def _has_main_guard(path: Path) -> bool:
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):
        return False
    return any(
        isinstance(node, ast.If) and any(getattr(name, "id", None) == "__name__" for name in ast.walk(node.test))
        for node in tree.body
    )


__all__ = ["Run", "load", "search"]
