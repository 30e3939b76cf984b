"""Where candidates are measured: in this process, or in spawned ones that share nothing but messages."""

from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
import signal
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch

from evo_mpq.compress.compressor import Compressor
from evo_mpq.errors import MeasurementError
from evo_mpq.measure.breadth_first import evaluator_on
from evo_mpq.measure.devices import CPU
from evo_mpq.measure.evaluator import (
    OutputValues,
    Workload,
    measure_outputs,
    workloads,
)
from evo_mpq.measure.measurements import Values
from evo_mpq.measure.objectives import Quantity
from evo_mpq.space.policy import Policy

_PARENT_CHECK_SECONDS = 1.0
_WARM_UP_SECONDS = 10.0
_WORTH_PROCESSES_SECONDS = 60.0  # of measuring left; a spawned process needs some ten to import and load


class Executor(Protocol):
    """What measures the quantities of outputs of candidates."""

    def measure(
        self, policies: Sequence[Policy], split: str, *, share: float = 1.0, keep_samples: bool = False
    ) -> OutputValues:
        """Values in the order of ``policies``, the same for every executor.

        Args:
            policies: the candidates.
            split: ``"search"`` or ``"test"``.
            share: only on that part of the samples, evenly spread.
            keep_samples: whether to return values per sample.
        """
        ...

    def close(self) -> None:
        """Ends what was started."""
        ...


class InProcess:
    """Measures in this process.

    Args:
        compressor: what candidates are made with.
        quantities: of the run.
        memory: bytes that may be used.
        device: where networks run.
    """

    def __init__(self, compressor: Compressor, quantities: Sequence[Quantity], memory: int, device: str = CPU) -> None:
        self._compressor = compressor
        self._quantities = tuple(quantities)
        self._evaluator = evaluator_on(device, compressor, memory)
        self._loads: dict[tuple[str, float], list[Workload]] = {}

    def measure(
        self, policies: Sequence[Policy], split: str, *, share: float = 1.0, keep_samples: bool = False
    ) -> OutputValues:
        """See ``Executor.measure``."""
        key = (split, share)
        if key not in self._loads:
            network = self._compressor.network
            self._loads[key] = workloads(network, getattr(network.splits, split), self._quantities, share)
        return measure_outputs(self._evaluator, self._quantities, self._loads[key], policies, keep_samples=keep_samples)

    def close(self) -> None:
        """Nothing was started."""


@dataclass(frozen=True, eq=False)
class _Payload:
    """What a worker needs: the graph and tensors, never the user's module."""

    compressor: Compressor
    quantities: tuple[Quantity, ...]
    memory: int


_worker: InProcess | str = "it was not started"
"""The executor of this worker process, or why there is none; global, because a pool hands tasks nothing else."""


def _start_worker(payload: bytes, parent: int, threads: int) -> None:
    global _worker
    threading.Thread(target=_end_with_parent, args=(parent,), daemon=True).start()
    warnings.filterwarnings("ignore", ".*LeafSpec", FutureWarning)  # torch warns of its own unpickling
    torch.set_num_threads(threads)
    try:
        given: _Payload = pickle.loads(payload)
        _worker = InProcess(given.compressor, given.quantities, given.memory)
    except Exception as error:  # an objective's module that cannot be imported there, say
        _worker = f"{type(error).__name__}: {error}"


def _end_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_PARENT_CHECK_SECONDS)
    os._exit(1)


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Processes that are started inside never hear of Ctrl-C, which reaches the whole group.

    The parent decides, after the chunk in hand. Blocking is inherited, so that it holds while they still import.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _measure(policies: Sequence[Policy], split: str, share: float, keep_samples: bool) -> OutputValues:
    if isinstance(_worker, str):
        raise MeasurementError(f"A worker process could not start: {_worker}. One worker (--workers 1) needs no other.")
    return _worker.measure(policies, split, share=share, keep_samples=keep_samples)


