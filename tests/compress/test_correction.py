from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evo_mpq.compress.correction import corrected_affine
from evo_mpq.compress.quantizers import stored_vector


def statistics(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return values.mean(0), values.std(0, correction=0)


@given(seed=st.integers(0, 10_000), exponent=st.integers(-6, 6))
@settings(max_examples=50, deadline=None)
def test_scale_and_bias_give_every_channel_the_mean_and_spread_of_the_float_network(seed: int, exponent: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    floats = (torch.randn(200, 5, generator=generator) + torch.arange(5)) * 10.0**exponent
    compressed = floats * (0.5 + torch.rand(5, generator=generator)) + 10.0**exponent * torch.rand(
        5, generator=generator
    )
    scale, shift = corrected_affine("scale_bias", *statistics(compressed), *statistics(floats))
    mean, spread = statistics(compressed * scale + shift)
    # As exactly as float16 scales allow.
    torch.testing.assert_close(spread, statistics(floats)[1], rtol=1e-3, atol=0)
    torch.testing.assert_close(mean, statistics(floats)[0], rtol=0, atol=2e-3 * 6 * 10.0**exponent)


def test_bias_alone_matches_means_and_leaves_spreads() -> None:
    floats = torch.randn(100, 3) * 2 + 1
    compressed = torch.randn(100, 3)
    scale, shift = corrected_affine("bias", *statistics(compressed), *statistics(floats))
    assert scale.tolist() == [1, 1, 1]
    torch.testing.assert_close((compressed + shift).mean(0), floats.mean(0), rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("spread", "float_spread"), [(0.0, 1.0), (1e-9, 1.0), (1.0, 0.0), (0.0, 0.0)], ids=["0/1", "tiny/1", "1/0", "0/0"]
)
def test_a_channel_without_spread_is_only_shifted(spread: float, float_spread: float) -> None:
    # The other channel is an ordinary one, beside which the ratio must not change either.
    mean, float_mean = torch.tensor([3.0, 0.5]), torch.tensor([1.0, 0.25])
    scale, shift = corrected_affine(
        "scale_bias", mean, torch.tensor([spread, 1.0]), float_mean, torch.tensor([float_spread, 2.0])
    )
    assert scale.tolist() == [1.0, 2.0]
    torch.testing.assert_close(shift, torch.tensor([-2.0, -0.75]))


@given(ratio=st.floats(1e-3, 1e3))
@settings(max_examples=50, deadline=None)
def test_no_channel_is_scaled_by_more_than_four(ratio: float) -> None:
    one = torch.ones(2)
    scale, _ = corrected_affine("scale_bias", one, one, one, torch.tensor([ratio, 1.0]))
    assert 0.25 <= scale[0] <= 4


@pytest.mark.parametrize("correction", ["bias", "scale_bias"])
def test_several_affines_at_once_are_those_of_each(correction: str) -> None:
    generator = torch.Generator().manual_seed(3)
    mean, deviation = 10 ** torch.randn(6, 9, generator=generator), torch.rand(6, 9, generator=generator)
    remaining, own = torch.rand(6, 9, generator=generator) > 0.2, (mean[0] + 1, deviation[0] * 2)
    mean[1] = 0
    for mask in (None, remaining):
        together = corrected_affine(correction, mean, deviation, *own, mask)  # type: ignore[arg-type]
        for row in range(6):
            alone = corrected_affine(correction, mean[row], deviation[row], *own, None if mask is None else mask[row])  # type: ignore[arg-type]
            assert all(torch.equal(vectors[row], vector) for vectors, vector in zip(together, alone, strict=True))


@given(seed=st.integers(0, 10_000), correction=st.sampled_from(["bias", "scale_bias"]))
@settings(max_examples=50, deadline=None)
def test_an_affine_is_what_a_file_stores(seed: int, correction: str) -> None:
    generator = torch.Generator().manual_seed(seed)
    mean, float_mean = torch.randn(2, 9, generator=generator)
    deviation, float_deviation = torch.rand(2, 9, generator=generator)
    for vector in corrected_affine(correction, mean, deviation, float_mean, float_deviation):  # type: ignore[arg-type]
        assert torch.equal(stored_vector(vector), vector)
        assert torch.isfinite(vector).all()
