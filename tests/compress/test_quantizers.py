from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evo_mpq.compress.packing import _Reader, _vector
from evo_mpq.compress.quantizers import ActivationQuantizer, UniformAffine, code_range, half_exponent, stored_vector

BITS = range(2, 9)
CLIPS: list[str | float] = ["minmax", "mse", 99.0]
GRANULARITIES: list[str | int] = ["tensor", "channel", 3]

QUANTIZERS = [
    UniformAffine(symmetric, granularity, clip)
    for symmetric, granularity, clip in itertools.product([True, False], GRANULARITIES, CLIPS)
]
SHAPES = st.tuples(st.integers(1, 5), st.integers(1, 8))


def matrix_of(shape: tuple[int, int], seed: int, scale: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator) * scale


@pytest.mark.parametrize("quantizer", QUANTIZERS, ids=str)
@pytest.mark.parametrize("bits", BITS)
def test_b_bits_have_exactly_two_to_the_b_levels(quantizer: UniformAffine, bits: int) -> None:
    grid = quantizer.grid(matrix_of((2, 7), bits), bits)
    among = code_range(bits, symmetric=quantizer.symmetric)
    codes = torch.arange(among[0] - 3, among[-1] + 4).float()
    # Every level of the grid and some beyond its ends, rounded back.
    values = (codes[None, :1].expand(2, 1) * 0 + codes[:, None, None] - grid.zero_point[:, :1]) * grid.scale[:, :1]
    found = torch.stack([grid.round(column) for column in values])
    assert found[:, 0].unique().tolist() == list(among)
    assert len(among) == 2**bits


def test_two_bits_of_a_symmetric_grid_are_odd() -> None:
    grid = UniformAffine(clip="minmax").grid(torch.tensor([[-3.0, -1.0, -0.1, 0.4, 1.0, 0.3, 0.2]]), 2)
    assert grid.scale.tolist() == [[1.0]]
    assert grid.round(torch.tensor([[-9.0, -2.1, -1.9, -0.1, 0.1, 1.9, 9.0]])).tolist() == [[-3, -3, -1, -1, 1, 1, 3]]


@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("bits", BITS)
def test_the_longer_side_of_symmetric_codes_is_where_a_row_needs_it(bits: int, clip: str | float) -> None:
    matrix = matrix_of((6, 9), 0)
    quantizer = UniformAffine(clip=clip)
    grid, turned = quantizer.grid(matrix, bits), quantizer.grid(-matrix, bits)
    if 3 <= bits <= 7:  # what a row loses does not depend on its sign
        assert torch.equal(turned.dequantize(turned.round(-matrix)), -grid.dequantize(grid.round(matrix)))
        assert {*grid.scale.sign().flatten().tolist()} == {-1.0, 1.0}
    else:
        assert (grid.scale > 0).all()


def test_a_row_with_a_long_positive_side_is_covered_with_shorter_steps() -> None:
    grid = UniformAffine(clip="minmax").grid(torch.tensor([[-3.0, 0.0, 4.0], [-4.0, 0.0, 3.0]]), 3)
    assert grid.scale.tolist() == [[-1.0], [1.0]]
    assert grid.round(torch.tensor([[-3.0, 4.0]] * 2)).tolist() == [[3, -4], [-3, 3]]


@given(
    quantizer=st.sampled_from(QUANTIZERS),
    shape=SHAPES,
    bits=st.sampled_from(BITS),
    seed=st.integers(0, 999),
    exponent=st.integers(-12, 12),
)
@settings(max_examples=100, deadline=None)
def test_what_is_on_the_grid_stays_where_it_is(
    quantizer: UniformAffine, shape: tuple[int, int], bits: int, seed: int, exponent: int
) -> None:
    matrix = matrix_of(shape, seed, 10.0**exponent)
    grid = quantizer.grid(matrix, bits)
    rounded = grid.dequantize(grid.round(matrix))
    assert torch.equal(grid.dequantize(grid.round(rounded)), rounded)


@given(
    quantizer=st.sampled_from(QUANTIZERS),
    shape=SHAPES,
    bits=st.sampled_from(BITS),
    seed=st.integers(0, 999),
    spread=st.floats(0, 12),
)
@settings(max_examples=100, deadline=None)
def test_scales_are_what_a_packed_file_stores(
    quantizer: UniformAffine, shape: tuple[int, int], bits: int, seed: int, spread: float
) -> None:
    matrix = matrix_of(shape, seed) * torch.logspace(-spread, 0, shape[0])[:, None]
    scale = quantizer.grid(matrix, bits).scale.flatten()
    assert torch.equal(stored_vector(scale), scale)


