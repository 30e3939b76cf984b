from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_surrogate_search import Planted, planted, run

from evo_mpq.optimize.surrogate_search.models import Expectation
from evo_mpq.optimize.surrogate_search.picking import best_within, chance_within, expected_improvement, for_picks
from evo_mpq.optimize.surrogate_search.search import SurrogateSearch
from evo_mpq.predict.surrogates.gaussian_process import GaussianProcess
from evo_mpq.typing import FloatMatrix

INFINITE = np.inf


@given(st.floats(-3, 3), st.floats(-3, 3), st.floats(0.01, 3))
@settings(max_examples=50)
def test_expected_improvement_is_that_of_samples(best: float, mean: float, deviation: float) -> None:
    quantiles = (np.arange(20_000) + 0.5) / 20_000
    from scipy.stats import norm

    samples = norm.ppf(quantiles, mean, deviation)
    expected = np.maximum(best - samples, 0).mean()
    found = expected_improvement(best, np.array([mean]), np.array([deviation]))
    assert found == pytest.approx([expected], abs=2e-3 * deviation)


def expectation(losses: FloatMatrix, deviations: FloatMatrix | None = None) -> Expectation:
    deviations = np.zeros_like(losses) if deviations is None else deviations
    return Expectation(losses, deviations, np.ones(len(losses)))


def test_a_computed_loss_is_within_a_limit_or_not_and_a_measured_one_perhaps() -> None:
    expected = expectation(
        np.array([[0.0, 1.0], [0.0, 2.0], [0.0, 2.1]]), np.array([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    )
    assert chance_within(np.array([INFINITE, 2.0]), expected).tolist() == [1.0, 1.0, 0.0]
    assert chance_within(np.array([0.0, 2.0]), expected).tolist() == [0.5, 0.5, 0.0]


KNOWN = np.array([[4.0, 1.0], [2.0, 2.0], [1.0, 3.0]])
LIMITS = np.array([[INFINITE, 1.0], [INFINITE, 2.5]])


def test_the_best_within_limits_come_first() -> None:
    assert [rows.tolist() for rows in best_within(LIMITS, KNOWN, 0)] == [[0], [1, 0]]


def test_picks_take_turns_and_get_what_improves_them_most() -> None:
    expected = expectation(np.array([[3.0, 1.0], [3.5, 0.9], [1.5, 2.4], [0.1, 4.0], [1.9, 2.0]]))
    assert for_picks(LIMITS, KNOWN, expected, 0, 2, turn=0) == [0, 2]
    assert for_picks(LIMITS, KNOWN, expected, 0, 2, turn=1) == [2, 0]
    assert for_picks(LIMITS, KNOWN, expected, 0, 4, turn=0) == [0, 2, 1, 4]


def test_what_improves_no_pick_is_left_to_the_front() -> None:
    worse = expectation(np.array([[4.0, 1.0], [2.0, 2.0], [0.0, 9.0]]))
    assert for_picks(LIMITS, KNOWN, worse, 0, 3, turn=0) == []
    assert for_picks(LIMITS, KNOWN, expectation(np.empty((0, 2))), 0, 3, turn=0) == []


def test_where_nothing_is_within_a_limit_the_best_that_is_expected_there_comes_first() -> None:
    limits = np.array([[INFINITE, 0.5]])
    expected = expectation(np.array([[9.0, 0.4], [8.0, 0.5], [1.0, 0.6]]))
    assert for_picks(limits, KNOWN, expected, 0, 1, turn=0) == [1]


def searcher(problem: Planted, limits: FloatMatrix | None, seed: int) -> SurrogateSearch:
    return SurrogateSearch(
        problem.space,
        [None, problem.size],
        GaussianProcess,
        seed=seed,
        log_scale=[True, False],
        picks=limits,
    )


def test_the_best_within_limits_is_found_sooner_than_with_the_front_alone() -> None:
    ratios = []
    for seed in range(6):
        problem = planted(10, seed)
        least, most = problem.size(np.stack([problem.space.cheapest(), problem.space.most_expensive()]))
        limits = np.array([[INFINITE, least + part * (most - least)] for part in (0.2, 0.45)])
        best = {}
        for name, picks in {"front": None, "picks": limits}.items():
            losses = problem.both(run(searcher(problem, picks, seed), problem.measure, 70))
            best[name] = [losses[losses[:, 1] <= limit[1], 0].min() for limit in limits]
        ratios.append(np.log(best["picks"]) - np.log(best["front"]))
    assert np.mean(ratios) < 0
