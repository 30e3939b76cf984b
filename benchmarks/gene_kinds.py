"""What does each kind of gene add to the front?

NSGA-II with its defaults on bits alone, with activations, pruned channels or dropped blocks besides, and on all. Two
things are told apart: the range of sizes that a front covers, and its quality where all fronts are: the share of
the best known front, the union of all arms, over sizes that every arm reaches.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.judging import oracle
from benchmarks.presenting import show, spread
from benchmarks.problems import joint
from benchmarks.searching import Found, searched

WEIGHTS = (2, 3, 4, 6, 8)
RATIOS = [0.0, 0.25, 0.5, 0.75]


@dataclass(frozen=True)
class Setting:
    """A network to search, and how.

    Attributes:
        evaluations: measurements of every arm.
        drop: patterns of the blocks that may be dropped.
        model: further options of the network.
        data: further options of its data.
        varies: whether seeds vary training and split, not only the search.
        seeds: at most so many.
    """

    evaluations: int
    drop: tuple[str, ...]
    model: Mapping[str, Any]
    data: Mapping[str, Any]
    varies: bool = True
    seeds: int = 5


SETTINGS = {
    "digits_resnet": Setting(400, ("stage*.*",), {"blocks": 2}, {}),
    # trained for minutes, once: seeds vary the search alone
    "canvas_resnet": Setting(400, ("stage*.*",), {}, {"search": 1000, "test": 5000}, varies=False),
    "tiny_gpt": Setting(
        100,
        ("blocks.*.attention", "blocks.*.mlp"),
        {},
        {"calibration": 64, "search": 78, "test": 156},
        varies=False,
        seeds=3,
    ),
}


def arms(setting: Setting) -> dict[str, dict[str, Any]]:
    prune, drop = {"prune": {"ratios": RATIOS}}, {"drop": list(setting.drop)}
    return {
        "bits": {},
        "+ activations": {"activation_bits": (4, 8)},
        "+ pruning": prune,
        "+ dropped blocks": drop,
        "all": {"activation_bits": (4, 8), **prune, **drop},
    }


def fronts(network: str, setting: Setting, seed: int) -> dict[str, Found]:
    """What each arm found for one seed."""
    trained = seed if setting.varies else 0
    found = {}
    for name, arm in arms(setting).items():
        problem = joint(
            network,
            WEIGHTS,
            seed=trained,
            model={"kind": network, "seed": trained, **setting.model},
            data=setting.data,
            search={"evaluations": setting.evaluations},
            **arm,
        )
        found[name] = searched(problem, seed, setting.evaluations)
    return found


def judged(found: Mapping[str, Found]) -> dict[str, tuple[float, float, float]]:
    """Of each arm the share, the held-out regret, and the smallest size it reaches with a KL below 0.1."""
    smallest = max(arm.front().sizes.min() for arm in found.values())
    within = {name: arm.at_least(smallest) for name, arm in found.items()}
    union = Found.union(list(within.values()))
    best = oracle(union.losses, union.held_out, union.sizes, union.errors)
    return {
        name: (
            best.share(arm.losses, arm.sizes),
            best.held_out_regret(arm.losses, arm.held_out, arm.sizes),
            float(found[name].sizes[found[name].losses <= 0.1].min()),
        )
        for name, arm in within.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--seeds", type=int, default=5, help="at most three for tiny_gpt")
    arguments = parser.parse_args()
    rows = []
    for network in arguments.networks:
        setting = SETTINGS[network]
        began = time.perf_counter()
        seeds = range(min(setting.seeds, arguments.seeds))
        found = [judged(fronts(network, setting, seed)) for seed in seeds]
        print(f"{network}: {time.perf_counter() - began:.0f} s", flush=True)
        for name in found[0]:
            columns = np.array([arm[name] for arm in found]).T
            rows.append(
                [
                    network,
                    name,
                    spread(columns[0]),
                    spread(columns[1], ".2f"),
                    spread(columns[2] / 1000, ".1f"),
                    len(found),
                ]
            )
    show(
        "What does each kind of gene add to the front?",
        ["network", "genes", "share of the common range", "held-out regret there", "kB for KL 0.1", "seeds"],
        rows,
        "Weights 2, 3, 4, 6 or 8 bits, activations 4 or 8, ratios 0 to .75; 400 measurements an arm, 100 for tiny_gpt. "
        "Medians and ranges.",
    )


if __name__ == "__main__":
    main()
