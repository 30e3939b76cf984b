"""What a person sees while evo-mpq works: progress on stderr, the front as a table on stdout."""

from __future__ import annotations

import sys
import time
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table

from evo_mpq.allocating import Allocation, NotApplicable
from evo_mpq.optimize.loop import Progress as SearchProgress
from evo_mpq.results.front import Front, Member

_LINE_SECONDS = 5.0
"""Between two lines of progress where no line can be overwritten."""

_PIPED_WIDTH = 160
"""Columns of tables that are not written to a terminal."""

_WIDE = 130
"""Columns of a terminal that hold everything that is told about a search."""

_MOST_ROWS = 24


def stdout_console() -> Console:
    """A console on stdout that prints texts as they are, whatever brackets they hold."""
    width = None if sys.stdout.isatty() else _PIPED_WIDTH
    return Console(file=sys.stdout, highlight=False, markup=False, emoji=False, width=width)


class ConsoleReporter:
    """Shows how far a run is: one line that moves on a terminal, a line every few seconds elsewhere.

    Args:
        quiet: show nothing but notes.
        file: where to; default: stderr.
    """

    def __init__(self, *, quiet: bool = False, file: TextIO | None = None) -> None:
        self._console = Console(file=file or sys.stderr, highlight=False, markup=False, emoji=False, soft_wrap=True)
        self._quiet = quiet
        self._live: tuple[Progress, TaskID] | None = None
        self._last_line = 0.0
        self._last_message = ""

    @property
    def _narrow(self) -> bool:
        """Whether the whole line, with a long bar, would be cut off."""
        return self._console.width < _WIDE

    @contextmanager
    def running(self) -> Iterator[ConsoleReporter]:
        """Keeps a moving line while the block runs."""
        if self._quiet or not self._console.is_terminal:
            yield self
            return
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=8 if self._narrow else 24),
            TextColumn("{task.fields[detail]}", markup=False),
        )
        with Progress(*columns, console=self._console, transient=True) as progress:
            self._live = progress, progress.add_task("starting", total=None, detail="")
            try:
                yield self
            finally:
                self._live = None

    def stage(self, done: int, total: int, message: str) -> None:
        """A step before or after the search."""
        detail = f"{done} of {total}" if total else f"{done:,} so far" if done else ""
        self._show(message, done, total or None, detail, always=message != self._last_message)
        self._last_message = message

    def search(self, progress: SearchProgress) -> None:
        """The search itself."""
        message = f"generation {progress.generation}"
        self._show(
            message,
            progress.measured,
            progress.evaluations,
            _search_detail(progress, short=self._live is not None and self._narrow),
            always=message != self._last_message,
        )
        self._last_message = message

    def note(self, message: str) -> None:
        """Something the user should know."""
        self._console.print(f"note: {message}", style="yellow")

    def _show(self, message: str, done: float, total: float | None, detail: str, *, always: bool) -> None:
        if self._quiet:
            return
        if self._live is not None:
            progress, task = self._live
            progress.update(task, description=message, completed=done, total=total, detail=detail)
            return
        now = time.monotonic()
        if always or now - self._last_line >= _LINE_SECONDS:
            self._last_line = now
            self._console.print(f"{message}: {detail}" if detail else message)


def _search_detail(progress: SearchProgress, *, short: bool = False) -> str:
    """Measured of budget, hypervolume, size of the front, speed and time left, as far as they are known."""
    measured = f"{progress.measured:g}" + (f" of {progress.evaluations}" if progress.evaluations else "")
    parts = [measured if short else f"measured {measured}"]
    if progress.hypervolume is not None:
        parts.append(f"hypervolume {progress.hypervolume:.5g}")
    parts.append(f"front {progress.front_size}")
    if progress.candidates_per_second:
        parts.append(f"{progress.candidates_per_second:.1f}{'/s' if short else ' candidates/s'}")
    if progress.seconds_left is not None:
        parts.append(f"{_duration(progress.seconds_left)} left")
    return ", ".join(parts)


