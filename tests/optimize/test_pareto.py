from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from evo_mpq.optimize.pareto import HypervolumeBox, hypervolume, in_scale, knee, non_dominated


def grid_losses(max_objectives: int = 4) -> st.SearchStrategy[np.ndarray]:
    """Few rows on a small grid, so that equal rows and equal values are common."""
    shape = st.tuples(st.integers(1, 9), st.integers(1, max_objectives))
    return shape.flatmap(lambda s: hnp.arrays(np.float64, s, elements=st.integers(0, 4).map(float)))


def brute_force_non_dominated(losses: np.ndarray) -> list[bool]:
    kept = []
    for i, row in enumerate(losses):
        dominated = any(
            np.all(other <= row) and (np.any(other < row) or j < i)
            for j, other in enumerate(losses)
            if j != i and np.all(np.isfinite(other))
        )
        kept.append(bool(np.all(np.isfinite(row))) and not dominated)
    return kept


@given(grid_losses())
@settings(deadline=None)
def test_non_dominated_agrees_with_brute_force(losses: np.ndarray) -> None:
    assert non_dominated(losses).tolist() == brute_force_non_dominated(losses)


@given(grid_losses(), st.data())
@settings(deadline=None)
def test_rows_that_are_not_finite_are_never_kept_and_never_dominate(losses: np.ndarray, data: st.DataObject) -> None:
    row = data.draw(st.integers(0, len(losses) - 1))
    losses[row, data.draw(st.integers(0, losses.shape[1] - 1))] = data.draw(st.sampled_from([np.nan, np.inf, -np.inf]))
    assert not non_dominated(losses)[row]
    assert non_dominated(losses).tolist() == brute_force_non_dominated(losses)


def test_nothing_is_non_dominated_among_nothing() -> None:
    assert non_dominated(np.empty((0, 2))).shape == (0,)


@given(grid_losses(max_objectives=3))
@settings(deadline=None)
def test_hypervolume_on_a_grid_is_the_number_of_dominated_cells(losses: np.ndarray) -> None:
    cells = itertools.product(range(4), repeat=losses.shape[1])
    dominated = sum(bool(np.any(np.all(losses <= cell, axis=1))) for cell in cells)
    assert hypervolume(losses, np.full(losses.shape[1], 4.0)) == pytest.approx(dominated)


def test_hypervolume_of_rows_beyond_the_reference_point_or_of_nan_is_zero() -> None:
    losses = np.array([[5.0, 0.0], [np.nan, 0.0], [4.0, 4.0]])
    assert hypervolume(losses, np.array([4.0, 4.0])) == 0.0
    assert hypervolume(np.empty((0, 2)), np.array([4.0, 4.0])) == 0.0


def test_scaling_alters_only_logarithmic_columns_and_not_its_argument() -> None:
    losses = np.array([[1e-9, 1e-9], [10.0, 10.0]])
    assert in_scale(losses, [True, False]).tolist() == [[-6.0, 1e-9], [1.0, 10.0]]
    assert losses[0, 0] == 1e-9


def test_the_reference_point_lies_a_tenth_of_the_range_behind_the_worst() -> None:
    box = HypervolumeBox.around(np.array([[1e-3, 300.0], [1e-1, 100.0], [np.nan, 900.0]]), [True, False])
    assert box.reference_point == pytest.approx([-0.8, 320.0])
    assert box.best == pytest.approx([-3.0, 100.0])
    assert box.hypervolume(np.array([[1e-3, 300.0]])) == pytest.approx(2.2 * 20.0)


@pytest.mark.parametrize("constant", [0.0, 3.0, -3.0])
@pytest.mark.parametrize("log_scale", [True, False])
def test_a_constant_objective_leaves_the_others_their_volume(constant: float, log_scale: bool) -> None:
    losses = np.array([[constant, 1.0], [constant, 2.0]])
    box = HypervolumeBox.around(losses, [log_scale, False])
    (worst, _) = box.scaled(losses)[0]
    assert box.reference_point[0] - worst == pytest.approx(0.1 * abs(worst) or 1.0)
    worse, better = box.hypervolume(losses[1:]), box.hypervolume(losses[:1])
    assert 0 < worse < better
    assert better / worse == pytest.approx(1.1 / 0.1)


def test_a_single_row_makes_a_box_with_volume() -> None:
    box = HypervolumeBox.around(np.array([[1.0, 5.0, 0.0]]), [True, False, False])
    assert box.hypervolume(np.array([[1.0, 5.0, 0.0]])) > 0


def test_a_box_needs_a_finite_row() -> None:
    with pytest.raises(ValueError, match="at least one"):
        HypervolumeBox.around(np.array([[np.nan, 1.0]]), [False, False])


def test_the_knee_of_a_convex_curve_is_where_its_slope_is_that_of_the_chord() -> None:
    x = np.linspace(0, 1, 101)
    assert x[knee(np.stack([x, (1 - np.sqrt(x)) ** 2], axis=1))] == pytest.approx(0.25)


@given(st.integers(2, 5), st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_the_knee_does_not_depend_on_units(m: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    losses = rng.random((12, m))
    front = losses[non_dominated(losses)]
    stretched = front * 10.0 ** rng.integers(-6, 6, size=m) + rng.normal(size=m)
    assert knee(front) == knee(stretched)


@given(st.permutations(range(12)))
@settings(deadline=None)
def test_the_knee_does_not_depend_on_the_order_of_rows(order: list[int]) -> None:
    x = np.linspace(0, 1, 12)
    front = np.stack([x, (1 - np.sqrt(x)) ** 2], axis=1)
    assert order[knee(front[order])] == knee(front)


def test_of_a_front_without_a_bulge_the_first_extreme_is_the_knee() -> None:
    x = np.linspace(0, 1, 12)
    concave = np.stack([x, np.sqrt(1 - x**2)], axis=1)
    assert knee(concave) == 0
    assert knee(concave[::-1]) == 0


def test_the_knee_of_three_objectives_is_the_row_that_bulges_most_towards_the_ideal() -> None:
    corners = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    on_plane, bulge, dent = [0.5, 0.3, 0.2], [0.2, 0.2, 0.3], [0.5, 0.45, 0.4]
    front = np.array([*corners, on_plane, dent, bulge])
    assert knee(front * [1.0, 100.0, 1e-3]) == 5


@pytest.mark.parametrize("m", [1, 2, 3, 4])
def test_small_and_flat_fronts_have_a_knee(m: int) -> None:
    assert knee(np.ones((1, m))) == 0
    assert knee(np.ones((3, m))) in range(3)
    assert knee(np.eye(m)[:2]) in (0, 1)


def test_with_one_objective_the_knee_is_the_best_row() -> None:
    assert knee(np.array([[3.0], [1.0], [2.0]])) == 1


def test_a_constant_objective_does_not_move_the_knee() -> None:
    front = np.array([[0.0, 10.0], [1.0, 2.0], [4.0, 1.0], [8.0, 0.0]])
    with_constant = np.insert(front, 1, 7.0, axis=1)
    assert knee(with_constant) == knee(front) == 1


def test_a_front_without_rows_has_no_knee() -> None:
    with pytest.raises(ValueError, match="no knee"):
        knee(np.empty((0, 2)))
