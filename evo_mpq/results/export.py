"""What is handed over of a point of the front, and the measurement that is made again before."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from evo_mpq.compress.compressor import Compressor
from evo_mpq.errors import RunError
from evo_mpq.measure.measurer import Measurer
from evo_mpq.measure.objectives import Quantity
from evo_mpq.results.front import Member

FORMATS = ("safetensors", "policy")

_ELSEWHERE_TOLERANCE = 1e-4


def policy_document(member: Member, compressor: Compressor) -> str:
    """The policy of a member, what the compressor was made with, and the values on the front, as JSON text."""
    document = {
        "id": member.id,
        "policy": member.policy.to_json(),
        "compressor": compressor.settings,
        "search": dict(member.search),
    }
    return json.dumps(document, indent=2) + "\n"


def exported_bytes(member: Member, compressor: Compressor, form: str) -> bytes:
    """The content of the file that is handed over.

    Args:
        member: of the front.
        compressor: of the run.
        form: one of ``FORMATS``.
    """
    if form == "policy":
        return policy_document(member, compressor).encode()
    return compressor.pack(compressor.apply(member.policy))


def measured_again(
    member: Member, measurer: Measurer, quantities: Sequence[Quantity], *, same_environment: bool
) -> list[str]:
    """Measures a member once more and compares what came out with the front.

    Objectives of outputs and exact ones are compared; measured calls (a latency) keep their journalled value.

    Args:
        member: of the front.
        measurer: of the run, in this process.
        quantities: of the run.
        same_environment: whether processor, threads and versions are those of the run; then values must be equal.

    Returns:
        Notes for the user.

    Raises:
        RunError: a value differs.
    """
    values, _, _ = measurer.policies([member.policy])
    if values.failures[0] is not None:
        raise RunError(f"{member.id} could not be measured again: {values.failures[0]}.")
    notes = []
    for column, quantity in enumerate(quantities):
        shown, now = member.search.get(quantity.name), float(values.values[0, column])
        if shown is None or quantity.form == "called" or now == shown:
            continue
        if same_environment or not np.isclose(now, shown, rtol=_ELSEWHERE_TOLERANCE, atol=1e-9):
            raise RunError(
                f"{quantity.name} of {member.id} is {now!r} now and was {shown!r} in the search; nothing was exported. "
                "Were the user's code, the data or installed versions changed since? A new --out measures afresh."
            )
        notes.append(f"{quantity.name} is {now:.6g} here and was {shown:.6g} where the run was made")
    return notes


def write_file(path: Path, content: bytes) -> None:
    """Writes a file completely or not at all.

    Raises:
        RunError: it cannot be written.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise RunError(f"{path} cannot be written: {error.strerror}.") from error


def same_environment(recorded: Mapping[str, Any] | None, now: Mapping[str, Any]) -> bool:
    """Whether processor and versions are those of the run."""
    keys = ("python", "packages", "cpu", "device")
    return recorded is not None and all(recorded.get(key) == now.get(key) for key in keys)
