"""A point of a front becomes a file: measured again, written, run, compared, and only then given its name."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evo_mpq.compress.compressor import Compressor
from evo_mpq.compress.module import CompressedModule
from evo_mpq.errors import ConfigError, MismatchError, RunError
from evo_mpq.measure.objectives import Quantity
from evo_mpq.results.export.files import aside, refuse_existing, write_file
from evo_mpq.results.export.formats import FORMATS, SUFFIXES, ExportOptions, Format
from evo_mpq.results.export.policies import policy_document
from evo_mpq.results.export.remeasuring import measured_again
from evo_mpq.results.export.verifying import Run, Verification, compare
from evo_mpq.results.front import Member
from evo_mpq.space.search_space import SearchSpace

Progress = Callable[[int, int, str], None]
"""``progress(done, total, message)``, told about steps that take seconds."""


@dataclass(frozen=True, eq=False)
class Origin:
    """The run that points are exported from.

    Attributes:
        space: that was searched.
        compressor: that makes its candidates.
        quantities: that it measures.
        memory: bytes that may be used.
        threads: of an operation.
        measured_on: the run's device.
        exactly: whether processor and versions are those of the run.
        finished: whether the run is.
    """

    space: SearchSpace
    compressor: Compressor
    quantities: tuple[Quantity, ...]
    memory: int
    threads: int
    measured_on: str
    exactly: bool
    finished: bool


@dataclass(frozen=True)
class Exported:
    """What came of an export.

    Attributes:
        path: the file, or the folder of several.
        notes: for the user.
        verification: what the file computes; None where it was not run. Of several, see the folder's index.
    """

    path: Path
    notes: tuple[str, ...] = ()
    verification: Verification | None = None


def export_point(
    origin: Origin,
    member: Member,
    path: Path,
    form: Format,
    options: ExportOptions,
    *,
    force: bool = False,
    progress: Progress = lambda done, total, message: None,
) -> Exported:
    """Writes the file of a point.

    Args:
        origin: the run.
        member: the point.
        path: the file.
        form: its format.
        options: how it is written.
        force: whether a file that is there may be overwritten.
        progress: told about its steps.

    Raises:
        ConfigError: the file exists.
        ExportError: the format cannot hold the network; nothing was written.
        MismatchError: the file does not compute what the front shows, and was kept aside.
        RunError: the point does not measure as it did, or the file cannot be written.
    """
    if form not in FORMATS:
        raise ConfigError(f"there is no format {form!r}; there are {', '.join(FORMATS)}")
    refuse_existing(path, force=force)
    progress(0, 0, f"measuring {member.id} again")
    notes = measured_again(
        member,
        origin.space,
        origin.compressor,
        origin.quantities,
        origin.memory,
        measured_on=origin.measured_on,
        exactly=origin.exactly,
    )
    if form == "policy":
        write_file(path, _policy(origin, member, options).encode())
        return Exported(path, tuple(notes))
    progress(0, 0, f"writing {path.name}")
    module = origin.compressor.apply(member.policy)
    if form == "safetensors":
        write_file(path, _packed(origin.compressor, module, member))
        return Exported(path, tuple(notes))
    draft = _onnx(origin, member, module, options) if form == "onnx" else _torch(origin, member, module, options)
    verification = None
    if options.verify:
        progress(0, 0, f"verifying {path.name}")
        verification = _verified(origin, member, module, path, draft)
    write_file(path, draft.content)
    told = (*notes, *(() if verification is None else verification.notes))
    if verification is not None:
        write_file(verification_path(path), _json(verification.to_json()))
    elif verification_path(path).exists():
        verification_path(path).unlink()  # it would speak of the file that was overwritten
    if form == "onnx":
        told += _write_predict(path.parent)
    return Exported(path, told, verification)


def verification_path(path: Path) -> Path:
    """The document beside a file that says what it computes."""
    return path.with_name(f"{path.name}.json")


def export_all(
    origin: Origin,
    members: Sequence[Member],
    folder: Path,
    form: Format,
    options: ExportOptions,
    *,
    force: bool = False,
    progress: Progress = lambda done, total, message: None,
) -> Exported:
    """Writes the files of many points into a folder, with ``index.json``.

    Points that do not compute what the front shows are kept aside, the others are written all the same.

    Raises:
        ConfigError: one of the files exists.
        ExportError: the format cannot hold the network.
        MismatchError: names the points that were kept aside.
        RunError: a point does not measure as it did, or a file cannot be written.
    """
    files = {member.id: folder / f"{member.id}{SUFFIXES[form]}" for member in members}
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file; --all writes into a folder")
    for path in [*files.values(), folder / "index.json"]:
        refuse_existing(path, force=force, what="another folder by --out")
    notes: list[str] = []
    entries: list[dict[str, Any]] = []
    wrong: list[str] = []
    for done, member in enumerate(members):
        path = files[member.id]
        progress(done, len(members), f"exporting {member.id}")
        try:
            exported = export_point(origin, member, path, form, options, force=force)
        except MismatchError as error:
            wrong.append(str(error))
            entries.append(_entry(member, aside(path), None, holds=False))
            continue
        notes += [note for note in exported.notes if note not in notes]
        verification = exported.verification
        entries.append(_entry(member, path, verification, holds=None if verification is None else True))
    write_file(folder / "index.json", _json({"format": form, "points": entries}))
    if wrong:
        raise MismatchError(
            "\n".join([*wrong, f"{len(members) - len(wrong)} of {len(members)} points are in {folder}."])
        )
    return Exported(folder, tuple(notes))


def _entry(member: Member, path: Path, verification: Verification | None, *, holds: bool | None) -> dict[str, Any]:
    return {
        "id": member.id,
        "file": path.name,
        "bytes": path.stat().st_size,
        "search": dict(member.search),
        "verified": holds,
        "checks": [] if verification is None else [check.to_json() for check in verification.checks],
    }


@dataclass(frozen=True, eq=False)
class _Draft:
    """A file that has no name yet.

    Attributes:
        content: of the file.
        open: makes runtimes of a file that holds it, and says what is to be said of it.
        graph_bytes: see `Verification`.
    """

    content: bytes
    open: Callable[[Path], _Opened]
    graph_bytes: int | None = None


@dataclass(frozen=True, eq=False)
class _Opened:
    """A file in the runtimes that it is verified in.

    Attributes:
        runs: by name of the runtime.
        versions: likewise.
        kernels: see `Verification`.
        notes: likewise.
    """

    runs: Mapping[str, Run]
    versions: Mapping[str, str]
    kernels: tuple[Mapping[str, Any], ...] = ()
    notes: tuple[str, ...] = ()


def _verified(origin: Origin, member: Member, module: CompressedModule, path: Path, draft: _Draft) -> Verification:
    """What a draft computes; it is written where the file will be, but hidden, and deleted again.

    Raises:
        MismatchError: it is not what the front shows; then the draft is kept aside.
    """
    hidden = path.with_name(f".{path.name}.unverified{path.suffix}")
    try:
        write_file(hidden, draft.content)
        opened = draft.open(hidden)
        network = origin.compressor.network
        checks = compare(opened.runs, module, member, network, origin.quantities, finished=origin.finished)
    finally:
        hidden.unlink(missing_ok=True)
    packed = origin.compressor.packed_bytes(member.policy)
    told = opened.notes
    if not origin.finished:
        told += ("the run is not finished, so that nothing was compared on the test split",)
    sizes = len(draft.content), packed, draft.graph_bytes
    found = Verification(checks, opened.versions, *sizes, opened.kernels, told)
    if not found.holds:
        kept = aside(path)
        write_file(kept, draft.content)
        write_file(verification_path(kept), _json(found.to_json()))
        listed = "\n".join(f"  {line}" for line in found.lines())
        only = len(opened.runs) > 1 and all(check.holds for check in checks if check.runtime == "ONNX Runtime")
        hint = ""
        if only:
            hint = (
                " Only OpenVINO differs, which rounds residual additions otherwise: --runtime onnxruntime verifies "
                "without it, and --runtime openvino writes a file that it runs exactly."
            )
        elif draft.graph_bytes is not None:
            hint = " Integer kernels round biases: --exact writes a file that computes in floats what was measured."
        raise MismatchError(
            f"the file of {member.id} does not compute what the front shows, so it is not {path}; it is kept as {kept} "
            f"for a look.{hint}\n{listed}"
        )
    return found


def _policy(origin: Origin, member: Member, options: ExportOptions) -> str:
    if options.target is None:
        return policy_document(member, origin.compressor, origin.quantities)
    from evo_mpq.results.export.torchao_policy import torchao_document

    return torchao_document(member, origin.compressor)


def _packed(compressor: Compressor, module: CompressedModule, member: Member) -> bytes:
    content = compressor.pack(module)
    assert len(content) == compressor.packed_bytes(member.policy), "a size is the length of the packed file"
    return content


def _onnx(origin: Origin, member: Member, module: CompressedModule, options: ExportOptions) -> _Draft:
    # Imported here, so that all else works without the packages for ONNX.
    from evo_mpq.results.export.onnx import file as onnx_files
    from evo_mpq.results.export.onnx.model import graph_bytes
    from evo_mpq.results.export.onnx.onnx_runtime import OnnxRuntime, saturates
    from evo_mpq.results.export.onnx.openvino_runtime import OpenVino, is_installed
    from evo_mpq.results.export.onnx.writer import Options

    chosen = Options(options.linear, options.portable, options.exact, apart=options.runtimes == ("openvino",))
    metadata = onnx_files.metadata_of(member, origin.compressor, chosen, verified=options.verify)
    made = onnx_files.onnx_file(origin.compressor, module, chosen, metadata)

    def open_(path: Path) -> _Opened:
        wanted = options.runtimes or (("onnxruntime", "openvino") if is_installed() else ("onnxruntime",))
        runtime = OnnxRuntime(path, origin.threads)
        runs: dict[str, Any] = {OnnxRuntime.name: runtime} if "onnxruntime" in wanted else {}
        if "openvino" in wanted:
            runs[OpenVino.name] = OpenVino(path, origin.threads)
        rows = onnx_files.kernels(made, runtime, module)
        notes = onnx_files.kernel_notes(rows, chosen, saturating=saturates(origin.threads))
        return _Opened(runs, {name: run.version for name, run in runs.items()}, rows, tuple(notes))

    return _Draft(made.content, open_, graph_bytes(made.content))


def _torch(origin: Origin, member: Member, module: CompressedModule, options: ExportOptions) -> _Draft:
    from evo_mpq.results.export.torch_program import TorchProgram, program_bytes

    metadata = {
        "evo-mpq.id": member.id,
        "evo-mpq.policy": json.dumps(member.policy.to_json()),
        "evo-mpq.search": json.dumps(dict(member.search)),
        "evo-mpq.verification": "torch against the front" if options.verify else "none (--no-verify)",
    }

    def open_(path: Path) -> _Opened:
        program = TorchProgram(path)
        return _Opened({program.name: program}, {program.name: program.version})

    return _Draft(program_bytes(module, origin.compressor.network, metadata), open_)


def _write_predict(folder: Path) -> tuple[str, ...]:
    """Writes the script that runs ONNX files, unless the folder has another one of its name."""
    script, path = (Path(__file__).parent / "predict.py").read_bytes(), folder / "predict.py"
    try:
        there = path.read_bytes()
    except FileNotFoundError:
        write_file(path, script)
        return ()
    except OSError as error:
        raise RunError(f"{path} cannot be read: {error.strerror}.") from error
    return () if there == script else (f"{path} is another script, and was left as it is",)


def _json(document: Mapping[str, Any]) -> bytes:
    return (json.dumps(document, indent=1, allow_nan=False) + "\n").encode()
