"""The problems that benchmarks search and measure: built-in networks with given options per layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from evo_mpq.config import validate
from evo_mpq.problem import Problem, build_problem


def built_in(
    network: str = "digits_resnet",
    weight_bits: Sequence[int] = (2, 3, 4),
    activation_bits: Sequence[int] | None = None,
    *,
    seed: int = 0,
    **settings: Any,
) -> Problem:
    """A built-in network, trained, with the same options for every layer.

    Args:
        network: its name.
        weight_bits: options.
        activation_bits: options; None leaves activations alone.
        seed: of training, split and search together.
        **settings: further keys of the YAML.
    """
    torch.set_num_threads(1)
    options: Mapping[str, Any] = {"weight_bits": list(weight_bits)}
    if activation_bits is not None:
        options = {**options, "activation_bits": list(activation_bits)}
    return build_problem(
        validate(
            {
                "seed": seed,
                "model": {"kind": network, "seed": seed},
                "data": {"kind": "digits", "seed": seed},
                "space": {"defaults": options},
                **settings,
            }
        )
    )