def _duration(seconds: float) -> str:
    if seconds >= 7200:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.1f} min" if seconds >= 120 else f"{seconds:.0f} s"


def print_front(front: Front, picks: Sequence[str] = ()) -> None:
    """Prints the front as a table on stdout, and which member is the best within each of some bounds."""
    console = stdout_console()
    if front.members:
        console.print(front_table(front, picks))
    else:
        console.print("The front is empty.")


def front_table(front: Front, picks: Sequence[str] = (), most: int = _MOST_ROWS) -> Table:
    """The members of a front with search and test values; of many, ``most`` evenly spread ones, knee and picks."""
    labels = {front.knee.id: ["knee"]}
    for text in picks:
        if (best := front.best_within(text)) is not None:
            labels.setdefault(best.id, []).append(text)
    shown = _spread(front.members, most, labels)
    tested = list(front.members[0].test)
    title = f"{len(front.members)} points on the front"
    if len(shown) < len(front.members):
        title += f", {len(shown)} of them shown here"
    table = Table(title=title, title_justify="left", header_style="bold")
    table.add_column("id")
    for column in front.objectives:
        table.add_column(column.label, justify="right")
    for name in tested:
        table.add_column(f"test {name}", justify="right")
    for member in shown:
        table.add_row(
            f"{member.id} {', '.join(labels.get(member.id, []))}".rstrip(),
            *(_number(member.search.get(column.name)) for column in front.objectives),
            *(_number(None if (value := member.test[name]) is None else value.value) for name in tested),
        )
    return table


def print_contributions(document: Mapping[str, Any]) -> None:
    """Prints what each gene contributes to the loss as a table on stdout, the largest first."""
    console = stdout_console()
    table = Table(
        title=f"{document['objective']['name']} by gene, from {document['top']:.4g} to {document['bottom']:.4g} "
        f"({document['measurements']} measurements)",
        title_justify="left",
        header_style="bold",
    )
    for name in ("gene", "contributes", "±", "step by step"):
        table.add_column(name, justify="right" if name in ("contributes", "±") else "left")
    for gene in sorted(document["genes"], key=lambda gene: -gene["total"]):
        steps = ", ".join(f"{step['from']}→{step['to']}: {step['loss']:.3g}" for step in gene["steps"])
        table.add_row(gene["name"], f"{gene['total']:.4g}", f"{1.96 * gene['total_error']:.2g}", steps)
    console.print(table)


def print_allocations(found: Sequence[Allocation | NotApplicable]) -> None:
    """Prints what allocation methods chose as a table on stdout, the best first, and why some could not."""
    console = stdout_console()
    chosen = [entry for entry in found if isinstance(entry, Allocation)]
    if chosen:
        console.print(_allocation_table(chosen))
    for entry in found:
        if isinstance(entry, NotApplicable):
            console.print(f"{entry.method}: {entry.why}")


def _allocation_table(chosen: Sequence[Allocation]) -> Table:
    first = chosen[0]
    shared = "A measurement that several methods need counts for each; CPU s only where it was made."
    table = Table(header_style="bold", caption=shared if chosen[1:] else None, caption_justify="left")
    table.add_column("method")
    table.add_column("id")
    labels = [column.label for column in first.columns]
    for label in [*labels, *(f"test {name}" for name in first.member.test), "measurements", "CPU s"]:
        table.add_column(label, justify="right")
    for entry in sorted(chosen, key=lambda entry: entry.loss):
        member = entry.member
        table.add_row(
            entry.method,
            member.id,
            *(_number(member.search.get(column.name)) for column in entry.columns),
            *(_number(None if value is None else value.value) for value in member.test.values()),
            f"{entry.measurements:,}",
            f"{entry.cpu_seconds:.1f}",
        )
    return table


def _spread(members: Sequence[Member], most: int, kept_anyway: Container[str]) -> list[Member]:
    if len(members) <= most:
        return list(members)
    kept = {round(i * (len(members) - 1) / (most - 1)) for i in range(most)}
    return [member for i, member in enumerate(members) if i in kept or member.id in kept_anyway]


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) >= 1000 else f"{value:.5g}"
