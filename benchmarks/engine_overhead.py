"""What does the engine cost besides measuring, in time and in memory?

A whole run (search, journal on disk, test values of the front, front.json, report) of a network of 30 layers, 60 genes,
in which outputs are not computed but made up.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import numpy as np

from benchmarks.presenting import show, spread
from benchmarks.problems import built_in
from evo_mpq import reporters, running, session
from evo_mpq.measure.evaluator import OutputValues
from evo_mpq.measure.measurements import Values
from evo_mpq.optimize.loop import Progress
from evo_mpq.problem import Problem
from evo_mpq.results.run_directory import RunDirectory
from evo_mpq.space.policy import Policy

WIDTHS = [16] * 29
N_SAMPLES = 500


class MadeUp:
    """An executor whose KL falls with the bits of every layer; counts its own CPU seconds."""

    def __init__(self, problem: Problem) -> None:
        self._names = [quantity.name for quantity in problem.quantities]
        self._weights = np.exp(np.random.default_rng(0).normal(size=len(problem.network.layers)))
        self.cpu_seconds = 0.0

    def measure(
        self, policies: Sequence[Policy], split: str, *, share: float = 1.0, keep_samples: bool = False
    ) -> OutputValues:
        """See `evo_mpq.measure.executors.Executor.measure`."""
        began = time.process_time()
        values = np.full((len(policies), len(self._names)), np.nan)
        bits = np.array(
            [[(layer.weight_bits, layer.activation_bits) for layer in policy.layers.values()] for policy in policies]
        )
        kl = (0.25 ** bits.astype(float)).sum(axis=2) @ self._weights
        values[:, self._names.index("kl_divergence")] = kl
        values[:, self._names.index("accuracy")] = np.exp(-kl)
        samples: list[dict[int, np.ndarray]] = [{} for _ in policies]
        if keep_samples:
            samples = [{self._names.index("kl_divergence"): np.full(N_SAMPLES, loss)} for loss in kl]
        found = Values(values, values / 10, (None,) * len(policies))
        self.cpu_seconds += time.process_time() - began
        return OutputValues(found, tuple(samples), 0.0, N_SAMPLES * len(policies))

    def close(self) -> None:
        """Nothing was started."""


class ResidentMemory(reporters.Silent):
    """Notes the resident memory when so many candidates have been measured, and when all are."""

    def __init__(self, early: int) -> None:
        self._early = early
        self.early = self.last = 0.0

    def search(self, progress: Progress) -> None:
        """See `evo_mpq.reporters.Reporter.search`."""
        self.last = resident_megabytes()
        if not self.early and progress.measured >= self._early:
            self.early = self.last


def resident_megabytes() -> float:
    """Of this process (Linux)."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--candidates", type=int, default=5000)
    parser.add_argument("--early", type=int, default=1000, help="candidates at which memory is noted first")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    cpu, wall, memories = [], [], []
    for seed in range(arguments.rounds):
        problem = built_in(
            "digits_mlp",
            [2, 3, 4, 6, 8],
            [4, 8],
            seed=seed,
            model={"kind": "digits_mlp", "seed": seed, "widths": WIDTHS, "steps": 1},
            search={"evaluations": arguments.candidates},
        )
        assert problem.space.n_genes == 60
        executor, memory = MadeUp(problem), ResidentMemory(arguments.early)
        with (
            tempfile.TemporaryDirectory() as folder,
            RunDirectory(Path(folder) / "run") as directory,
            mock.patch.object(session, "start_executor", lambda *_: executor),
        ):
            began, began_cpu = time.perf_counter(), time.process_time()
            front = running.execute(problem, directory, reporter=memory).front
            cpu.append(1000 * (time.process_time() - began_cpu - executor.cpu_seconds) / arguments.candidates)
            wall.append(1000 * (time.perf_counter() - began - executor.cpu_seconds) / arguments.candidates)
        assert front.measurements == arguments.candidates - 1  # the reference counts, too
        memories.append(memory)
    first = memories[0]
    show(
        "What does the engine cost besides measuring, in time and in memory?",
        [
            "genes",
            "candidates",
            "CPU ms a candidate",
            "wall ms a candidate",
            f"MB after {arguments.early}",
            "MB at the end",
            "ratio",
        ],
        [
            [
                problem.space.n_genes,
                arguments.candidates,
                spread(cpu, ".2f"),
                spread(wall, ".2f"),
                f"{first.early:.0f}",
                f"{first.last:.0f}",
                f"{first.last / first.early:.3f}",
            ]
        ],
        f"Medians and ranges of {arguments.rounds} seeds. Resident memory is of the first run: later ones start from "
        "what the process holds already.",
    )


if __name__ == "__main__":
    main()
