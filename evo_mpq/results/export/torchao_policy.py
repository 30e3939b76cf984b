"""A policy as torchao's configuration of each module. The one file that imports torchao.

torchao chooses scales and rounds to nearest by itself, without a correction: it takes over which layer gets how many
bits, not the numbers that were measured. What it has no counterpart for is refused with the reason.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch

from evo_mpq.compress.compressor import Compressor
from evo_mpq.compress.quantizers import UNTOUCHED_BITS
from evo_mpq.errors import ExportError
from evo_mpq.results.front import Member


def torchao_document(member: Member, compressor: Compressor) -> str:
    """JSON that ``torchao.core.config.config_from_dict`` reads, for ``torchao.quantization.quantize_``.

    Raises:
        ExportError: torchao is not installed, or has no counterpart for something in the policy.
    """
    bits = weight_bits(member, compressor)
    quantization, to_dict = _library()
    configs = {
        name: quantization.IntxWeightOnlyConfig(
            weight_dtype=getattr(torch, f"int{n}"), granularity=quantization.PerAxis(0)
        )
        for name, n in bits.items()
    }
    return json.dumps(to_dict(quantization.FqnToConfig(configs)), indent=1) + "\n"


def weight_bits(member: Member, compressor: Compressor) -> Mapping[str, int]:
    """Bits of the linear layers whose weights are quantized.

    Raises:
        ExportError: the policy does something else, too.
    """
    policy = member.policy
    if any(policy.architecture.values()):
        raise _refused(member, "it drops blocks, which the user's module still has")
    if compressor.edges is not None:
        raise _refused(
            member,
            "activations between layers are quantized, which torchao cannot; search with activation bits untouched",
        )
    found = {}
    for layer in compressor.network.layers:
        own = policy.layers[layer.name]
        if own.prune_ratio:
            raise _refused(member, f"channels of {layer.name} are pruned, which the user's module still has")
        if own.activation_bits != UNTOUCHED_BITS:
            raise _refused(
                member,
                f"the input of {layer.name} has {own.activation_bits} bits in a fixed range, and torchao's ranges of "
                "activations follow every token",
            )
        if own.weight_bits == UNTOUCHED_BITS:
            continue
        if layer.kind != "linear" or layer.transposed or layer.shared or layer.parameter != f"{layer.name}.weight":
            raise _refused(member, f"{layer.name} is no nn.Linear of its own, and torchao quantizes only these")
        found[layer.name] = own.weight_bits
    return found


def _refused(member: Member, reason: str) -> ExportError:
    return ExportError(f"{member.id} does not fit torchao: {reason}. Nothing was written.")


def _library() -> tuple[Any, Any]:
    try:
        from torchao import quantization
        from torchao.core.config import config_to_dict
    except ImportError as error:
        raise ExportError(
            f'a policy for torchao needs its package: pip install "evo-mpq[torchao]" ({error})'
        ) from error
    return quantization, config_to_dict
