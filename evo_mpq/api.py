"""The same search from Python, and what a user does with a run: look, pick, export, load."""

from __future__ import annotations

import ast
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

from torch import nn

from evo_mpq import plugins
from evo_mpq.allocating import Allocation, NotApplicable, allocate
from evo_mpq.compress.module import CompressedModule, load_packed
from evo_mpq.config import Config, Document, locate, object_name, validate
from evo_mpq.config import load as load_config
from evo_mpq.console import ConsoleReporter
from evo_mpq.contributing import contribute
from evo_mpq.errors import ConfigError, EvoMpqError, MeasurementError, Mistake, RunError
from evo_mpq.network.calling import Forward
from evo_mpq.problem import Problem, ReportProgress, build_problem, fixed_threads
from evo_mpq.reporters import Reporter, Silent
from evo_mpq.reporting import report_of
from evo_mpq.results.export import (
    Exported,
    ExportOptions,
    Format,
    Origin,
    export_all,
    export_point,
    format_of,
    runs_here,
)
from evo_mpq.results.front import Front, Member
from evo_mpq.results.run_directory import RunDirectory, identity_differences
from evo_mpq.running import Outcome, execute, front_so_far

_MAIN_GUARD = """\
worker processes import your script again, so what starts the search must stand under a main guard:
    def main():
        run = evo_mpq.search(..., workers=2)
    if __name__ == "__main__": main()"""

_NO_SCRIPT = (
    "worker processes need a script that they can import, and a notebook or an interactive session has none; search "
    "with one worker, or from a script"
)


