"""How a batch becomes a call of the user's network, and which of its outputs counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from evo_mpq.errors import NetworkError

Forward = Callable[[nn.Module, Any], Any]
"""``forward(module, inputs) -> outputs``: the user's own way to call the network on a batch's inputs."""


def default_forward(module: nn.Module, inputs: Any) -> Any:
    """A mapping becomes keyword arguments, a tuple or list positional ones, anything else the only argument."""
    if isinstance(inputs, Mapping):
        return module(**inputs)
    if isinstance(inputs, tuple | list):
        return module(*inputs)
    return module(inputs)


def select_output(outputs: Any, output: str | int | None) -> torch.Tensor:
    """The one tensor that counts: ``outputs`` itself, or its key, attribute or position ``output``.

    Raises:
        NetworkError: there is no such output, or it is no tensor.
    """
    if output is None:
        if isinstance(outputs, torch.Tensor):
            return outputs
        raise NetworkError(
            f"The network returns {_describe(outputs)}, and evo-mpq needs to know which tensor counts: "
            f"say `model: {{output: …}}` with one of {_choices(outputs)}."
        )
    try:
        if isinstance(output, int) or isinstance(outputs, Mapping):
            chosen = outputs[output]
        else:
            chosen = getattr(outputs, output)
    except (KeyError, IndexError, TypeError, AttributeError):
        raise NetworkError(
            f"The network's output has no {output!r}: it returns {_describe(outputs)}; `model: {{output: …}}` "
            f"can be one of {_choices(outputs)}."
        ) from None
    if not isinstance(chosen, torch.Tensor):
        raise NetworkError(f"The network's output {output!r} is {_describe(chosen)}, not a tensor.")
    return chosen


def _choices(outputs: Any) -> str:
    if isinstance(outputs, Mapping):
        names: list[Any] = [key for key, value in outputs.items() if isinstance(value, torch.Tensor)]
    elif isinstance(outputs, tuple | list):
        names = [i for i, value in enumerate(outputs) if isinstance(value, torch.Tensor)]
    else:
        names = (
            [key for key, value in vars(outputs).items() if isinstance(value, torch.Tensor)]
            if hasattr(outputs, "__dict__")
            else []
        )
    return ", ".join(map(str, names)) or "(it holds no tensor)"


def _describe(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"a mapping with the keys {', '.join(map(str, value))}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"


def tensors_of(inputs: Any) -> list[torch.Tensor]:
    """The tensors of a batch's inputs, in the order in which the traced graph takes them.

    Floating-point ones become float32, as the traced network's parameters are.

    >>> [tensor.dtype for tensor in tensors_of({"x": torch.ones(2).half(), "mask": torch.ones(2).bool()})]
    [torch.float32, torch.bool]

    Raises:
        NetworkError: something in the inputs is no tensor.
    """
    leaves = pytree.tree_leaves(inputs)
    for leaf in leaves:
        if not isinstance(leaf, torch.Tensor):
            raise NetworkError(
                f"The inputs of a batch hold {_describe(leaf)} ({leaf!r}); only tensors can be traced. Bind other "
                'arguments in a function of your own: `model: {forward: "my_nets:call"}`.'
            )
    return [leaf.float() if leaf.is_floating_point() else leaf for leaf in leaves]


class FlatCall(nn.Module):
    """The user's network as a function of a flat list of tensors; the network is its child ``network``."""

    def __init__(
        self, network: nn.Module, structure: pytree.TreeSpec, forward: Forward, output: str | int | None
    ) -> None:
        super().__init__()
        self.network = network
        self._structure = structure
        self._forward = forward
        self._output = output

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        """The output that counts, for one batch."""
        inputs = pytree.tree_unflatten(list(tensors), self._structure)
        return select_output(self._forward(self.network, inputs), self._output)
