from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evo_mpq.predict.surrogates.additive import Additive
from evo_mpq.predict.surrogates.choosing import NONE, CrossValidated, rank_correlation
from evo_mpq.predict.surrogates.folds import folds
from evo_mpq.predict.surrogates.gaussian_process import LENGTHS, NOISES, QUADRATIC_PARTS, GaussianProcess
from evo_mpq.predict.surrogates.kinds import KINDS, residual_model
from evo_mpq.predict.surrogates.pairwise import Pairwise
from evo_mpq.predict.surrogates.residual import OnResidual
from evo_mpq.predict.surrogates.surrogate import Features, Prediction, ResidualModel, active_genes
from evo_mpq.predict.tables.options import OptionTable, additive
from evo_mpq.space.building import SpaceLayer, build_space
from evo_mpq.space.search_space import SearchSpace
from evo_mpq.typing import FloatMatrix, FloatVector, Genomes

BITS = (2, 3, 4, 6)
RESIDUAL_KINDS = [kind for kind in KINDS if kind != "additive"]
seeds = st.integers(0, 2**32 - 1)


def chain(n_genes: int) -> SearchSpace:
    return build_space([SpaceLayer(f"layer{i}") for i in range(n_genes)], defaults={"weight_bits": list(BITS)})


def with_blocks() -> SearchSpace:
    return build_space(
        [SpaceLayer(name) for name in ("stem", "block.first", "block.second", "head")],
        defaults={"weight_bits": list(BITS)},
        blocks={"block": ("block.first", "block.second")},
        drop=["block"],
    )


def random_table(space: SearchSpace, rng: np.random.Generator, base: float = 1e-3) -> OptionTable:
    rows = [
        np.append(np.sort(np.exp(rng.normal(-4, 1.5, size=gene.cardinality - 1)))[::-1], 0.0) for gene in space.genes
    ]
    return OptionTable.of(rows, base)


def unknown(n: int) -> FloatVector:
    return np.full(n, np.nan)


