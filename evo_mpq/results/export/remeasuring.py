"""A point is measured again before it is handed over, and must measure as it did."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from evo_mpq.compress.compressor import Compressor
from evo_mpq.errors import RunError
from evo_mpq.measure.devices import CPU, why_unavailable
from evo_mpq.measure.executors import InProcess
from evo_mpq.measure.measurer import Measurer
from evo_mpq.measure.objectives import Quantity
from evo_mpq.results.front import Member
from evo_mpq.results.journal import Journal
from evo_mpq.results.run_directory import versions
from evo_mpq.space.search_space import SearchSpace

_ELSEWHERE_TOLERANCE = 1e-4
"""Relative; other processors and versions move the last bits of sums."""

_ACCELERATOR_TOLERANCE = 1e-2
"""Relative; sums also depend on which candidates are measured together, and quantized activations follow them."""


def measured_again(
    member: Member,
    space: SearchSpace,
    compressor: Compressor,
    quantities: Sequence[Quantity],
    memory: int,
    *,
    measured_on: str,
    exactly: bool,
) -> list[str]:
    """Measures a member once more and compares what comes out with the front.

    Objectives of outputs and free ones are measured; those that are called with the module (a latency) keep their
    journalled value.

    Args:
        member: of the front.
        space: of the run.
        compressor: of the run.
        quantities: of the run.
        memory: bytes that may be used.
        measured_on: the device of the run. It measures again if it is here, otherwise the CPU does.
        exactly: whether processor and versions are those of the run; then values must be equal to the bit, unless an
            accelerator measured them.

    Returns:
        Notes for the user on values that differ a little.

    Raises:
        RunError: a value differs, or cannot be measured any more.
    """
    again = [quantity for quantity in quantities if quantity.form != "called"]
    device = measured_on if why_unavailable(measured_on) is None else CPU
    tolerance = _ELSEWHERE_TOLERANCE if measured_on == CPU else _ACCELERATOR_TOLERANCE
    measurer = Measurer(space, compressor, again, InProcess(compressor, again, memory, device))
    values, _, _ = measurer.policies([member.policy])
    if values.failures[0] is not None:
        raise RunError(f"{member.id} could not be measured again: {values.failures[0]}. Nothing was exported.")
    notes = []
    for quantity, now in zip(again, values.values[0].tolist(), strict=True):
        shown = member.search.get(quantity.name)
        if shown is None or now == shown:
            continue
        if (exactly and measured_on == CPU) or not np.isclose(now, shown, rtol=tolerance, atol=1e-9):
            raise RunError(
                f"{quantity.name} of {member.id} is {now!r} now and was {shown!r} in the search, so nothing was "
                "exported. Were your code, the data or installed versions changed since? Search again with another "
                "--out to have numbers that hold."
            )
        notes.append(f"{quantity.name} of {member.id} is {now:.6g} here and was {shown:.6g} where the run was made")
    return notes


def runs_here(journal: Journal) -> bool:
    """Whether everything in a journal was measured with the processor and the versions of this process."""
    return not journal.version_changes and journal.versions == versions()
