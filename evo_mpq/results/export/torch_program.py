"""A compressed network as a program of ``torch.export``, which needs nothing but torch to run.

The program has the operations of the compressed network with its dequantized weights in floats: the same outputs, in a
file as long as that of the float network.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from evo_mpq.compress.module import CompressedModule
from evo_mpq.errors import ExportError
from evo_mpq.network.network import Network


class _Called(nn.Module):
    """The compressed network with the tensors of a batch as its arguments.

    Args:
        module: the compressed network.
        network: the traced one.
    """

    def __init__(self, module: CompressedModule, network: Network) -> None:
        super().__init__()
        self._module = module
        self._structure = network.structure

    def forward(self, *tensors: torch.Tensor) -> Any:
        """The output for one batch."""
        return self._module(torch.utils._pytree.tree_unflatten(list(tensors), self._structure))


def program_bytes(module: CompressedModule, network: Network, metadata: dict[str, str]) -> bytes:
    """The content of a ``.pt2`` file; its program takes the tensors of a batch one by one.

    Args:
        module: the compressed network.
        network: the traced one, for inputs and the dimensions that vary.
        metadata: texts that are stored with it.

    Raises:
        ExportError: torch cannot export it.
    """
    examples = tuple(entry.zeros() for entry in network.signature)
    dynamic = tuple(dict.fromkeys(entry.dynamic, torch.export.Dim.DYNAMIC) for entry in network.signature)
    content = io.BytesIO()
    try:
        with torch.no_grad():
            program = torch.export.export(_Called(module, network).eval(), examples, dynamic_shapes=(dynamic,))
        torch.export.save(program, content, extra_files=dict(metadata))
    except Exception as error:
        raise ExportError(f"torch.export refuses the compressed network: {error}") from error
    return content.getvalue()


class TorchProgram:
    """A program from a file.

    Args:
        path: the file.

    Raises:
        ExportError: torch cannot read it.
    """

    name = "torch.export"

    def __init__(self, path: Path) -> None:
        try:
            self._run = torch.export.load(str(path)).module()
        except Exception as error:
            raise ExportError(f"torch cannot read the program: {error}") from error
        self.version = torch.__version__

    def __call__(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        """The output for the tensors of one batch."""
        with torch.no_grad():
            output: torch.Tensor = self._run(*inputs)
        return output
