import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from evo_mpq.measure import statistics
from evo_mpq.measure.statistics import (
    FEWEST_GROUPS,
    Interval,
    bootstrap_intervals,
    interval,
    paired_interval,
    standard_error,
    verdict,
    verdicts,
)

numbers = st.floats(-1e3, 1e3)


@given(arrays(np.float64, st.integers(2, 40), elements=numbers))
def test_without_groups_the_error_is_that_of_independent_samples(values):
    expected = np.std(values, ddof=1) / np.sqrt(len(values))
    np.testing.assert_allclose(standard_error(values), expected, rtol=1e-9, atol=1e-12)


@given(arrays(np.float64, st.integers(2, 40), elements=numbers), st.permutations(range(40)))
def test_groups_of_one_sample_are_no_groups(values, labels):
    assert standard_error(values, np.array(labels[: len(values)])) == pytest.approx(
        standard_error(values), rel=1e-9, abs=1e-12
    )


@given(arrays(np.float64, st.integers(2, 20), elements=numbers), st.integers(1, 5))
def test_repeating_every_sample_within_its_group_adds_no_certainty(values, times):
    repeated, groups = np.repeat(values, times), np.repeat(np.arange(len(values)), times)
    np.testing.assert_allclose(standard_error(repeated, groups), standard_error(values), rtol=1e-9, atol=1e-12)


@given(arrays(np.float64, 24, elements=numbers), st.lists(st.integers(0, 4), min_size=24, max_size=24))
def test_clustered_errors_equal_the_sandwich_of_the_groups_sums(values, labels):
    groups = np.array(labels)
    n_groups = len(set(labels))
    residuals = values - values.mean()
    sums = [sum(residuals[i] for i in range(24) if labels[i] == label) for label in set(labels)]
    if n_groups < 2:
        assert math.isnan(standard_error(values, groups))
        return
    expected = math.sqrt(n_groups / (n_groups - 1) * sum(s * s for s in sums)) / 24
    np.testing.assert_allclose(standard_error(values, groups), expected, rtol=1e-9, atol=1e-12)


def test_clustered_errors_agree_with_a_bootstrap_over_groups():
    rng = np.random.default_rng(0)
    n_groups = 200
    sizes = rng.integers(1, 6, n_groups)
    groups = np.repeat(np.arange(n_groups), sizes)
    values = np.repeat(rng.normal(size=n_groups), sizes) + 0.3 * rng.normal(size=sizes.sum())
    sums, counts = np.bincount(groups, values), np.bincount(groups)
    draws = rng.integers(n_groups, size=(4000, n_groups))
    means = sums[draws].sum(axis=1) / counts[draws].sum(axis=1)
    assert standard_error(values, groups) == pytest.approx(means.std(), rel=0.08)
    # and ignoring the groups would claim far too much
    assert standard_error(values) < 0.75 * means.std()


@pytest.mark.parametrize("n_groups", [30, 100])
def test_intervals_hold_the_truth_about_95_times_in_100(n_groups):
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(n_groups), 3)
    n_trials = 2000
    covered = 0
    for _ in range(n_trials):
        values = 2.0 + np.repeat(rng.normal(size=n_groups), 3) + rng.normal(size=3 * n_groups)
        found = interval(values, groups)
        assert found.low is not None and found.high is not None
        covered += found.low <= 2.0 <= found.high
    assert 0.92 < covered / n_trials < 0.97


def test_an_interval_is_the_mean_and_196_errors_on_each_side():
    values = np.array([1.0, 3.0])
    assert interval(values) == Interval(2.0, 2.0 - 1.96, 2.0 + 1.96)


@pytest.mark.parametrize("groups", [None, np.array(["cat.png"])])
def test_one_sample_has_no_interval(groups):
    assert interval(np.array([0.5]), groups) == Interval(0.5, None, None)


def test_an_infinite_value_has_no_interval():
    assert interval(np.array([0.5, math.inf])) == Interval(math.inf, None, None)


def test_values_and_groups_of_other_shapes_are_refused():
    with pytest.raises(ValueError, match="one value per sample"):
        standard_error(np.zeros((2, 2)))
    with pytest.raises(ValueError, match="group label"):
        standard_error(np.zeros(3), np.zeros(2))
    with pytest.raises(ValueError, match="no values"):
        interval(np.zeros(0))
    with pytest.raises(ValueError, match="same samples"):
        paired_interval(np.zeros(3), np.zeros(1))


# The bootstrap


def ends(found: list[Interval]) -> Any:
    """``(k, 2)`` ends of intervals."""
    return np.array([(one.low, one.high) for one in found], dtype=np.float64)


@pytest.mark.parametrize(("n_groups", "per_group"), [(12, 1), (30, 3), (100, 2)])
@pytest.mark.parametrize("skewed", [False, True])
def test_bootstrap_intervals_hold_the_truth_about_95_times_in_100_on_five_seeds(n_groups, per_group, skewed):
    for number in range(5):
        rng = np.random.default_rng(number)
        shape = (400, n_groups)
        shared = rng.exponential(size=shape) if skewed else 1.0 + rng.normal(size=shape)
        values = np.repeat(shared, per_group, axis=1) + 0.5 * rng.normal(size=(400, n_groups * per_group))
        found = ends(bootstrap_intervals(values, np.repeat(np.arange(n_groups), per_group)))
        covered = np.mean((found[:, 0] <= 1.0) & (found[:, 1] >= 1.0))
        # one mean in 400 has an error of .011; skewed samples of 12 are the known weakness of percentiles
        assert (0.85 if skewed and n_groups < 30 else 0.91) < covered < 0.98


