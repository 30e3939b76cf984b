"""A written file is run and compared with the front, before anybody gets it.

What is compared: every quantity of outputs with the front's value, on the search split and, once a run is finished, on
the test split; the divergence from the float network with that of the compressed network in torch; and the classes
that the two predict, sample by sample.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from evo_mpq.compress.module import CompressedModule
from evo_mpq.measure.evaluator import Consume, Workload, measure_outputs, workloads
from evo_mpq.measure.objectives import Quantity
from evo_mpq.network.network import Network
from evo_mpq.results.front import Member
from evo_mpq.space.policy import Policy

Run = Callable[[Sequence[torch.Tensor]], torch.Tensor]
"""``run(tensors of a batch's inputs)`` returns the output of a file in some runtime."""

LEAST_AGREEMENT = 0.995
"""Share of the predictions that must be those of the compressed network in torch; of few, all but one."""

_DIVERGENCE = 2e-3, 0.05
"""What divergences may differ by, absolutely and relatively, whichever is larger."""

_SHARE = 0.005
"""What other values may differ by where their standard error is smaller, as much as predictions may."""

_SAME = "kl_divergence in torch"


@dataclass(frozen=True)
class Check:
    """One number of a file beside the one that it must have.

    Attributes:
        runtime: that computed it.
        split: of the data.
        quantity: its name.
        shown: what the front, or the compressed network in torch, has.
        found: what the file has.
        tolerance: by which they may differ.
    """

    runtime: str
    split: str
    quantity: str
    shown: float
    found: float
    tolerance: float

    @property
    def holds(self) -> bool:
        """Whether the two agree."""
        return bool(abs(self.found - self.shown) <= self.tolerance * (1 + 1e-9))

    def to_json(self) -> dict[str, Any]:
        """As in the file beside the export."""
        return {**self.__dict__, "holds": self.holds}


@dataclass(frozen=True)
class Verification:
    """What a file computes, beside what the front shows.

    Attributes:
        checks: numbers beside numbers.
        runtimes: versions of what ran the file, by name.
        file_bytes: length of the file.
        packed_bytes: length of the packed file: the size that the front shows.
        graph_bytes: what of the file is no weights: operations, names and shapes; None where that cannot be told.
        kernels: layer by layer, what runs it.
        notes: for people.
    """

    checks: tuple[Check, ...]
    runtimes: Mapping[str, str]
    file_bytes: int
    packed_bytes: int
    graph_bytes: int | None = None
    kernels: tuple[Mapping[str, Any], ...] = ()
    notes: tuple[str, ...] = field(default=())

    @property
    def holds(self) -> bool:
        """Whether every number is what it must be."""
        return all(check.holds for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        """The document beside the file."""
        return {
            "holds": self.holds,
            "runtimes": dict(self.runtimes),
            "file_bytes": self.file_bytes,
            "packed_bytes": self.packed_bytes,
            "graph_bytes": self.graph_bytes,
            "checks": [check.to_json() for check in self.checks],
            "kernels": [dict(kernel) for kernel in self.kernels],
            "notes": list(self.notes),
        }

    def lines(self) -> list[str]:
        """The same as a table for a terminal."""
        header = ("runtime", "split", "value", "front", "file", "may differ by", "")
        rows = [
            (
                check.runtime,
                check.split,
                check.quantity,
                f"{check.shown:.6g}",
                f"{check.found:.6g}",
                f"{check.tolerance:.2g}",
                "" if check.holds else "MISMATCH",
            )
            for check in self.checks
        ]
        widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
        table = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in [header, *rows]
        ]
        size = f"{self.file_bytes:,} bytes"
        if self.graph_bytes is not None:
            size += (
                f", {self.graph_bytes:,} of them for the graph and {self.file_bytes - self.graph_bytes:,} for numbers"
            )
        return [*table, f"{size}; packed {self.packed_bytes:,} bytes"]


def compare(
    runs: Mapping[str, Run],
    module: CompressedModule,
    member: Member,
    network: Network,
    quantities: Sequence[Quantity],
    *,
    finished: bool,
) -> tuple[Check, ...]:
    """Runs a file on the splits and compares what comes out.

    Args:
        runs: by name of the runtime.
        module: the compressed network in torch.
        member: of the front.
        network: the traced one, with the data.
        quantities: of the run.
        finished: whether the run is, so that the front has values of the test split.
    """
    checks: list[Check] = []
    for name in ("search", "test") if finished else ("search",):
        loads = workloads(network, getattr(network.splits, name), quantities)
        batches = [batch for load in loads for batch in load.batches]
        own = [module(batch.inputs) for batch in batches]
        for runtime, run in runs.items():
            found = _Outputs(run)
            values, errors = _measured(found, quantities, loads, member.policy)
            for column, quantity in enumerate(quantities):
                shown = _shown(member, quantity.name, name)
                if quantity.form == "outputs" and shown is not None:
                    allowed = _allowed(quantity, shown, errors[column])
                    checks.append(Check(runtime, name, quantity.name, shown, values[column], allowed))
            checks += _against_torch(runtime, name, own, found.outputs, [batch.reference for batch in batches])
    return tuple(checks)


class _Outputs:
    """An evaluator of the one network that a function runs, which keeps what it returned.

    Args:
        run: the function.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self.outputs: list[torch.Tensor] = []

    def __call__(
        self,
        policies: Sequence[Policy],
        batches: Sequence[Sequence[torch.Tensor]],
        references: Sequence[torch.Tensor],
        consume: Consume,
    ) -> None:
        """See `evo_mpq.measure.evaluator.Evaluator`."""
        for position, inputs in enumerate(batches):
            self.outputs.append(self._run(inputs))
            consume(0, position, self.outputs[-1])


def _measured(
    outputs: _Outputs, quantities: Sequence[Quantity], loads: Sequence[Workload], policy: Policy
) -> tuple[list[float], list[float]]:
    measured = measure_outputs(outputs, quantities, loads, [policy]).values
    return measured.values[0].tolist(), measured.standard_errors[0].tolist()


def _shown(member: Member, quantity: str, split: str) -> float | None:
    if split == "search":
        return member.search.get(quantity)
    interval = member.test.get(quantity)
    return None if interval is None else interval.value


def _allowed(quantity: Quantity, shown: float, error: float) -> float:
    if quantity.log_scale:
        return max(_DIVERGENCE[0], _DIVERGENCE[1] * abs(shown))
    relative = 0.0 if quantity.direction == "maximize" else _DIVERGENCE[1] * abs(shown)
    return max(_SHARE, relative, 0.0 if math.isnan(error) else error)


def _against_torch(
    runtime: str,
    split: str,
    own: Sequence[torch.Tensor],
    found: Sequence[torch.Tensor],
    references: Sequence[torch.Tensor],
) -> list[Check]:
    """Divergence and predictions beside those of the compressed network in torch, where outputs are class scores."""
    pairs = list(zip(own, found, references, strict=True))
    if not pairs:  # no quantity of the run is one of outputs
        return []
    dim = _class_dim(pairs[0][0])
    if dim is None:
        worst = max(float((a.double() - b.double()).abs().max()) for a, b, _ in pairs)
        largest = max(float(a.abs().max()) for a, _, _ in pairs)
        return [Check(runtime, split, "largest difference to torch", 0.0, worst, _DIVERGENCE[1] * largest)]
    divergences = [
        np.concatenate([_divergence(reference, outputs, dim) for outputs, reference in columns])
        for columns in ([(a, r) for a, _, r in pairs], [(b, r) for _, b, r in pairs])
    ]
    shown, value = (float(each.mean()) for each in divergences)
    equal = np.concatenate([a.argmax(dim).eq(b.argmax(dim)).flatten().numpy() for a, b, _ in pairs])
    return [
        Check(runtime, split, _SAME, shown, value, max(_DIVERGENCE[0], _DIVERGENCE[1] * shown)),
        Check(runtime, split, "equal predictions", 1.0, float(equal.mean()), max(1 - LEAST_AGREEMENT, 1 / equal.size)),
    ]


def _class_dim(outputs: torch.Tensor) -> int | None:
    dim = 1 if outputs.ndim == 4 else outputs.ndim - 1
    return dim if dim > 0 and outputs.shape[dim] > 1 and outputs.is_floating_point() else None


def _divergence(reference: torch.Tensor, outputs: torch.Tensor, dim: int) -> Any:
    """``(n,)`` KL(float ‖ outputs) in nats."""
    log_p = torch.log_softmax(reference, dim, dtype=torch.float64)
    log_q = torch.log_softmax(outputs, dim, dtype=torch.float64)
    values = (log_p.exp() * (log_p - log_q)).sum(dim)
    return values.flatten(1).mean(1).numpy() if values.ndim > 1 else values.numpy()
