"""The problems that benchmarks search and measure: built-in networks with given options per layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from evo_mpq.config import validate
from evo_mpq.problem import Problem, build_problem

DATA = {"canvas_resnet": "digits_canvas", "tiny_gpt": "stdlib_text"}
"""The data of built-in networks that are not trained on digits as they are."""

OBJECTIVES = {"tiny_gpt": ["kl_divergence", "size"]}
"""Where they are not the defaults: of many tokens the plain divergence is as reliable."""


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
                "data": {"kind": DATA.get(network, "digits"), "seed": seed},
                "space": {"defaults": options},
                "objectives": OBJECTIVES.get(network),
                **settings,
            }
        )
    )


def joint(
    network: str = "digits_resnet",
    weight_bits: Sequence[int] = (2, 3, 4, 6, 8),
    activation_bits: Sequence[int] | None = None,
    *,
    prune: Mapping[str, Any] | None = None,
    drop: Sequence[str] = (),
    data: Mapping[str, Any] | None = None,
    seed: int = 0,
    **settings: Any,
) -> Problem:
    """A built-in network with pruned channels and dropped blocks in its space, too.

    Args:
        network: its name.
        weight_bits: options of every layer.
        activation_bits: likewise; None leaves activations alone.
        prune: what ``space: prune`` says.
        drop: patterns of the blocks that may be dropped.
        data: further options of the network's data.
        seed: of training, split and search together.
        **settings: further keys of the YAML.
    """
    space: dict[str, Any] = {"defaults": {"weight_bits": list(weight_bits)}, "architecture": {"drop": list(drop)}}
    if activation_bits is not None:
        space["defaults"]["activation_bits"] = list(activation_bits)
    if prune is not None:
        space["prune"] = dict(prune)
    said = {"kind": DATA.get(network, "digits"), "seed": seed, **(data or {})}
    return built_in(network, weight_bits, seed=seed, data=said, space=space, **settings)
