"""One walk through a network for many candidates: which different values every slot has, and who has which.

A value depends on the decisions above it only. So candidates that agree on these have the same one, and it is computed
once, wherever in the graph they agree; operations with weights run once per weight, on the values of all candidates
that use it, side by side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from evo_mpq.compress.decisions import Decisions
from evo_mpq.compress.program import Column, Instruction, Program
from evo_mpq.compress.sample_axes import SampleAxes, SampleAxis

Rows: TypeAlias = npt.NDArray[np.int64]
"""Positions among the values of a slot: of each candidate (-1: it has none), or of those that are to be picked."""


@dataclass(frozen=True, eq=False)
class Group:
    """Neighbors among the values of a slot that one call computes.

    Attributes:
        size: how many.
        decided: what all of their candidates decide in the columns of the instruction.
        listed: by slot that is read and does not depend on samples, which of its values they read.
    """

    size: int
    decided: tuple[Any, ...]
    listed: Mapping[int, int]


@dataclass(frozen=True, eq=False)
class Stage:
    """One instruction for all candidates.

    Attributes:
        instruction: what is computed.
        n: different values.
        groups: in the order of the values.
        picked: by slot that is read and depends on samples, which of its values the groups read, in their order; None
            for all as they are.
        passed_on: of the block's source, the values that stand in front of the computed ones because candidates drop
            the block; None where no one drops it.
        frees: slots that nobody needs afterwards.
    """

    instruction: Instruction
    n: int
    groups: tuple[Group, ...]
    picked: Mapping[int, Rows | None]
    passed_on: Rows | None
    frees: tuple[int, ...]

    @property
    def n_computed(self) -> int:
        """Different values that are computed."""
        return sum(group.size for group in self.groups)


class Plan:
    """The stages of some candidates.

    Args:
        program: of the network.
        axes: of its values.
        decisions: of the candidates. The plan is short where neighbors are similar.

    Attributes:
        stages: those in which something is computed, in order.
        rows: ``(n,)`` of each candidate, which of the values of the output it has.
        n_outputs: different outputs.
        axes: of the slots that hold tensors which depend on samples.
        tuples: slots that hold several of them.
        sizes: slots that hold numbers which depend on the size of a batch.
    """

    def __init__(self, program: Program, axes: SampleAxes, decisions: Decisions) -> None:
        self._axes = axes
        self._decisions = decisions
        self._columns = {column: place for place, column in enumerate(decisions.columns)}
        self._n = len(decisions.codes)
        self._rows: dict[int, Rows] = {}
        self._counts: dict[int, int] = {}
        self.axes: dict[int, SampleAxis] = {}
        self.tuples: set[int] = set()
        self.sizes: set[int] = set()
        for slot in [*program.constants, *program.inputs]:
            self._rows[slot], self._counts[slot] = np.zeros(self._n, dtype=np.int64), 1
        for slot, node in program.inputs.items():
            self.axes[slot] = axes.values[node.name]
        frees = _last_reads(program)
        stages = [self._stage(instruction, frees[i]) for i, instruction in enumerate(program.instructions)]
        self.stages = tuple(stage for stage in stages if stage is not None)
        self.rows = self._rows[program.output]
        self.n_outputs = self._counts[program.output]

    def peak_bytes(self, n_samples: int) -> float:
        """The most bytes of values that are alive at once, on a batch of so many samples."""
        alive = {slot: self._bytes(slot, 1) for slot in self.axes}
        for stage in self.stages:
            alive[stage.instruction.slot] = 0.0
        peak = 0.0
        for stage in self.stages:
            slot = stage.instruction.slot
            own = self._bytes(slot, stage.n)
            copies = 2 if len(stage.groups) > 1 or stage.passed_on is not None else 1
            gathered = sum(self._bytes(read, len(rows)) for read, rows in stage.picked.items() if rows is not None)
            peak = max(peak, sum(alive.values()) + copies * own + gathered)
            alive[slot] = own
            for freed in stage.frees:
                alive[freed] = 0.0
        return peak * n_samples

    def _bytes(self, slot: int, n: int) -> float:
        return n * self.axes[slot].sample_bytes if slot in self.axes else 0.0

    def _stage(self, instruction: Instruction, frees: tuple[int, ...]) -> Stage | None:
        self._note_kind(instruction)
        if instruction.slot in self.sizes:
            return Stage(instruction, 0, (), {}, None, frees)
        active = self._unless_dropped(instruction.block)
        computing = active & self._unless_dropped(None if instruction.join is None else instruction.join[0])
        if not active.any():
            return None
        if self.tuples.intersection(instruction.reads):  # one of several tensors, for the same candidates
            (source,) = instruction.reads
            rows, n = self._rows[source], self._counts[source]
            self._rows[instruction.slot], self._counts[instruction.slot] = rows, n
            return Stage(instruction, n, (Group(n, (), {}),), {}, None, frees)
        groups, picked, rows = self._computed(instruction, computing)
        n = sum(group.size for group in groups)
        passed_on = None
        if not np.array_equal(active, computing):
            assert instruction.join is not None
            dropping = active & ~computing
            passed_on, found = np.unique(self._rows[instruction.join[1]][dropping], return_inverse=True)
            rows = np.where(computing, rows + len(passed_on), -1)
            rows[dropping] = found
            n += len(passed_on)
        self._rows[instruction.slot], self._counts[instruction.slot] = rows, n
        return Stage(instruction, n, groups, picked, passed_on, frees)

    def _computed(
        self, instruction: Instruction, computing: npt.NDArray[np.bool_]
    ) -> tuple[tuple[Group, ...], dict[int, Rows | None], Rows]:
        """The groups of what has to be computed, what they read, and which value every candidate has."""
        if not computing.any():
            return (), {}, np.full(self._n, -1, dtype=np.int64)
        reads = [slot for slot in dict.fromkeys(instruction.reads) if slot in self._rows]
        listed = [slot for slot in reads if slot not in self.axes]
        wide = [slot for slot in reads if slot in self.axes]
        assert all((self._rows[slot][computing] >= 0).all() for slot in reads), (
            "nothing outside reads inside of a block"
        )
        places = [self._columns[column] for column in instruction.columns]
        keys = [*(self._decisions.codes[:, place] for place in places), *(self._rows[slot] for slot in listed)]
        group_of = _numbered([key[computing] for key in keys], int(computing.sum()))
        found = _numbered([group_of, *(self._rows[slot][computing] for slot in wide)], len(group_of))
        _, first = np.unique(found, return_index=True)
        candidates = np.flatnonzero(computing)[first]  # one for every different value
        rows = np.full(self._n, -1, dtype=np.int64)
        rows[computing] = found
        picked = {slot: _unless_all(self._rows[slot][candidates], self._counts[slot]) for slot in wide}
        starts = np.flatnonzero(np.diff(group_of[first], prepend=-1))
        sizes = np.diff(starts, append=len(first))
        groups = tuple(
            Group(
                size,
                tuple(self._decisions.value(candidate, place) for place in places),
                {slot: int(self._rows[slot][candidate]) for slot in listed},
            )
            for candidate, size in zip(candidates[starts].tolist(), sizes.tolist(), strict=True)
        )
        return groups, picked, rows

    def _note_kind(self, instruction: Instruction) -> None:
        if instruction.kind == "round":  # of a node that is not the one that is named
            along = self.axes.get(instruction.reads[0])
        else:
            along = self._axes.values.get(instruction.node)
        if along is not None:
            self.axes[instruction.slot] = along
        if instruction.node in self._axes.tuples:
            self.tuples.add(instruction.slot)
        if instruction.node in self._axes.sizes:
            self.sizes.add(instruction.slot)

    def _unless_dropped(self, block: str | None) -> npt.NDArray[np.bool_]:
        """``(n,)`` whether each candidate keeps a block."""
        if block is None:
            return np.ones(self._n, dtype=np.bool_)
        place = self._columns[Column(block, "drop")]
        dropped = np.array([bool(value) for value in self._decisions.values[place]])
        kept: npt.NDArray[np.bool_] = ~dropped[self._decisions.codes[:, place]]
        return kept


def _numbered(keys: Sequence[Rows], n: int) -> Rows:
    """``(n,)`` the rank of each row of the keys among the different ones, the first key counting most."""
    rank = np.zeros(n, dtype=np.int64)
    for key in keys:
        rank = np.unique(rank * (int(key.max()) + 1) + key, return_inverse=True)[1].reshape(-1)
    return rank


def _unless_all(rows: Rows, n: int) -> Rows | None:
    return None if np.array_equal(rows, np.arange(n)) else rows


def _last_reads(program: Program) -> list[tuple[int, ...]]:
    """By instruction, the slots that none after it reads."""
    last: dict[int, int] = {}
    for i, instruction in enumerate(program.instructions):
        source = () if instruction.join is None else instruction.join[1:]
        for slot in (*instruction.reads, *source, instruction.slot):
            last[slot] = i
    kept = {program.output, *program.constants}
    frees: list[list[int]] = [[] for _ in program.instructions]
    for slot, i in last.items():
        if slot not in kept:
            frees[i].append(slot)
    return [tuple(slots) for slots in frees]
