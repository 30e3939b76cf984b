"""The population evaluator for accelerators: all candidates go through the network together, operation by operation.

What an accelerator needs are few calls on large tensors. So the different values that candidates have of a node stand
side by side in one tensor, as if the batch had so many times more samples; an operation with a weight runs once per
weight. The CPU's evaluator goes depth first instead: there one small tensor after the other stays in the cache, and
its numbers do not depend on which candidates are measured together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from evo_mpq.compress.calibration import channel_statistics
from evo_mpq.compress.compressor import Compressor
from evo_mpq.compress.decisions import Decisions
from evo_mpq.compress.placement import Placement
from evo_mpq.compress.plan import Group, Plan, Rows, Stage
from evo_mpq.compress.program import Choice, Instruction, broadcastable
from evo_mpq.compress.quantizers import ActivationGrid
from evo_mpq.compress.sample_axes import SampleAxes, SampleAxis, find_sample_axes
from evo_mpq.errors import MeasurementError
from evo_mpq.measure.devices import CPU, full_precision
from evo_mpq.measure.evaluator import Consume, Evaluator, PopulationEvaluator, consume_references
from evo_mpq.space.policy import Policy

_MOST_AT_ONCE = 1024  # candidates in a plan; more share little more

Affines = tuple[torch.Tensor, torch.Tensor]
"""Scale and shift of each value and channel, ``(n, channels)``."""


def evaluator_on(device: str, compressor: Compressor, memory: int) -> Evaluator:
    """The evaluator for a device: depth first on the CPU, and where candidates cannot stand side by side.

    Args:
        device: where the network runs.
        compressor: what candidates are made with.
        memory: bytes that may be used.
    """
    axes = None if device == CPU else find_sample_axes(compressor.network, compressor.blocks.values())
    if isinstance(axes, SampleAxes):
        return BreadthFirstEvaluator(compressor, axes, memory, device)
    return PopulationEvaluator(compressor, memory // 4, device)


class BreadthFirstEvaluator:
    """Outputs of many candidates on many batches, all candidates at once as far as memory goes.

    Outputs are those of `PopulationEvaluator` but for the last bits of sums, which depend on the shapes of tensors;
    where activations are quantized, such a bit can move one to the next code. They are handed over on the CPU.

    Args:
        compressor: what candidates are made with.
        axes: of the network's values.
        memory: bytes that values may take on the device; weights that are kept there may take as many again. One
            candidate alone may take more.
        device: where the network runs.
    """

    def __init__(self, compressor: Compressor, axes: SampleAxes, memory: int, device: str = CPU) -> None:
        self._axes = axes
        self._compressor = compressor
        self._memory = memory
        self._device = device
        self._placement = Placement(compressor, device, memory)
        self._calibration = self._placement.inputs(compressor.network.calibration_inputs)

    def __call__(
        self,
        policies: Sequence[Policy],
        batches: Sequence[Sequence[torch.Tensor]],
        references: Sequence[torch.Tensor],
        consume: Consume,
    ) -> None:
        """Hands the outputs of every candidate on every batch to ``consume``; see `PopulationEvaluator`.

        Raises:
            MeasurementError: the device has less memory than was allowed.
        """
        searched = consume_references(self._compressor, policies, references, consume)
        if not searched:
            return
        decisions = self._compressor.decisions([policies[i] for i in searched])
        n_samples = max(len(inputs[0]) for inputs in [self._calibration, *batches])
        try:
            with torch.inference_mode(), full_precision(self._device):
                for rows, plan in self._plans(decisions, decisions.order(), n_samples):
                    self._evaluate([searched[row] for row in rows], plan, batches, consume)
        except torch.OutOfMemoryError as error:
            raise MeasurementError(
                f"{self._device} has not enough memory to measure candidates side by side; allow less in "
                f"`compute: memory`, so that fewer are. {str(error).splitlines()[0]}"
            ) from error

    def _plans(self, decisions: Decisions, rows: Rows, n_samples: int) -> Iterator[tuple[Rows, Plan]]:
        """Plans of neighbors that fit into memory."""
        if len(rows) <= _MOST_AT_ONCE:
            plan = Plan(self._placement.program, self._axes, decisions.of(rows))
            if len(rows) == 1 or plan.peak_bytes(n_samples) <= self._memory:
                yield rows, plan
                return
        for half in np.array_split(rows, 2):
            yield from self._plans(decisions, half, n_samples)

    def _evaluate(
        self, candidates: Sequence[int], plan: Plan, batches: Sequence[Sequence[torch.Tensor]], consume: Consume
    ) -> None:
        work = _Work(self._placement, plan)
        work.calibrate(self._calibration)
        for position, inputs in enumerate(batches):
            outputs = work.outputs(self._placement.inputs(inputs))
            for candidate, row in zip(candidates, plan.rows.tolist(), strict=True):
                consume(candidate, position, outputs[row])


@dataclass(frozen=True, eq=False)
class _Placed:
    """A stage with what it reads on the device.

    Attributes:
        stage: as planned.
        choices: of each group, what its decisions stand for.
        picked: rows that are picked of each slot.
        passed_on: rows of the block's source.
        rounding: of a rounded input; None if all stay float.
    """

    stage: Stage
    choices: tuple[Choice, ...]
    picked: Mapping[int, torch.Tensor]
    passed_on: torch.Tensor | None
    rounding: _Rounding | None


class _Work:
    """Runs a plan on batches.

    Args:
        placement: of the network.
        plan: of some candidates.
    """

    def __init__(self, placement: Placement, plan: Plan) -> None:
        self._program = placement.program
        self._device = placement.device
        self._plan = plan
        self._axes = plan.axes
        self._stages = [_placed(stage, placement) for stage in plan.stages]
        self._affines: dict[str, Affines] = {}

    def calibrate(self, inputs: Sequence[torch.Tensor]) -> None:
        """Computes the affines of all candidates, in one pass over the calibration batch."""
        self._run(inputs, self._calibrated)

    def outputs(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        """``(n_outputs, n_samples, ...)`` the different outputs for one batch, on the CPU."""
        output = self._run(inputs, lambda placed, _: self._affines[placed.stage.instruction.node]).cpu()
        along = self._axes[self._program.output]
        apart = along.apart(output, self._plan.n_outputs).movedim(along.axis + 1, 0)
        return apart.flatten(along.axis + 1, along.axis + 2)

    def _run(self, inputs: Sequence[torch.Tensor], affines: Callable[[_Placed, Any], Affines]) -> torch.Tensor:
        # A slot holds the values side by side in one tensor, or a list of those that do not depend on samples, or
        # a number as a function of how many batches stand side by side.
        values: dict[int, Any] = {slot: [tensor] for slot, tensor in self._program.constants.items()}
        values.update({slot: inputs[int(node.target)] for slot, node in self._program.inputs.items()})
        counts: dict[int, int] = dict.fromkeys(self._program.inputs, 1)
        for placed in self._stages:
            stage, instruction = placed.stage, placed.stage.instruction
            if instruction.slot in self._plan.sizes:
                values[instruction.slot] = self._size(instruction, values, counts)
            else:
                value = self._computed(placed, values, counts) if stage.groups else None
                if instruction.kind == "use" and stage.groups:
                    value = self._under(affines(placed, value), placed, value)
                values[instruction.slot] = (
                    value if placed.passed_on is None else self._joined(placed, values, counts, value)
                )
                counts[instruction.slot] = stage.n
            for freed in stage.frees:
                values.pop(freed, None)
        output: torch.Tensor = values[self._program.output]
        return output

    def _size(
        self, instruction: Instruction, values: Mapping[int, Any], counts: Mapping[int, int]
    ) -> Callable[[int], Any]:
        """A number as a function of how many batches stand side by side."""
        tensors = [slot for slot in instruction.reads if slot in self._axes]
        if not tensors:
            given = {slot: values[slot] for slot in instruction.reads}
            return lambda n: _ran(instruction, {slot: size(n) for slot, size in given.items()}, Choice())
        (slot,) = tensors
        if slot not in values:  # inside of a block that all candidates drop, as is whatever reads it
            return lambda n: 0
        axis = int(self._program.graph[instruction.node].args[1]) % values[slot].dim()
        size = values[slot].shape[axis]
        if axis != self._axes[slot].axis:
            return lambda n: size
        return lambda n: n * (size // counts[slot])

    def _computed(self, placed: _Placed, values: Mapping[int, Any], counts: Mapping[int, int]) -> Any:
        """The computed values of a stage; those of a use without its affine."""
        stage, instruction = placed.stage, placed.stage.instruction
        given = {slot: values[slot] for slot in instruction.reads}
        for slot, rows in placed.picked.items():
            given[slot] = _picked(values[slot], self._axes[slot], counts[slot], rows)
        along = self._axes.get(instruction.slot)
        if placed.rounding is not None and along is not None:
            return placed.rounding(given[instruction.reads[0]], along)
        parts: list[Any] = []
        first = 0
        for group, choice in zip(stage.groups, placed.choices, strict=True):
            environment = {slot: self._part(slot, value, stage, group, first) for slot, value in given.items()}
            parts.append(_ran(instruction, environment, choice))
            first += group.size
        if along is not None:
            return _side_by_side(parts, [group.size for group in stage.groups], along)
        return parts[0] if instruction.slot in self._plan.tuples else parts

    def _part(self, slot: int, value: Any, stage: Stage, group: Group, first: int) -> Any:
        """What one group of a stage, whose values begin at ``first``, reads of a slot."""
        if slot in group.listed:
            return value[group.listed[slot]]
        if slot in self._plan.sizes:
            return value(group.size)
        if slot in self._plan.tuples or len(stage.groups) == 1:
            return value
        along = self._axes[slot]
        return along.together(along.apart(value, stage.n_computed).narrow(along.axis + 1, first, group.size))

    def _joined(
        self, placed: _Placed, values: Mapping[int, Any], counts: Mapping[int, int], value: Any
    ) -> torch.Tensor:
        """What was passed on by candidates that drop a block, and behind it what the others computed, if any did."""
        instruction, passed_on = placed.stage.instruction, placed.passed_on
        assert instruction.join is not None and passed_on is not None
        source, along = instruction.join[1], self._axes[instruction.slot]
        parts = [_picked(values[source], along, counts[source], passed_on)]
        if value is None:
            return parts[0]
        return _side_by_side([*parts, value], [len(passed_on), placed.stage.n_computed], along)

    def _calibrated(self, placed: _Placed, value: Any) -> Affines:
        """The affines of a use, from what it computes on the calibration batch."""
        node = placed.stage.instruction.node
        layer, use = self._program.use(node)
        group_of = [i for i, group in enumerate(placed.stage.groups) for _ in range(group.size)]
        masks = [choice.channels.get(layer.name) for choice in placed.choices]
        if self._program.corrected(node):
            mean, deviation = (each.cpu() for each in self._statistics(placed, value))
            affines = self._program.affines(node, mean, deviation, _stacked(masks, group_of))
        else:
            plain = [self._program.plain_affine(use, mask) for mask in masks]
            scale, shift = (
                torch.stack([vector.reshape(-1).cpu() for vector in part]) for part in zip(*plain, strict=True)
            )
            affines = scale[group_of], shift[group_of]
        self._affines[node] = affines[0].to(self._device), affines[1].to(self._device)
        return self._affines[node]

    def _statistics(self, placed: _Placed, value: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """``(n, channels)`` means and population standard deviations."""
        instruction = placed.stage.instruction
        axis = self._program.use(instruction.node)[1].channel_axis
        along = self._axes.get(instruction.slot)
        if along is None:
            found = [channel_statistics(each, axis) for each in value]
            return torch.stack([mean for mean, _ in found]), torch.stack([deviation for _, deviation in found])
        apart = along.apart(value, placed.stage.n_computed)
        kept = along.axis + 1, axis if axis < along.axis else axis + 2
        deviation, mean = torch.std_mean(apart, [i for i in range(apart.dim()) if i not in kept], correction=0)
        return (mean, deviation) if kept[0] < kept[1] else (mean.T, deviation.T)

    def _under(self, affines: Affines, placed: _Placed, value: Any) -> Any:
        """The values of a use under their affines."""
        instruction = placed.stage.instruction
        use = self._program.use(instruction.node)[1]
        along = self._axes.get(instruction.slot)
        if along is None:
            pairs = zip(value, *affines, strict=True)
            shaped = [(each, *(broadcastable(self._program.graph, use, v) for v in pair)) for each, *pair in pairs]
            return [each.mul_(scale).add_(shift) for each, scale, shift in shaped]
        apart = along.apart(value, placed.stage.n_computed)
        before = use.channel_axis < along.axis
        shape = [1] * apart.dim()
        shape[along.axis + 1] = placed.stage.n_computed
        shape[use.channel_axis if before else use.channel_axis + 2] = use.n_channels
        scale, shift = ((vectors.T if before else vectors).reshape(shape) for vectors in affines)
        apart.mul_(scale).add_(shift)
        return value


@dataclass(frozen=True, eq=False)
class _Rounding:
    """Rounds values that stand side by side, each to its own grid, in one go.

    Attributes:
        scale: ``(n,)`` of the grids.
        lowest: ``(n,)`` multiples of the scale.
        highest: likewise.
        kept: ``(n,)`` True for those that stay float; None if none does.
    """

    scale: torch.Tensor
    lowest: torch.Tensor
    highest: torch.Tensor
    kept: torch.Tensor | None

    @classmethod
    def to(cls, grids: Sequence[ActivationGrid | None], device: torch.device) -> _Rounding:
        """To grids, of which None stands for staying float."""
        own = [(1.0, 0, 1) if grid is None else (grid.scale, grid.zero_point, 2**grid.bits - 1) for grid in grids]
        scale, zero_point, levels = (
            torch.tensor(part, device=device, dtype=torch.float32) for part in zip(*own, strict=True)
        )
        kept = torch.tensor([grid is None for grid in grids], device=device) if None in grids else None
        return cls(scale, -zero_point, levels - zero_point, kept)

    def __call__(self, values: torch.Tensor, along: SampleAxis) -> torch.Tensor:
        apart = along.apart(values, len(self.scale))
        scale, lowest, highest = map(partial(_along, along, apart), (self.scale, self.lowest, self.highest))
        rounded = apart.div(scale).round_().clamp_(lowest, highest).mul_(scale)
        if self.kept is not None:
            rounded = torch.where(_along(along, apart, self.kept), apart, rounded)
        return along.together(rounded)


def _along(along: SampleAxis, apart: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
    """``(n,)`` as a view that broadcasts over values that are apart."""
    return vector.view(-1, *[1] * (apart.dim() - along.axis - 2))


def _placed(stage: Stage, placement: Placement) -> _Placed:
    choices = []
    for group in stage.groups:
        choices.append(Choice())
        for column, decided in zip(stage.instruction.columns, group.decided, strict=True):
            placement.choose(choices[-1], column, decided)
    picked = {slot: _moved(rows, placement) for slot, rows in stage.picked.items() if rows is not None}
    passed_on = None if stage.passed_on is None else _moved(stage.passed_on, placement)
    rounding = None
    if stage.instruction.kind == "round":
        own = [choice.activations[stage.instruction.node] for choice in choices]
        if any(grid is not None for grid in own):
            grids = [grid for grid, group in zip(own, stage.groups, strict=True) for _ in range(group.size)]
            rounding = _Rounding.to(grids, placement.device)
    return _Placed(stage, tuple(choices), picked, passed_on, rounding)


def _moved(rows: Rows, placement: Placement) -> torch.Tensor:
    return torch.from_numpy(rows).to(placement.device)


def _ran(instruction: Instruction, environment: dict[int, Any], choice: Choice) -> Any:
    instruction.step(environment, choice)
    return environment[instruction.slot]


def _picked(value: torch.Tensor, along: SampleAxis, n: int, rows: torch.Tensor) -> torch.Tensor:
    """Some of the ``n`` values that stand side by side."""
    return along.together(along.apart(value, n).index_select(along.axis + 1, rows))


def _side_by_side(parts: Sequence[torch.Tensor], sizes: Sequence[int], along: SampleAxis) -> torch.Tensor:
    """All values of several tensors, in each of which some stand side by side."""
    if len(parts) == 1:
        return parts[0]
    apart = [along.apart(part, size) for part, size in zip(parts, sizes, strict=True)]
    return along.together(torch.cat(apart, along.axis + 1))


def _stacked(masks: Sequence[torch.Tensor | None], which: list[int]) -> torch.Tensor | None:
    """``(n, channels)`` which of the masks come one after the other, True where one is None; None if all are."""
    given = [mask.cpu() for mask in masks if mask is not None]
    if not given:
        return None
    whole = torch.ones_like(given[0])
    return torch.stack([whole if mask is None else mask.cpu() for mask in masks])[which]
