"""The commands, from run to schema. Heavy packages are imported when needed."""

from __future__ import annotations

import json
import os
import shlex
import sys
import traceback
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from evo_mpq.errors import ConfigError, EvoMpqError, Mistake

if TYPE_CHECKING:
    from evo_mpq.config import Config
    from evo_mpq.reporters import Reporter


class Command(TyperCommand):
    """A command that tells what its user can put right in one message, without a traceback.

    Exit codes: that of an `EvoMpqError`, mostly 2, and 130 for Ctrl-C. ``--debug`` shows the traceback before.
    """

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]  # typer's own class of context
        """Runs the command."""
        try:
            return super().invoke(ctx)
        except EvoMpqError as error:
            if ctx.params.get("debug"):
                traceback.print_exc()
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            if ctx.params.get("debug"):
                traceback.print_exc()
            typer.echo(f"Interrupted.{_going_on() if ctx.info_name == 'run' else ''}", err=True)
            raise typer.Exit(130) from None


app = typer.Typer(
    help="Find the Pareto front of everything you could do to a neural network, every point of it measured.",
    epilog=(
        "A first look: `evo-mpq run digits_resnet`, then open its report. Your own network: `evo-mpq init --model "
        "my_nets:build` writes a YAML, `evo-mpq check` explains it, `evo-mpq run` searches, `evo-mpq export` writes "
        "the file of a point. Every command has its own --help."
    ),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def complete_space(incomplete: str) -> list[str]:
    """Packaged search spaces and YAML files that begin like what was typed."""
    from evo_mpq.config import packaged_spaces

    files = [str(path) for path in Path().glob(f"{incomplete}*") if path.suffix in (".yaml", ".yml") or path.is_dir()]
    return [*(name for name in packaged_spaces() if name.startswith(incomplete)), *sorted(files)]


def complete_directory(incomplete: str) -> list[str]:
    """Run directories that begin like what was typed."""
    journals = [*Path().glob("*/journal"), *Path().glob("*/*/journal")]
    return sorted(str(path.parent) for path in journals if str(path.parent).startswith(incomplete))


def complete_pick(ctx: typer.Context, incomplete: str) -> list[str]:
    """The knee and the ids of the points of the run that was typed before."""
    from evo_mpq.results.run_directory import RunDirectory

    try:
        members = RunDirectory(Path(ctx.params.get("directory") or "")).read_front().members
    except EvoMpqError:
        members = ()
    return [name for name in ["knee", *(member.id for member in members)] if name.startswith(incomplete)]


def complete_method(incomplete: str) -> list[str]:
    """Allocation methods that begin like what was typed."""
    from evo_mpq.plugins import available

    return [name for name in ["all", *available("seeders")] if name.startswith(incomplete)]


def complete_setting(incomplete: str) -> list[str]:
    """Keys that a YAML may have, as ``--set`` takes them."""
    from evo_mpq.config import json_schema

    schema = json_schema()
    keys = []
    for key, said in schema["properties"].items():
        name = str(said.get("$ref", "")).rpartition("/")[2]
        section = schema["$defs"].get(name, {}).get("properties")
        keys += [f"{key}.{inner}=" for inner in section] if section else [f"{key}="]
    return [key for key in keys if key.startswith(incomplete)]


Space = Annotated[
    str,
    typer.Argument(
        metavar="SPACE",
        help="A YAML file, or the name of a packaged one (see `evo-mpq list search-spaces`).",
        autocompletion=complete_space,
    ),
]
Directory = Annotated[
    Path,
    typer.Argument(metavar="DIR", help="A run directory, such as runs/my-net.", autocompletion=complete_directory),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change a setting of the YAML, e.g. --set search.evaluations=800. Repeatable.",
        autocompletion=complete_setting,
    ),
]
Base = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="Where your modules and files are; default: the YAML's folder."),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress, only notes, errors and the front.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]  # read by Command


class Offer(StrEnum):
    """What can be listed."""

    models = "models"
    data = "data"
    objectives = "objectives"
    quantizers = "quantizers"
    seeders = "seeders"
    search_spaces = "search-spaces"


class Format(StrEnum):
    """What a point can be exported to."""

    safetensors = "safetensors"
    policy = "policy"
    onnx = "onnx"
    torch = "torch"


class Linear(StrEnum):
    """How ONNX files store linear layers with 4-bit weights and float activations."""

    qdq = "qdq"
    nbits = "nbits"


