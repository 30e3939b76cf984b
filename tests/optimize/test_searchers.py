from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from evo_mpq.measure.measurements import Measurements
from evo_mpq.optimize.exhaustive import Exhaustive
from evo_mpq.optimize.nsga2 import NSGA2
from evo_mpq.optimize.pareto import HypervolumeBox, hypervolume, non_dominated
from evo_mpq.optimize.random_search import RandomSearch
from evo_mpq.optimize.searcher import Searcher, SeenGenomes, UnseenGenomes
from evo_mpq.optimize.surrogate_search.search import SurrogateSearch
from evo_mpq.predict.surrogates.kinds import residual_model
from evo_mpq.space.building import SpaceLayer, build_space
from evo_mpq.space.search_space import SearchSpace
from evo_mpq.typing import Genomes, Losses


def surrogate_search(space: SearchSpace, seed: int = 1, kind: str = "gp") -> SurrogateSearch:
    """Of `loss_and_size`, whose size is computed."""
    return SurrogateSearch(
        space,
        [None, lambda genomes: loss_and_size(space)(genomes)[:, 1]],
        residual_model(kind),
        batch_size=8,
        seed=seed,
    )


SEARCHERS: dict[str, Callable[[SearchSpace], Searcher]] = {
    "nsga2": partial(NSGA2, population_size=8, seed=1),
    "random": partial(RandomSearch, chunk=8, seed=1),
    "exhaustive": partial(Exhaustive, chunk=8),
    "additive": partial(surrogate_search, kind="additive"),
    "gp": surrogate_search,
}
every_searcher = pytest.mark.parametrize("make", SEARCHERS.values(), ids=SEARCHERS.keys())


def chain(n_genes: int, bits: tuple[int, ...] = (2, 4, 8)) -> SearchSpace:
    return build_space([SpaceLayer(f"layer{i}") for i in range(n_genes)], defaults={"weight_bits": list(bits)})


def loss_and_size(space: SearchSpace, seed: int = 0) -> Callable[[Genomes], Losses]:
    """A loss with interactions, and a size, as networks have them."""
    rng = np.random.default_rng(seed)
    weights = np.exp(rng.normal(size=(2, space.n_genes)))
    mixing = rng.normal(size=(space.n_genes, space.n_genes)) / space.n_genes + np.eye(space.n_genes)
    bits = [np.array(gene.values, dtype=float) for gene in space.genes]

    def losses(genomes: Genomes) -> Losses:
        chosen = np.stack([values[genomes[:, gene]] for gene, values in enumerate(bits)], axis=1)
        errors = np.sqrt(weights[0]) * 2.0**-chosen
        return np.stack([((errors @ mixing) ** 2).sum(axis=1), chosen @ weights[1]], axis=1)

    return losses


def measured(losses: Losses, violations: np.ndarray | None = None) -> Measurements:
    none = np.zeros((len(losses), 0))
    return Measurements(
        losses, none if violations is None else violations, np.zeros_like(losses), (None,) * len(losses)
    )


def failing(measurements: Measurements, failed: np.ndarray) -> Measurements:
    return Measurements(
        np.where(failed[:, None], np.nan, measurements.losses),
        np.where(failed[:, None], np.nan, measurements.violations),
        measurements.standard_errors,
        tuple("out of memory" if failure else None for failure in failed),
    )


def search(searcher: Searcher, losses: Callable[[Genomes], Losses], n: int) -> Genomes:
    """Genomes in the order asked, at most ``n``."""
    asked: list[Genomes] = []
    while (left := n - sum(map(len, asked))) > 0 and len(genomes := searcher.ask(left)):
        asked.append(genomes)
        searcher.tell(measured(losses(genomes)))
    return np.concatenate(asked)


def assert_exhausts(searcher: Searcher, space: SearchSpace, without: Genomes | None = None) -> None:
    asked = search(searcher, loss_and_size(space), space.n_genomes + 100)
    known = asked if without is None else np.concatenate([asked, without])
    assert len(known) == len(np.unique(known, axis=0)) == space.n_genomes
    assert space.legal(asked).all()
    assert len(searcher.ask()) == 0
    assert len(searcher.ask()) == 0  # and goes on saying so


@every_searcher
@pytest.mark.parametrize("space", [chain(1, (2, 4)), chain(1, (2, 3, 4, 8)), chain(4), chain(6, (2, 4))])
def test_a_space_is_searched_to_its_last_genome_without_repetition(
    make: Callable[[SearchSpace], Searcher], space: SearchSpace
) -> None:
    assert_exhausts(make(space), space)


