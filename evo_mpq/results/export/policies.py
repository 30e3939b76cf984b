"""The policy of a point as a document: what was done to the network, with which settings, and what came out."""

from __future__ import annotations

import json
from collections.abc import Sequence

from evo_mpq.compress.compressor import Compressor
from evo_mpq.measure.objectives import Quantity
from evo_mpq.results.front import Member


def policy_document(member: Member, compressor: Compressor, quantities: Sequence[Quantity]) -> str:
    """The policy of a member, what the compressor was made with, and the values on the front, as JSON text."""
    document = {
        "id": member.id,
        "policy": member.policy.to_json(),
        "compressor": compressor.settings,
        "search": dict(member.search),
        "quantities": {
            quantity.name: {"unit": quantity.unit, "direction": quantity.direction, "kind": quantity.kind}
            for quantity in quantities
        },
    }
    return json.dumps(document, indent=2, allow_nan=False) + "\n"
