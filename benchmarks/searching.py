"""Searches of real networks from benchmarks, and what they found, with the test values of all of it."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from evo_mpq.measure.executors import InProcess
from evo_mpq.optimize.pareto import non_dominated
from evo_mpq.problem import Problem
from evo_mpq.results.journal import parse_records
from evo_mpq.results.run_directory import RunDirectory
from evo_mpq.running import execute
from evo_mpq.space.policy import Policy
from evo_mpq.typing import BoolVector, FloatVector


@dataclass(frozen=True, eq=False)
class Found:
    """Networks that a search measured and would hand over.

    Attributes:
        losses: ``(n,)`` divergence that was searched, in nats.
        errors: ``(n,)`` standard errors of the judging KL on the search split.
        held_out: ``(n,)`` KL on the test split.
        sizes: ``(n,)`` in bytes.
        cpu_seconds: of the search's measurements, without the test split.
    """

    losses: FloatVector
    errors: FloatVector
    held_out: FloatVector
    sizes: FloatVector
    cpu_seconds: float = 0.0

    def of(self, rows: BoolVector) -> Found:
        """Some of the networks."""
        return Found(self.losses[rows], self.errors[rows], self.held_out[rows], self.sizes[rows], self.cpu_seconds)

    def front(self) -> Found:
        """Those that no other one dominates on the search split."""
        return self.of(non_dominated(np.stack([self.losses, self.sizes], axis=1)))

    def at_least(self, size: float) -> Found:
        """Those of at least so many bytes."""
        return self.of(self.sizes >= size)

    @classmethod
    def union(cls, parts: Sequence[Found]) -> Found:
        """All networks of several searches."""
        return cls(
            np.concatenate([part.losses for part in parts]),
            np.concatenate([part.errors for part in parts]),
            np.concatenate([part.held_out for part in parts]),
            np.concatenate([part.sizes for part in parts]),
        )


def searched(problem: Problem, seed: int, evaluations: int, judge: Problem | None = None) -> Found:
    """The front of a run with the settings' searcher, and test values of it.

    Args:
        problem: with the objectives divergence and size, in this order, and the plain KL among its quantities.
        seed: of the search.
        evaluations: measurements.
        judge: the same problem with the objective that standard errors and test values are of; default: its own.
    """
    search = problem.settings.search.model_copy(update={"evaluations": evaluations})
    settings = problem.settings.model_copy(update={"seed": seed, "search": search})
    own = replace(problem, settings=settings)  # with the allocation methods that it names
    with tempfile.TemporaryDirectory() as folder, RunDirectory(Path(folder) / "run") as directory:
        members = execute(own, directory, workers=1).front.members
        journal = directory.read_journal()
        rows = [journal.known(member.genome) for member in members]
        records, _ = parse_records((directory.path / "journal").read_bytes(), directory.path)
    seconds = sum(record["cpu_seconds"] for record in records if record["kind"] == "measured")
    column = [quantity.name for quantity in own.quantities].index("kl_divergence")
    losses = np.array([member.search[own.objectives[0].name] for member in members])
    sizes = np.array([member.search["size"] for member in members])
    if judge is None:
        errors = np.array([row.standard_errors[column] for row in rows if row is not None], dtype=np.float64)
        tested = [member.test["kl_divergence"] for member in members]
        held_out = np.array([interval.value for interval in tested if interval is not None])
    else:
        errors, held_out = _measured(judge, [member.policy for member in members])
    return Found(losses, errors, held_out, sizes, seconds)


def _measured(problem: Problem, policies: Sequence[Policy]) -> tuple[FloatVector, FloatVector]:
    """Standard errors of the KL on the search split, and the KL on the test split."""
    column = [quantity.name for quantity in problem.quantities].index("kl_divergence")
    executor = InProcess(problem.compressor, problem.quantities, 1 << 28)
    errors = executor.measure(policies, "search").values.standard_errors[:, column]
    return errors, executor.measure(policies, "test").values.values[:, column]
