from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from networks import SEARCH, compressor_of, network_of, random_policies
from troubled_objectives import CannotTravel, Dies, Distance, NotFinite, OwnInputs, ProcessId, SomeRaise

from evo_mpq.errors import MeasurementError
from evo_mpq.measure import executors
from evo_mpq.measure.evaluator import OutputValues, workloads
from evo_mpq.measure.executors import Automatic, Executor, InProcess, Processes, picklable
from evo_mpq.measure.objectives import as_quantity
from evo_mpq.space.policy import LayerPolicy, Policy

MEMORY = 1 << 28
QUANTITIES = [as_quantity(objective()) for objective in (Distance, SomeRaise, NotFinite, OwnInputs)]
POLICIES = 17
"""So many that no number of workers divides them."""


def policies() -> list[Policy]:
    return random_policies(network_of("signals"), POLICIES - 2, seed=8)


def alone(quantities: Any = QUANTITIES) -> InProcess:
    return InProcess(compressor_of("signals"), quantities, MEMORY)


@pytest.fixture(scope="module")
def two() -> Iterator[Processes]:
    executor = Processes(compressor_of("signals"), [*QUANTITIES, as_quantity(ProcessId())], MEMORY, 2, threads=1)
    yield executor
    executor.close()


def without_process(result: OutputValues) -> OutputValues:
    """The result without its last column, which says where it was measured."""
    values, per_sample = result.values, [{q: v for q, v in row.items() if q < 4} for row in result.per_sample]
    trimmed = type(values)(values.values[:, :4], values.standard_errors[:, :4], values.failures)
    return OutputValues(trimmed, tuple(per_sample), result.cpu_seconds, result.samples)


def assert_same(found: OutputValues, expected: OutputValues) -> None:
    np.testing.assert_array_equal(found.values.values, expected.values.values)
    np.testing.assert_array_equal(found.values.standard_errors, expected.values.standard_errors)
    assert found.values.failures == expected.values.failures
    assert found.samples == expected.samples
    assert len(found.per_sample) == len(expected.per_sample)
    for a, b in zip(found.per_sample, expected.per_sample, strict=True):
        assert a.keys() == b.keys()
        for quantity in a:
            np.testing.assert_array_equal(a[quantity], b[quantity])


@pytest.mark.parametrize("share", [1.0, 0.3])
def test_two_processes_measure_the_same_in_the_same_order(two: Processes, share: float) -> None:
    found = two.measure(policies(), "search", share=share, keep_samples=True)
    assert os.getpid() not in found.values.values[:, 4]
    expected = alone([*QUANTITIES, as_quantity(ProcessId())]).measure(
        policies(), "search", share=share, keep_samples=True
    )
    assert {None} < set(expected.values.failures)  # some fail, some do not
    assert_same(without_process(found), without_process(expected))


@pytest.mark.parametrize("n", [0, 1])
def test_fewer_candidates_than_processes_are_measured_too(two: Processes, n: int) -> None:
    expected = alone([*QUANTITIES, as_quantity(ProcessId())]).measure(policies()[:n], "search")
    assert_same(without_process(two.measure(policies()[:n], "search")), without_process(expected))


def test_the_test_split_is_another_one(two: Processes) -> None:
    expected = alone([*QUANTITIES, as_quantity(ProcessId())]).measure(policies(), "test", keep_samples=True)
    assert_same(without_process(two.measure(policies(), "test", keep_samples=True)), without_process(expected))