@pytest.mark.parametrize("quantizer", QUANTIZERS, ids=str)
def test_rounding_finds_the_nearest_level(quantizer: UniformAffine) -> None:
    matrix = matrix_of((3, 7), 5)
    for bits in (2, 3, 5):
        grid = quantizer.grid(matrix, bits)
        levels = torch.tensor([*grid.codes]).float()
        every = torch.stack([grid.dequantize(level.expand(3, 7)) for level in levels])
        smallest = (every - matrix).abs().amin(0)
        torch.testing.assert_close((grid.dequantize(grid.round(matrix)) - matrix).abs(), smallest)


@pytest.mark.parametrize("quantizer", QUANTIZERS, ids=str)
def test_zero_weights_stay_zero(quantizer: UniformAffine) -> None:
    matrix = matrix_of((4, 6), 1) + 2.0  # far from zero on one side
    matrix[:, ::2] = 0.0
    for bits in BITS[quantizer.symmetric :]:  # the levels of 2 symmetric bits lie around zero
        grid = quantizer.grid(matrix, bits)
        assert (grid.dequantize(grid.round(matrix))[:, ::2] == 0).all()


@given(
    symmetric=st.booleans(),
    granularity=st.sampled_from(["tensor", "channel", 3]),
    shape=SHAPES,
    bits=st.sampled_from(BITS),
    seed=st.integers(0, 999),
)
@settings(max_examples=100, deadline=None)
def test_the_range_of_least_squared_error_is_never_worse_than_the_whole_one(
    symmetric: bool, granularity: str | int, shape: tuple[int, int], bits: int, seed: int
) -> None:
    matrix = matrix_of(shape, seed)

    def error(clip: str) -> float:
        grid = UniformAffine(symmetric, granularity, clip).grid(matrix, bits)
        return float((grid.dequantize(grid.round(matrix)) - matrix).square().sum())

    assert error("mse") <= error("minmax") * (1 + 1e-5)


@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("symmetric", [True, False])
def test_more_bits_never_cost_error_on_average(symmetric: bool, clip: str | float) -> None:
    quantizer = UniformAffine(symmetric, "channel", clip)
    errors = torch.zeros(len(BITS))
    for seed in range(5):
        matrix = matrix_of((6, 9), seed)
        for i, bits in enumerate(BITS):
            grid = quantizer.grid(matrix, bits)
            errors[i] += (grid.dequantize(grid.round(matrix)) - matrix).square().mean()
    # A percentile cuts the same tails at any number of bits, and their error stays.
    slack = 1.05 if isinstance(clip, float) else 1.0
    assert (errors[1:] <= slack * errors[:-1]).all(), errors


def test_finer_granularity_never_costs_error_on_average() -> None:
    errors = torch.zeros(3)
    for seed in range(10):
        matrix = matrix_of((6, 9), seed) * torch.logspace(-2, 0, 6)[:, None]
        for i, granularity in enumerate(GRANULARITIES):
            grid = UniformAffine(granularity=granularity).grid(matrix, 4)
            errors[i] += (grid.dequantize(grid.round(matrix)) - matrix).square().mean()
    assert errors[0] >= errors[1] >= errors[2]


@pytest.mark.parametrize("granularity", ["tensor", "channel", 4, 100])
def test_the_number_of_scales_is_what_the_grid_has(granularity: str | int) -> None:
    quantizer = UniformAffine(granularity=granularity)
    for rows, columns in [(1, 1), (3, 4), (2, 9)]:
        grid = quantizer.grid(matrix_of((rows, columns), 0), 3)
        assert grid.scale.shape == (rows, quantizer.n_groups(columns))
        distinct = 1 if granularity == "tensor" else grid.scale.numel()
        assert quantizer.n_scales(rows, columns) == distinct
        assert len(grid.scale.unique()) <= distinct


def test_a_shorter_last_group_is_ranged_by_its_own_columns_alone() -> None:
    matrix = matrix_of((2, 7), 3)
    for symmetric, clip, bits in itertools.product([True, False], CLIPS, [2, 3]):
        whole = UniformAffine(symmetric, 4, clip).grid(matrix, bits)
        last = UniformAffine(symmetric, 4, clip).grid(matrix[:, 4:], bits)
        torch.testing.assert_close(whole.scale[:, 1:], last.scale, rtol=1e-3, atol=0)


def test_weights_that_are_not_finite_have_no_grid() -> None:
    for value in (torch.nan, torch.inf):
        with pytest.raises(ValueError, match="NaN"):
            UniformAffine().grid(torch.tensor([[1.0, value]]), 4)


