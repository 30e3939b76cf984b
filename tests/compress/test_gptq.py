from __future__ import annotations

import itertools

import pytest
import torch
from least_squares import gram_of, problem
from torch.nn import functional

from evo_mpq.compress.gptq import gptq_codes, inverse_factor
from evo_mpq.compress.quantizers import UniformAffine

SEEDS = range(6)


def output_error(matrix: torch.Tensor, rounded: torch.Tensor, inputs: torch.Tensor) -> float:
    return float(functional.linear(inputs, matrix - rounded).square().sum())


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("granularity", ["tensor", "channel", 5])
def test_gptq_loses_less_of_the_output_than_rounding_to_nearest(bits: int, granularity: str | int) -> None:
    gptq, nearest = [], []
    for seed in SEEDS:
        matrix, inputs = problem(seed)
        grid = UniformAffine(granularity=granularity).grid(matrix, bits)
        factor = inverse_factor(gram_of(inputs))
        gptq.append(output_error(matrix, grid.dequantize(gptq_codes(matrix, grid, factor)), inputs))
        nearest.append(output_error(matrix, grid.dequantize(grid.round(matrix)), inputs))
    # Of one matrix no promise holds: where a clipped weight's error is large, those after it are moved out of range.
    assert sum(gptq) < sum(nearest)


@pytest.mark.parametrize("bits", [2, 4])
def test_uncorrelated_inputs_leave_nothing_to_make_up_for(bits: int) -> None:
    matrix, _ = problem(0)
    grid = UniformAffine().grid(matrix, bits)
    factor = inverse_factor(torch.diag(torch.rand(16, dtype=torch.float64) + 0.1))
    assert torch.equal(gptq_codes(matrix, grid, factor), grid.round(matrix))


@pytest.mark.parametrize("seed", SEEDS)
def test_two_columns_are_rounded_as_well_as_one_after_the_other_can_be(seed: int) -> None:
    # The best second code, given the first, minimizes the quadratic form: brute force over all levels.
    matrix, inputs = problem(seed, rows=1, columns=2)
    grid = UniformAffine(clip="minmax").grid(matrix, 3)
    gram = gram_of(inputs)
    damped = gram + 0.01 * gram.diagonal().mean() * torch.eye(2)
    codes = gptq_codes(matrix, grid, inverse_factor(gram))
    first = grid.round(matrix[:, :1])
    levels = torch.arange(-4, 4).float()

    def loss(second: float) -> float:
        error = (matrix - grid.dequantize(torch.cat([first, torch.tensor([[second]])], 1))).double()
        return float(error @ damped @ error.T)

    assert codes[0, 0] == first
    assert loss(float(codes[0, 1])) == pytest.approx(min(loss(level) for level in levels.tolist()))


def test_codes_lie_on_the_grid() -> None:
    for seed, symmetric in itertools.product(SEEDS, [True, False]):
        matrix, inputs = problem(seed)
        grid = UniformAffine(symmetric).grid(matrix, 3)
        codes = gptq_codes(matrix, grid, inverse_factor(gram_of(inputs)))
        assert torch.equal(codes, codes.round())
        assert codes.min() >= grid.codes[0]
        assert codes.max() <= grid.codes[-1]


def test_rows_are_rounded_independently() -> None:
    matrix, inputs = problem(1)
    quantizer, factor = UniformAffine(), inverse_factor(gram_of(inputs))
    whole = gptq_codes(matrix, quantizer.grid(matrix, 3), factor)
    alone = [gptq_codes(row[None], quantizer.grid(row[None], 3), factor) for row in matrix]
    assert torch.equal(whole, torch.cat(alone))


def test_blocks_of_columns_change_nothing_but_the_order_of_sums() -> None:
    matrix, inputs = problem(2, columns=300, samples=500)
    grid, factor = UniformAffine(clip="minmax").grid(matrix, 4), inverse_factor(gram_of(inputs))
    plain = matrix.double()
    codes = torch.empty_like(matrix)
    for column in range(300):  # the algorithm without its blocks, in float64
        codes[:, column : column + 1] = grid.round(plain[:, column : column + 1].float(), column)
        rounded = grid.dequantize(codes[:, column : column + 1], column)
        error = (plain[:, column : column + 1] - rounded) / factor[column, column]
        plain[:, column:] -= error * factor[column, column:]
    agree = (gptq_codes(matrix, grid, factor) == codes).float().mean()
    assert agree > 0.99


def test_the_factor_is_that_of_the_inverse() -> None:
    _, inputs = problem(3)
    gram = gram_of(inputs)
    factor = inverse_factor(gram).double()
    damped = gram + 0.01 * gram.diagonal().mean() * torch.eye(16)
    assert torch.equal(factor, factor.triu())
    torch.testing.assert_close(factor.T @ factor @ damped, torch.eye(16, dtype=torch.float64), rtol=0, atol=1e-4)


@pytest.mark.parametrize("scale", [1e-4, 1e4])
def test_the_scale_of_the_inputs_does_not_matter_even_where_some_are_constant(scale: float) -> None:
    matrix, inputs = problem(4)
    inputs[:, 3] = 0
    grid = UniformAffine().grid(matrix, 3)
    plain = gptq_codes(matrix, grid, inverse_factor(gram_of(inputs)))
    assert torch.equal(gptq_codes(matrix, grid, inverse_factor(gram_of(inputs * scale))), plain)


def test_inputs_without_any_variance_are_rounded_to_nearest() -> None:
    matrix, _ = problem(0)
    grid = UniformAffine().grid(matrix, 3)
    codes = gptq_codes(matrix, grid, inverse_factor(torch.zeros(16, 16, dtype=torch.float64)))
    assert torch.equal(codes, grid.round(matrix))


def test_more_columns_than_samples_are_damped_until_they_can_be_factorized() -> None:
    matrix, inputs = problem(5, columns=40, samples=3)
    factor = inverse_factor(gram_of(inputs) - 1e-3 * torch.eye(40))  # slightly indefinite, as rounding makes it
    assert torch.isfinite(factor).all()
    assert torch.isfinite(gptq_codes(matrix, UniformAffine().grid(matrix, 2), factor)).all()


def test_moments_that_are_not_finite_are_an_error() -> None:
    with pytest.raises(ArithmeticError, match="not finite"):
        inverse_factor(torch.full((3, 3), torch.nan, dtype=torch.float64))


def test_the_arguments_are_not_changed() -> None:
    matrix, inputs = problem(0)
    gram = gram_of(inputs)
    before = matrix.clone(), gram.clone()
    gptq_codes(matrix, UniformAffine().grid(matrix, 2), inverse_factor(gram))
    assert torch.equal(matrix, before[0])
    assert torch.equal(gram, before[1])