class Runtime(StrEnum):
    """What ONNX files are verified in."""

    onnxruntime = "onnxruntime"
    openvino = "openvino"


@app.command(cls=Command)
def run(
    space: Space,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Run directory; default: runs/<name>.")] = None,
    overrides: Overrides = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes that measure; the front is the same. Default: auto.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="Device that measures: cpu (also auto) or an accelerator such as cuda.")
    ] = None,
    base: Base = None,
    yes: Annotated[bool, typer.Option("--yes", help="Enumerate a space however long it takes.")] = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Search a space and print its front; the report is DIR/report.html.

    The same command again resumes a run that was stopped, however it was stopped. A finished run is reported again,
    and goes on if its budget grew: --set search.evaluations=800. Ctrl-C stops after the measurements in hand, writes
    front and report of what there is, and prints the command that goes on.
    """
    from evo_mpq.api import run_config
    from evo_mpq.console import ConsoleReporter, print_front

    reporter = ConsoleReporter(quiet=quiet)
    with reporter.running():
        config = _config(space, overrides, base, reporter, workers=workers, device=device)
        path = out or Path("runs") / config.settings.name
        found, outcome = run_config(config, path, enumerate_anyway=yes, reporter=reporter)
    if outcome.was_finished:
        typer.echo(
            f"{path} was finished already, and nothing was measured; a larger budget goes on, e.g. "
            f"--set search.evaluations={2 * found.front.measurements}",
            err=True,
        )
    print_front(found.front, found.picks)
    typer.echo(f"Report: {found.report()}")
    if not outcome.finished:
        typer.echo(f"Interrupted.{_going_on()}", err=True)
        raise typer.Exit(130)


@app.command(cls=Command)
def check(space: Space, overrides: Overrides = None, base: Base = None, debug: Debug = False) -> None:
    """Say what a YAML means and what a measurement costs, without searching.

    Prints layers, genes and objectives; measures one candidate: how long it takes, how far it is from the float
    network, and how many search samples would tell candidates apart.
    """
    from evo_mpq.api import located_problem
    from evo_mpq.checking import print_check, try_middle
    from evo_mpq.console import ConsoleReporter

    reporter = ConsoleReporter()
    with reporter.running():
        problem = located_problem(_config(space, overrides, base, reporter), reporter)
        reporter.stage(0, 0, "measuring one candidate")
        trial = try_middle(problem)
    for note in problem.notes:
        reporter.note(note)
    print_check(problem, trial)
    typer.echo(f"{space} is right; search with: evo-mpq run {shlex.quote(space)}")


@app.command(cls=Command)
def report(directory: Directory, base: Base = None, debug: Debug = False) -> None:
    """Write front and report of a run anew, finished or not, and print the front.

    Nothing is measured. Test values are only there once a run is finished.
    """
    from evo_mpq.api import Run
    from evo_mpq.console import ConsoleReporter, print_front

    reporter = ConsoleReporter()
    with reporter.running():
        found = Run.open(directory, base, reporter)
        found.write_report()
    print_front(found.front, found.picks)
    typer.echo(f"Report: {found.report()}")


@app.command(cls=Command)
def export(
    directory: Directory,
    out: Annotated[Path, typer.Option(metavar="FILE", help="File to write; with --all, the folder.")],
    pick: Annotated[
        str,
        typer.Option(
            help='Which point: knee, an id, or bounds like "size<=40kB" (the best within them by search values).',
            autocompletion=complete_pick,
        ),
    ] = "knee",
    form: Annotated[
        Format | None,
        typer.Option(
            "--format",
            help="Packed weights, ONNX, a program of torch.export, or the policy as JSON; default: by the file's "
            "ending (.safetensors, .onnx, .pt2, .json).",
        ),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every point of the front, into a folder.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite files that are there.")] = False,
    verify: Annotated[
        bool,
        typer.Option("--verify/--no-verify", help="Run an ONNX file or a program, and compare it with the front."),
    ] = True,
    runtimes: Annotated[
        list[Runtime] | None,
        typer.Option("--runtime", help="What an ONNX file is verified in; default: all installed. Repeatable."),
    ] = None,
    linear: Annotated[
        Linear,
        typer.Option(help="ONNX: 4-bit linear layers with float activations as floats at load, or for MatMulNBits."),
    ] = Linear.qdq,
    portable: Annotated[
        bool, typer.Option("--portable", help="ONNX: weights that saturate no processor's kernels; slower at 8 bits.")
    ] = False,
    target: Annotated[
        str | None,
        typer.Option("--for", metavar="STACK", help="Policy: as another stack reads it: torchao."),
    ] = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="ONNX: what was measured to the last bits, in floats: no integer kernels.")
    ] = False,
    base: Base = None,
    debug: Debug = False,
) -> None:
    """Write the file of a point of the front, after measuring it again.

    A safetensors file holds packed weights and is as long as the size objective says; evo_mpq.load(FILE, module) gives
    back a network with the numbers shown. An ONNX file runs in ONNX Runtime with integer kernels; it is run on the
    search and test samples, and gets its name only if it computes what the front shows (exit code 1 otherwise).
    Nothing is written if the point does not measure as it did.
    """
    from evo_mpq.api import Run
    from evo_mpq.console import ConsoleReporter
    from evo_mpq.results.export import format_of, verification_path

    options: dict[str, Any] = {
        "verify": verify,
        "force": force,
        "linear": linear.value,
        "portable": portable,
        "exact": exact,
        "target": target,
        "runtimes": tuple(runtime.value for runtime in runtimes or ()),
    }
    reporter = ConsoleReporter()
    with reporter.running():
        found = Run.open(directory, base, reporter)
        if everything:
            chosen: Any = format_of(out) if form is None else form.value
            exported = found.export_all(out=out, format=chosen, progress=reporter.stage, **options)
        else:
            member = found.pick(pick)
            wanted: Any = None if form is None else form.value
            exported = found.export(member, out=out, format=wanted, progress=reporter.stage, **options)
    for note in exported.notes:
        reporter.note(note)
    if exported.verification is not None:
        for line in exported.verification.lines():
            typer.echo(line)
        typer.echo(f"Kept in {verification_path(out)}, with the kernel of every layer.")
    if everything:
        typer.echo(f"{out}: {len(found.front.members)} points, listed in {out / 'index.json'}")
    else:
        typer.echo(f"{out}: {out.stat().st_size:,} bytes, point {member.id}: {found.describe(member)}")


@app.command(cls=Command)
def allocate(
    space: Space,
    budget: Annotated[str, typer.Option(help='What the policy may cost, such as "size<=40kB".')],
    method: Annotated[
        str,
        typer.Option(
            help="An allocation method (see `evo-mpq list seeders`), or all for a table of all of them.",
            autocompletion=complete_method,
        ),
    ] = "sensitivity",
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Run directory; default: runs/<name>.")] = None,
    overrides: Overrides = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes that measure. Default: auto.")] = None,
    base: Base = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Let a known recipe choose one policy within a budget, and measure it: what other tools give, in their time.

    The policy is kept in DIR/allocations; its id goes to evo-mpq export like that of a point of a front. What is
    measured here a run in the same directory need not measure again, and nothing else about that run changes. A search,
    evo-mpq run, is never worse than the recipes that it begins with.
    """
    from evo_mpq.api import allocate_config
    from evo_mpq.console import ConsoleReporter, print_allocations
    from evo_mpq.plugins import available

    reporter = ConsoleReporter(quiet=quiet)
    with reporter.running():
        config = _config(space, overrides, base, reporter)
        path = out or Path("runs") / config.settings.name
        methods = list(available("seeders")) if method == "all" else [method]
        found = allocate_config(config, path, methods, budget, workers=workers, reporter=reporter)
    print_allocations(found)
    exporting = shlex.join(["evo-mpq", "export", str(path)])
    typer.echo(f"Kept in {path / 'allocations'}; write the file of one with: {exporting} --pick ID --out FILE")


