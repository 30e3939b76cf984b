"""The yardsticks of the benchmarks, and the stored table that they and other tests search."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))  # benchmarks are no package, and not installed

from benchmarks.efficiency.arms import ARMS as EFFICIENCY_ARMS
from benchmarks.efficiency.judges import judge_of
from benchmarks.efficiency.problems import with_seeders
from benchmarks.efficiency.splits import drawn_split
from benchmarks.efficiency.synthetic import ALL_TWO_BITS, pairs, unmeasured_problem
from benchmarks.efficiency.worlds import FromTable, World
from benchmarks.exact_front import ORACLE, Table
from benchmarks.judging import LOWEST_FLOOR, Oracle, oracle
from benchmarks.peers.verdicts import Verdict, n_worse_beyond_chance, verdict_of
from benchmarks.presenting import spread
from benchmarks.search_efficiency import judge, judged, measurements_to, paired
from benchmarks.search_quality import ARMS, Stored
from evo_mpq.measure.statistics import Interval
from evo_mpq.optimize.pareto import non_dominated
from evo_mpq.optimize.programs.elimination import pareto_program
from evo_mpq.predict.factored import Factor, FactoredFunction


def square_oracle() -> Oracle:
    """A front of two points, 100 B with a loss of 0.1 and 200 B with 0.01, and something dominated."""
    return oracle(
        losses=np.array([0.1, 0.01, 0.5]),
        held_out=np.array([0.2, 0.02, 0.7]),
        sizes=np.array([100, 200, 150]),
        standard_errors=np.array([0.0, 0.001, 0.0]),
    )


@pytest.fixture(scope="module")
def stored() -> Stored:
    return Stored(Table.read(ORACLE))


def test_share_is_the_hypervolume_in_the_box_relative_to_the_front() -> None:
    front = square_oracle()
    # By hand: the box is log10 from 0.01 to 0.11 and bytes from 100 to 210.
    height = np.log10(0.11 / 0.1) / np.log10(0.11 / 0.01)
    exact = height + (10 / 110) * (1 - height)
    assert front.share(front.losses, front.sizes) == pytest.approx(1)
    assert front.share(np.array([0.1]), np.array([100])) == pytest.approx(height / exact)
    assert front.share(np.array([0.01]), np.array([200])) == pytest.approx(10 / 110 / exact)


def test_share_of_points_outside_the_box_is_zero() -> None:
    assert square_oracle().share(np.array([0.2, 0.001]), np.array([100, 300])) == 0


def test_share_does_not_depend_on_the_unit_of_size() -> None:
    rng = np.random.default_rng(0)
    losses, sizes = 10 ** rng.uniform(-4, 0, 200), rng.uniform(1e3, 1e4, 200)
    small, large = (oracle(losses, losses, sizes * unit, np.zeros(200)) for unit in (1, 1000))
    assert small.share(losses[:50], sizes[:50]) == pytest.approx(large.share(losses[:50], 1000 * sizes[:50]))


def test_losses_below_the_floor_are_equal() -> None:
    front = oracle(
        np.array([1e-3, 1e-5]), np.array([1e-3, 1e-5]), np.array([100, 200]), standard_errors=np.array([0.0, 1e-4])
    )
    assert front.floor == pytest.approx(2e-4)
    better, as_good = (front.share(np.array([loss]), np.array([200])) for loss in (1e-6, 1.9e-4))
    assert better == as_good


def test_floor_is_at_least_a_ten_thousandth_of_a_nat() -> None:
    front = oracle(np.array([0.0, 1e-3]), np.array([0.0, 1e-3]), np.array([2, 1]), standard_errors=np.zeros(2))
    assert front.floor == LOWEST_FLOOR


def test_floor_comes_from_the_smallest_loss_above_zero() -> None:
    front = oracle(
        np.array([0.0, 1e-3]), np.array([0.0, 1e-3]), np.array([2, 1]), standard_errors=np.array([9.0, 0.01])
    )
    assert front.floor == pytest.approx(0.02)


def test_the_front_itself_has_no_regret() -> None:
    front = square_oracle()
    assert front.held_out_regret(front.losses, front.held_out, front.sizes) == pytest.approx(1)


def test_regret_is_the_factor_between_held_out_losses() -> None:
    front = square_oracle()
    assert front.held_out_regret(front.losses, 3 * front.held_out, front.sizes) == pytest.approx(3)


def test_regret_hands_over_the_smallest_network_where_nothing_fits() -> None:
    front = square_oracle()
    # Only the last of the nine budgets has room for 200 B; below it the smaller of two that are too large is taken.
    regret = front.held_out_regret(np.array([0.01, 0.001]), np.array([0.2, 0.1]), np.array([200, 300]))
    assert regret == pytest.approx((0.2 / 0.2) ** (8 / 9) * (0.2 / 0.02) ** (1 / 9))


def test_networks_are_handed_over_by_searched_losses() -> None:
    front = square_oracle()
    losses, held_out, sizes = np.array([0.1, 0.2]), np.array([0.4, 0.1]), np.array([100, 100])
    assert front.held_out_regret(losses, held_out, sizes) == pytest.approx(2 ** (8 / 9) * 20 ** (1 / 9))


def test_stored_table_has_every_genome_once_in_lexicographic_order(stored: Stored) -> None:
    assert np.array_equal(stored.table.genomes, np.concatenate(list(stored.space.enumerate())))
    assert np.array_equal(stored.rows(stored.table.genomes), np.arange(stored.space.n_genomes))


def test_search_of_the_whole_stored_table_finds_its_front(stored: Stored) -> None:
    archive = stored.search(ARMS["nsga2, population 10"](stored.space, 0), evaluations=stored.space.n_genomes + 1)
    share, regret = stored.judged(archive)
    assert len(archive) == stored.space.n_genomes
    assert share == pytest.approx(1)
    assert regret == pytest.approx(1)


def test_more_measurements_of_one_search_never_lower_its_share(stored: Stored) -> None:
    archive = stored.search(ARMS["nsga2, population 10"](stored.space, 0), evaluations=200)
    rows = stored.rows(archive.genomes)
    shares = [
        stored.oracle.share(stored.table.search_loss[rows[:n]], stored.table.size[rows[:n]])
        for n in range(1, len(rows) + 1)
    ]
    assert np.all(np.diff(shares) >= 0)
    assert 0 < shares[-1] <= 1


def test_spread_shows_median_and_range() -> None:
    assert spread([3.0, 1.0, 2.0], ".1f") == "2.0 (1.0–3.0)"


def test_program_of_synthetic_layers_that_do_not_interfere_is_exact() -> None:
    made = pairs(4, seed=3, interfering=False)
    every = np.concatenate(list(made.space.enumerate()))
    values = np.stack([made.losses(every), made.bytes(every)], axis=1)
    front = pareto_program(made.space, made.without_interference(), made.bytes).genomes
    found = np.stack([made.losses(front), made.bytes(front)], axis=1)
    exact = values[non_dominated(values)]
    assert found[np.argsort(found[:, 1])] == pytest.approx(exact[np.argsort(exact[:, 1])])


def test_synthetic_loss_is_what_two_bits_everywhere_are_to_lose() -> None:
    made = pairs(60, seed=0)
    losses = made.losses(np.stack([made.space.cheapest(), made.space.most_expensive()]))
    assert losses[0] == pytest.approx(ALL_TWO_BITS)
    assert 0 < losses[1] < 0.1


def test_judge_of_one_cost_agrees_with_the_oracle(stored: Stored) -> None:
    table, rows = stored.table, np.random.default_rng(0).permutation(stored.space.n_genomes)[:60]
    costs = table.size.astype(float)[:, None]
    best = judge_of(table.search_loss, costs, table.search_loss_error)
    losses, held_out = table.search_loss[rows], table.test_kl[rows]
    assert best.share(losses, costs[rows]) == pytest.approx(stored.oracle.share(losses, table.size[rows]))
    own = held_out[best.handed_over(losses, costs[rows])]
    front = table.test_kl[best.rows][best.handed_over(best.losses, best.costs)]
    expected = stored.oracle.held_out_regret(losses, held_out, table.size[rows])
    assert best.regret(own, front) == pytest.approx(expected)


@pytest.fixture(scope="module")
def small_world(stored: Stored) -> World:
    """The stored table as a problem of which nothing is trained, traced or calibrated."""
    layers = stored.space.layers
    sizes = stored.table.size.reshape((3,) * len(layers)).astype(float)
    axes = [sizes[(0,) * gene + (slice(None),) + (0,) * (len(layers) - 1 - gene)] for gene in range(len(layers))]
    rest = Factor((), sizes[(0,) * len(layers)])
    cost = FactoredFunction((rest, *(Factor((gene,), axis - axis[0]) for gene, axis in enumerate(axes))))
    problem = with_seeders(unmeasured_problem(stored.space, cost))
    return World("small", problem, FromTable(stored, 0.0), [cost], [cost], stored.table.genomes.astype(np.int64))


@pytest.mark.parametrize("budget", [20, 60])
@pytest.mark.parametrize("name", [name for name in EFFICIENCY_ARMS if not name.startswith("Optuna")])
def test_searches_measure_each_genome_once_and_keep_to_their_budgets(
    small_world: World, name: str, budget: int
) -> None:
    found = EFFICIENCY_ARMS[name].run(small_world, budget, seed=1)
    assert len(np.unique(found.genomes, axis=0)) == len(found.genomes)
    assert budget / 2 <= len(found.genomes) <= budget
    assert np.all(small_world.space.legal(found.genomes))
    assert np.all(np.diff(found.own) >= 0) and found.own_seconds >= found.own[-1]


def test_more_measurements_are_needed_for_a_larger_share(small_world: World) -> None:
    found = EFFICIENCY_ARMS["engine"].run(small_world, 100, seed=0)
    best, _ = judge(small_world)
    needed = [measurements_to(small_world, best, found, share) for share in (0.5, 0.9, 0.95)]
    assert needed == sorted(needed) and needed[-1] <= 100
    losses, costs = small_world.source.search(found.genomes).losses, small_world.computed(found.genomes)
    assert best.share(losses[: int(needed[1])], costs[: int(needed[1])]) >= 0.9
    assert best.share(losses[: int(needed[1]) - 1], costs[: int(needed[1]) - 1]) < 0.9


def test_paired_interval_is_of_ratios() -> None:
    ratio, low, high = paired(np.array([0.5, 2.0, 1.0]))
    assert ratio == pytest.approx(1)
    assert low * high == pytest.approx(1) and low < 1


def test_a_search_compared_with_itself_is_level_at_all_sizes(small_world: World) -> None:
    found = EFFICIENCY_ARMS["engine"].run(small_world, 60, seed=0)
    front, held_out = judge(small_world)
    own = judged(small_world, found, front, held_out)
    assert own.ratios(own) == pytest.approx(1)
    worse = judged(small_world, found.first(25), front, held_out)
    ratio, kl, at_many = worse.ratios(own)
    assert ratio == kl > 1 and at_many > 1
    assert len(own.at_many) == len(front.many_budgets) > len(front.budgets) == 9


@pytest.mark.parametrize(
    "groups", [np.arange(897), np.arange(897) // 3, np.random.default_rng(0).integers(90, size=897)]
)
def test_searched_and_judging_samples_share_no_group_and_are_drawn_anew_by_every_seed(groups: np.ndarray) -> None:
    first, again, other = (drawn_split(groups, 400, seed) for seed in (0, 0, 1))
    for searched, others in (first, other):
        assert len(searched) == 400 and not set(groups[searched]) & set(groups[others])
        left = set(range(897)) - set(searched) - set(others)
        assert len({groups[place] for place in left}) <= 1
    assert np.array_equal(first[0], again[0]) and not np.array_equal(first[0], other[0])


def test_verdicts_beyond_chance_are_those_that_so_many_comparisons_leave() -> None:
    chance = [Verdict("", "worse", 0.04), *(Verdict("", "tied", 0.5) for _ in range(19))]
    assert n_worse_beyond_chance(chance) == 0
    assert n_worse_beyond_chance([*chance, Verdict("", "worse", 1e-4), Verdict("", "better", 1e-9)]) == 1
    assert n_worse_beyond_chance([Verdict("", "worse", 0.04)]) == 1


def test_a_verdict_reads_an_interval() -> None:
    assert verdict_of(Interval(-0.1, -0.2, -0.01)).word == "better"
    edge = verdict_of(Interval(0.196, 0.0, 0.392))
    assert edge.word == "tied" and edge.p == pytest.approx(0.05, rel=1e-3)
    assert verdict_of(Interval(0.1, None, None)) == Verdict("+0.1", "unknown", 1.0)
