"""One judge for all networks, whoever quantized them: from test logits and bits to divergence, accuracy and size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.special import log_softmax
from scipy.stats import binomtest

from benchmarks.peers.crossing import layer_weights, outputs
from benchmarks.peers.tasks import Task
from evo_mpq.compress.compressor import Compressor
from evo_mpq.measure.statistics import standard_error
from evo_mpq.space.policy import LayerPolicy, Policy
from evo_mpq.typing import BoolVector, FloatVector


@dataclass(frozen=True, eq=False)
class Entry:
    """A quantized network that an arm hands over.

    Attributes:
        bits: of every layer's weight.
        logits: ``(n, n_classes)`` on the test samples.
        cpu_seconds: what finding it took; None where that is the matter of another arm.
        measurements: networks that were looked at on the way, likewise.
        lines: what a user writes, likewise.
        whole_front: whether the CPU seconds found the networks of all budgets.
    """

    bits: Mapping[str, int]
    logits: np.ndarray
    cpu_seconds: float | None = None
    measurements: int | None = None
    lines: int | None = None
    whole_front: bool = False


@dataclass(frozen=True, eq=False)
class Judged:
    """What the judge says of an entry.

    Attributes:
        entry: the network.
        average_bits: of a weight.
        packed_bytes: of a file of evo-mpq with such codes; biases are float, scales 2 bytes a channel.
        kl: ``(n,)`` divergence from the float network in nats, per test sample.
        correct: ``(n,)`` whether the class is right.
        groups: ``(n,)`` what errors are clustered by; None: every sample is its own.
    """

    entry: Entry
    average_bits: float
    packed_bytes: int
    kl: FloatVector
    correct: BoolVector
    groups: np.ndarray | None

    @property
    def mean_kl(self) -> float:
        """Over the test samples, in nats."""
        return float(self.kl.mean())

    @property
    def kl_error(self) -> float:
        """Clustered standard error of the mean."""
        return standard_error(self.kl, self.groups)

    @property
    def accuracy(self) -> float:
        """Fraction of the test samples."""
        return float(self.correct.mean())


class Judge:
    """Judges networks on the test samples of a task.

    Args:
        task: of the networks.
        compressor: of evo-mpq, as it is by default: it tells sizes, and quantizes allocations for all.
    """

    def __init__(self, task: Task, compressor: Compressor) -> None:
        self._inputs, self._targets, self._groups = task.test
        self._reference = log_softmax(outputs(task.module, self._inputs).astype(np.float64), axis=1)
        self._weights = layer_weights(task.module)
        self._compressor = compressor

    @property
    def float_accuracy(self) -> float:
        """Of the float network."""
        return float((self._reference.argmax(axis=1) == self._targets).mean())

    def __call__(self, entry: Entry) -> Judged:
        """What is to be said of an entry."""
        found = log_softmax(entry.logits.astype(np.float64), axis=1)
        kl = (np.exp(self._reference) * (self._reference - found)).sum(axis=1).clip(min=0)
        return Judged(
            entry,
            sum(self._weights[name] * bits for name, bits in entry.bits.items()) / sum(self._weights.values()),
            self._compressor.packed_bytes(policy_of(entry.bits)),
            kl,
            found.argmax(axis=1) == self._targets,
            self._groups,
        )

    def in_our_quantizer(self, bits: Mapping[str, int]) -> Entry:
        """An allocation, quantized and corrected as evo-mpq does by default."""
        return Entry(bits, outputs(self._compressor.apply(policy_of(bits)), self._inputs))

    def size_of(self, budget: float) -> int:
        """Bytes of a packed file whose weights have so many bits on average."""
        at_eight = self._compressor.packed_bytes(policy_of(dict.fromkeys(self._weights, 8)))
        return int(at_eight - sum(self._weights.values()) * (8 - budget) / 8)


def policy_of(bits: Mapping[str, int]) -> Policy:
    """The policy that gives layers these bits and leaves activations alone."""
    return Policy({name: LayerPolicy(weight_bits=n) for name, n in bits.items()})


def bits_of(policy: Policy) -> dict[str, int]:
    """The bits that a policy gives the weights of layers."""
    return {name: layer.weight_bits for name, layer in policy.layers.items()}


def mcnemar(first: Judged, second: Judged) -> float:
    """P-value that two networks are right equally often: exact McNemar test, samples taken as independent."""
    only_first = int((first.correct & ~second.correct).sum())
    only_second = int((second.correct & ~first.correct).sum())
    n = only_first + only_second
    return float(binomtest(only_first, n).pvalue) if n else 1.0
