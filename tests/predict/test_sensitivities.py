"""The one-at-a-time table: measured in whole, or in part and filled in."""

import numpy as np
import pytest

from evo_mpq.errors import MeasurementError
from evo_mpq.predict.tables.options import Estimates
from evo_mpq.predict.tables.sensitivities import filled_in, least_table, measured_sensitivities, table_genomes
from evo_mpq.space.genes import Gene
from evo_mpq.space.search_space import SearchSpace
from evo_mpq.typing import Genomes

BITS = (2, 3, 4, 6, 8)


class Rounding:
    """Losses that fall by four with every bit, the first layers' the largest; counts what it measures."""

    def __init__(self, n_layers: int) -> None:
        self.space = SearchSpace(
            [f"l{i}" for i in range(n_layers)],
            [Gene(f"l{i}.weight_bits", BITS, "weight_bits", (f"l{i}",)) for i in range(n_layers)],
        )
        self.scale = 1.0 / (1 + np.arange(n_layers))
        self.measured = 0

    def losses(self, genomes: Genomes) -> np.ndarray:
        return (self.scale * 4.0 ** -np.array(BITS, dtype=float)[genomes]).sum(axis=1)

    def __call__(self, genomes: Genomes) -> Estimates:
        self.measured += len(genomes)
        losses = self.losses(genomes)
        return Estimates(losses, 0.1 * losses)


def test_the_table_holds_the_increment_of_every_option_over_the_most_expensive_genome():
    problem = Rounding(4)
    table = measured_sensitivities(problem.space, problem)
    assert problem.measured == len(table_genomes(problem.space)) == 17
    for layer, row in enumerate(table.losses):
        expected = problem.scale[layer] * (4.0 ** -np.array(BITS, dtype=float) - 4.0**-8)
        assert np.allclose(row, expected)
    assert table.base == pytest.approx(problem.losses(problem.space.most_expensive()[None])[0])


def test_a_table_that_is_too_large_is_measured_in_part_and_filled_in_by_the_profile_over_levels():
    problem = Rounding(4)
    table = measured_sensitivities(problem.space, problem, left=30)
    assert problem.measured == len(table_genomes(problem.space, 30)) == 9
    for layer, row in enumerate(table.losses):
        exact = problem.scale[layer] * (4.0 ** -np.array(BITS, dtype=float) - 4.0**-8)
        assert np.allclose(row[[0, 2]], exact[[0, 2]])
        assert np.allclose(row[1], exact[1], rtol=0.02)
        assert row[0] > row[1] > row[2] > row[3] > row[4] == 0


def test_a_table_that_is_still_too_large_has_the_lowest_options_and_the_usual_profile():
    problem = Rounding(4)
    table = measured_sensitivities(problem.space, problem, left=7)
    assert problem.measured == len(table_genomes(problem.space, 7)) == 5
    for layer, row in enumerate(table.losses):
        assert row[0] == pytest.approx(problem.scale[layer] * (4.0**-2 - 4.0**-8))
        assert np.allclose(row[1:-1], row[0] / 4.0 ** np.arange(1, len(BITS) - 1)) and row[-1] == 0


def test_without_measurements_to_spare_there_is_no_table():
    space = Rounding(4).space
    assert len(table_genomes(space, 6)) == len(least_table(space)) == 5 and len(table_genomes(space, 5)) == 0


def test_a_step_down_that_seems_to_help_is_worth_nothing():
    problem = Rounding(2)

    def noisy(genomes: Genomes) -> Estimates:
        losses = 1.0 - problem.losses(genomes)
        return Estimates(losses, losses)

    table = measured_sensitivities(problem.space, noisy)
    assert all((row >= 0).all() for row in table.losses)


def test_an_option_that_cannot_be_measured_is_taken_from_its_neighbors():
    problem = Rounding(1)

    def failing(genomes: Genomes) -> Estimates:
        losses = problem.losses(genomes)
        losses[genomes[:, 0] == 1] = np.nan
        return Estimates(losses, losses)

    [row] = measured_sensitivities(problem.space, failing).losses
    assert row[0] > row[1] > row[2]


def test_without_the_most_expensive_genome_there_is_no_table():
    problem = Rounding(1)
    with pytest.raises(MeasurementError, match="most expensive genome"):
        measured_sensitivities(problem.space, lambda rows: Estimates(np.full(len(rows), np.nan), np.zeros(len(rows))))


def test_options_without_any_loss_stay_without():
    assert filled_in(np.zeros(4)).tolist() == [0.0] * 4
