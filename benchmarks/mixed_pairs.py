"""On what inputs should the KL be searched: real images, shifted copies of them, or mixed pairs?

Bits and pruned channels of canvas_resnet, 400 real search images, equal CPU seconds: every arm gets as many
measurements as it can afford. The networks that are handed over are judged by their KL on real test images.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from benchmarks.judging import oracle
from benchmarks.presenting import show, spread
from benchmarks.problems import joint
from benchmarks.searching import Found, searched
from evo_mpq.measure.executors import InProcess
from evo_mpq.objectives.kl_divergence import KLDivergence
from evo_mpq.problem import Problem

COPIES = 2
MIXTURES = 1000


@dataclass(frozen=True)
class ShiftedKL(KLDivergence):
    """KL on the split's images and two copies of each, moved by up to two pixels."""

    def inputs(self, split: Any) -> Iterable[tuple[Any, None]]:
        chance = np.random.default_rng(0)
        for batch in split.batches():
            yield batch.inputs, None
            for _ in range(COPIES):
                moved = [
                    torch.roll(image, tuple(chance.integers(-2, 3, size=2).tolist()), (-2, -1))
                    for image in batch.inputs
                ]
                yield torch.stack(moved), None


ARMS: dict[str, Any] = {
    "real": "kl_divergence",
    "shifted": {"kind": ShiftedKL, "name": "kl_divergence"},
    "mixed": {"kind": "kl_divergence", "mix": MIXTURES},
}


def problem_of(arm: str) -> Problem:
    return joint(
        "canvas_resnet",
        prune={"ratios": [0.0, 0.25, 0.5]},
        data={"search": 400, "test": 5000},
        objectives=[ARMS[arm], "size"],
    )


def seconds_each(problem: Problem) -> float:
    """CPU seconds of a candidate of a random population."""
    policies = problem.space.decode(problem.space.sample(20, np.random.default_rng(0)))
    executor = InProcess(problem.compressor, problem.quantities, 1 << 28)
    executor.measure(policies, "search")  # weights are made when they are first used
    began = time.process_time()
    executor.measure(policies, "search")
    return (time.process_time() - began) / len(policies)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5, help="of the search; one training")
    parser.add_argument("--evaluations", type=int, default=400, help="of the arm that measures real images")
    arguments = parser.parse_args()
    problems = {arm: problem_of(arm) for arm in ARMS}
    each = {arm: seconds_each(problem) for arm, problem in problems.items()}
    counts = {arm: round(arguments.evaluations * each["real"] / each[arm]) for arm in ARMS}
    found: dict[str, list[Found]] = {
        arm: [on_real_images(problems, arm, seed, counts[arm]) for seed in range(arguments.seeds)] for arm in ARMS
    }
    union = Found.union([front for fronts in found.values() for front in fronts])
    best = oracle(union.held_out, union.held_out, union.sizes, union.errors)
    regrets = {
        arm: [best.held_out_regret(front.losses, front.held_out, front.sizes) for front in fronts]
        for arm, fronts in found.items()
    }
    rows = [
        [
            arm,
            counts[arm],
            spread([front.cpu_seconds for front in found[arm]], ".0f"),
            spread(regrets[arm], ".2f"),
            spread([own / real for own, real in zip(regrets[arm], regrets["real"], strict=True)], ".2f"),
        ]
        for arm in ARMS
    ]
    show(
        "On what inputs should the KL be searched: real images, shifted copies of them, or mixed pairs?",
        ["searched on", "measurements", "CPU s", "held-out regret", "relative to real"],
        rows,
        f"400 real images; {COPIES} shifted copies of each besides; {MIXTURES} mixtures. {arguments.seeds} search "
        "seeds; regret by KL on 5,000 real test images, against the best that any arm found. Medians and ranges.",
    )


def on_real_images(problems: dict[str, Problem], arm: str, seed: int, evaluations: int) -> Found:
    """What an arm found, its test values on the real images."""
    return searched(problems[arm], seed, evaluations, judge=problems["real"])


if __name__ == "__main__":
    main()