def test_a_population_is_cut_into_runs_of_neighbors(two: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    # Candidates of two kinds come in turns; each kind is sent as one part, in which its first layers are shared.
    names = [layer.name for layer in network_of("signals").layers]
    mixed = [Policy({name: LayerPolicy(2 if i % 2 else 8, 2 + i) for name in names}) for i in range(6)]
    mixed = [Policy({**policy.layers, names[0]: LayerPolicy(2 + i % 2, 4)}) for i, policy in enumerate(mixed)]
    sent: list[set[LayerPolicy]] = []
    submit = two._pool.submit

    def watched(function: Any, part: list[Policy], *arguments: Any) -> Any:
        sent.append({policy.layers[names[0]] for policy in part})
        return submit(function, part, *arguments)

    monkeypatch.setattr(two._pool, "submit", watched)
    two.measure(mixed, "search")
    assert sent == [{LayerPolicy(2, 4)}, {LayerPolicy(3, 4)}]


def test_ctrl_c_does_not_reach_the_workers(two: Processes) -> None:
    expected = two.measure(policies(), "search")
    for process in two._pool._processes.values():
        os.kill(process.pid or 0, signal.SIGINT)
    assert_same(without_process(two.measure(policies(), "search")), without_process(expected))


@pytest.mark.slow
def test_three_processes_measure_the_same() -> None:
    executor = Processes(compressor_of("signals"), QUANTITIES, MEMORY, 3, threads=1)
    try:
        assert_same(
            executor.measure(policies(), "search", keep_samples=True),
            alone().measure(policies(), "search", keep_samples=True),
        )
    finally:
        executor.close()


def test_a_worker_that_dies_is_an_error_and_not_a_hang() -> None:
    executor = Processes(compressor_of("signals"), [as_quantity(Dies())], MEMORY, 2, threads=1)
    try:
        with pytest.raises(MeasurementError, match="ended unexpectedly"):
            executor.measure(policies(), "search")
    finally:
        executor.close()


def test_a_worker_that_cannot_start_says_why() -> None:
    executor = Processes(compressor_of("signals"), [as_quantity(CannotTravel())], MEMORY, 2, threads=1)
    try:
        with pytest.raises(MeasurementError, match="no module named my_objectives"):
            executor.measure(policies(), "search")
    finally:
        executor.close()


class Recorded:
    """Stands for processes: says that they were started, and measures here."""

    started = 0

    def __init__(self, *arguments: Any, **options: Any) -> None:
        type(self).started += 1
        self._inner = InProcess(*arguments[:3])

    def measure(self, *arguments: Any, **options: Any) -> OutputValues:
        return self._inner.measure(*arguments, **options)

    def close(self) -> None:
        """Nothing to end."""


@pytest.mark.parametrize(("worth", "workers", "started"), [(0.0, 2, 1), (1e9, 2, 0), (0.0, 1, 0)])
def test_processes_are_started_when_what_is_left_is_worth_it(
    monkeypatch: pytest.MonkeyPatch, worth: float, workers: int, started: int
) -> None:
    monkeypatch.setattr(executors, "Processes", Recorded)
    monkeypatch.setattr(executors, "_WORTH_PROCESSES_SECONDS", worth)
    monkeypatch.setattr(executors, "_WARM_UP_SECONDS", 0.0)
    Recorded.started = 0
    executor: Executor = Automatic(compressor_of("signals"), QUANTITIES, MEMORY, workers, threads=1, expected=1000)
    expected = alone().measure(policies(), "search")
    for _ in range(3):
        assert_same(executor.measure(policies(), "search"), expected)
    executor.close()
    assert Recorded.started == started


def test_memory_is_shared_by_the_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []
    monkeypatch.setattr(executors, "ProcessPoolExecutor", lambda *_, **options: given.append(options["initargs"]))
    compressor = compressor_of("signals")
    before = compressor.memory
    Processes(compressor, [], 4000, 4, threads=1)
    payload = pickle.loads(given[0][0])
    assert payload.memory == 1000
    assert payload.compressor.memory == before // 4
    assert compressor.memory == before


def test_a_lambda_cannot_be_sent_to_a_worker_and_a_class_can() -> None:
    assert not picklable(as_quantity(lambda candidate: 0.0, name="mine", direction="minimize"))
    assert picklable(as_quantity(Distance()))


def test_references_are_computed_once_per_split_and_part_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    executor = alone([as_quantity(Distance())])
    asked: list[float] = []

    def counting(*arguments: Any) -> Any:
        asked.append(arguments[3])
        return workloads(*arguments)

    monkeypatch.setattr(executors, "workloads", counting)
    for share in (1.0, 0.25, 1.0, 0.25):
        result = executor.measure(policies()[:2], "search", share=share)
        assert result.samples == 2 * (SEARCH if share == 1 else -(-SEARCH // 4))
    assert asked == [1.0, 0.25]


SCRIPT = """
import sys, time
from networks import compressor_of, network_of, random_policies
from troubled_objectives import ProcessId
from evo_mpq.measure.executors import Processes
from evo_mpq.measure.objectives import as_quantity

if __name__ == "__main__":
    executor = Processes(compressor_of("products"), [as_quantity(ProcessId())], 1 << 28, 2, 1)
    executor.measure(random_policies(network_of("products"), 4, 0), "search")
    print(*executor._pool._processes, flush=True)
    time.sleep(600)
"""


@pytest.mark.slow
def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    file = tmp_path / "script.py"
    file.write_text(SCRIPT)
    here = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(here), str(here.parent)])}
    parent = subprocess.Popen([sys.executable, "-W", "ignore", str(file)], stdout=subprocess.PIPE, env=environment)
    try:
        assert parent.stdout is not None
        workers = [int(process) for process in parent.stdout.readline().split()]
        assert len(workers) == 2
        assert all(map(_lives, workers))
        parent.kill()
        deadline = time.monotonic() + 60
        while any(map(_lives, workers)):
            assert time.monotonic() < deadline, "workers outlived their parent"
            time.sleep(0.1)
    finally:
        parent.kill()
        parent.communicate()


def _lives(process: int) -> bool:
    try:
        # A process that ended but was not waited for still has a number.
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