@app.command(cls=Command)
def contributions(
    space: Space,
    estimator: Annotated[
        str, typer.Option(help="kernel (accurate with few measurements), lattice, permutation or exact.")
    ] = "kernel",
    measurements: Annotated[
        int | None, typer.Option(min=1, help="For the estimator; default: 4 per gene. Sensitivities come besides.")
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Run directory; default: runs/<name>.")] = None,
    overrides: Overrides = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes that measure. Default: auto.")] = None,
    base: Base = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Say which layers, and which of their bits, channels and blocks matter: Shapley contributions to the loss.

    Each step that a gene can take, such as from 4 to 3 bits, gets its share of the loss between the most expensive and
    the cheapest network, averaged over the orders in which all steps could be taken. They are kept in
    DIR/contributions.json and shown in the run's report. What is measured here a run in the same directory need not
    measure again, and nothing else about that run changes.
    """
    from evo_mpq.api import contribute_config
    from evo_mpq.console import ConsoleReporter, print_contributions

    reporter = ConsoleReporter(quiet=quiet)
    with reporter.running():
        config = _config(space, overrides, base, reporter)
        path = out or Path("runs") / config.settings.name
        found = contribute_config(config, path, estimator, measurements, workers=workers, reporter=reporter)
    print_contributions(found)
    typer.echo(f"Kept in {path / 'contributions.json'}; the report of a run in {path} shows them")


@app.command("list", cls=Command)
def list_offers(what: Annotated[Offer, typer.Argument(help="What to list.")], debug: Debug = False) -> None:
    """List what can be named in a YAML, with a line about each.

    Names of your own are "module:attribute", such as "my_nets:build".
    """
    from evo_mpq import plugins
    from evo_mpq.config import describe_space, packaged_spaces

    if what is Offer.search_spaces:
        rows = {name: describe_space(path) for name, path in packaged_spaces().items()}
    else:
        rows = plugins.available(what.value)
    width = max(map(len, rows), default=0)
    for name, text in rows.items():
        typer.echo(f"{name:<{width}}  {text}")


@app.command(cls=Command)
def init(
    model: Annotated[str, typer.Option(metavar="NAME", help="Your network, my_nets:build, or a built-in name.")],
    data: Annotated[
        str | None, typer.Option(metavar="NAME", help="Your data, or a built-in name; default: my_data:load.")
    ] = None,
    out: Annotated[Path, typer.Option(metavar="FILE", help="File to write.")] = Path("search.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
    debug: Debug = False,
) -> None:
    """Write a commented YAML for your network, with its layers' names and every setting there is.

    The module is looked for in the folder of the file that is written. my_nets:build is a function without required
    arguments that returns a torch module; my_data:load one that returns a mapping with the keys calibration, search
    and test, each a torch Dataset or a list of (inputs, target).
    """
    from torch import nn

    from evo_mpq import plugins
    from evo_mpq.config import commented_yaml, run_name
    from evo_mpq.console import ConsoleReporter
    from evo_mpq.network.layers import module_layer_names
    from evo_mpq.results.export import write_file

    if out.exists() and not force:
        raise ConfigError(f"{out} exists; choose another file by --out, or overwrite it by --force")
    base = out.parent.resolve()
    reporter = ConsoleReporter()
    with reporter.running():
        function = plugins.resolve(model, "models", base, ("--model",))
        offered = {"progress": reporter.stage}
        network = plugins.call_factory(
            function, {}, kind=model, key_path=("--model",), base=base, offered=offered, returns=nn.Module
        )
    data_kind = data or ("my_data:load" if ":" in model else "digits")
    text = commented_yaml(model, module_layer_names(network), name=run_name(out), data_kind=data_kind)
    write_file(out, text.encode())
    typer.echo(f"Wrote {out}; go on with: evo-mpq check {shlex.quote(str(out))}")


@app.command(cls=Command)
def schema() -> None:
    """Print the JSON schema of a YAML, for completion and checking in editors.

    evo-mpq schema > evo-mpq.schema.json, beside the YAML, is where its first line looks for it.
    """
    from evo_mpq.config import json_schema

    typer.echo(json.dumps(json_schema(), indent=2))


def _config(space: str, overrides: list[str] | None, base: Path | None, reporter: Reporter, **changes: Any) -> Config:
    """The YAML as the options of a command change it."""
    from evo_mpq.config import find_space, load
    from evo_mpq.plugins import name_mistakes

    def deeper(values: Mapping[str, Any], folder: Path) -> list[Mistake]:
        from evo_mpq.problem import mistakes_behind

        return mistakes_behind(values, folder, reporter.stage)

    flags = [f"compute.{key}={value}" for key, value in changes.items() if value is not None]
    return load(find_space(space), [*(overrides or []), *flags], base=base, checks=[name_mistakes], deeper=deeper)


def _going_on() -> str:
    return f" Everything measured is kept. Go on with:\n  {shlex.join(['evo-mpq', *sys.argv[1:]])}"


def main() -> None:
    """The command line."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    app()


if __name__ == "__main__":
    main()
