"""What do rounding and the statistics correction do for uniform bits of every built-in network?"""

from __future__ import annotations

import argparse

import numpy as np

from benchmarks.presenting import show, spread
from benchmarks.problems import built_in
from evo_mpq.measure.executors import InProcess
from evo_mpq.network.builtin.recipes import BUILT_IN
from evo_mpq.space.policy import Policy

ARMS = {
    "neither": ("nearest", "none"),
    "correction": ("nearest", "scale_bias"),
    "descent": ("descent", "none"),
    "GPTQ + correction": ("gptq", "scale_bias"),
    "descent + correction": ("descent", "scale_bias"),
}
UNTOUCHED = 32
DIGITS = [name for name in BUILT_IN if name.startswith("digits")]


def test_values(network: str, rounding: str, correction: str, bits: list[tuple[int, int]], seed: int) -> np.ndarray:
    """``(n_bits, 2)`` KL and accuracy of uniform (weight, activation) bits on the test split."""
    activations = sorted({activation for _, activation in bits})
    problem = built_in(
        network,
        sorted({weight for weight, _ in bits}),
        None if activations == [UNTOUCHED] else activations,
        seed=seed,
        correction=correction,
        quantizer={"weights": {"rounding": rounding}},
    )
    policies = [Policy.uniform(problem.space.layers, *pair) for pair in bits]
    names = [quantity.name for quantity in problem.quantities]
    values = InProcess(problem.compressor, problem.quantities, 1 << 28).measure(policies, "test").values.values
    return values[:, [names.index("kl_divergence"), names.index("accuracy")]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="+", default=DIGITS, choices=list(BUILT_IN))
    parser.add_argument("--weights", type=int, nargs="+", default=[2, 3, 4])
    parser.add_argument("--activations", type=int, nargs="+", default=[UNTOUCHED], help="32 leaves them alone")
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds of training and split")
    arguments = parser.parse_args()
    bits = [(weight, activation) for activation in arguments.activations for weight in arguments.weights]
    rows = []
    for network in arguments.networks:
        found = {
            arm: np.array([test_values(network, *how, bits, seed) for seed in range(arguments.seeds)])
            for arm, how in ARMS.items()
        }
        for i, (weight, activation) in enumerate(bits):
            name = f"W{weight}" + (f"A{activation}" if activation != UNTOUCHED else "")
            kl = [spread(values[:, i, 0], ".2g") for values in found.values()]
            accuracy = [f"{100 * np.median(values[:, i, 1]):.1f}" for values in found.values()]
            rows.append([network, name, *kl, *accuracy])
    show(
        "What do rounding and the statistics correction do for uniform bits of every built-in network?",
        ["network", "bits", *(f"KL, {arm}" for arm in ARMS), *(f"%, {arm}" for arm in ARMS)],
        rows,
        f"Test KL to the float network in nats and test accuracy; medians (and ranges) of {arguments.seeds} seeds of "
        "training and split.",
    )


if __name__ == "__main__":
    main()
