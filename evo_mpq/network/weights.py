"""Weights files: safetensors, or torch's own format read without running code."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from evo_mpq.errors import NetworkError


def load_weights(module: nn.Module, path: Path) -> None:
    """Puts the weights of a file into a module that was just built.

    Args:
        module: changed in place; every parameter and buffer must be in the file, and nothing else. Of tensors with
            several names (an embedding tied to the head) one is enough.
        path: ``.safetensors``, or what ``torch.save(module.state_dict())`` writes.

    Raises:
        NetworkError: the file cannot be read, or does not belong to the module.
    """
    state = dict(_read(path))
    own = module.state_dict(keep_vars=True)
    given = {id(own[name]): value for name, value in state.items() if name in own}
    for name, tensor in own.items():
        if name not in state and id(tensor) in given:
            state[name] = given[id(tensor)]
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        reasons = [line.strip() for line in str(error).splitlines()[1:]] or [str(error)]
        raise NetworkError(f"The weights in {path} do not fit the network: " + " ".join(reasons[:4])) from error


def _read(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise NetworkError(f"There is no weights file {path}.")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0]
        raise NetworkError(
            f"The weights file {path} cannot be read ({type(error).__name__}: {reason}). Expected are safetensors, or "
            "tensors alone as `torch.save(module.state_dict(), path)` writes them."
        ) from error
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise NetworkError(f"{path} holds a {type(state).__name__}, not tensors by name; save `module.state_dict()`.")
    return state
