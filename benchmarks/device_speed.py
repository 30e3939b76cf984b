"""How much faster is a generation on an accelerator?

200 random candidates of digits_resnet, three weight bits and two activation bits per layer, statistics correction on.
Arms, timed in turn in every round, on the same device:

- together: all candidates go through the network side by side.
- one by one: for each candidate set the (already quantized) weights, calibrate, one forward pass per batch.

Wall-clock seconds until the outputs of all batches are on the CPU. The CPU's own evaluator, which shares prefixes depth
first, stands beside them.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch

from benchmarks.presenting import show, spread
from benchmarks.problems import built_in
from evo_mpq.compress.placement import Placement
from evo_mpq.compress.program import Choice
from evo_mpq.compress.sample_axes import SampleAxes, find_sample_axes
from evo_mpq.measure.breadth_first import BreadthFirstEvaluator
from evo_mpq.measure.devices import devices, full_name, full_precision, why_unavailable
from evo_mpq.measure.evaluator import Evaluator, PopulationEvaluator
from evo_mpq.problem import Problem
from evo_mpq.space.policy import Policy

Outputs = list[list[torch.Tensor]]
"""Of each candidate, on each batch."""


class Arms:
    """The ways to compute the outputs of candidates on the search split."""

    def __init__(self, problem: Problem, device: str, memory: int) -> None:
        self.compressor, self.device = problem.compressor, device
        self.batches = [[batch.inputs] for batch in problem.network.splits.search.batches()]
        self.references = [problem.network.float_outputs(inputs) for (inputs,) in self.batches]
        axes = find_sample_axes(problem.network)
        assert isinstance(axes, SampleAxes), axes
        self._breadth_first = BreadthFirstEvaluator(self.compressor, axes, memory, device)
        self._depth_first = PopulationEvaluator(self.compressor, memory)
        self._placement = Placement(self.compressor, device, memory)

    def together(self, policies: Sequence[Policy]) -> Outputs:
        """Side by side on the device."""
        return self._evaluated(self._breadth_first, policies)

    def on_cpu(self, policies: Sequence[Policy]) -> Outputs:
        """Depth first on the CPU."""
        return self._evaluated(self._depth_first, policies)

    def one_by_one(self, policies: Sequence[Policy]) -> Outputs:
        """Set weights, calibrate, forward, on the device."""
        decisions = self.compressor.decisions(policies)
        program = self._placement.program
        calibration = self._placement.inputs(self.compressor.network.calibration_inputs)
        found: Outputs = []
        with torch.inference_mode(), full_precision(self.device):
            for candidate in range(len(policies)):
                choice = Choice()
                for place, column in enumerate(decisions.columns):
                    self._placement.choose(choice, column, decisions.value(candidate, place))
                program.calibrate(calibration, choice)
                found.append([program.run(self._placement.inputs(inputs), choice).cpu() for inputs in self.batches])
        return found

    def _evaluated(self, evaluator: Evaluator, policies: Sequence[Policy]) -> Outputs:
        outputs: Outputs = [[] for _ in policies]
        evaluator(policies, self.batches, self.references, lambda i, _, values: outputs[i].append(values.clone()))
        return outputs


def largest_differences(found: Outputs, expected: Outputs) -> list[float]:
    """Of each candidate, relative to its largest output."""
    pairs = [(torch.cat(a), torch.cat(b)) for a, b in zip(found, expected, strict=True)]
    return [float((a - b).abs().max() / b.abs().max()) for a, b in pairs]


def per_second(work: Callable[[], object], n: int) -> float:
    """Candidates per second of wall-clock time."""
    began = time.perf_counter()
    work()
    return n / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default=next(iter(devices()[1:]), None), help="default: the first accelerator")
    parser.add_argument("--candidates", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory", type=float, default=2.0, help="GiB")
    arguments = parser.parse_args()
    if arguments.device is None:
        parser.exit(2, "torch finds no accelerator here; --device cpu tries the benchmark on the CPU\n")
    if (why := why_unavailable(arguments.device)) is not None:
        parser.exit(2, f"{why}\n")
    problem = built_in(weight_bits=(2, 3, 4), activation_bits=(4, 8))
    arms = Arms(problem, arguments.device, int(arguments.memory * 2**30))
    policies = problem.space.decode(problem.space.sample(arguments.candidates, np.random.default_rng(0)))
    few = policies[:20]  # these arms cost the same for all candidates
    differences = largest_differences(arms.together(few), arms.one_by_one(few))  # also warms up
    arms.together(policies)
    together, alone, on_cpu = [], [], []
    for _ in range(arguments.rounds):
        together.append(per_second(lambda: arms.together(policies), len(policies)))
        alone.append(per_second(lambda: arms.one_by_one(few), len(few)))
        on_cpu.append(per_second(lambda: arms.on_cpu(few), len(few)))
    ratios = [a / b for a, b in zip(together, alone, strict=True)]
    show(
        "How much faster is a generation on an accelerator?",
        ["device", "candidates", "together, 1/s", "one by one, 1/s", "ratio", "CPU, 1/s", "difference: median", "most"],
        [
            [
                full_name(arguments.device),
                len(policies),
                spread(together, ".1f"),
                spread(alone, ".1f"),
                spread(ratios, ".2f"),
                spread(on_cpu, ".1f"),
                f"{np.median(differences):.1e}",
                f"{max(differences):.1e}",
            ]
        ],
        f"Medians and ranges of {arguments.rounds} rounds; 400 search images, 256 calibration images. Differences are",
        f"of outputs, relative to the largest one of each of {len(few)} candidates; one activation that moves to the",
        "next code is such a difference.",
    )


if __name__ == "__main__":
    main()
