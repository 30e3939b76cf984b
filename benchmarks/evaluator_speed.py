"""How much faster is a population measured together than candidate by candidate?

Three weight-bit choices per layer of digits_resnet, in the joint populations also three ratios per group of channels
and a block that may be dropped; statistics correction on. Arms, each timed in turn in every round:

- shared: the population evaluator.
- one by one: for each candidate set the (already quantized) weights, calibrate, one forward pass per batch.
- naive: for each candidate deep-copy the network, quantize its weights (nearest, no correction), one forward pass per
  batch: what users write. It computes less, and worse numbers.

Perfect sharing computes every distinct prefix of decisions once and costs nothing besides. Its bound follows from the
seconds of each segment of the network, measured while going candidate by candidate.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import nn

from benchmarks.presenting import show, spread
from benchmarks.problems import built_in, joint
from evo_mpq.compress.decisions import Decisions
from evo_mpq.compress.program import Choice, Segment
from evo_mpq.measure.evaluator import PopulationEvaluator
from evo_mpq.network.builtin.networks import digits_resnet
from evo_mpq.problem import Problem
from evo_mpq.space.policy import Policy
from evo_mpq.typing import FloatVector, Genomes

Outputs = list[list[torch.Tensor]]
"""Of each candidate, on each batch."""


def last_layers(problem: Problem, n: int = 6) -> Genomes:
    """All assignments of the last ``n`` layers, the others at the most bits."""
    space = problem.space
    options = [
        [values - 1] if gene < space.n_genes - n else range(values) for gene, values in enumerate(space.cardinalities)
    ]
    return np.stack(np.meshgrid(*options, indexing="ij"), axis=-1).reshape(-1, space.n_genes)


def one_at_a_time(problem: Problem) -> Genomes:
    """All options of every layer, the others at the most bits."""
    top = problem.space.most_expensive()
    changed = [(gene, value) for gene, values in enumerate(problem.space.cardinalities) for value in range(values - 1)]
    genomes = np.tile(top, (1 + len(changed), 1))
    for row, (gene, value) in enumerate(changed, start=1):
        genomes[row, gene] = value
    return genomes


class Arms:
    """The ways to compute the outputs of candidates on the search split."""

    def __init__(self, problem: Problem, module: nn.Module) -> None:
        self.compressor = problem.compressor
        self.program = problem.compressor.program
        self.module = module
        self.batches = [[batch.inputs] for batch in problem.network.splits.search.batches()]
        self.references = [problem.network.float_outputs(inputs) for (inputs,) in self.batches]

    def shared(self, policies: Sequence[Policy], keep: bool = False) -> Outputs:
        """By the population evaluator."""
        outputs: Outputs = [[] for _ in policies]

        def consume(candidate: int, position: int, values: torch.Tensor) -> None:
            if keep:
                outputs[candidate].append(values.clone())

        PopulationEvaluator(self.compressor, 1 << 28)(policies, self.batches, self.references, consume)
        return outputs

    def one_by_one(self, policies: Sequence[Policy]) -> Outputs:
        """Set weights, calibrate, forward."""
        with torch.inference_mode():
            return [
                [self.program.run(inputs, choice) for inputs in self.batches]
                for choice in map(self.compressor.choice, policies)
            ]

    def naive(self, policies: Sequence[Policy]) -> Outputs:
        """Deep copy, quantize, forward."""
        outputs = []
        for policy in policies:
            network = copy.deepcopy(self.module)
            with torch.no_grad():
                for name, layer in policy.layers.items():
                    weight = network.get_submodule(name).weight
                    weight.copy_(rounded(weight, layer.weight_bits))
                outputs.append([network(inputs) for (inputs,) in self.batches])
        return outputs

    def segment_seconds(self, policies: Sequence[Policy]) -> FloatVector:
        """``(1 + n_columns,)`` median seconds of each segment, calibration and search, one candidate after another."""
        seconds = np.array([self._timed_segments(policy) for policy in policies])
        return np.median(seconds, axis=0)

    def _timed_segments(self, policy: Policy) -> FloatVector:
        choice = self.compressor.choice(policy)
        calibration = self.compressor.network.calibration_inputs
        with torch.inference_mode():
            passes = [self._timed_pass(calibration, choice, lambda segment: segment.calibrating)]
            passes += [self._timed_pass(inputs, choice, lambda segment: segment.steps) for inputs in self.batches]
        return np.sum(passes, axis=0)

    def _timed_pass(
        self, inputs: Sequence[torch.Tensor], choice: Choice, steps: Callable[[Segment], Sequence[Callable[..., None]]]
    ) -> list[float]:
        values = self.program.environment(inputs)
        marks = [time.process_time()]
        for segment in self.program.segments:
            for step in steps(segment):
                step(values, choice)
            for slot in segment.dead:
                values[slot] = None
            marks.append(time.process_time())
        return [end - start for start, end in pairwise(marks)]


def rounded(weight: torch.Tensor, bits: int) -> torch.Tensor:
    """Symmetric rounding to nearest, one scale per output channel from its largest magnitude."""
    rows = weight.flatten(1)
    highest = 2 ** (bits - 1) - 1
    scale = rows.abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / highest
    return ((rows / scale).round().clamp(-highest - 1, highest) * scale).view_as(weight)


def perfect_sharing(decisions: Decisions, segment_seconds: FloatVector) -> float:
    """How many times less work it is to compute every distinct prefix of decisions once."""
    n, n_columns = decisions.codes.shape
    prefixes = [len(np.unique(decisions.codes[:, : column + 1], axis=0)) for column in range(n_columns)]
    return float(n * segment_seconds.sum() / (segment_seconds[0] + segment_seconds[1:] @ prefixes))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    problem = built_in()
    both = joint(weight_bits=(2, 3, 4), prune={"ratios": [0.0, 0.25, 0.5]}, drop=["stage*.*"])
    rng = np.random.default_rng(0)
    populations = {
        "last six layers": (problem, last_layers(problem)),
        "one at a time": (problem, one_at_a_time(problem)),
        "random 100": (problem, problem.space.sample(100, rng)),
        "joint, one at a time": (both, both.space.canonical(one_at_a_time(both))),
        "joint, random 100": (both, both.space.sample(100, rng)),
    }
    rows = []
    for name, (searched, genomes) in populations.items():
        arms = Arms(searched, digits_resnet().eval())
        policies = searched.space.decode(genomes)
        few = [policies[i] for i in rng.permutation(len(policies))[:21]]  # these arms cost the same for all candidates
        together, alone = arms.shared(policies, keep=True), arms.one_by_one(policies)
        assert all(torch.equal(*pair) for a, b in zip(together, alone, strict=True) for pair in zip(a, b, strict=True))
        ratios, bounds, naive_ratios, milliseconds = [], [], [], []
        for _ in range(arguments.rounds):
            shared = per_candidate(lambda: arms.shared(policies), len(policies))
            one_by_one = per_candidate(lambda: arms.one_by_one(few), len(few))
            naive = per_candidate(lambda: arms.naive(few), len(few))
            bounds.append(perfect_sharing(searched.compressor.decisions(policies), arms.segment_seconds(few)))
            ratios.append(one_by_one / shared)
            naive_ratios.append(naive / shared)
            milliseconds.append(1000 * shared)
        fractions = [ratio / bound for ratio, bound in zip(ratios, bounds, strict=True)]
        rows.append(
            [
                name,
                len(genomes),
                spread(ratios, ".2f"),
                spread(bounds, ".2f"),
                spread(fractions, ".0%"),
                spread(naive_ratios, ".2f"),
                spread(milliseconds, ".1f"),
                "yes",
            ]
        )
    show(
        "How much faster is a population measured together than candidate by candidate?",
        [
            "population",
            "candidates",
            "ratio",
            "bound",
            "reached",
            "against naive",
            "CPU ms a candidate",
            "bit-identical",
        ],
        rows,
        f"Medians and ranges of {arguments.rounds} rounds; 400 search images, 256 calibration images.",
    )


def per_candidate(work: Callable[[], object], n: int) -> float:
    """CPU seconds of ``work``, by candidate."""
    began = time.process_time()
    work()
    return (time.process_time() - began) / n


if __name__ == "__main__":
    main()