@pytest.mark.parametrize("quantizer", QUANTIZERS, ids=str)
def test_all_zero_weights_and_rows_stay_next_to_zero(quantizer: UniformAffine) -> None:
    rows = matrix_of((3, 6), 0)
    rows[1] = 0
    for matrix, bits in itertools.product((rows, torch.zeros(2, 5)), [2, 3]):
        grid = quantizer.grid(matrix, bits)
        assert (grid.scale != 0).all()
        found = grid.dequantize(grid.round(matrix))[matrix.abs().sum(1) == 0].abs()
        if 0 in grid.codes:
            assert (found == 0).all()
        elif quantizer.granularity != "tensor" or not matrix.any():
            assert (found < 1e-3).all()


magnitudes = st.floats(-30, 30).map(lambda exponent: 10.0**exponent)


@given(
    values=st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=12),
    magnitude=magnitudes,
    spread=st.lists(st.integers(-30, 0), min_size=12, max_size=12),
)
@settings(max_examples=300, deadline=None)
def test_stored_vectors_are_stored_without_loss_and_are_close(
    values: list[float], magnitude: float, spread: list[int]
) -> None:
    powers = torch.tensor([2.0**power for power in spread[: len(values)]])
    vector = torch.tensor(values, dtype=torch.float32) * powers * magnitude
    stored = stored_vector(vector)
    assert torch.equal(stored_vector(stored), stored)
    assert torch.equal(_Reader(_vector(stored)).vector(len(vector)), stored)
    largest = float(vector.abs().max())
    assert ((stored > 0) >= (vector > 0)).all()
    if largest < 2.0**-110:
        return  # float32's own steps are coarser there
    near = vector.abs() >= 2.0**-13 * largest
    assert ((stored - vector).abs()[near] <= 2.0**-11 * vector.abs()[near]).all()
    assert ((stored - vector).abs() <= 2.0**-11 * vector.abs() + 2.0**-13 * largest).all()


def test_a_vector_whose_largest_value_rounds_up_to_a_power_of_two_is_stored_without_loss() -> None:
    # Its exponent was found before rounding: the second rounding then lost the last bit of small values.
    vector = torch.tensor([1.9999, -(2.0**-14 + 2.0**-24), 2.0**-14])
    stored = stored_vector(vector)
    assert torch.equal(_Reader(_vector(stored)).vector(3), stored)
    assert torch.equal(stored_vector(stored), stored)
    assert half_exponent(vector) == half_exponent(stored)


@given(
    clip=st.sampled_from(CLIPS),
    low=st.floats(-5, 5),
    span=st.floats(0, 10),
    bits=st.sampled_from(BITS),
    seed=st.integers(0, 99),
    scale=magnitudes,
)
@settings(max_examples=60, deadline=None)
def test_the_grid_of_an_activation_contains_zero_and_is_idempotent(
    clip: str | float, low: float, span: float, bits: int, seed: int, scale: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = (low + span * torch.rand(64, generator=generator)) * scale
    grid = ActivationQuantizer(clip).grid(values, bits)
    assert grid(torch.zeros(3)).tolist() == [0, 0, 0]
    assert 0 <= grid.zero_point < 2**bits
    rounded = grid(values)
    assert torch.equal(grid(rounded), rounded)
    assert len(rounded.unique()) <= 2**bits
    codes = rounded / grid.scale + grid.zero_point
    assert codes.min() >= -1e-3
    assert codes.max() <= 2**bits - 1 + 1e-3


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_clipping_an_activation_is_never_worse_than_its_whole_range(bits: int) -> None:
    for seed in range(6):
        generator = torch.Generator().manual_seed(seed)
        values = torch.randn(500, generator=generator).relu() ** 2 - 0.1
        errors = {
            clip: float((ActivationQuantizer(clip).grid(values, bits)(values) - values).square().sum())
            for clip in ("mse", "minmax")
        }
        assert errors["mse"] <= errors["minmax"]


def test_two_line_searches_find_nearly_the_best_range_of_an_activation() -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(300, generator=generator) ** 3
    grid = ActivationQuantizer("mse").grid(values, 3)
    best = min(
        float((candidate(values) - values).square().sum())
        for low, high in itertools.product(torch.linspace(0.1, 1, 25).tolist(), repeat=2)
        for candidate in [ActivationQuantizer("minmax").grid(torch.stack([values.min() * low, values.max() * high]), 3)]
    )
    assert float((grid(values) - values).square().sum()) <= 1.05 * best


def test_an_activation_is_not_changed_by_rounding_it() -> None:
    values = torch.randn(20)
    before = values.clone()
    ActivationQuantizer().grid(values, 4)(values)
    assert torch.equal(values, before)


def test_ranges_of_activations_whose_squares_overflow_are_still_found() -> None:
    grid = ActivationQuantizer("mse").grid(torch.tensor([-1e30, 2e30]), 8)
    assert grid(torch.tensor([2e30])).item() == pytest.approx(2e30, rel=0.01)