class Processes:
    """Measures in spawned processes; a population is cut into runs of neighbors, so that sharing survives.

    Args:
        compressor: what candidates are made with.
        quantities: of the run; must pickle.
        memory: bytes that all workers together may use.
        workers: how many, at least 2.
        threads: of each.
    """

    def __init__(
        self, compressor: Compressor, quantities: Sequence[Quantity], memory: int, workers: int, threads: int
    ) -> None:
        self._workers = workers
        self._compressor = compressor
        share = copy.copy(compressor)
        share.memory = compressor.memory // workers
        payload = pickle.dumps(_Payload(share, tuple(quantities), memory // workers))
        self._pool = ProcessPoolExecutor(
            workers,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_start_worker,
            initargs=(payload, os.getpid(), threads),
        )

    def measure(
        self, policies: Sequence[Policy], split: str, *, share: float = 1.0, keep_samples: bool = False
    ) -> OutputValues:
        """See ``Executor.measure``."""
        order = self._compressor.decisions(policies).order()
        parts = np.array_split(order, min(self._workers, max(1, len(policies))))
        try:
            with _interrupts_held():
                futures = [
                    self._pool.submit(_measure, [policies[i] for i in part], split, share, keep_samples)
                    for part in parts
                ]
            results = [future.result() for future in futures]
        except BrokenProcessPool as error:
            raise MeasurementError(
                "A worker process ended unexpectedly, most likely for lack of memory; nothing that was journalled is "
                "lost. Run the same command again, with fewer workers (--workers 1) or less `compute: memory`."
            ) from error
        values = Values.concatenate([result.values for result in results])
        per_sample = [samples for result in results for samples in result.per_sample]
        back = np.argsort(order)
        return OutputValues(
            Values(values.values[back], values.standard_errors[back], tuple(values.failures[i] for i in back)),
            tuple(per_sample[i] for i in back),
            sum(result.cpu_seconds for result in results),
            sum(result.samples for result in results),
        )

    def close(self) -> None:
        """Ends the workers."""
        self._pool.shutdown(wait=True, cancel_futures=True)


class Automatic:
    """Measures in this process until it is clear that processes would pay for their start.

    The first seconds do not count: quantized weights are made when they are first used.

    Args:
        compressor: what candidates are made with.
        quantities: of the run; must pickle.
        memory: bytes that may be used.
        workers: how many processes to start then.
        threads: of each.
        expected: candidates that will be measured in all.
    """

    def __init__(
        self,
        compressor: Compressor,
        quantities: Sequence[Quantity],
        memory: int,
        workers: int,
        threads: int,
        expected: int,
    ) -> None:
        self._executor: Executor = InProcess(compressor, quantities, memory)
        self._start_processes = partial(Processes, compressor, quantities, memory, workers, threads)
        self._started = workers < 2
        self._left = expected
        self._seconds = 0.0
        self._seconds_each = 0.0

    def measure(
        self, policies: Sequence[Policy], split: str, *, share: float = 1.0, keep_samples: bool = False
    ) -> OutputValues:
        """See ``Executor.measure``; the values do not depend on where they are measured."""
        warm = self._seconds > _WARM_UP_SECONDS
        if not self._started and warm and self._left * self._seconds_each > _WORTH_PROCESSES_SECONDS:
            self._executor, self._started = self._start_processes(), True
        began = time.monotonic()
        result = self._executor.measure(policies, split, share=share, keep_samples=keep_samples)
        seconds = time.monotonic() - began
        self._seconds += seconds
        self._seconds_each = seconds / max(1, len(policies))
        self._left -= len(policies)
        return result

    def close(self) -> None:
        """Ends what was started."""
        self._executor.close()


def picklable(value: Any) -> bool:
    """Whether a value can be sent to a worker."""
    try:
        pickle.dumps(value)
    except Exception:
        return False
    return True