class Quadratic:
    """Losses ``e'Ce`` of errors of a chain of layers."""

    def __init__(self, n_genes: int, coupling: FloatMatrix, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.space = chain(n_genes)
        self.coupling = coupling
        self.errors = np.exp(rng.normal(0, 0.5, size=(n_genes, 1))) * 2.0 ** -np.array(BITS, dtype=float)

    def __call__(self, genomes: Genomes) -> FloatVector:
        errors = self.errors[np.arange(len(self.errors)), genomes]
        losses: FloatVector = np.log10(np.einsum("ni,ij,nj->n", errors, self.coupling, errors))
        return losses

    def table(self) -> OptionTable:
        base = float(10 ** self(self.space.most_expensive()[None])[0])
        squares = self.errors**2
        return OptionTable.of([row - row[-1] for row in squares], base)

    def prior(self) -> Additive:
        return Additive(self.space, self.table(), log_scale=True)

    def sample(self, n: int, seed: int) -> Genomes:
        drawn = self.space.sample(2 * n, np.random.default_rng(seed))
        return drawn[np.sort(np.unique(drawn, axis=0, return_index=True)[1])][:n]


def planted(n_genes: int = 10, seed: int = 0) -> Quadratic:
    """Errors that reinforce each other and errors that cancel, in two groups of layers."""
    direction = np.where(np.arange(n_genes) % 3 == 0, -0.8, 0.8)
    coupling = np.outer(direction, direction)
    np.fill_diagonal(coupling, 1.0)
    return Quadratic(n_genes, coupling, seed)


def root_mean_square(values: FloatVector) -> float:
    return float(np.sqrt(np.mean(values**2)))


# The additive model


@given(seeds, st.booleans())
@settings(max_examples=20)
def test_a_sum_that_the_table_knows_is_predicted_exactly(seed: int, log_scale: bool) -> None:
    space, rng = chain(6), np.random.default_rng(seed)
    table = random_table(space, rng)
    model = Additive(space, table, log_scale=log_scale)
    measured, others = space.sample(40, rng), space.sample(40, rng)
    truth = additive(space, table)
    scale: Callable[[FloatVector], FloatVector] = np.log10 if log_scale else np.asarray
    model.fit(measured, scale(truth(measured)), unknown(40))
    assert model.predict(others).means == pytest.approx(scale(truth(others)), abs=1e-6)
    assert model.predict(others).deviations == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("log_scale", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_a_sum_of_which_the_table_is_wrong_is_learned_and_unseen_genomes_predicted(seed: int, log_scale: bool) -> None:
    space, rng = chain(6), np.random.default_rng(seed)
    table = random_table(space, rng)
    wrong = OptionTable.of([row * np.exp(rng.normal(0, 0.5, size=len(row))) for row in table.losses], table.base)
    truth = additive(space, table)
    measured, others = space.sample(200, rng), space.sample(200, rng)
    scale: Callable[[FloatVector], FloatVector] = np.log10 if log_scale else np.asarray
    model = Additive(space, wrong, log_scale=log_scale)
    before = root_mean_square(model.predict(others).means - scale(truth(others)))
    model.fit(measured, scale(truth(measured)), unknown(200))
    after = root_mean_square(model.predict(others).means - scale(truth(others)))
    assert after < 0.15 * before
    model.fit(measured, scale(truth(measured)), unknown(200))  # begins where it ended
    assert root_mean_square(model.predict(others).means - scale(truth(others))) < 0.15 * before


@given(seeds, st.booleans())
@settings(max_examples=20)
def test_options_that_were_not_measured_keep_the_proportions_of_the_table(seed: int, log_scale: bool) -> None:
    """On a logarithmic scale all may cost the same multiple of it: a table may be of fewer samples."""
    space, rng = chain(5), np.random.default_rng(seed)
    table = random_table(space, rng)
    truth = additive(space, table)
    genomes = space.sample(30, rng)
    scale: Callable[[FloatVector], FloatVector] = np.log10 if log_scale else np.asarray
    model = Additive(space, table, log_scale=log_scale)
    assert model.predict(genomes).means == pytest.approx(scale(truth(genomes)), abs=1e-9)
    one = space.most_expensive()[None].copy()
    one[0, 0] = 0
    model.fit(one, scale(3 * truth(one)), unknown(1))
    factor = model.table().losses[1][0] / table.losses[1][0]
    assert factor == pytest.approx(1) if not log_scale else 1 < factor < 3.01
    for gene, (row, known) in enumerate(zip(model.table().losses, table.losses, strict=True)):
        unmeasured = slice(1, None) if gene == 0 else slice(None)
        assert row[unmeasured] == pytest.approx(factor * known[unmeasured], rel=1e-6, abs=1e-9)
    assert model.table().losses[0][0] > factor * table.losses[0][0] * (1 - 1e-9)


def test_a_table_of_other_samples_is_taken_for_its_proportions() -> None:
    space, rng = chain(6), np.random.default_rng(0)
    table = random_table(space, rng)
    truth = additive(space, table)
    scaled = OptionTable.of([0.2 * row for row in table.losses], 0.2 * table.base)
    model = Additive(space, scaled, log_scale=True)
    measured, others = space.sample(3, rng), space.sample(50, rng)
    model.fit(measured, np.log10(truth(measured)), unknown(3))
    assert model.predict(others).means == pytest.approx(np.log10(truth(others)), abs=0.02)


@pytest.mark.parametrize("log_scale", [True, False])
def test_without_any_measurement_a_fit_stays_at_the_table(log_scale: bool) -> None:
    space = chain(4)
    table = random_table(space, np.random.default_rng(0))
    model = Additive(space, table, log_scale=log_scale)
    model.fit(np.empty((0, 4), dtype=np.int64), np.empty(0), np.empty(0))
    genomes = space.sample(10, np.random.default_rng(1))
    expected = additive(space, table)(genomes)
    assert model.predict(genomes).means == pytest.approx(np.log10(expected) if log_scale else expected)


@given(seeds, st.booleans())
@settings(max_examples=20)
def test_genes_of_dropped_blocks_cost_nothing(seed: int, log_scale: bool) -> None:
    space, rng = with_blocks(), np.random.default_rng(seed)
    table = random_table(space, rng)
    genomes = space.sample(20, rng)
    model = Additive(space, table, log_scale=log_scale)
    expected = additive(space, table)(genomes)  # which ignores them too
    assert model.predict(genomes).means == pytest.approx(np.log10(expected) if log_scale else expected)
    dropped = [gene.kind == "drop" for gene in space.genes].index(True)
    inside = [gene for gene, homes in enumerate(space.homes) if homes - {gene}]
    without = genomes[:, dropped] == 0
    assert len(inside) == 2 and without.any() and not without.all()
    active = active_genes(space, genomes)
    assert not active[np.ix_(without, inside)].any() and active[~without].all()
    features = model.features(genomes)
    assert np.all(features.shares[np.ix_(without, [1 + gene for gene in inside])] == 0)


@given(seeds)
@settings(max_examples=20)
def test_shares_are_fractions_of_the_predicted_loss(seed: int) -> None:
    space, rng = with_blocks(), np.random.default_rng(seed)
    table = random_table(space, rng)
    genomes = space.sample(20, rng)
    model = Additive(space, table, log_scale=True)
    shares = model.features(genomes).shares
    assert shares.sum(axis=1) == pytest.approx(1.0)
    assert shares[:, 0] * 10 ** model.predict(genomes).means == pytest.approx(table.base)
    for gene, row in enumerate(table.losses):
        alone = np.where(active_genes(space, genomes)[:, gene], row[genomes[:, gene]], 0.0)
        assert shares[:, 1 + gene] * 10 ** model.predict(genomes).means == pytest.approx(alone, abs=1e-12)
    assert not Additive(space, table, log_scale=False).features(genomes).shares.any()


# The Gaussian process


def features_of(problem: Quadratic, genomes: Genomes) -> Features:
    return problem.prior().features(genomes)


def test_the_process_goes_through_what_has_no_noise_and_is_less_sure_elsewhere() -> None:
    problem = planted(4)
    features = features_of(problem, problem.sample(80, 0))
    residuals = np.sin(features.levels @ np.array([1.0, 1.5, -0.5, -2.0]))
    model = GaussianProcess()
    model.fit(features.rows(np.arange(40)), residuals[:40], np.zeros(40))
    known, others = model.predict(features.rows(np.arange(40))), model.predict(features.rows(np.arange(40, 80)))
    assert known.means == pytest.approx(
        residuals[:40], abs=0.06 * residuals.std()
    )  # the least noise is .001 of the variance
    assert known.deviations.max() < 0.15 * residuals.std()
    assert np.median(others.deviations) > 2 * known.deviations.max()


def test_the_process_conditions_on_the_latest_where_there_are_very_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evo_mpq.predict.surrogates.gaussian_process.MOST_CONDITIONED", 30)
    problem = planted(6)
    genomes = problem.sample(80, 0)
    features = features_of(problem, genomes)
    residuals = problem(genomes) - problem.prior().predict(genomes).means
    whole, latest = GaussianProcess(), GaussianProcess()
    whole.fit(features.rows(np.arange(60)), residuals[:60], np.zeros(60))
    latest.fit(features.rows(np.arange(30, 60)), residuals[30:60], np.zeros(30))
    others = features.rows(np.arange(60, 80))
    assert np.array_equal(whole.predict(others).means, latest.predict(others).means)


def test_the_process_equals_the_textbook() -> None:
    # Rasmussen and Williams 2006, equations 2.23, 2.24 and 5.8, by dense inverses
    problem = planted(4)
    genomes = problem.sample(24, 0)
    features = features_of(problem, genomes)
    residuals = (problem(genomes) - problem.prior().predict(genomes).means)[:12]
    points = np.concatenate([features.levels, np.sqrt(features.shares)], axis=1)
    squared = np.array([[np.sum((a - b) ** 2) for b in points] for a in points])
    unit = squared[:12, :12].mean()
    roots = np.sqrt(features.shares)
    targets = residuals - residuals.mean()
    best, means, variances = -np.inf, np.empty(0), np.empty(0)
    for quadratic, length, noise in product(QUADRATIC_PARTS, LENGTHS, NOISES):
        smooth = np.exp(-squared / unit / (2 * length**2))
        kernel = quadratic * (roots @ roots.T) ** 2 + (1 - quadratic) * smooth
        covariance = kernel[:12, :12] + noise * np.eye(12)
        variance = float(targets @ np.linalg.inv(covariance) @ targets) / 12
        likelihood = -0.5 * 12 * np.log(variance) - 0.5 * np.linalg.slogdet(covariance)[1]
        if likelihood > best:
            best = likelihood
            cross, inverse = kernel[12:, :12], np.linalg.inv(covariance)
            means = residuals.mean() + cross @ inverse @ targets
            left = np.diag(kernel)[12:] - np.diag(cross @ inverse @ cross.T)
            variances = variance * (left + noise)
    model = GaussianProcess()
    model.fit(features.rows(np.arange(12)), residuals, np.zeros(12))
    predicted = model.predict(features.rows(np.arange(12, 24)))
    assert predicted.means == pytest.approx(means, abs=1e-5)
    assert predicted.deviations**2 == pytest.approx(variances, rel=1e-4)


# The pairwise model


@pytest.mark.parametrize("strength", [0.8, -0.8])
def test_one_planted_pair_is_found_whether_its_errors_reinforce_or_cancel(strength: float) -> None:
    coupling = np.eye(8)
    coupling[2, 5] = coupling[5, 2] = strength
    problem = Quadratic(8, coupling, seed=1)
    measured, others = problem.sample(150, 0), problem.sample(300, 1)
    model = Pairwise()
    prior = problem.prior()
    model.fit(prior.features(measured), problem(measured) - prior.predict(measured).means, np.zeros(150))
    truth = problem(others) - prior.predict(others).means
    predicted = model.predict(prior.features(others)).means
    assert np.corrcoef(predicted, truth)[0, 1] > 0.95
    assert root_mean_square(predicted - truth) < 0.35 * root_mean_square(truth)


@pytest.mark.parametrize("strength", [3.0, -3.0])
def test_a_planted_pair_is_found_where_losses_are_not_on_a_logarithmic_scale(strength: float) -> None:
    rng = np.random.default_rng(0)
    levels = rng.integers(0, 4, size=(500, 8)) / 3
    features = Features(levels, np.zeros((500, 9)))
    residuals = strength * (1 - levels[:, 2]) * (1 - levels[:, 5])
    model = Pairwise()
    model.fit(features.rows(np.arange(200)), residuals[:200], np.zeros(200))
    predicted = model.predict(features.rows(np.arange(200, 500))).means
    assert np.corrcoef(predicted, residuals[200:])[0, 1] > 0.98


def test_a_measurement_of_large_error_counts_less_for_the_process() -> None:
    problem = planted(6)
    genomes = problem.sample(60, 0)
    features = features_of(problem, genomes)
    residuals = problem(genomes) - problem.prior().predict(genomes).means
    residuals[0] += 10 * residuals.std()
    sure, unsure = GaussianProcess(), GaussianProcess()
    errors = np.full(60, 0.01)
    sure.fit(features, residuals, errors)
    errors[0] = 0.1
    unsure.fit(features, residuals, errors)
    own = features.rows(np.arange(1))
    assert abs(unsure.predict(own).means[0] - residuals[0]) > abs(sure.predict(own).means[0] - residuals[0])


def test_the_deviation_of_the_pairwise_model_is_about_its_error() -> None:
    problem = planted()
    prior, measured, others = problem.prior(), problem.sample(100, 0), problem.sample(300, 1)
    prior.fit(measured, problem(measured), unknown(100))
    model = Pairwise()
    model.fit(prior.features(measured), problem(measured) - prior.predict(measured).means, np.zeros(100))
    means, deviations = model.predict(prior.features(others))
    in_deviations = root_mean_square((problem(others) - prior.predict(others).means - means) / deviations)
    assert 0.3 < in_deviations < 2.0


# All of them


def made(kind: str) -> ResidualModel:
    make = residual_model(kind)
    assert make is not None
    return make()


@pytest.mark.parametrize("kind", RESIDUAL_KINDS)
@pytest.mark.parametrize("log_scale", [True, False])
def test_predictions_are_deterministic_and_do_not_depend_on_the_order_of_measuring(kind: str, log_scale: bool) -> None:
    problem = planted(6)
    genomes, others = problem.sample(60, 0), problem.sample(50, 1)
    losses = problem(genomes) if log_scale else 10 ** problem(genomes)
    shuffled = np.random.default_rng(2).permutation(60)
    predictions = []
    for order in (np.arange(60), np.arange(60), shuffled):
        model = OnResidual(Additive(problem.space, problem.table(), log_scale=log_scale), made(kind))
        model.fit(genomes[order], losses[order], unknown(60))
        predictions.append(model.predict(others))
    spread = losses.std()
    for once, again in zip(predictions[0], predictions[1], strict=True):
        assert np.array_equal(once, again)
    for once, again in zip(predictions[0], predictions[2], strict=True):
        assert again == pytest.approx(once, abs=1e-3 * spread)


@pytest.mark.parametrize("kind", RESIDUAL_KINDS)
def test_pairs_are_predicted_better_than_by_the_sum_alone(kind: str) -> None:
    ratios = []
    for seed in range(5):
        problem = planted(seed=seed)
        measured, others = problem.sample(150, 10 + seed), problem.sample(300, 20 + seed)
        alone, both = problem.prior(), OnResidual(problem.prior(), made(kind))
        errors = []
        for model in (alone, both):
            model.fit(measured, problem(measured), unknown(150))
            errors.append(root_mean_square(model.predict(others).means - problem(others)))
        ratios.append(errors[1] / errors[0])
    assert np.median(ratios) < (0.9 if kind == "forest" else 0.6)


@pytest.mark.parametrize("kind", RESIDUAL_KINDS)
@pytest.mark.parametrize("n", [1, 2, 5])
def test_very_few_or_equal_residuals_are_no_obstacle(kind: str, n: int) -> None:
    problem = planted(6)
    genomes = problem.sample(n, 0)
    features = features_of(problem, genomes)
    for residuals in (np.zeros(n), np.full(n, 0.5), np.arange(n, dtype=float)):
        model = made(kind)
        model.fit(features, residuals, np.zeros(n))
        means, deviations = model.predict(features_of(problem, problem.sample(7, 1)))
        assert means.shape == deviations.shape == (7,)
        assert np.isfinite(means).all() and np.isfinite(deviations).all() and (deviations >= 0).all()


@pytest.mark.parametrize("kind", RESIDUAL_KINDS)
def test_a_fit_alters_nothing_that_it_was_given(kind: str) -> None:
    problem = planted(6)
    genomes = problem.sample(40, 0)
    features, residuals, errors = features_of(problem, genomes), problem(genomes), np.zeros(40)
    copies = features.levels.copy(), features.shares.copy(), residuals.copy()
    model = made(kind)
    model.fit(features, residuals, errors)
    model.predict(features)
    for now, before in zip((features.levels, features.shares, residuals), copies, strict=True):
        assert np.array_equal(now, before)


# The choice among them


@given(st.integers(1, 60), st.integers(2, 5), seeds)
@settings(max_examples=30)
def test_every_genome_lies_in_one_fold_whatever_the_order(n: int, n_folds: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    levels = np.unique(rng.integers(0, 4, size=(n, 5)) / 3, axis=0)
    features = Features(levels, np.zeros((len(levels), 6)))
    parts = np.array(list(folds(features, n_folds)))
    assert np.all(parts.sum(axis=0) == 1)
    assert np.ptp(parts.sum(axis=1)) <= 1
    order = rng.permutation(len(levels))
    assert np.array_equal(list(folds(features.rows(order), n_folds)), parts[:, order])


class Perfect:
    """Knows that residuals are the first level, with a sign."""

    def __init__(self, sign: float = 1.0) -> None:
        self.sign = sign

    def fit(self, features: Features, residuals: FloatVector, errors: FloatVector) -> None:
        assert np.isin(residuals, features.levels[:, 0]).all()

    def predict(self, features: Features) -> Prediction:
        return Prediction(self.sign * features.levels[:, 0], np.zeros(len(features)))


def test_the_correlation_is_of_what_was_left_out() -> None:
    rng = np.random.default_rng(0)
    features = Features(rng.random((40, 3)), np.zeros((40, 4)))
    residuals = features.levels[:, 0]
    zeros = np.zeros(40)

    class Memory(Perfect):
        def fit(self, features: Features, residuals: FloatVector, errors: FloatVector) -> None:
            self.known = dict(zip(map(bytes, features.levels), residuals, strict=True))

        def predict(self, features: Features) -> Prediction:
            values = np.array([self.known.get(bytes(row), 0.0) for row in features.levels])
            return Prediction(values, np.zeros(len(values)))

    assert rank_correlation(Perfect, features, residuals, zeros) == pytest.approx(1.0)
    assert rank_correlation(lambda: Perfect(-1.0), features, residuals, zeros) == pytest.approx(-1.0)
    assert rank_correlation(Memory, features, residuals, zeros) == 0.0


def test_the_planted_structure_is_chosen() -> None:
    rng = np.random.default_rng(0)
    features = Features(rng.random((40, 3)), np.zeros((40, 4)))
    chooser = CrossValidated({"wrong": lambda: Perfect(-1.0), "right": Perfect, "late": Perfect})
    assert chooser.name == NONE
    chooser.fit(features, features.levels[:, 0], np.zeros(40))
    assert chooser.name == "right"
    assert chooser.correlations == pytest.approx({"wrong": -1.0, "right": 1.0, "late": 1.0})
    assert chooser.predict(features).means == pytest.approx(features.levels[:, 0])


@pytest.mark.parametrize("seed", range(5))
def test_pairs_are_no_accident_to_the_chooser(seed: int) -> None:
    problem = planted(seed=seed)
    measured, prior = problem.sample(100, seed), problem.prior()
    prior.fit(measured, problem(measured), unknown(100))
    chooser = made("auto")
    assert isinstance(chooser, CrossValidated)
    chooser.fit(prior.features(measured), problem(measured) - prior.predict(measured).means, np.zeros(100))
    assert chooser.name in ("gp", "pairwise")
    assert chooser.correlations[chooser.name] > 0.6


def test_what_is_a_sum_and_noise_is_mostly_left_to_the_additive_model() -> None:
    chosen = []
    for seed in range(9):
        problem = Quadratic(8, np.eye(8), seed)
        measured, prior = problem.sample(150, seed), problem.prior()
        losses = problem(measured) + np.random.default_rng(seed).normal(0, 0.05, size=150)
        prior.fit(measured, losses, unknown(150))
        chooser = made("auto")
        assert isinstance(chooser, CrossValidated)
        residuals = losses - prior.predict(measured).means
        chooser.fit(prior.features(measured), residuals, np.zeros(150))
        chosen.append(chooser.name)
        if chooser.name == NONE:
            means, deviations = chooser.predict(prior.features(problem.sample(5, 99)))
            assert not means.any()
            assert deviations == pytest.approx(root_mean_square(residuals))
    assert chosen.count(NONE) >= 6


def test_the_choice_is_made_again_when_there_is_a_quarter_more_to_choose_by() -> None:
    rng = np.random.default_rng(0)
    features = Features(rng.random((50, 3)), np.zeros((50, 4)))
    made_so_far: list[str] = []

    def counted() -> Perfect:
        made_so_far.append("one")
        return Perfect()

    chooser = CrossValidated({"counted": counted})
    counts = []
    for n in (40, 45, 49, 50):
        chooser.fit(features.rows(np.arange(n)), features.levels[:n, 0], np.zeros(n))
        counts.append(len(made_so_far))
    assert counts == [4, 4, 4, 7]  # three folds and the choice itself, which is kept


# Names


def test_every_name_has_a_line_and_makes_a_model() -> None:
    assert residual_model("additive") is None
    for kind in RESIDUAL_KINDS:
        first, second = made(kind), made(kind)
        assert first is not second
        assert "\n" not in KINDS[kind]


def test_an_unknown_name_is_answered_with_the_nearest_one_and_all_others() -> None:
    with pytest.raises(ValueError, match=r'"forrest" \(did you mean forest\?\)') as caught:
        residual_model("forrest")
    assert all(f"{kind}: " in str(caught.value) for kind in KINDS)
    with pytest.raises(ValueError, match=r'there is no surrogate "xyz"\. Known'):
        residual_model("xyz")


def test_names_alone_import_neither_scikit_learn_nor_scipy() -> None:
    code = (
        "import sys; from evo_mpq.predict.surrogates.kinds import KINDS, residual_model\n"
        "[residual_model(kind) for kind in KINDS]\n"
        "assert not {'sklearn', 'scipy'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
