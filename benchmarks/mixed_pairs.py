"""By which divergence should networks be searched: that of real images, shifted copies, mixed pairs, or a softened one?

Bits and pruned channels, 400 real search images, equal CPU seconds: every arm gets as many measurements as it can
afford. The networks that are handed over are judged by their plain KL on real test images.
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
    "softened": "soft_kl_divergence",
}
NETWORKS: dict[str, dict[str, int]] = {
    "canvas_resnet": {"search": 400, "test": 5000},
    "digits_resnet": {"search": 400},
    "digits_mobilenet": {"search": 400},
}
"""With options of their data; all other digits are for tests."""


def problem_of(network: str, arm: str) -> Problem:
    return joint(
        network,
        prune={"ratios": [0.0, 0.25, 0.5]},
        data=NETWORKS[network],
        objectives=[ARMS[arm], "size"],
        metrics=["kl_divergence"] if arm == "softened" else [],
    )


def seconds_each(problem: Problem) -> float:
    """CPU seconds of a candidate of a random population."""
    policies = problem.space.decode(problem.space.sample(20, np.random.default_rng(0)))
    executor = InProcess(problem.compressor, problem.quantities, 1 << 28)
    executor.measure(policies, "search")  # weights are made when they are first used
    began = time.process_time()
    executor.measure(policies, "search")
    return (time.process_time() - began) / len(policies)


def compared(network: str, seeds: int, evaluations: int) -> list[list[object]]:
    """A row for each arm."""
    problems = {arm: problem_of(network, arm) for arm in ARMS}
    each = {arm: seconds_each(problem) for arm, problem in problems.items()}
    counts = {arm: round(evaluations * each["real"] / each[arm]) for arm in ARMS}
    found: dict[str, list[Found]] = {
        arm: [on_real_images(problems, arm, seed, counts[arm]) for seed in range(seeds)] for arm in ARMS
    }
    union = Found.union([front for fronts in found.values() for front in fronts])
    best = oracle(union.held_out, union.held_out, union.sizes, union.errors)
    regrets = {
        arm: [best.held_out_regret(front.losses, front.held_out, front.sizes) for front in fronts]
        for arm, fronts in found.items()
    }
    return [
        [
            network,
            arm,
            counts[arm],
            spread([front.cpu_seconds for front in found[arm]], ".0f"),
            spread(regrets[arm], ".2f"),
            spread([own / real for own, real in zip(regrets[arm], regrets["real"], strict=True)], ".2f"),
        ]
        for arm in ARMS
    ]


def on_real_images(problems: dict[str, Problem], arm: str, seed: int, evaluations: int) -> Found:
    """What an arm found, its test values on the real images."""
    return searched(problems[arm], seed, evaluations, judge=problems["real"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5, help="of the search; one training")
    parser.add_argument("--evaluations", type=int, default=400, help="of the arm that measures real images")
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    arguments = parser.parse_args()
    rows = [row for network in arguments.networks for row in compared(network, arguments.seeds, arguments.evaluations)]
    show(
        "By which divergence should networks be searched?",
        ["network", "searched on", "measurements", "CPU s", "held-out regret", "relative to real"],
        rows,
        f"400 real images; {COPIES} shifted copies of each besides; {MIXTURES} mixtures; softened: at temperature 2, "
        f"on real ones. {arguments.seeds} search seeds; regret by plain KL on real test images, against the best that "
        "any arm found. Medians and ranges.",
    )


if __name__ == "__main__":
    main()
