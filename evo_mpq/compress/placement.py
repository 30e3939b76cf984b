"""A compressor whose networks run on a device: what its program reads is moved there once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from typing import Any

import torch

from evo_mpq.compress.compressor import Compressor
from evo_mpq.compress.program import Choice, Column


class Placement:
    """The program of a compressor, and what decisions stand for, on a device.

    Weights are quantized on the CPU and moved when they are first used; those that were not used for longest go when
    they take more than the memory.

    Args:
        compressor: what candidates are made with.
        device: e.g. ``"cuda:1"``; on ``"cpu"`` everything is the compressor's own.
        memory: bytes of weights that are kept on the device.

    Attributes:
        device: as given.
        program: whose tensors are on the device.
    """

    def __init__(self, compressor: Compressor, device: str, memory: int) -> None:
        self.device = torch.device(device)
        self._compressor = compressor
        self._memory = memory
        self._moved: OrderedDict[tuple[str, Hashable], tuple[torch.Tensor, torch.Tensor | None]] = OrderedDict()
        self._used = 0
        own = device == "cpu"
        self.program = compressor.program if own else compressor.program_on(device)
        self.choose = compressor.choose if own else self._choose

    def inputs(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Tensors of a batch on the device."""
        return [tensor.to(self.device) for tensor in tensors]

    def _choose(self, choice: Choice, column: Column, decided: Any) -> None:
        """See `Compressor.choose`."""
        if column.kind != "weight" or decided is None:
            self._compressor.choose(choice, column, decided)
            return
        choice.weights[column.name], choice.channels[column.name] = self._weight(column, decided)

    def _weight(self, column: Column, decided: Hashable) -> tuple[torch.Tensor, torch.Tensor | None]:
        key = (column.name, decided)
        if key not in self._moved:
            own = Choice()
            self._compressor.choose(own, column, decided)
            mask = own.channels[column.name]
            weight = own.weights[column.name].to(self.device)
            self._moved[key] = weight, None if mask is None else mask.to(self.device)
            self._used += weight.nbytes
            while self._used > self._memory and len(self._moved) > 1:
                _, (evicted, _) = self._moved.popitem(last=False)
                self._used -= evicted.nbytes
        self._moved.move_to_end(key)
        return self._moved[key]
