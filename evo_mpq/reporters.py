"""Where a run says how far it is: to nobody, or to somebody and its log."""

from __future__ import annotations

from typing import Protocol

from evo_mpq.optimize.loop import Progress
from evo_mpq.results.run_directory import NOTE, RunDirectory


class Reporter(Protocol):
    """Where a run says how far it is."""

    def stage(self, done: int, total: int, message: str) -> None:
        """A step before or after the search; ``total`` 0 where the length is not known."""

    def search(self, progress: Progress) -> None:
        """The search itself."""

    def note(self, message: str) -> None:
        """Something the user should know."""


class Silent:
    """Says nothing."""

    def stage(self, done: int, total: int, message: str) -> None:
        """Nothing."""

    def search(self, progress: Progress) -> None:
        """Nothing."""

    def note(self, message: str) -> None:
        """Nothing."""


class Logged:
    """Tells a reporter, and writes to the run's ``log.txt`` what is worth reading there later.

    Args:
        reporter: who is told everything.
        directory: of the run.
    """

    def __init__(self, reporter: Reporter, directory: RunDirectory) -> None:
        self._reporter = reporter
        self._directory = directory
        self._stage = ""
        self._progress: Progress | None = None
        self.notes: list[str] = []
        """What was noted, each once, in order."""

    def stage(self, done: int, total: int, message: str) -> None:
        """A step before or after the search; its beginning is logged."""
        if message != self._stage:
            self._stage = message
            self.log(message)
        self._reporter.stage(done, total, message)

    def search(self, progress: Progress) -> None:
        """The search itself; the end of each generation is logged, but none while the journal is replayed."""
        if self._progress is not None and self._progress.generation != progress.generation:
            self._log_generation()
        if progress.candidates_per_second:
            self._progress = progress
        self._reporter.search(progress)

    def note(self, message: str) -> None:
        """Something the user should know; said once."""
        if message not in self.notes:
            self.notes.append(message)
            self.log(f"{NOTE}{message}")
            self._reporter.note(message)

    def log(self, message: str) -> None:
        """A line for the log alone."""
        self._log_generation()
        self._directory.log(message)

    def _log_generation(self) -> None:
        progress, self._progress = self._progress, None
        if progress is not None:
            volume = "" if progress.hypervolume is None else f"hypervolume {progress.hypervolume:.6g}, "
            ranked = "" if progress.tau is None else f"predicted with Kendall's tau {progress.tau:.2f}, "
            self._directory.log(
                f"generation {progress.generation}: measured {progress.measured:g}, {volume}front of "
                f"{progress.front_size}, {ranked}{progress.candidates_per_second:.3g} candidates/s"
            )