class Run:
    """A run and its directory: what `search` returns, and what is opened again by `Run.open`.

    Args:
        problem: what was searched.
        path: the run directory.
        front: what was found.
        notes: what the user should know.

    Attributes:
        path: the run directory.
        front: what was found, as in ``front.json``.
        notes: what the user should know.
    """

    def __init__(self, problem: Problem, path: Path, front: Front, notes: Sequence[str] = ()) -> None:
        self.path = path
        self.front = front
        self.notes = tuple(notes)
        self._problem = problem

    def __repr__(self) -> str:
        state = "finished" if self.finished else "unfinished"
        return f"<Run in {self.path}, {state}: {len(self.front.members)} points on the front>"

    @classmethod
    def open(cls, path: str | Path, base: str | Path | None = None, reporter: Reporter | None = None) -> Run:
        """The run in a directory that ``evo-mpq run`` made, finished or not.

        Args:
            path: the run directory.
            base: the folder of the user's modules and files, if it moved.
            reporter: told about steps that may take long.

        Raises:
            RunError: there is no run, it was started from Python objects, or its network or data changed.
            ConfigError: its network or data cannot be loaded any more.
        """
        directory = RunDirectory(Path(path))
        journal = directory.rehearse_journal()
        config = _stored_config(directory, base)
        problem = located_problem(config, reporter, any_device=True)
        differences = identity_differences(journal.identity, problem.identity())
        if differences:
            listed = "\n  ".join(differences)
            raise RunError(f"{path} was made of something else than what is there now (then -> now):\n  {listed}")
        front = _written_front(directory)
        if front is None or not front.finished or front.measurements != journal.n_measured:
            front = front_so_far(problem, journal)
        return cls(problem, directory.path, front, directory.read_notes() or problem.notes)

    @property
    def finished(self) -> bool:
        """Whether the budget was spent; until then there are no test values."""
        return self.front.finished

    @property
    def picks(self) -> tuple[str, ...]:
        """The bounds that the search was told points will be picked within."""
        return self._problem.settings.search.picks

    def pick(self, what: str) -> Member:
        """The member that is meant by ``"knee"``, an id, or bounds like ``"size<=40kB"``; see `Front.pick`.

        The id may also be that of what ``evo-mpq allocate`` chose in the same directory.
        """
        return self.allocation(what.strip()) or self.front.pick(what)

    def allocation(self, name: str) -> Member | None:
        """The choice of an allocation method of that id, see ``evo-mpq allocate``; None if there is none."""
        for document in RunDirectory(self.path).read_allocations():
            if document["id"] == name:
                return Member.from_json(document)
        return None

    def describe(self, pick: str | Member) -> str:
        """The search values of a member with their units, in a line."""
        member = self._member(pick)
        parts = []
        for quantity in self._problem.quantities:
            value = member.search.get(quantity.name)
            if value is not None:
                number = f"{value:,.0f}" if quantity.unit == "B" else f"{value:.6g}"
                modelled = " (modelled)" if quantity.kind == "modelled" else ""
                parts.append(f"{quantity.name} {number} {quantity.unit}".rstrip() + modelled)
        return ", ".join(parts)

    def report(self) -> Path:
        """Where the report lies; open it in a browser."""
        return self.path / "report.html"

    def write_report(self) -> Path:
        """Writes front and report anew from the journal, and returns where the report lies.

        Raises:
            RunError: the journal is gone, or the disk is full.
        """
        directory = RunDirectory(self.path)
        directory.write_front(self.front)
        directory.write_report(report_of(self._problem, directory.read_journal(), self.front, directory, self.notes))
        return self.report()

    def module(self, pick: str | Member = "knee") -> CompressedModule:
        """The standalone compressed network of a member: what `load` gives for its file."""
        with fixed_threads(self._problem.settings.compute.threads):
            return self._problem.compressor.apply(self._member(pick).policy)

    def export(
        self,
        pick: str | Member = "knee",
        *,
        out: str | Path,
        format: Format | None = None,
        verify: bool = True,
        force: bool = False,
        progress: ReportProgress | None = None,
        **options: Any,
    ) -> Exported:
        """Measures a member again, writes it to a file, runs the file, and compares what it computes with the front.

        Args:
            pick: the member, or what `pick` takes.
            out: the file.
            format: ``"safetensors"`` (packed weights, as many bytes as the ``size`` objective says), ``"onnx"``,
                ``"torch"`` (a program of torch.export) or ``"policy"`` (JSON); default: by the file's ending.
            verify: whether an ONNX file or a program is run before it gets its name.
            force: whether a file that is there may be overwritten.
            progress: told about steps that take seconds.
            options: see `evo_mpq.results.export.ExportOptions`.

        Returns:
            Notes for the user, and what the file computes.

        Raises:
            ConfigError: there is no such member or format, or the file exists.
            ExportError: the format cannot hold the network; nothing was written.
            MismatchError: the file does not compute what the front shows, and was kept aside.
            RunError: the member does not measure as the front shows, or the file cannot be written.
        """
        path = Path(out)
        form = format_of(path) if format is None else format
        member = self._member(pick)
        with fixed_threads(self._problem.settings.compute.threads):
            exported = export_point(
                self._origin(),
                member,
                path,
                form,
                ExportOptions(verify=verify, **options),
                force=force,
                progress=progress or Silent().stage,
            )
        return self._kept(exported, member, form)

    def export_all(
        self,
        *,
        out: str | Path,
        format: Format = "safetensors",
        verify: bool = True,
        force: bool = False,
        progress: ReportProgress | None = None,
        **options: Any,
    ) -> Exported:
        """Exports every member of the front into a folder, with an ``index.json``; see `export`.

        Raises:
            EvoMpqError: as `export` does; members that do not compute what the front shows are kept aside, all others
                are written.
        """
        with fixed_threads(self._problem.settings.compute.threads):
            return export_all(
                self._origin(),
                self.front.members,
                Path(out),
                format,
                ExportOptions(verify=verify, **options),
                force=force,
                progress=progress or Silent().stage,
            )

    def _kept(self, exported: Exported, member: Member, form: Format) -> Exported:
        """Keeps what an exported file computes for the report, where the run's folder can be written."""
        if exported.verification is None:
            return exported
        directory = RunDirectory(self.path)
        document = {
            "id": member.id,
            "file": exported.path.name,
            "format": form,
            "verification": exported.verification.to_json(),
        }
        try:
            directory.write_export(f"{member.id}-{form}", document)
            _write_report_again(self._problem, directory)
        except RunError as error:
            return replace(exported, notes=(*exported.notes, f"the report does not show this export: {error}"))
        return exported

    def _origin(self) -> Origin:
        problem = self._problem
        return Origin(
            problem.space,
            problem.compressor,
            problem.quantities,
            problem.settings.compute.memory_bytes,
            problem.settings.compute.threads,
            problem.device,
            runs_here(RunDirectory(self.path).read_journal()),
            self.finished,
        )

    def _member(self, pick: str | Member) -> Member:
        return pick if isinstance(pick, Member) else self.pick(pick)