def test_on_many_samples_the_bootstrap_agrees_with_the_normal_interval():
    rng = np.random.default_rng(3)
    values = 0.2 + rng.normal(size=(20, 3000))
    groups = rng.integers(600, size=3000)
    for labels in (None, groups):
        for row, found in zip(values, bootstrap_intervals(values, labels), strict=True):
            expected = interval(row, labels)
            assert found.value == expected.value
            assert None not in (expected.low, expected.high, found.low, found.high)
            half = (expected.high - expected.low) / 2  # type: ignore[operator]
            assert [found.low, found.high] == pytest.approx([expected.low, expected.high], abs=0.12 * half)


def test_the_bootstrap_is_the_same_every_time_whatever_stands_in_the_other_rows(monkeypatch):
    values = np.random.default_rng(4).normal(size=(5, 40))
    found = bootstrap_intervals(values)
    assert bootstrap_intervals(values) == found
    np.testing.assert_allclose(ends([bootstrap_intervals(row[None])[0] for row in values]), ends(found), rtol=1e-12)
    # chunks bound the memory; they draw other samples of the same distribution
    monkeypatch.setattr(statistics, "_DRAWN_AT_ONCE", 1000)
    half = (ends(found)[:, 1] - ends(found)[:, 0])[:, None] / 2
    assert np.all(np.abs(ends(bootstrap_intervals(values)) - ends(found)) < 0.15 * half)


def test_the_bootstrap_draws_whole_groups():
    rng = np.random.default_rng(5)
    values, groups = np.repeat(rng.normal(size=(1, 40)), 5, axis=1), np.repeat(np.arange(40), 5)
    [alone], [together] = bootstrap_intervals(values), bootstrap_intervals(values, groups)
    np.testing.assert_allclose(ends(bootstrap_intervals(values[:, ::5])), ends([together]))
    widths = np.diff(ends([alone, together]))[:, 0]
    assert widths[1] / widths[0] == pytest.approx(math.sqrt(5), rel=0.1)
    # labels may be anything, in any order
    order = rng.permutation(200)
    names = np.array([f"{group:02}.png" for group in groups])
    assert ends(bootstrap_intervals(values[:, order], names[order])) == pytest.approx(ends([together]))


def test_few_groups_and_infinite_values_have_no_bootstrap_interval():
    values = np.ones((1, FEWEST_GROUPS))
    assert bootstrap_intervals(values) == [Interval(1.0, 1.0, 1.0)]
    assert bootstrap_intervals(values[:, 1:]) == [Interval(1.0)]
    assert bootstrap_intervals(values, np.arange(FEWEST_GROUPS) // 2) == [Interval(1.0)]
    mixed = np.array([[math.inf] * 10, [1.0] * 10])
    assert bootstrap_intervals(mixed) == [Interval(math.inf), Interval(1.0, 1.0, 1.0)]
    for shape in ((3,), (2, 0)):
        with pytest.raises(ValueError, match="one value per sample"):
            bootstrap_intervals(np.zeros(shape))
    with pytest.raises(ValueError, match="group label"):
        bootstrap_intervals(np.zeros((2, 9)), np.zeros(8))


def test_verdicts_of_many_seeds_are_those_of_each():
    rng = np.random.default_rng(6)
    seeds, members = rng.normal(size=(30, 50)) + np.linspace(-1, 1, 30)[:, None], rng.normal(size=(30, 50))
    found = verdicts(seeds, members)
    assert found == [verdict(seed, member) for seed, member in zip(seeds, members, strict=True)]
    assert set(found) == {"dominated", "tied", "not"}
    with pytest.raises(ValueError, match="same samples"):
        verdicts(seeds, members[:, 1:])


# Verdicts


@given(arrays(np.float64, 12, elements=numbers), arrays(np.float64, 12, elements=numbers))
def test_verdicts_mirror_when_seed_and_member_change_places(seed, member):
    mirrored = {"dominated": "not", "tied": "tied", "not": "dominated"}
    assert verdict(member, seed) == mirrored[verdict(seed, member)]
    assert verdict(seed, member, direction="maximize") == mirrored[verdict(seed, member)]


@given(arrays(np.float64, 12, elements=numbers))
def test_a_seed_ties_with_itself(values):
    assert verdict(values, values) == "tied"


def test_a_verdict_is_paired_so_what_all_samples_share_does_not_blur_it():
    rng = np.random.default_rng(2)
    difficulty = 100 * rng.normal(size=50)
    seed = difficulty + 0.1 + 0.01 * rng.normal(size=50)
    assert verdict(seed, difficulty) == "dominated"
    assert verdict(difficulty, seed) == "not"
    assert verdict(rng.permutation(seed), difficulty) == "tied"


def test_groups_can_turn_a_verdict_into_a_tie():
    seed = np.concatenate([np.full(50, 1.0), np.full(50, -0.4)])
    member = np.zeros(100)
    assert verdict(seed, member) == "dominated"
    assert verdict(seed, member, np.repeat([0, 1], 50)) == "tied"


def test_nothing_known_is_a_tie_and_a_failure_has_no_verdict():
    assert verdict(np.array([1.0]), np.array([0.0])) == "tied"
    assert verdict(np.array([math.inf, 1.0]), np.array([math.inf, 0.0])) == "tied"
    with pytest.raises(ValueError, match="failed"):
        verdict(np.array([math.nan, 1.0]), np.array([0.0, 0.0]))


@pytest.mark.parametrize("slope", [-1.0, 0.0, 1.0])
def test_verdicts_err_about_5_times_in_100_on_five_seeds(slope):
    expected: Any = {-1.0: "not", 0.0: "tied", 1.0: "dominated"}[slope]
    for number in range(5):
        rng = np.random.default_rng(number)
        found = [verdict(slope + rng.normal(size=60), rng.normal(size=60) * 0.1, np.arange(60)) for _ in range(200)]
        assert found.count(expected) >= 0.88 * 200
