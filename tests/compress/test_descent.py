from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from least_squares import gram_of, problem

from evo_mpq.compress import descent
from evo_mpq.compress.descent import closest_codes, descended
from evo_mpq.compress.gptq import damped, gptq_codes, inverse_factor
from evo_mpq.compress.quantizers import UniformAffine, WeightGrid, code_range, stored_vector

GRANULARITIES = ["tensor", "channel", 5]


def errors(matrix: torch.Tensor, grid: WeightGrid, codes: torch.Tensor, gram: torch.Tensor) -> torch.Tensor:
    """``(rows,)`` squared errors of outputs, damped."""
    change = (matrix - grid.dequantize(codes)).double()
    return ((change @ damped(gram)) * change).sum(1)


@settings(max_examples=60)
@given(
    st.integers(0, 10_000),
    st.sampled_from([2, 3, 4, 8]),
    st.sampled_from(GRANULARITIES),
    st.booleans(),
    st.tuples(st.integers(1, 6), st.integers(1, 150)),
)
def test_no_row_is_ever_worse_than_by_gptq(
    seed: int, bits: int, granularity: str | int, symmetric: bool, shape: tuple[int, int]
) -> None:
    matrix, inputs = problem(seed, *shape)
    quantizer = UniformAffine(symmetric, granularity)
    grid, gram = quantizer.grid(matrix, bits), gram_of(inputs)
    factor = inverse_factor(gram)
    found, codes = closest_codes(matrix, grid, gram, factor, fit_ranges=quantizer.fits_ranges)
    assert set(codes.unique().tolist()) <= set(code_range(bits, symmetric=symmetric))
    own, plain = errors(matrix, found, codes, gram), errors(matrix, grid, gptq_codes(matrix, grid, factor), gram)
    assert torch.all(own <= plain * (1 + 1e-3) + 1e-12)
    assert torch.equal(stored_vector(found.scale.flatten()), found.scale.flatten())


@pytest.mark.parametrize("bits", [2, 3])
@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("seed", range(4))
def test_no_step_of_one_code_is_left_that_helps(seed: int, granularity: str | int, bits: int) -> None:
    matrix, inputs = problem(seed)
    grid, gram = UniformAffine(granularity=granularity).grid(matrix, bits), gram_of(inputs)
    codes = descended(matrix, grid, grid.round(matrix), damped(gram).float())
    error = errors(matrix, grid, codes, gram)
    for column, step in itertools.product(range(matrix.shape[1]), [-grid.codes.step, grid.codes.step]):
        moved = codes.clone()
        moved[:, column] = (moved[:, column] + step).clamp(grid.codes[0], grid.codes[-1])
        assert torch.all(errors(matrix, grid, moved, gram) >= error * (1 - 1e-3))


def test_what_it_finds_is_nearer_to_the_best_of_all_codes_than_what_gptq_finds() -> None:
    every = torch.cartesian_prod(*[torch.tensor([*code_range(2, symmetric=True)]).float()] * 6)
    best, found, gptq = 0.0, 0.0, 0.0
    for seed in range(8):
        matrix, inputs = problem(seed, rows=5, columns=6)
        grid, gram = UniformAffine().grid(matrix, 2), gram_of(inputs)
        factor = inverse_factor(gram)
        for row in range(5):
            own = grid.of_rows(torch.full((len(every),), row))
            best += float(errors(matrix[row].expand(len(every), -1), own, every, gram).min())
        found += float(errors(matrix, *closest_codes(matrix, grid, gram, factor, fit_ranges=False), gram).sum())
        gptq += float(errors(matrix, grid, gptq_codes(matrix, grid, factor), gram).sum())
    assert best <= found
    assert found - best < 0.6 * (gptq - best)


@pytest.mark.parametrize("bits", [2, 4])
def test_ranges_that_fit_outputs_lose_less_than_those_of_the_weights(bits: int) -> None:
    free, fixed = 0.0, 0.0
    for seed in range(6):
        matrix, inputs = problem(seed, columns=48)
        grid, gram = UniformAffine().grid(matrix, bits), gram_of(inputs)
        factor = inverse_factor(gram)
        free += float(errors(matrix, *closest_codes(matrix, grid, gram, factor, fit_ranges=True), gram).sum())
        fixed += float(errors(matrix, *closest_codes(matrix, grid, gram, factor, fit_ranges=False), gram).sum())
    assert free < 0.97 * fixed


def test_ranges_that_were_asked_for_stay() -> None:
    assert not UniformAffine(clip="minmax").fits_ranges
    assert not UniformAffine(granularity="tensor").fits_ranges
    matrix, inputs = problem(0)
    grid, gram = UniformAffine(clip="minmax").grid(matrix, 3), gram_of(inputs)
    found, _ = closest_codes(matrix, grid, gram, inverse_factor(gram), fit_ranges=False)
    assert torch.equal(found.scale, grid.scale)


def test_rows_are_rounded_independently() -> None:
    matrix, inputs = problem(1)
    quantizer, gram = UniformAffine(), gram_of(inputs)
    factor = inverse_factor(gram)
    _, whole = closest_codes(matrix, quantizer.grid(matrix, 3), gram, factor, fit_ranges=True)
    rows = [closest_codes(row[None], quantizer.grid(row[None], 3), gram, factor, fit_ranges=True) for row in matrix]
    assert torch.equal(whole, torch.cat([codes for _, codes in rows]))


def test_inputs_without_any_variance_are_rounded_to_nearest() -> None:
    matrix, _ = problem(0)
    grid, gram = UniformAffine().grid(matrix, 3), torch.zeros(16, 16, dtype=torch.float64)
    found, codes = closest_codes(matrix, grid, gram, inverse_factor(gram), fit_ranges=True)
    assert torch.equal(codes, found.round(matrix))


@pytest.mark.parametrize("stride", descent.STRIDES)
def test_the_range_of_the_weights_is_among_those_that_are_tried(stride: int) -> None:
    assert 1.0 in descent.FRACTIONS[::stride]


@pytest.mark.parametrize("most", [0, 2e4])
def test_large_layers_are_rounded_no_worse_than_by_gptq_with_fewer_ranges(
    most: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    matrix, inputs = problem(3, rows=9, columns=40)
    grid, gram = UniformAffine().grid(matrix, 2), gram_of(inputs)
    factor = inverse_factor(gram)
    whole = closest_codes(matrix, grid, gram, factor, fit_ranges=True)
    monkeypatch.setattr(descent, "MOST_MULTIPLICATIONS", most)
    monkeypatch.setattr(descent, "MOST_IN_DESCENT", most)
    monkeypatch.setattr(descent, "_ROWS", 4)
    few = closest_codes(matrix, grid, gram, factor, fit_ranges=True)
    plain = errors(matrix, grid, gptq_codes(matrix, grid, factor), gram)
    assert torch.all(errors(matrix, *few, gram) <= plain * (1 + 1e-3))
    assert errors(matrix, *whole, gram).sum() < errors(matrix, *few, gram).sum()
