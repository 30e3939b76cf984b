"""Objectives for tests, importable by worker processes; most have a trouble of their own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from evo_mpq.measure.objectives import Accumulator, Batch, SampleMean, Split


class Distance:
    """Mean squared distance to the float network's output; the plain objective of these tests."""

    name, unit, direction = "distance", "", "minimize"

    def start(self) -> Accumulator:
        return SampleMean(lambda outputs, batch: (outputs - batch.reference).double().square().flatten(1).mean(1))


class SomeRaise:
    """Raises for some candidates, by the third digit of their first output in a batch: by content, not by order."""

    name, unit, direction = "picky", "", "minimize"

    def start(self) -> Accumulator:
        return SampleMean(self._value)

    def _value(self, outputs: Tensor, batch: Batch) -> Tensor:
        if int(outputs.flatten()[0].abs() * 1000) % 6 == 1:
            raise RuntimeError("such outputs are not for me")
        return outputs.double().flatten(1).sum(1)


class NotFinite:
    """NaN or infinite for some candidates."""

    name, unit, direction = "not finite", "", "minimize"

    def start(self) -> Accumulator:
        return SampleMean(self._value)

    def _value(self, outputs: Tensor, batch: Batch) -> Tensor:
        digit = int(outputs.flatten()[0].abs() * 1000) % 12
        value = {0: torch.nan, 2: torch.inf}.get(digit, 1.0)
        return torch.full((len(outputs),), value)


class BadStart:
    """Has no accumulator for anybody."""

    name, unit, direction = "bad start", "", "minimize"

    def start(self) -> Accumulator:
        raise ValueError("no accumulator today")


class Dies:
    """Ends its process, as the system does when memory is short."""

    name, unit, direction = "dies", "", "minimize"

    def start(self) -> Accumulator:
        os._exit(3)


class ProcessId:
    """The process that measured."""

    name, unit, direction = "process", "", "minimize"

    def start(self) -> Accumulator:
        return SampleMean(lambda outputs, batch: torch.full((len(outputs),), float(os.getpid()), dtype=torch.float64))


class OwnInputs(Distance):
    """Measures on inputs of its own: those of the split, doubled, in batches of 3."""

    name = "own"

    def inputs(self, split: Split) -> Iterator[tuple[Any, Any]]:
        for batch in split.batches():
            for part in batch.inputs.split(3):
                yield part * 2, None


class CannotTravel(Distance):
    """Can be sent to a process, but not taken out there."""

    name = "cannot travel"

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return _refuse, (os.getpid(),)


def _refuse(parent: int) -> Distance:
    if os.getpid() != parent:
        raise ImportError("no module named my_objectives")
    return CannotTravel()
