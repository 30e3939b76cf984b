"""How many points of accuracy does a network lose that is a twelfth, or a twenty-fifth, of the float network's size?

Searches digits_resnet over ``bits`` (weights 2 … 8, activations 4 or 8, 400 measurements, a twelfth of the size) or
over the ``joint`` space of `make demo` (500 measurements, a twenty-fifth); a seed varies training, split and search
together. The network is picked by search values only.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.presenting import show
from benchmarks.problems import built_in
from evo_mpq.config import find_space, load
from evo_mpq.problem import Problem, build_problem
from evo_mpq.results.run_directory import RunDirectory
from evo_mpq.running import execute

FRACTIONS = {"bits": 12, "joint": 25}
"""By what the float network's size is divided."""


def problem_of(space: str, seed: int) -> Problem:
    """What is searched."""
    if space == "bits":
        return built_in("digits_resnet", range(2, 9), (4, 8), seed=seed, search={"evaluations": 400})
    settings = load(
        find_space("digits_resnet_joint"), [f"seed={seed}", f"model.seed={seed}", f"data.seed={seed}"]
    ).settings
    return build_problem(settings)


def cpu_seconds() -> float:
    """Of this process and its ended children."""
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--space", default="joint", choices=list(FRACTIONS))
    parser.add_argument("--workers", default="auto", help="processes, or auto")
    arguments = parser.parse_args()
    workers = arguments.workers if arguments.workers == "auto" else int(arguments.workers)
    rows, lost, walls, cpus = [], [], [], []
    for seed in range(arguments.seeds):
        problem = problem_of(arguments.space, seed)
        wall, cpu = time.perf_counter(), cpu_seconds()
        with tempfile.TemporaryDirectory() as folder, RunDirectory(Path(folder) / "run") as directory:
            front = execute(problem, directory, workers=workers).front
        walls.append(time.perf_counter() - wall)
        cpus.append(cpu_seconds() - cpu)
        float_size = problem.compressor.packed_bytes(problem.reference)
        member = front.pick(f"size<={float_size // FRACTIONS[arguments.space]}")
        before, after = front.reference_test["accuracy"].value, member.test["accuracy"].value
        lost.append(100 * (before - after))
        rows.append(
            [
                seed,
                f"{walls[-1]:.0f}",
                f"{cpus[-1]:.0f}",
                f"{float_size / 1000:.1f}",
                f"{member.search['size'] / 1000:.1f}",
                f"{member.search['soft_kl_divergence']:.4f}",
                f"{100 * before:.1f}",
                f"{100 * after:.1f}",
                f"{lost[-1]:.1f}",
            ]
        )
    rows.append(
        ["median", f"{np.median(walls):.0f}", f"{np.median(cpus):.0f}", "", "", "", "", "", f"{np.median(lost):.1f}"]
    )
    show(
        f"How many points of accuracy does a network of 1/{FRACTIONS[arguments.space]} of the size lose?",
        [
            "seed",
            "wall s",
            "CPU s",
            "float kB",
            "picked kB",
            "search loss",
            "float test %",
            "picked test %",
            "lost points",
        ],
        rows,
        f"{problem.settings.search.evaluations} measurements, workers: {workers}; "
        "seconds of the run: search, test values, front and report.",
    )


if __name__ == "__main__":
    main()