@every_searcher
@given(st.integers(0, 2**32 - 1), st.integers(1, 27))
@example(seed=30372, n=2)  # a batch that held one genome twice: as a relative of the front, and evolved
@settings(deadline=None, max_examples=15)
def test_what_was_remembered_is_never_asked(make: Callable[[SearchSpace], Searcher], seed: int, n: int) -> None:
    space = chain(3)
    everything = np.concatenate(list(space.enumerate()))
    known = np.random.default_rng(seed).permutation(everything)[:n]
    searcher = make(space)
    searcher.remember(known, measured(loss_and_size(space)(known)))
    if n < space.n_genomes:
        assert_exhausts(searcher, space, without=known)
    else:
        assert len(searcher.ask()) == 0


@every_searcher
def test_remembering_between_generations_is_possible_and_repeats_are_harmless(
    make: Callable[[SearchSpace], Searcher],
) -> None:
    space, searcher = chain(3), make(chain(3))
    losses = loss_and_size(space)
    first = search(searcher, losses, 5)
    others = np.concatenate([first[:2], [[0, 1, 2], [2, 2, 2]]])
    searcher.remember(others, measured(losses(others)))
    later = search(searcher, losses, 100)
    known = np.unique(np.concatenate([first, others]), axis=0)
    assert len(later) == space.n_genomes - len(known)
    assert len(np.unique(np.concatenate([later, known]), axis=0)) == space.n_genomes


@every_searcher
def test_an_ask_keeps_to_its_limit(make: Callable[[SearchSpace], Searcher]) -> None:
    space = chain(4)
    searcher, losses = make(space), loss_and_size(space)
    for limit in (3, 1, 100, 5):
        genomes = searcher.ask(limit)
        assert 1 <= len(genomes) <= min(limit, 8)
        searcher.tell(measured(losses(genomes)))
    with pytest.raises(ValueError, match="at least 1"):
        searcher.ask(0)


@every_searcher
def test_ask_and_tell_alternate(make: Callable[[SearchSpace], Searcher]) -> None:
    searcher = make(chain(4))
    one = measured(np.zeros((1, 2)))
    with pytest.raises(RuntimeError, match="must follow an ask"):
        searcher.tell(one)
    genomes = searcher.ask()
    with pytest.raises(RuntimeError, match="before the next ask"):
        searcher.ask()
    with pytest.raises(ValueError, match="8 genomes were asked, 1 measurements told"):
        searcher.tell(one)
    searcher.tell(measured(np.zeros((len(genomes), 2))))
    with pytest.raises(RuntimeError, match="must follow an ask"):
        searcher.tell(one)


@every_searcher
def test_a_caller_that_alters_what_it_was_given_harms_nothing(
    make: Callable[[SearchSpace], Searcher],
) -> None:
    space = chain(4)
    tidy, careless = make(space), make(space)
    losses = loss_and_size(space)
    for _ in range(6):
        genomes, altered = tidy.ask(), careless.ask()
        assert np.array_equal(genomes, altered)
        measurements = losses(genomes)
        altered[:] = 0
        tidy.tell(measured(measurements))
        careless.tell(measured(measurements))


@every_searcher
def test_failures_do_not_end_a_search(make: Callable[[SearchSpace], Searcher]) -> None:
    space = chain(4)
    searcher, asked = make(space), []
    while len(genomes := searcher.ask()):
        asked.append(genomes)
        ok = measured(np.zeros((len(genomes), 2)))
        searcher.tell(failing(ok, np.ones(len(genomes), dtype=bool)))
    assert len(np.unique(np.concatenate(asked), axis=0)) == space.n_genomes


@pytest.mark.parametrize("name", ["nsga2", "random", "gp", "auto"])
def test_the_seed_decides_the_run(name: str) -> None:
    space = chain(8)
    makes: dict[str, Callable[[int], Searcher]] = {
        "nsga2": lambda seed: NSGA2(space, population_size=8, seed=seed),
        "random": lambda seed: RandomSearch(space, chunk=8, seed=seed),
        "gp": lambda seed: surrogate_search(space, seed),
        "auto": lambda seed: surrogate_search(space, seed, "auto"),
    }
    runs = [search(makes[name](seed), loss_and_size(space), 80) for seed in (3, 3, 4)]
    assert np.array_equal(runs[0], runs[1])
    assert not np.array_equal(runs[0], runs[2])


