"""The population evaluator: candidates that agree on their first decisions share the computation up to there.

The value of a node depends only on the decisions above it. Sorted lexicographically by their decisions in the order
of the graph, neighbors share the longest prefixes; walking them depth first with one live value per node computes
every shared prefix once. Calibration is a pass of its own, so that the batches of the search never mix with it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from evo_mpq.compress.compressor import Compressor
from evo_mpq.compress.decisions import Decisions
from evo_mpq.compress.placement import Placement
from evo_mpq.compress.program import Affine, Choice
from evo_mpq.errors import MeasurementError, user_frame
from evo_mpq.measure.devices import CPU, full_precision
from evo_mpq.measure.measurements import Values
from evo_mpq.measure.objectives import Accumulator, Batch, Quantity, sample_values
from evo_mpq.measure.statistics import standard_error
from evo_mpq.network.calling import tensors_of
from evo_mpq.network.data.splits import RawBatch, Split
from evo_mpq.network.data.thinning import thinned, thinned_positions
from evo_mpq.network.network import Network
from evo_mpq.space.policy import Policy
from evo_mpq.typing import FloatVector

_AFFINE_OVERHEAD = 1024  # bytes of Python objects and tensor headers behind each pair of vectors

Consume = Callable[[int, int, torch.Tensor], None]
"""``consume(candidate, batch, outputs)``: takes the outputs of one candidate on one batch."""


class Evaluator(Protocol):
    """What computes the outputs of many candidates on many batches."""

    def __call__(
        self,
        policies: Sequence[Policy],
        batches: Sequence[Sequence[torch.Tensor]],
        references: Sequence[torch.Tensor],
        consume: Consume,
    ) -> None:
        """Hands the outputs of every candidate on every batch to ``consume``, batch by batch.

        Args:
            policies: the candidates, in any order.
            batches: tensors of each batch's inputs.
            references: the float network's outputs on each batch.
            consume: what takes the outputs; they are on the CPU, and only valid during the call.
        """
        ...


class PopulationEvaluator:
    """Outputs of many candidates on many batches, one candidate after the other.

    Args:
        compressor: what candidates are made with.
        memory: bytes that the affines of candidates in progress may take.
        device: where the network runs.
    """

    def __init__(self, compressor: Compressor, memory: int, device: str = CPU) -> None:
        self._compressor = compressor
        self._device = device
        self._placement = Placement(compressor, device, compressor.memory)
        self._program = self._placement.program
        uses = [use for layer in compressor.network.layers for use in layer.uses]
        per_candidate = sum(8 * use.n_channels + _AFFINE_OVERHEAD for use in uses)
        self._rows_at_once = max(16, memory // per_candidate)

    def __call__(
        self,
        policies: Sequence[Policy],
        batches: Sequence[Sequence[torch.Tensor]],
        references: Sequence[torch.Tensor],
        consume: Consume,
    ) -> None:
        """See `Evaluator`."""
        searched = consume_references(self._compressor, policies, references, consume)
        if not searched:
            return
        decisions = self._compressor.decisions([policies[i] for i in searched])
        order = decisions.order()
        with torch.inference_mode(), full_precision(self._device):
            for start in range(0, len(order), self._rows_at_once):
                rows = order[start : start + self._rows_at_once]
                self._evaluate([searched[row] for row in rows], decisions.of(rows), batches, consume)

    def _evaluate(
        self,
        candidates: Sequence[int],
        decisions: Decisions,
        batches: Sequence[Sequence[torch.Tensor]],
        consume: Consume,
    ) -> None:
        affines = self._affines(decisions)
        program = self._program
        for position, inputs in enumerate(batches):
            values = program.environment(self._placement.inputs(inputs))
            choice = Choice()
            for row, first in self._walk(decisions):
                self._choose(choice, decisions, row, first)
                choice.affines.update(affines[row])
                for segment in program.segments[0 if row == 0 else first + 1 :]:
                    for step in segment.steps:
                        step(values, choice)
                    for slot in segment.dead:
                        values[slot] = None
                consume(candidates[row], position, values[program.output].cpu())

    def _affines(self, decisions: Decisions) -> list[dict[str, Affine | None]]:
        """Of each candidate, the affines that its predecessor does not have already."""
        program = self._program
        values = program.environment(self._placement.inputs(self._compressor.network.calibration_inputs))
        choice = Choice()
        found: list[dict[str, Affine | None]] = []
        for row, first in self._walk(decisions):
            self._choose(choice, decisions, row, first)
            new: dict[str, Affine | None] = {}
            for segment in program.segments[0 if row == 0 else first + 1 :]:
                for step in segment.calibrating:
                    step(values, choice)
                for slot in segment.dead:
                    values[slot] = None
                # the uses inside of a dropped block have no affine, or one that nothing reads
                new.update({use: choice.affines[use] for use in segment.uses if use in choice.affines})
            found.append(new)
        return found

    @staticmethod
    def _walk(decisions: Decisions) -> Iterator[tuple[int, int]]:
        """Each row, and the first column in which it differs from the row before (all columns, if in none)."""
        n_rows, n_columns = decisions.codes.shape
        differs = decisions.codes[1:] != decisions.codes[:-1]
        firsts = np.where(differs.any(1), differs.argmax(1), n_columns) if n_rows > 1 else np.empty(0, dtype=np.int64)
        yield 0, 0
        yield from enumerate(firsts.tolist(), start=1)

    def _choose(self, choice: Choice, decisions: Decisions, row: int, first: int) -> None:
        for place in range(first, len(decisions.columns)):
            self._placement.choose(choice, decisions.columns[place], decisions.value(row, place))


def consume_references(
    compressor: Compressor, policies: Sequence[Policy], references: Sequence[torch.Tensor], consume: Consume
) -> list[int]:
    """Hands over the outputs of policies that change nothing, which are known; returns the positions of the others."""
    searched = [i for i, policy in enumerate(policies) if not compressor.is_reference(policy)]
    for i in sorted(set(range(len(policies))) - set(searched)):
        for position, outputs in enumerate(references):
            consume(i, position, outputs)
    return searched


@dataclass(frozen=True, eq=False)
class Workload:
    """Batches that several quantities are measured on.

    Attributes:
        batches: with the float network's outputs.
        quantities: positions of the quantities, of outputs, that are fed with them.
        groups: ``(n,)`` cluster of every sample, or None if samples are independent.
    """

    batches: tuple[Batch, ...]
    quantities: tuple[int, ...]
    groups: npt.NDArray[Any] | None

    @property
    def n_samples(self) -> int:
        """Samples of all batches."""
        return sum(len(batch.reference) for batch in self.batches)


def workloads(network: Network, split: Split, quantities: Sequence[Quantity], share: float = 1.0) -> list[Workload]:
    """What has to be forwarded to measure quantities on a split.

    Args:
        network: gives the float outputs.
        split: the search or the test split.
        quantities: all of the run; those that are not of outputs need nothing.
        share: part of its samples, and of those that quantities bring; see `thinned`.
    """
    shared: list[int] = []
    result: list[Workload] = []
    for position, quantity in enumerate(quantities):
        if quantity.form != "outputs":
            continue
        own = _own_batches(network, split, quantity, share)
        if own is None:
            shared.append(position)
        else:
            result.append(Workload(own, (position,), None))
    if shared:
        own_batches = tuple(
            Batch(raw.inputs, raw.targets, raw.indices, network.float_outputs(raw.inputs))
            for raw in thinned(split.batches(), len(split), share)
        )
        groups = None if split.groups is None else np.asarray(split.groups)[thinned_positions(len(split), share)]
        result.insert(0, Workload(own_batches, tuple(shared), groups))
    return result


def _own_batches(network: Network, split: Split, quantity: Quantity, share: float) -> tuple[Batch, ...] | None:
    """The batches that a quantity brings for a split; None where it is measured on the split's.

    Raises:
        MeasurementError: they cannot be made, or the network rejects them.
    """
    batches: list[Batch] = []
    try:
        own = quantity.inputs(split)
        if own is None:
            return None
        raw: list[RawBatch] = []
        n = 0
        for inputs, targets in own:
            size = len(tensors_of(inputs)[0])
            raw.append(RawBatch(inputs, targets, torch.arange(n, n + size)))
            n += size
        for batch in thinned(raw, n, share):
            reference = network.float_outputs(batch.inputs)
            batches.append(Batch(batch.inputs, batch.targets, batch.indices, reference))
    except Exception as error:
        raise MeasurementError(
            f"The inputs that {quantity.name} brings for the {split.name} split cannot be used: "
            f"{type(error).__name__}: {error}{user_frame(error)}."
        ) from error
    if not batches:
        raise MeasurementError(f"{quantity.name} brings no inputs for the {split.name} split.")
    return tuple(batches)


@dataclass(frozen=True, eq=False)
class OutputValues:
    """What was measured of candidates' outputs.

    Attributes:
        values: ``n`` rows; NaN for quantities that are not of outputs.
        per_sample: per candidate and quantity position ``(n_samples,)`` values, where they were asked for and exist.
        cpu_seconds: what it took.
        samples: that were measured: candidates times samples.
    """

    values: Values
    per_sample: tuple[dict[int, FloatVector], ...]
    cpu_seconds: float
    samples: int


def measure_outputs(
    evaluator: Evaluator,
    quantities: Sequence[Quantity],
    loads: Sequence[Workload],
    policies: Sequence[Policy],
    *,
    keep_samples: bool = False,
) -> OutputValues:
    """Values of all quantities of outputs for all candidates.

    A candidate for which an objective raises, or is not finite, is a failed row with the message; the others are
    not affected.

    Args:
        evaluator: computes outputs.
        quantities: of the run.
        loads: what to measure them on.
        policies: the candidates.
        keep_samples: whether to return values per sample.
    """
    began = time.process_time()
    n = len(policies)
    values = np.full((n, len(quantities)), np.nan)
    errors = np.full((n, len(quantities)), np.nan)
    failures: list[str | None] = [None] * n
    per_sample: list[dict[int, FloatVector]] = [{} for _ in range(n)]
    for load in loads:
        accumulators: list[list[tuple[int, Accumulator]]] = [[] for _ in range(n)]
        for candidate, started in enumerate(accumulators):
            for q in load.quantities:
                try:
                    started.append((q, quantities[q].start()))
                except Exception as error:
                    failures[candidate] = failures[candidate] or failure_message(quantities[q].name, error)

        def consume(
            candidate: int,
            position: int,
            outputs: torch.Tensor,
            load: Workload = load,
            accumulators: list[list[tuple[int, Accumulator]]] = accumulators,
        ) -> None:
            for q, accumulator in accumulators[candidate]:
                if failures[candidate] is not None:
                    return
                try:
                    accumulator.update(outputs, load.batches[position])
                except Exception as error:
                    failures[candidate] = failure_message(quantities[q].name, error)

        evaluator(
            policies,
            [tensors_of(batch.inputs) for batch in load.batches],
            [batch.reference for batch in load.batches],
            consume,
        )
        for candidate, started in enumerate(accumulators):
            for q, accumulator in started:
                if failures[candidate] is not None:
                    break
                try:
                    values[candidate, q] = accumulator.compute()
                    samples = sample_values(accumulator, load.n_samples)
                except Exception as error:
                    failures[candidate] = failure_message(quantities[q].name, error)
                    break
                if not np.isfinite(values[candidate, q]):
                    failures[candidate] = f"{quantities[q].name} is {values[candidate, q]}"
                elif samples is not None:
                    errors[candidate, q] = standard_error(samples, load.groups)
                    if keep_samples:
                        per_sample[candidate][q] = samples
    failed = [failure is not None for failure in failures]
    values[failed], errors[failed] = np.nan, np.nan
    n_samples = n * sum(load.n_samples for load in loads)
    return OutputValues(
        Values(values, errors, tuple(failures)), tuple(per_sample), time.process_time() - began, n_samples
    )


def failure_message(quantity: str, error: Exception) -> str:
    """What is recorded of a candidate for which an objective raised."""
    return f"{quantity} raised {type(error).__name__}: {error}"
