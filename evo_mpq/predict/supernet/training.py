"""How a supernet is trained on the train split."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from evo_mpq.compress.compressor import Compressor
from evo_mpq.errors import ConfigError
from evo_mpq.network.calling import tensors_of
from evo_mpq.network.data.splits import Split
from evo_mpq.network.network import Network
from evo_mpq.predict.supernet.mixture import Shares, Supernet
from evo_mpq.space.search_space import SearchSpace

ReportSteps: TypeAlias = Callable[[int, int], None]
"""``progress(done, total)`` of the steps of something long."""

LEARNING_RATE = 3e-4
"""Of Adam; the weights come from a trained network and only have to adapt."""

BATCH_SIZE = 64
"""Samples of a training step."""

MOST_PREDICTIONS = 1024
"""Of a minibatch: where samples have many predictions, one for each word or pixel, fewer samples say as much."""


class Minibatch(NamedTuple):
    """Samples of the train split.

    Attributes:
        inputs: tensors, in the order of the graph's inputs.
        targets: ``(n_predictions,)`` classes, or ``(n_predictions, n_classes)`` what the float network outputs.
    """

    inputs: list[Tensor]
    targets: Tensor


def trained_supernet(
    space: SearchSpace,
    compressor: Compressor,
    *,
    steps: int = 200,
    learning_rate: float = LEARNING_RATE,
    batch_size: int = BATCH_SIZE,
    seed: int = 0,
    progress: ReportSteps | None = None,
) -> Supernet:
    """A supernet whose weights are trained on the train split, with the same share for all options of a gene.

    Args:
        space: whose genes of bits are mixed.
        compressor: of the network.
        steps: of Adam.
        learning_rate: of Adam.
        batch_size: samples of a step.
        seed: of the order of the samples.
        progress: told about every step.

    Raises:
        ConfigError: there is no train split.
    """
    train_split(compressor.network)  # before grids are looked for
    supernet = Supernet(space, compressor)
    batches = minibatches(compressor.network, batch_size, np.random.default_rng(seed))
    optimizer = torch.optim.Adam(list(supernet.parameters.values()), learning_rate)
    train(supernet, supernet.even_shares, optimizer, batches, steps, progress=progress)
    return supernet


def train(
    supernet: Supernet,
    shares: Callable[[], Shares],
    optimizer: torch.optim.Optimizer,
    batches: Iterator[Minibatch],
    steps: int,
    *,
    penalty: Callable[[Shares], Tensor] | None = None,
    progress: ReportSteps | None = None,
) -> None:
    """Takes steps down the loss of a supernet.

    Args:
        supernet: whose parameters may change.
        shares: of the options, computed anew for every step, from what is trained as well.
        optimizer: of what is trained.
        batches: of the train split, without end.
        steps: how many.
        penalty: added to the loss.
        progress: told about every step.
    """
    for step in range(steps):
        batch, mixed = next(batches), shares()
        with torch.enable_grad():
            loss = loss_of(supernet(batch.inputs, mixed), batch)
            if penalty is not None:
                loss = loss + penalty(mixed)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if progress is not None:
            progress(step + 1, steps)


def train_split(network: Network) -> Split:
    """The split to train on.

    Raises:
        ConfigError: there is none.
    """
    if network.splits.train is None:
        raise ConfigError(
            "A supernet is trained before it can tell options apart, and the data has no train split. Give one: "
            "`data: {train: 2000}` for the built-in kinds of data, or an entry `train` in what your data function "
            "returns, with samples that are in neither search nor test (those of calibration may be among them)."
        )
    return network.splits.train


def minibatches(network: Network, size: int, rng: np.random.Generator) -> Iterator[Minibatch]:
    """Batches of the train split without end, each of the split's own batches in a random order of its samples.

    Targets are the labels if they are classes for the network's outputs, else what the float network outputs.

    Args:
        network: with a train split.
        size: samples of a minibatch, or fewer that make `MOST_PREDICTIONS`, but at least one.
        rng: of the order.
    """
    split = train_split(network)
    first = next(split.batches())
    outputs = network.float_outputs(first.inputs)
    labelled = are_classes(first.targets, outputs)
    size = max(1, min(size, MOST_PREDICTIONS * len(first) // len(_flat(outputs))))
    while True:
        for batch in split.batches():
            inputs = tensors_of(batch.inputs)
            order = torch.from_numpy(rng.permutation(len(batch)))
            for rows in order.split(size):
                chosen = [tensor[rows] for tensor in inputs]
                targets = batch.targets[rows].flatten() if labelled else _flat(network.float_outputs(chosen))
                yield Minibatch(chosen, targets)


def are_classes(targets: Any, outputs: Tensor) -> bool:
    """Whether targets are indices of the classes of outputs, one for each prediction."""
    if not isinstance(targets, Tensor) or targets.is_floating_point() or targets.dtype == torch.bool:
        return False
    dim = _class_dim(outputs)
    if outputs.dim() < 2 or targets.shape != outputs.shape[:dim] + outputs.shape[dim + 1 :]:
        return False
    return int(targets.min()) >= 0 and int(targets.max()) < outputs.shape[dim]


def loss_of(outputs: Tensor, batch: Minibatch) -> Tensor:
    """Cross-entropy to the labels in nats, or KL(float ‖ supernet) where there are none; mean over predictions."""
    logits = _flat(outputs)
    if not batch.targets.is_floating_point():
        return functional.cross_entropy(logits, batch.targets)
    wanted = batch.targets.log_softmax(1)
    return functional.kl_div(logits.log_softmax(1), wanted, reduction="batchmean", log_target=True)


def accuracy_of(outputs: Tensor, batch: Minibatch) -> float:
    """Fraction of predictions that are the label, or the float network's where there are none."""
    wanted = batch.targets.argmax(1) if batch.targets.is_floating_point() else batch.targets
    return float((_flat(outputs).argmax(1) == wanted).float().mean())


def _class_dim(outputs: Tensor) -> int:
    return 1 if outputs.dim() == 4 else outputs.dim() - 1


def _flat(outputs: Tensor) -> Tensor:
    """``(n_predictions, n_classes)`` of outputs."""
    return outputs.movedim(_class_dim(outputs), -1).reshape(-1, outputs.shape[_class_dim(outputs)])