def test_exhaustive_search_is_lexicographic() -> None:
    space = chain(3)
    asked = search(Exhaustive(space, chunk=5), loss_and_size(space), 100)
    assert np.array_equal(asked, np.concatenate(list(space.enumerate())))


def test_random_search_draws_uniformly() -> None:
    space = chain(2)
    firsts = [tuple(RandomSearch(space, chunk=1, seed=seed).ask()[0]) for seed in range(1800)]
    counts = np.unique(np.array(firsts), axis=0, return_counts=True)[1]
    assert counts == pytest.approx(200, abs=60)


@given(st.integers(0, 27), st.integers(1, 30), st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_unseen_genomes_are_different_new_and_complete(n_seen: int, n: int, seed: int) -> None:
    space, rng = chain(3), np.random.default_rng(seed)
    everything = rng.permutation(np.concatenate(list(space.enumerate())))
    seen = SeenGenomes()
    seen.add(everything[:n_seen])
    unseen = UnseenGenomes(space, seen, rng)
    for _ in range(2):  # drawing is not using
        drawn = unseen.draw(n)
        assert len(drawn) == min(n, 27 - n_seen)
        assert seen.new(drawn).all()
    seen.add(drawn)
    assert seen.new(unseen.draw(27)).all()
    assert len(unseen.draw(27)) == 27 - n_seen - len(drawn)


# NSGA-II


@pytest.mark.parametrize("n_objectives", [1, 3, 4])
def test_nsga2_takes_any_number_of_objectives(n_objectives: int) -> None:
    space = chain(5)
    two = loss_and_size(space)

    def losses(genomes: Genomes) -> Losses:
        both = two(genomes)
        return np.stack([both[:, 0], both[:, 1], genomes.max(axis=1), genomes[:, 0]], axis=1)[:, :n_objectives]

    asked = search(NSGA2(space, population_size=10, seed=0), losses, 120)
    assert len(np.unique(asked, axis=0)) == 120
    if n_objectives == 1:
        assert losses(asked).min() == losses(np.concatenate(list(space.enumerate()))).min()


def test_failed_rows_never_enter_the_population() -> None:
    space = chain(6)
    searcher, losses, failed_ever = (
        NSGA2(space, population_size=10, seed=0),
        loss_and_size(space),
        SeenGenomes(),
    )
    for generation in range(12):
        genomes = searcher.ask()
        failed = (genomes.sum(axis=1) + generation) % 3 == 0
        failed_ever.add(genomes[failed])
        searcher.tell(failing(measured(losses(genomes)), failed))
        assert 0 < len(searcher.population) <= 40
        assert failed_ever.new(searcher.population).all()


def test_values_that_are_not_finite_are_no_better_than_failures() -> None:
    space = chain(4)
    searcher = NSGA2(space, population_size=6, seed=0)
    genomes = searcher.ask()
    losses = loss_and_size(space)(genomes)
    losses[0], losses[1, 0] = np.nan, -np.inf
    searcher.tell(measured(losses))
    assert {tuple(row) for row in searcher.population} == {tuple(row) for row in genomes[2:]}


def test_a_feasible_genome_beats_an_infeasible_one_and_a_smaller_violation_a_larger_one() -> None:
    space = chain(4)
    searcher = NSGA2(space, population_size=4, seed=0)
    genomes = np.concatenate(list(space.enumerate()))[:8]
    violations = np.array([[3.0], [-1.0], [0.0], [0.5], [2.0], [0.25], [4.0], [5.0]])
    losses = np.where(violations > 0, 0.0, 100.0) + np.zeros((8, 2))
    losses[3] = np.nan  # what violates a constraint need not be measured
    searcher.remember(genomes, measured(losses, violations))
    assert {tuple(row) for row in searcher.population} == {tuple(genomes[row]) for row in (1, 2, 3, 5)}


def test_a_front_survives_as_a_whole_and_dominated_genomes_only_where_it_is_small() -> None:
    space = chain(6)
    genomes = space.sample(60, np.random.default_rng(0))
    genomes = np.unique(genomes, axis=0)
    front = np.stack([np.arange(len(genomes)), -np.arange(len(genomes))], axis=1).astype(float)
    for n_front, survivors in ((3, 10), (25, 25), (50, 40)):
        searcher = NSGA2(space, population_size=10, seed=0)
        losses = np.where(np.arange(len(genomes))[:, None] < n_front, front, front + 1000)
        searcher.remember(genomes, measured(losses))
        assert len(searcher.population) == survivors
        members = {tuple(row) for row in genomes[:n_front]}
        surviving = {tuple(row) for row in searcher.population}
        assert members <= surviving or surviving <= members


@pytest.mark.parametrize("seed", range(5))
def test_nsga2_finds_the_feasible_corner_of_a_constrained_space(seed: int) -> None:
    space = chain(10)
    losses = loss_and_size(space)
    searcher = NSGA2(space, population_size=12, seed=seed)
    feasible = 0
    for _ in range(25):
        genomes = searcher.ask()
        violations = np.stack([genomes.sum(axis=1) - 4.0, 2.0 - genomes.sum(axis=1)], axis=1)
        feasible += int(np.sum(np.all(violations <= 0, axis=1)))
        unmeasured = np.where(np.any(violations > 0, axis=1)[:, None], np.nan, losses(genomes))
        searcher.tell(measured(unmeasured, violations))
    sums = searcher.population.sum(axis=1)
    assert np.all((sums >= 2) & (sums <= 4))
    assert feasible > 40


def test_the_first_population_is_what_was_remembered_and_asked_for_first_and_a_spread_over_cost() -> None:
    space = chain(12)
    initial = space.sample(5, np.random.default_rng(0))
    known = space.sample(4, np.random.default_rng(1))
    searcher = NSGA2(space, population_size=20, seed=0, initial=np.concatenate([initial, known[:1], initial]))
    searcher.remember(known, measured(loss_and_size(space)(known)))
    first = searcher.ask()
    assert np.array_equal(first[:5], initial)
    assert len(first) == 16
    assert np.ptp(first[5:].sum(axis=1)) > 12
    searcher.tell(measured(loss_and_size(space)(first)))
    assert len(searcher.ask()) == 20


def test_a_first_population_larger_than_a_generation_is_asked_in_parts() -> None:
    space = chain(12)
    initial = np.unique(space.sample(30, np.random.default_rng(0)), axis=0)
    searcher = NSGA2(space, population_size=8, seed=0, initial=initial)
    asked = search(searcher, loss_and_size(space), len(initial))
    assert np.array_equal(asked, initial)


def test_illegal_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="population_size"):
        NSGA2(chain(2), population_size=1)
    with pytest.raises(ValueError, match=r"row 1 of initial.*\[0, 3\]"):
        NSGA2(chain(2), initial=np.array([[0, 0], [0, 3]]))


