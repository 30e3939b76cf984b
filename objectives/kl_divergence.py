"""Kullback-Leibler divergence of the compressed network from the float one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from evo_mpq.errors import ConfigError, Mistake
from evo_mpq.measure.objectives import Batch, Split
from evo_mpq.objectives.classes import ClassObjective, sample_means


@dataclass(frozen=True)
class KLDivergence(ClassObjective):
    """KL(float ‖ compressed) in nats, mean over samples; needs no labels.

    ``sum_c p_c (log p_c - log q_c)`` with the float network's probabilities ``p`` and the candidate's ``q``,
    both softmax of outputs in float64, at least 0 in every sample. Not finite where the outputs are not:
    such a candidate fails.

    Attributes:
        mix: measure on so many fixed random mixtures of two of the split's inputs instead of the inputs themselves.
            Of real images a few carry most of the mean, and what a search gains on them does not transfer; mixtures
            rank candidates alike on disjoint sets of images.

    Raises:
        ConfigError: ``mix`` is no positive number.
    """

    mix: int | None = None

    name = "kl_divergence"
    unit = "nats"
    direction = "minimize"
    log_scale = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mix is not None and (not isinstance(self.mix, int) or isinstance(self.mix, bool) or self.mix < 1):
            raise ConfigError([Mistake(("mix",), f"expected a number of mixtures, e.g. 1000, got {self.mix!r}")])

    def inputs(self, split: Split) -> Iterable[tuple[Any, None]] | None:
        """The mixtures, in batches as large as the split's; None where the split's own inputs are measured on."""
        return None if self.mix is None else mixed_pairs(split, self.mix)

    def per_sample(self, outputs: Tensor, batch: Batch) -> Tensor:
        """``(n,)`` mean over a sample's predictions."""
        dim = self.class_dim(outputs)
        probabilities, negative_entropy = batch.memo(
            (self, dim), lambda: self._probabilities_and_negative_entropy(batch.reference, dim)
        )
        # sum p log p - sum p log q: one pass less over the classes per candidate, exact enough in float64
        cross = self.log_probabilities(outputs, dim).mul_(probabilities).sum(dim)
        return sample_means(negative_entropy - cross).clamp_(min=0)

    def log_probabilities(self, outputs: Tensor, dim: int) -> Tensor:
        """Logarithms of what outputs say of the classes in dimension ``dim``, float64."""
        return torch.log_softmax(outputs, dim, dtype=torch.float64)

    def _probabilities_and_negative_entropy(self, reference: Tensor, dim: int) -> tuple[Tensor, Tensor]:
        log_probabilities = self.log_probabilities(reference, dim)
        probabilities = log_probabilities.exp()
        return probabilities, log_probabilities.mul_(probabilities).sum(dim)


def mixed_pairs(split: Split, n: int) -> Iterator[tuple[Any, None]]:
    """Batches of ``n`` convex mixtures of two different inputs, with weights from 0.3 to 0.7; the same every time.

    Raises:
        ValueError: the inputs hold numbers that cannot be mixed, such as tokens.
    """
    batches = [pytree.tree_flatten(batch.inputs) for batch in split.batches()]
    structure, size = batches[0][1], len(batches[0][0][0])
    columns = [torch.cat(parts) for parts in zip(*(leaves for leaves, _ in batches), strict=True)]
    whole = [column.dtype for column in columns if not column.is_floating_point()]
    if whole:
        raise ValueError(f"mix needs inputs of floating-point numbers, but the {split.name} split has {whole[0]}")
    chance = np.random.default_rng(n)
    first = chance.integers(len(columns[0]), size=n)
    second = (first + chance.integers(1, max(2, len(columns[0])), size=n)) % len(columns[0])
    weights = torch.from_numpy(chance.uniform(0.3, 0.7, size=n))
    for start in range(0, n, size):
        rows = slice(start, start + size)
        yield (
            pytree.tree_unflatten([_mixed(c, first[rows], second[rows], weights[rows]) for c in columns], structure),
            None,
        )


def _mixed(column: Tensor, first: Any, second: Any, weights: Tensor) -> Tensor:
    weights = weights.to(column.dtype).view(-1, *[1] * (column.ndim - 1))
    return weights * column[first] + (1 - weights) * column[second]
