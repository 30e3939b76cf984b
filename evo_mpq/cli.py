"""The commands: run, check, report, export, list, init, schema. Heavy packages are imported where they are used."""

from __future__ import annotations

import json
import os
import shlex
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evo_mpq.errors import ConfigError, EvoMpqError

if TYPE_CHECKING:
    from evo_mpq.config import Config
    from evo_mpq.problem import Problem

app = typer.Typer(
    help="Search the Pareto front of everything you could do to a neural network, measured.",
    epilog="Start with `evo-mpq run digits_resnet`, then `evo-mpq init --model my_nets:build` for your own network.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _complete_space(incomplete: str) -> list[str]:
    from evo_mpq.config import packaged_spaces

    names = [*packaged_spaces(), *(str(path) for path in Path().glob("*.y*ml"))]
    return [name for name in names if name.startswith(incomplete)]


Space = Annotated[
    str,
    typer.Argument(
        metavar="SPACE", help="A YAML file, or the name of a packaged one.", autocompletion=_complete_space
    ),
]
Directory = Annotated[Path, typer.Argument(metavar="DIR", help="A run directory, such as runs/my-net.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a setting, e.g. --set search.evaluations=800. Repeatable."),
]
Base = Annotated[Path | None, typer.Option(help="Folder of your modules and files; default: the YAML's own.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


class Offer(StrEnum):
    """What can be listed."""

    models = "models"
    data = "data"
    objectives = "objectives"
    quantizers = "quantizers"
    search_spaces = "search-spaces"


class Format(StrEnum):
    """What a point can be exported to."""

    safetensors = "safetensors"
    policy = "policy"


@app.command()
def run(
    space: Space,
    out: Annotated[Path | None, typer.Option(help="Run directory; default: runs/<name>.")] = None,
    overrides: Overrides = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes that measure; default: auto.")] = None,
    device: Annotated[str | None, typer.Option(help="Device that measures: auto or cpu.")] = None,
    base: Base = None,
    yes: Annotated[bool, typer.Option("--yes", help="Enumerate a space however large it is.")] = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Search a space and show its front.

    A directory that holds the same run is resumed; a finished run is reported again, or goes on if its budget grew.
    Ctrl-C stops after the measurements in hand and keeps everything.
    """
    from evo_mpq.api import run_config, stop_on_interrupt
    from evo_mpq.console import ConsoleReporter, print_front
    from evo_mpq.running import refuse_large_enumeration

    config = _config(space, overrides, base, workers=workers, device=device)
    path = out or Path("runs") / config.settings.name

    def before_search(problem: Problem) -> None:
        if config.settings.search.algorithm == "exhaustive" and not yes:
            try:
                refuse_large_enumeration(problem, _seconds_each(problem))
            except ConfigError as error:
                from evo_mpq.config import locate

                raise locate(error, config.document) from error

    reporter = ConsoleReporter(quiet=quiet)
    with reporter.running(), stop_on_interrupt() as interrupted:
        done, outcome = run_config(
            config, path, reporter=reporter, interrupted=interrupted, before_search=before_search
        )
    for note in outcome.notes:
        if note not in done.problem.notes:
            reporter.note(note)
    if outcome.was_finished:
        typer.echo(f"{path} was finished already; a larger budget (--set search.evaluations=…) goes on.", err=True)
    print_front(outcome.front)
    typer.echo(f"Report: {done.report()}")
    if not outcome.finished:
        typer.echo(f"Interrupted; everything measured is kept. Go on with:\n  {_this_command()}", err=True)
        raise typer.Exit(130)


@app.command()
def check(space: Space, overrides: Overrides = None, base: Base = None, debug: Debug = False) -> None:
    """Validate a YAML and say what it means, without searching."""
    from evo_mpq.api import located_problem
    from evo_mpq.checking import print_check
    from evo_mpq.console import ConsoleReporter

    config = _config(space, overrides, base)
    reporter = ConsoleReporter()
    with reporter.running():
        problem = located_problem(config, reporter)
    print_check(problem)


@app.command()
def report(directory: Directory, base: Base = None, debug: Debug = False) -> None:
    """Write the report of a run anew, finished or not, and print its front."""
    from evo_mpq.api import Run
    from evo_mpq.console import ConsoleReporter, print_front

    reporter = ConsoleReporter()
    with reporter.running():
        found = Run.open(directory, base, reporter)
        found.write_report()
    print_front(found.front)
    typer.echo(f"Report: {found.report()}")


@app.command()
def export(
    directory: Directory,
    out: Annotated[Path, typer.Option(help="File to write.")],
    pick: Annotated[str, typer.Option(help='knee, the id of a point, or a bound like "size<=40kB".')] = "knee",
    form: Annotated[Format, typer.Option("--format", help="Packed weights, or the policy as JSON.")] = (
        Format.safetensors
    ),
    base: Base = None,
    debug: Debug = False,
) -> None:
    """Measure a point of the front again and write it to a file."""
    from evo_mpq.api import Run
    from evo_mpq.console import ConsoleReporter

    reporter = ConsoleReporter()
    with reporter.running():
        found = Run.open(directory, base, reporter)
        member = found.pick(pick)
        reporter.stage(0, 0, "measuring the point again")
        notes = found.export(member, format=form.value, out=out)
    for note in notes:
        reporter.note(note)
    values = ", ".join(f"{name} {value:.6g}" for name, value in member.search.items() if value is not None)
    typer.echo(f"{out}: {out.stat().st_size:,} bytes, point {member.id} ({values})")


@app.command("list")
def list_offers(what: Annotated[Offer, typer.Argument(help="What to list.")]) -> None:
    """List what can be named in a YAML."""
    from evo_mpq import plugins
    from evo_mpq.config import describe_space, packaged_spaces

    if what is Offer.search_spaces:
        rows = {name: describe_space(path) for name, path in packaged_spaces().items()}
    else:
        rows = plugins.available(what.value)
    width = max(map(len, rows), default=0)
    for name, text in rows.items():
        typer.echo(f"{name:<{width}}  {text}")


@app.command()
def init(
    model: Annotated[str, typer.Option(help="Your network: module:function.")],
    data: Annotated[str, typer.Option(help="Your data: module:function, or a built-in name.")] = "my_data:load",
    out: Annotated[Path, typer.Option(help="File to write.")] = Path("search.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
    debug: Debug = False,
) -> None:
    """Write a commented YAML for your network."""
    from evo_mpq import plugins
    from evo_mpq.config import commented_yaml, run_name
    from evo_mpq.network.layers import module_layer_names
    from evo_mpq.results.export import write_file

    if out.exists() and not force:
        raise ConfigError(f"{out} exists; choose another file by --out, or overwrite it by --force")
    base = out.parent.resolve()
    from torch import nn

    module = plugins.call_factory(
        plugins.resolve(model, "models", base, ("model", "kind")), {}, kind=model, base=base, returns=nn.Module
    )
    text = commented_yaml(model, module_layer_names(module), name=run_name(out), data_kind=data)
    write_file(out, text.encode())
    typer.echo(f"Wrote {out}; go on with: evo-mpq check {out}")


@app.command()
def schema() -> None:
    """Print the JSON schema of a search space's YAML, for editors."""
    from evo_mpq.config import json_schema

    typer.echo(json.dumps(json_schema(), indent=2))


def _config(
    space: str, overrides: list[str] | None, base: Path | None, **changes: Any
) -> Config:
    from evo_mpq import plugins
    from evo_mpq.config import find_space, load

    flags = [f"compute.{key}={value}" for key, value in changes.items() if value is not None]
    return load(find_space(space), [*(overrides or []), *flags], base=base, checks=[plugins.name_mistakes])


def _seconds_each(problem: Problem) -> float:
    """Seconds that a candidate takes where neighbors share most of the work: a rough guess from a few."""
    from evo_mpq.checking import seconds_per_neighbor

    return seconds_per_neighbor(problem)


def _this_command() -> str:
    return shlex.join(["evo-mpq", *sys.argv[1:]])


def main() -> None:
    """The command line; errors for the user are one message and exit code 2."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        app(standalone_mode=True)
    except EvoMpqError as error:
        if "--debug" in sys.argv:
            raise
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        typer.echo("Interrupted.", err=True)
        sys.exit(130)


if __name__ == "__main__":
    main()