@pytest.mark.parametrize("log_scale", [None, (True, False)])
def test_nsga2_beats_random_search_on_every_one_of_five_seeds(log_scale: tuple[bool, bool] | None) -> None:
    space = chain(16, (2, 3, 4, 6, 8))
    for seed in range(5):
        losses = loss_and_size(space, seed)
        ends = losses(np.array([space.cheapest(), space.most_expensive()]))
        box = HypervolumeBox.around(ends, [True, False])
        nsga2 = NSGA2(space, population_size=20, seed=seed, log_scale=log_scale)
        random_search = RandomSearch(space, seed=seed)
        volumes = [box.hypervolume(losses(search(searcher, losses, 300))) for searcher in (nsga2, random_search)]
        assert volumes[0] > 1.15 * volumes[1]


@pytest.mark.parametrize("seed", range(5))
def test_nsga2_finds_most_of_an_exact_front(seed: int) -> None:
    space = chain(6)
    losses = loss_and_size(space, seed)
    everything = losses(np.concatenate(list(space.enumerate())))
    exact = everything[non_dominated(everything)]
    reference_point = everything.max(axis=0) + 0.1
    asked = losses(search(NSGA2(space, population_size=20, seed=seed), losses, 200))
    assert hypervolume(asked, reference_point) > 0.98 * hypervolume(exact, reference_point)


def test_two_runs_in_one_process_do_not_influence_each_other() -> None:
    space = chain(8)
    losses = loss_and_size(space)
    alone = search(NSGA2(space, population_size=8, seed=0), losses, 60)
    first, second = NSGA2(space, population_size=8, seed=0), NSGA2(space, population_size=8, seed=5)
    asked: list[Genomes] = []
    while (left := 60 - sum(map(len, asked))) > 0:
        asked.append(first.ask(left))
        other = second.ask()
        first.tell(measured(losses(asked[-1])))
        second.tell(measured(losses(other)))
    assert np.array_equal(np.concatenate(asked), alone)
