"""Small problems of rounding weights so that outputs change least."""

from __future__ import annotations

import torch


def problem(seed: int, rows: int = 6, columns: int = 16, samples: int = 80) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights and correlated inputs, as activations are."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(columns, columns, generator=generator) / columns**0.5 + torch.eye(columns)
    inputs = torch.randn(samples, columns, generator=generator) @ mixing
    return torch.randn(rows, columns, generator=generator), inputs


def gram_of(inputs: torch.Tensor) -> torch.Tensor:
    return (inputs.T.double() @ inputs.double()) / len(inputs)