class SplitsInMemory:
    """The data of a search from Python, where a YAML names a function."""

    def __init__(self, splits: Mapping[str, Any]) -> None:
        self._splits = {name: split for name, split in splits.items() if split is not None}

    def __call__(self) -> Mapping[str, Any]:
        """The splits by name."""
        return self._splits


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
    space: Mapping[str, Any] | None = None,
    quantizer: Mapping[str, Any] | None = None,
    correction: str = "scale_bias",
    objectives: Sequence[Any] | None = None,
    constraints: Sequence[str] = (),
    picks: Sequence[str] = (),
    metrics: Sequence[Any] | None = None,
    algorithm: str = "nsga2",
    population: int | None = None,
    evaluations: int | None = None,
    minutes: float | None = None,
    stall: int | None = None,
    seeds: Sequence[Any] | None = None,
    surrogate: str | None = None,
    compute: Mapping[str, Any] | None = None,
    seed: int = 0,
    name: str = "run",
    out: str | Path | None = None,
    workers: int | None = None,
    yes: bool = False,
    quiet: bool = False,
) -> Run:
    """Searches the Pareto front of a network; the same as a YAML that says the same.

    Args:
        model: the network, a torch module, which is never modified; or what a YAML says under ``model``.
        calibration: torch Dataset or list of ``(inputs, target)``: sets ranges and statistics.
        search: likewise: ranks candidates.
        test: likewise: shown once, at the end.
        train: likewise, for methods that need labels to train.
        batch_size: samples per forward pass.
        forward: ``forward(model, inputs)``, where inputs are no plain arguments.
        output: which output counts, where there are several.
        space: what may be chosen; default: 2, 3, 4, 6 or 8 bits for weights and 4 or 8 for activations.
        quantizer: how numbers become integers.
        correction: ``"scale_bias"``, ``"bias"`` or ``"none"``.
        objectives: names, mappings or objects; default: ``soft_kl_divergence`` and ``size``.
        constraints: such as ``"accuracy >= 0.95"``.
        picks: bounds that you will pick points within, such as ``"size <= 40 kB"``; see the YAML's ``search: picks``.
        metrics: reported on the test split besides.
        algorithm: ``"nsga2"``, ``"random"`` or ``"exhaustive"``.
        population: candidates per generation; default: 10, and 20 for three or more objectives.
        evaluations: measurements in all; 400 where nothing else ends the search.
        minutes: wall-clock time.
        stall: generations without progress after which to stop.
        seeds: allocation methods, by name or as functions, whose choices are measured first; default: ``uniform``,
            ``sensitivity`` and ``shapley``.
        surrogate: the model that chooses what to measure: ``"auto"`` (the default), ``"gp"``, ``"additive"``,
            ``"shapley"``, or ``"none"`` for NSGA-II alone.
        compute: ``threads``, ``memory``, ``workers``.
        seed: of every random choice.
        name: of the run.
        out: the run directory; default: a temporary one. A directory with the same run is resumed.
        workers: processes that measure, default one; more need a script with a main guard.
        yes: enumerate a space however large it is.
        quiet: no progress.

    Returns:
        The run, with its front.

    Raises:
        EvoMpqError: anything is wrong with settings, network or data; nothing that was measured is lost.
        KeyboardInterrupt: interrupted; the same call with the same ``out`` goes on.

    >>> run = search(model, calibration=a, search=b, test=c, evaluations=400)  # doctest: +SKIP
    >>> run.export(run.pick("size<=40kB"), out="small.safetensors")  # doctest: +SKIP
    """
    splits = {"calibration": calibration, "search": search, "test": test, "train": train}
    budget = {"evaluations": evaluations, "minutes": minutes, "stall": stall}
    fitness = {"seeds": None if seeds is None else list(seeds), "surrogate": surrogate or "auto"}
    values = {
        "name": name,
        "seed": seed,
        "model": _model_section(model, forward, output),
        "data": {"kind": SplitsInMemory(splits), "batch_size": batch_size},
        "space": space,
        "quantizer": quantizer,
        "correction": correction,
        "objectives": objectives,
        "constraints": constraints,
        "metrics": metrics,
        "search": {"algorithm": algorithm, "population": population, "fitness": fitness, "picks": picks, **budget},
        "compute": {"workers": 1, **(compute or {}), **({} if workers is None else {"workers": workers})},
    }
    settings = validate(values)
    if settings.compute.workers != 1:
        _require_main_guard()
    path = Path(out) if out is not None else Path(tempfile.mkdtemp(prefix="evo-mpq-"))
    reporter = ConsoleReporter(quiet=quiet)
    with reporter.running(), RunDirectory(path) as directory:
        problem = build_problem(settings, progress=reporter.stage)
        with stop_on_interrupt() as interrupted:
            outcome = execute(problem, directory, enumerate_anyway=yes, reporter=reporter, interrupted=interrupted)
    if not outcome.finished:
        raise KeyboardInterrupt(f"interrupted; the same call with out={str(path)!r} goes on")
    return Run(problem, path, outcome.front, outcome.notes)


