from __future__ import annotations

import pytest

from evo_mpq.optimize.budget import Budget, Stall


@pytest.mark.parametrize("limit", [{"evaluations": 0}, {"minutes": -1.0}, {"stall": 0}])
def test_limits_are_positive(limit: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(limit))} must be positive"):
        Budget(**limit)


def stalled_after(hypervolumes: list[float], violations: list[float] | None = None) -> list[int]:
    stall, counts = Stall(), []
    for hypervolume, violation in zip(hypervolumes, violations or [0.0] * len(hypervolumes), strict=True):
        stall.update(hypervolume, violation)
        counts.append(stall.generations)
    return counts


def test_a_gain_starts_the_count_anew() -> None:
    assert stalled_after([1.0, 1.0, 1.0, 2.0, 2.0]) == [0, 1, 2, 0, 1]


def test_small_gains_add_up_to_progress() -> None:
    assert stalled_after([1.0, 1.00006, 1.00012, 1.00018]) == [0, 1, 0, 1]


def test_coming_nearer_to_feasibility_is_progress() -> None:
    assert stalled_after([0.0] * 5, [float("inf"), 3.0, 2.0, 2.0, 0.0]) == [1, 0, 0, 1, 0]
    assert stalled_after([0.0, 0.0, 5.0, 5.0], [1.0, 0.0, 0.0, 0.0]) == [0, 0, 0, 1]
