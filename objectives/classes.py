"""What the objectives of classifiers share: the dimension of the classes, predictions, labels."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from evo_mpq.errors import ConfigError, Mistake
from evo_mpq.measure.objectives import Batch, SampleMean
from evo_mpq.typing import FloatVector


@dataclass(frozen=True)
class ClassObjective:
    """A mean over samples that reads the outputs as scores of classes.

    A sample with several predictions (tokens, pixels) counts with their mean.

    Attributes:
        dim: of the classes in the outputs; default: 1 where outputs have four dimensions, else the last.

    Raises:
        ConfigError: ``dim`` is no dimension, or the batch's.
    """

    dim: int | None = None

    def __post_init__(self) -> None:
        if self.dim is not None and (not isinstance(self.dim, int) or isinstance(self.dim, bool) or self.dim == 0):
            message = f"expected the dimension of the classes, e.g. 1 or -1 (0 counts samples), got {self.dim!r}"
            raise ConfigError([Mistake(("dim",), message)])

    def start(self) -> SampleMean:
        """An empty accumulator for one candidate."""
        return SampleMean(self.per_sample)

    def per_sample(self, outputs: Tensor, batch: Batch) -> Tensor:
        """``(n,)`` float64 values of a batch."""
        raise NotImplementedError

    def class_dim(self, outputs: Tensor) -> int:
        """The dimension of the classes, counted from the front.

        Raises:
            ValueError: the outputs have no such dimension, or only one class, where every KL is zero.
        """
        n_dims = outputs.ndim
        dim = self.dim if self.dim is not None else (1 if n_dims == 4 else n_dims - 1)
        if not -n_dims < dim < n_dims or dim == 0:
            raise ValueError(f"outputs of shape {tuple(outputs.shape)} have no dimension {dim} that counts classes")
        if outputs.shape[dim] < 2:
            raise ValueError(
                f"outputs of shape {tuple(outputs.shape)} have one class in dimension {dim}; for outputs "
                "that are no class scores take mean_squared_error, or set dim:"
            )
        return dim % n_dims


class ExponentialMean(SampleMean):
    """The accumulator of what is the exponential of a mean over samples.

    Its values per sample are those whose mean has the standard error of the delta method, also in differences of two
    candidates: ``E * (1 + x_i - m)``, where ``m`` is the mean of the ``x_i`` and ``E`` its exponential. Their mean is
    ``E``; that of the exponentials would be larger.

    >>> accumulator = ExponentialMean(lambda outputs, batch: outputs[:, 0])
    >>> outputs = torch.tensor([[0.0], [2.0]])
    >>> accumulator.update(outputs, Batch(None, None, torch.arange(2), outputs))
    >>> round(accumulator.compute(), 4), accumulator.values().round(4)
    (2.7183, array([0.    , 5.4366]))
    """

    def compute(self) -> float:
        """Exponential of the mean over all samples, in float64; infinite where it is too large for that."""
        with np.errstate(over="ignore"):
            return float(np.exp(np.mean(super().values())))

    def values(self) -> FloatVector:
        """``(n,)`` values of all samples, linearized around the mean, in the order of the batches.

        Raises:
            RuntimeError: no batch was added.
        """
        exponents = super().values()
        with np.errstate(over="ignore", invalid="ignore"):
            return self.compute() * (1 + exponents - np.mean(exponents))


def sample_means(values: Tensor) -> Tensor:
    """``(n,)`` float64 mean over all dimensions of ``(n, ...)`` values but the first."""
    values = values.double()
    return values if values.ndim == 1 else values.flatten(1).mean(1)


def predictions(outputs: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """The class of the highest score, the first among equals, and a zero that is NaN where there is none.

    Returns:
        Two tensors like ``outputs`` without ``dim``. The second is NaN where the scores hold NaN or ``inf``
        or are all ``-inf``: a broken network must not get the accuracy of always answering class 0.
    """
    scores, classes = outputs.max(dim)
    return classes, scores.mul(0)


def reference_predictions(batch: Batch, dim: int) -> Tensor:
    """The float network's predictions, computed once per batch."""
    return batch.memo(("predictions", dim), lambda: predictions(batch.reference, dim)[0])


def labels(batch: Batch, dim: int) -> Tensor:
    """The targets as class indices, like the outputs without ``dim``; checked once per batch.

    Raises:
        ValueError: the targets are no class indices for these outputs.
    """
    return batch.memo(("labels", dim), lambda: _checked_labels(batch, dim))


def _checked_labels(batch: Batch, dim: int) -> Tensor:
    outputs, targets = batch.reference, batch.targets
    n_classes = outputs.shape[dim]
    expected = outputs.shape[:dim] + outputs.shape[dim + 1 :]
    if not isinstance(targets, Tensor) or targets.is_floating_point() or targets.is_complex():
        got = str(targets.dtype) if isinstance(targets, Tensor) else type(targets).__name__
        raise ValueError(f"expected integer class indices as targets, got {got}")
    if targets.shape != expected:
        raise ValueError(
            f"expected targets of shape {tuple(expected)} for outputs of shape {tuple(outputs.shape)} with "
            f"the classes in dimension {dim}, got {tuple(targets.shape)}"
        )
    lowest, highest = (int(targets.min()), int(targets.max())) if math.prod(expected) else (0, 0)
    if lowest < 0 or highest >= n_classes:
        wrong = lowest if lowest < 0 else highest
        raise ValueError(f"the target {wrong} is none of the {n_classes} classes (0 to {n_classes - 1})")
    return targets.to(torch.int64)