def load(file: str | Path, module: nn.Module, forward: Forward | None = None) -> CompressedModule:
    """The compressed network in a packed file, with the measured numbers exactly.

    Args:
        file: from `Run.export` or ``evo-mpq export``.
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
    config: Config, path: Path, *, enumerate_anyway: bool = False, reporter: Reporter | None = None
) -> tuple[Run, Outcome]:
    """Runs what a YAML says in a run directory; see `evo_mpq.running.execute`.

    Until it measures, Ctrl-C ends it at once; from then on after the measurements in hand.

    Raises:
        ConfigError: whatever is wrong; the message names the YAML.
        KeyboardInterrupt: interrupted before anything was measured, or a second time.
    """
    with _told_of(config.document), RunDirectory(path) as directory:
        problem = build_problem(config.settings, config.base, (reporter or Silent()).stage)
        with stop_on_interrupt() as interrupted:
            outcome = execute(
                problem,
                directory,
                base=config.base,
                enumerate_anyway=enumerate_anyway,
                reporter=reporter,
                interrupted=interrupted,
            )
    return Run(problem, path, outcome.front, outcome.notes), outcome


def allocate_config(
    config: Config,
    path: Path,
    methods: Sequence[str],
    budget: str,
    *,
    workers: int | None = None,
    reporter: Reporter | None = None,
) -> list[Allocation | NotApplicable]:
    """What allocation methods choose for a YAML; see `evo_mpq.allocating.allocate`.

    Raises:
        ConfigError: whatever is wrong; the message names the YAML.
        KeyboardInterrupt: interrupted; what was measured is kept.
    """
    with _beside_the_run(config, path, reporter) as (problem, directory, interrupted):
        return allocate(
            problem,
            directory,
            {name: plugins.resolve(name, "seeders", config.base, ("--method",)) for name in methods},
            budget,
            base=config.base,
            workers=workers,
            reporter=reporter,
            interrupted=interrupted,
        )


def contribute_config(
    config: Config,
    path: Path,
    estimator: str,
    n_measurements: int | None,
    *,
    workers: int | None = None,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """What every gene of a YAML contributes to the loss; see `evo_mpq.contributing.contribute`.

    Raises:
        ConfigError: whatever is wrong; the message names the YAML.
        KeyboardInterrupt: interrupted; what was measured is kept.
    """
    with _beside_the_run(config, path, reporter) as (problem, directory, interrupted):
        return contribute(
            problem,
            directory,
            estimator,
            n_measurements,
            base=config.base,
            workers=workers,
            reporter=reporter,
            interrupted=interrupted,
        )


@contextmanager
def _beside_the_run(
    config: Config, path: Path, reporter: Reporter | None
) -> Iterator[tuple[Problem, RunDirectory, Callable[[], bool]]]:
    """The problem of a YAML, its directory, and whether to stop: for commands that add to a run's directory.

    Where the run has a report, it is written anew with what they added.
    """
    with _told_of(config.document), RunDirectory(path) as directory:
        problem = build_problem(config.settings, config.base, (reporter or Silent()).stage)
        with stop_on_interrupt() as interrupted:
            yield problem, directory, interrupted
        _write_report_again(problem, directory)


def _write_report_again(problem: Problem, directory: RunDirectory) -> None:
    """Writes the report of a run anew, with what a command has added to its directory; nothing where there is none."""
    front = _written_front(directory)
    if front is not None:
        journal = directory.read_journal()
        notes = directory.read_notes() or problem.notes
        directory.write_report(report_of(problem, journal, front, directory, notes))


def located_problem(config: Config, reporter: Reporter | None = None, *, any_device: bool = False) -> Problem:
    """The problem of a YAML; see `evo_mpq.problem.build_problem`.

    Raises:
        ConfigError: whatever is wrong; the message names the YAML.
    """
    with _told_of(config.document):
        return build_problem(config.settings, config.base, (reporter or Silent()).stage, any_device=any_device)


@contextmanager
def _told_of(document: Document) -> Iterator[None]:
    """Tells errors with the lines of the YAML that they are about, or at least with its name."""
    try:
        yield
    except EvoMpqError as error:
        about = ("objectives",) if isinstance(error, MeasurementError) else ()
        located = locate(error, document, about)
        if document.name not in str(located):  # mistakes in overrides have no line
            located = ConfigError(located.mistakes, f"{document.name}: {located}")
        raise located from error


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


def _model_section(model: Any, forward: Any, output: str | int | None) -> dict[str, Any]:
    section = dict(model) if isinstance(model, Mapping) else {"kind": model}
    given = {"forward": forward, "output": output}
    return {**section, **{key: value for key, value in given.items() if value is not None}}


def _stored_config(directory: RunDirectory, base: str | Path | None) -> Config:
    """What the run in a directory was started with.

    Raises:
        RunError: it was started from Python objects, or in a folder that is gone.
    """
    path = directory.path
    values = Document.parse(directory.read_config(), str(path / "config.yaml")).values
    data = values.get("data")
    if isinstance(data, Mapping) and data.get("kind") == object_name(SplitsInMemory):
        raise RunError(
            f"{path} was started from Python with objects that no file names, so that it cannot be opened from here. "
            "Use the object that evo_mpq.search returned: run.export, run.write_report; the same call with the same "
            "out= returns it without measuring anything again."
        )
    folder = values.get("base") if base is None else base
    if isinstance(folder, str | os.PathLike) and not Path(folder).is_dir():
        raise RunError(
            f"{path} uses modules and files of {folder}, where there is no folder. If it moved, say where it is now "
            "by --base"
        )
    return load_config(path / "config.yaml", base=base)


def _written_front(directory: RunDirectory) -> Front | None:
    """The front that was written last, if there is one that can be read."""
    try:
        return directory.read_front()
    except RunError:
        return None


def _require_main_guard() -> None:
    """Refuses to spawn processes from a script that they would run again."""
    file = getattr(sys.modules.get("__main__"), "__file__", None)
    if file is None:
        raise ConfigError([Mistake(("compute", "workers"), _NO_SCRIPT)])
    if not _has_main_guard(Path(file)):
        raise ConfigError([Mistake(("compute", "workers"), _MAIN_GUARD)])


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
