"""What a person sees while evo-mpq works: progress on stderr, the front as a table on stdout."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Table

from evo_mpq.optimize.loop import Progress as SearchProgress
from evo_mpq.results.front import Front, Member

_LINE_SECONDS = 5.0
"""Between two lines of progress where no line can be overwritten."""


class ConsoleReporter:
    """Shows how far a run is: one line that moves on a terminal, a line every few seconds elsewhere.

    Args:
        quiet: show nothing but notes.
        file: where to; default: stderr.
    """

    def __init__(self, *, quiet: bool = False, file: Any = None) -> None:
        self._console = Console(file=file or sys.stderr, highlight=False, soft_wrap=True)
        self._quiet = quiet
        self._live: Progress | None = None
        self._task: TaskID | None = None
        self._last_line = 0.0
        self._last_message = ""

    @contextlib.contextmanager
    def running(self) -> Iterator[ConsoleReporter]:
        """Keeps a moving line while the block runs."""
        if self._quiet or not self._console.is_terminal:
            yield self
            return
        columns = TextColumn("{task.description}"), BarColumn(bar_width=24), TextColumn("{task.fields[detail]}")
        with Progress(*columns, console=self._console, transient=True) as live:
            self._live = live
            self._task = live.add_task("starting", total=None, detail="")
            try:
                yield self
            finally:
                self._live = None

    def stage(self, done: int, total: int, message: str) -> None:
        """A step before or after the search."""
        detail = f"{done} of {total}" if total else ""
        self._show(message, done, total or None, detail, always=message != self._last_message)
        self._last_message = message

    def search(self, progress: SearchProgress) -> None:
        """The search itself."""
        parts = [f"measured {progress.measured:g}" + (f" of {progress.evaluations}" if progress.evaluations else "")]
        if progress.hypervolume is not None:
            parts.append(f"hypervolume {progress.hypervolume:.5g}")
        parts.append(f"front {progress.front_size}")
        if progress.candidates_per_second:
            parts.append(f"{progress.candidates_per_second:.1f} candidates/s")
        if progress.seconds_left is not None:
            parts.append(f"{_duration(progress.seconds_left)} left")
        description = f"generation {progress.generation}"
        self._show(description, progress.measured, progress.evaluations, ", ".join(parts), always=False)
        self._last_message = description

    def note(self, message: str) -> None:
        """Something the user should know."""
        self._console.print(f"note: {message}", style="yellow", markup=False)

    def _show(self, message: str, done: float, total: float | None, detail: str, *, always: bool) -> None:
        if self._quiet:
            return
        if self._live is not None and self._task is not None:
            self._live.update(self._task, description=message, completed=done, total=total, detail=detail)
            return
        now = time.monotonic()
        if always or now - self._last_line >= _LINE_SECONDS:
            self._last_line = now
            self._console.print(f"{message}{': ' if detail else ''}{detail}", markup=False)


def _duration(seconds: float) -> str:
    if seconds >= 7200:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.1f} min" if seconds >= 120 else f"{seconds:.0f} s"


def front_table(front: Front, most: int = 24) -> Table:
    """The members of a front, at most ``most`` of them evenly spread, with search and test values."""
    knee = front.knee.id if front.members else None
    tested = [name for name in front.members[0].test] if front.members else []
    title = f"{len(front.members)} points on the front"
    table = Table(title=title, title_justify="left", header_style="bold")
    table.add_column("id")
    for column in front.objectives:
        table.add_column(f"{column.name}{f' [{column.unit}]' if column.unit else ''}".replace("[", "\\["), justify="right")
    for name in tested:
        table.add_column(f"test {name}", justify="right")
    for member in _spread(front.members, most, knee):
        table.add_row(
            member.id + (" knee" if member.id == knee else ""),
            *(_number(member.search.get(column.name)) for column in front.objectives),
            *(_number(None if (shown := member.test[name]) is None else shown.value) for name in tested),
        )
    return table


def _spread(members: Sequence[Member], most: int, knee: str | None) -> list[Member]:
    if len(members) <= most:
        return list(members)
    kept = {round(i * (len(members) - 1) / (most - 1)) for i in range(most)}
    return [member for i, member in enumerate(members) if i in kept or member.id == knee]


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) >= 1000 else f"{value:.5g}"


def print_front(front: Front) -> None:
    """Prints the front as a table on stdout."""
    console = Console(file=sys.stdout, highlight=False)
    if not front.members:
        console.print("The front is empty: nothing that meets the constraints was measured.")
        return
    table = front_table(front)
    Console(file=sys.stdout, highlight=False, width=None if console.is_terminal else 160).print(table)
