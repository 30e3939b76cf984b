"""evo-mpq's own arms: the default search as a user writes it, and what is left of it when parts are taken away."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

import evo_mpq
from benchmarks.peers.crossing import cpu_seconds, outputs
from benchmarks.peers.judge import Entry, bits_of
from benchmarks.peers.tasks import Task
from evo_mpq import plugins
from evo_mpq.api import Run, SplitsInMemory
from evo_mpq.config import validate
from evo_mpq.costs import cost_of
from evo_mpq.measure.executors import InProcess
from evo_mpq.predict.tables.options import Estimates
from evo_mpq.predict.tables.tables import Tables
from evo_mpq.problem import Problem, build_problem
from evo_mpq.results.run_directory import RunDirectory
from evo_mpq.running import execute
from evo_mpq.typing import Genomes


def as_a_user(
    network: nn.Module,
    data: Mapping[str, Any],
    weight_bits: Sequence[int],
    sizes: Iterable[int],
    evaluations: int,
    **variation: Any,
) -> Run:
    return evo_mpq.search(
        network,
        calibration=data["calibration"],
        search=data["search"],
        test=data["test"],
        space={"defaults": {"weight_bits": list(weight_bits)}},
        picks=[f"size<={size}" for size in sizes],
        evaluations=evaluations,
        quiet=True,
        **variation,
    )


def picked_by_a_user(run: Run, network: nn.Module, size: int, file: Path) -> nn.Module:
    run.export(run.pick(f"size<={size}"), out=file, force=True)
    return evo_mpq.load(file, network)


def searched(
    task: Task,
    sizes: Mapping[float, int],
    weight_bits: Sequence[int],
    evaluations: int,
    lines: int | None = None,
    **variation: Any,
) -> dict[float, Entry]:
    """What a search hands over for each budget; see `evo_mpq.search` for what can be varied."""
    before = cpu_seconds()
    run = as_a_user(task.module, task.splits, weight_bits, sizes.values(), evaluations, seed=task.seed, **variation)
    return _handed_over(run, task, sizes, cpu_seconds() - before, lines)


def evolved(task: Task, sizes: Mapping[float, int], weight_bits: Sequence[int], evaluations: int) -> dict[float, Entry]:
    """The same from NSGA-II alone: no recipes, no sensitivities, no surrogate."""
    before = cpu_seconds()
    fitness = {"seeds": [], "surrogate": "none"}
    problem = problem_of(task, weight_bits, search={"evaluations": evaluations, "fitness": fitness})
    with tempfile.TemporaryDirectory() as folder:
        with RunDirectory(Path(folder) / "run") as directory:
            front = execute(problem, directory, workers=1).front
        run = Run(problem, directory.path, front)
        return _handed_over(run, task, sizes, cpu_seconds() - before, None)


def allocated(task: Task, sizes: Mapping[float, int], weight_bits: Sequence[int], method: str) -> dict[float, Entry]:
    """What an allocation method of ``evo-mpq list seeders`` chooses for each budget, unsearched."""
    before = cpu_seconds()
    problem = problem_of(task, weight_bits)
    looked_at: set[bytes] = set()
    executor = InProcess(problem.compressor, problem.quantities, 1 << 28)
    column = problem.quantities.index(problem.objectives[0])

    def measure(genomes: Genomes) -> Estimates:
        looked_at.update(row.tobytes() for row in np.ascontiguousarray(genomes))
        values = executor.measure(problem.space.decode(genomes), "search").values
        return Estimates(values.values[:, column], values.standard_errors[:, column])

    _, cost = cost_of(problem, "size")
    tables = Tables(problem.space, cost, measure, problem.compressor, task.seed)
    seeder = plugins.resolve(method, "seeders", None)
    policies = problem.space.decode(seeder(problem.space, tables, np.array(sorted(sizes.values()), dtype=np.float64)))
    seconds = cpu_seconds() - before
    inputs, _, _ = task.test
    return {
        budget: Entry(
            bits_of(policy),
            outputs(problem.compressor.apply(policy), inputs),
            seconds,
            len(looked_at),
            whole_front=True,
        )
        for budget, policy in zip(sorted(sizes), policies, strict=True)
    }


def problem_of(task: Task, weight_bits: Sequence[int], **said: Any) -> Problem:
    """The task with evo-mpq's defaults, but for what is said."""
    return build_problem(
        validate(
            {
                "seed": task.seed,
                "model": {"kind": task.module},
                "data": {"kind": SplitsInMemory(task.splits)},
                "space": {"defaults": {"weight_bits": list(weight_bits)}},
                **said,
            }
        )
    )


def _handed_over(
    run: Run, task: Task, sizes: Mapping[float, int], seconds: float, lines: int | None
) -> dict[float, Entry]:
    inputs, _, _ = task.test
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for budget, size in sizes.items():
            module = picked_by_a_user(run, task.module, size, Path(folder) / "picked.safetensors")
            bits = bits_of(run.pick(f"size<={size}").policy)
            found[budget] = Entry(
                bits, outputs(module, inputs), seconds, run.front.measurements, lines, whole_front=True
            )
    return found
