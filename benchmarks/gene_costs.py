"""What do pruned channels and dropped blocks of digits_resnet cost, one at a time?

Two blocks a stage, weights at 6 bits, one group of channels pruned or one block dropped. Test KL to the float network,
with the statistics correction: of pruned channels without and with compensation, of a dropped block without and with
the correction.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from benchmarks.presenting import show, spread
from benchmarks.problems import joint
from evo_mpq.measure.executors import InProcess
from evo_mpq.problem import Problem
from evo_mpq.space.policy import LayerPolicy, Policy

RATIOS = (0.25, 0.5)
WEIGHT_BITS = 6


def problem_of(seed: int, *, compensate: bool, correction: str) -> Problem:
    return joint(
        "digits_resnet",
        (2, WEIGHT_BITS),
        model={"kind": "digits_resnet", "seed": seed, "blocks": 2},
        prune={"ratios": [0.0, *RATIOS], "compensate": compensate},
        drop=["stage*.*"],
        seed=seed,
        correction=correction,
    )


def policies_of(problem: Problem) -> dict[str, Policy]:
    """Whatever is done to the network besides 6 bits everywhere, by what to call it."""
    names = [site.name for site in problem.network.sites()]
    layers: dict[str, LayerPolicy] = dict.fromkeys(names, LayerPolicy(WEIGHT_BITS))
    found = {"nothing": Policy(layers)}
    groups = problem.network.prune_groups
    for ratio in RATIOS:
        for group in groups:
            found[f"{group.name}, {ratio:g}"] = Policy(_pruned(layers, group.rows, ratio))
        everywhere = {name: None for group in groups for name in group.rows}
        found[f"every group, {ratio:g}"] = Policy(_pruned(layers, everywhere, ratio))
    for block in problem.space.blocks:
        found[f"{block} dropped"] = Policy(layers, {f"{block}.drop": True})
    return found


def _pruned(layers: Mapping[str, LayerPolicy], producers: Mapping[str, object], ratio: float) -> dict[str, LayerPolicy]:
    return {**layers, **{name: replace(layers[name], prune_ratio=ratio) for name in producers}}


def test_kl(problem: Problem, policies: Mapping[str, Policy]) -> dict[str, float]:
    column = [quantity.name for quantity in problem.quantities].index("kl_divergence")
    executor = InProcess(problem.compressor, problem.quantities, 1 << 28)
    values = executor.measure(list(policies.values()), "test").values.values[:, column]
    return dict(zip(policies, values.tolist(), strict=True))


ARMS = {
    "correction only": {"compensate": False, "correction": "scale_bias"},
    "compensation only": {"compensate": True, "correction": "none"},
    "both": {"compensate": True, "correction": "scale_bias"},
    "neither": {"compensate": False, "correction": "none"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    found: dict[str, list[dict[str, float]]] = {arm: [] for arm in ARMS}
    for seed in range(arguments.seeds):
        for arm, how in ARMS.items():
            problem = problem_of(seed, **how)
            found[arm].append(test_kl(problem, policies_of(problem)))
    rows = [[name, *(spread([kl[name] for kl in found[arm]], ".2g") for arm in ARMS)] for name in found["both"][0]]
    ratios = [
        np.median(
            [without[name] / own[name] for without, own in zip(found["correction only"], found["both"], strict=True)]
        )
        for name in found["both"][0]
    ]
    show(
        "What do pruned channels and dropped blocks of digits_resnet cost, one at a time?",
        ["done", *ARMS, "compensation divides KL by"],
        [[*row, f"{ratio:.2f}"] for row, ratio in zip(rows, ratios, strict=True)],
        f"Test KL in nats; two blocks a stage, weights at {WEIGHT_BITS} bits; medians and ranges of {arguments.seeds} "
        "seeds of training and split.",
    )


if __name__ == "__main__":
    main()
