from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evo_mpq.measure.measurements import Measurements
from evo_mpq.optimize.archive import Archive
from evo_mpq.optimize.pareto import non_dominated


def random_measurements(n: int, m: int, seed: int) -> Measurements:
    """Losses on a small grid, so that equal rows occur; some rows fail, some are infeasible."""
    rng = np.random.default_rng(seed)
    failed = rng.random(n) < 0.2
    losses = rng.integers(0, 5, size=(n, m)).astype(float)
    violations = np.where(rng.random((n, 2)) < 0.2, rng.random((n, 2)), -1.0)
    for numbers in (losses, violations):
        numbers[failed] = np.nan
    failures = tuple("out of memory" if failure else None for failure in failed)
    return Measurements(losses, violations, 0.1 * losses, failures)


def part(measurements: Measurements, rows: slice) -> Measurements:
    return Measurements(
        measurements.losses[rows],
        measurements.violations[rows],
        measurements.standard_errors[rows],
        measurements.failures[rows],
    )


@given(st.integers(1, 60), st.integers(1, 4), st.integers(1, 20), st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_the_front_is_the_non_dominated_feasible_rows_however_rows_arrive(
    n: int, m: int, chunk: int, seed: int
) -> None:
    measurements = random_measurements(n, m, seed)
    genomes = np.arange(n)[:, None] * np.array([1, 2, 3])
    archive = Archive(3, m, 2)
    for start in range(0, n, chunk):
        rows = slice(start, start + chunk)
        archive.add(genomes[rows], part(measurements, rows))
    feasible = np.where(measurements.feasible[:, None], measurements.losses, np.nan)
    expected = np.flatnonzero(non_dominated(feasible))
    assert archive.front().tolist() == expected.tolist()
    assert np.array_equal(archive.front_losses(), measurements.losses[expected])
    for mine, given_ in [
        (archive.genomes, genomes),
        (archive.losses, measurements.losses),
        (archive.violations, measurements.violations),
        (archive.standard_errors, measurements.standard_errors),
    ]:
        assert np.array_equal(mine, given_, equal_nan=True)
    assert archive.failures == measurements.failures


def test_genomes_are_found_by_content_and_kept_once() -> None:
    archive = Archive(2, 1)
    first = Measurements(np.array([[1.0], [2.0]]), np.zeros((2, 0)), np.zeros((2, 1)), (None, None))
    archive.add(np.array([[0, 1], [1, 1]]), first)
    again = Measurements(np.array([[9.0], [3.0]]), np.zeros((2, 0)), np.zeros((2, 1)), (None, None))
    archive.add(np.array([[1, 1], [0, 0]]), again)
    assert len(archive) == 3
    assert archive.losses[:, 0].tolist() == [1.0, 2.0, 3.0]
    assert archive.index((1, 1)) == archive.index(np.array([1, 1], dtype=np.int32)) == 1
    assert archive.new(np.array([[0, 0], [1, 0]])).tolist() == [False, True]
    with pytest.raises(KeyError, match=r"\(1, 0\) was not measured"):
        archive.index([1, 0])


def test_the_lowest_violation_is_zero_as_soon_as_something_is_feasible() -> None:
    archive = Archive(1, 1, 2)
    nan = np.full((1, 1), np.nan)
    assert archive.lowest_violation == np.inf
    archive.add(np.array([[0]]), Measurements(nan, np.full((1, 2), np.nan), nan, ("broken",)))
    assert archive.lowest_violation == np.inf
    archive.add(np.array([[1]]), Measurements(np.ones((1, 1)), np.array([[0.5, 0.25]]), nan, (None,)))
    assert archive.lowest_violation == 0.75
    archive.add(np.array([[2]]), Measurements(np.ones((1, 1)), np.array([[-3.0, 0.0]]), nan, (None,)))
    assert archive.lowest_violation == 0.0
    assert archive.front().tolist() == [2]


def test_what_an_archive_shows_cannot_be_altered() -> None:
    archive = Archive(1, 1)
    archive.add(np.array([[0]]), Measurements(np.ones((1, 1)), np.zeros((1, 0)), np.ones((1, 1)), (None,)))
    archive.genomes[...] = 7
    assert archive.genomes.tolist() == [[0]]
    for view in (archive.losses, archive.violations, archive.standard_errors):
        with pytest.raises(ValueError, match="read-only"):
            view[...] = 0
    archive.front()[0] = 5
    assert archive.front().tolist() == [0]


def test_rows_of_another_shape_are_refused() -> None:
    archive = Archive(1, 2)
    one = Measurements(np.ones((1, 1)), np.zeros((1, 0)), np.ones((1, 1)), (None,))
    with pytest.raises(ValueError, match="takes 4 numbers"):
        archive.add(np.array([[0]]), one)
