import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evo_mpq.errors import ConfigError
from evo_mpq.measure.bounds import UNITS, Bound, parse_bound, parse_bounds


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("size <= 40 kB", Bound("size", "<=", 40_000)),
        ("size<=40kB", Bound("size", "<=", 40_000)),
        ("size <= 1.5 MiB", Bound("size", "<=", 1.5 * 2**20)),
        ("size <= 2KiB", Bound("size", "<=", 2048)),
        ("size <= 7 MB", Bound("size", "<=", 7_000_000)),
        ("size <= 900 B", Bound("size", "<=", 900)),
        ("accuracy >= 0.95", Bound("accuracy", ">=", 0.95)),
        ("macs <= 2 M", Bound("macs", "<=", 2_000_000)),
        ("bops<=3G", Bound("bops", "<=", 3_000_000_000)),
        ("parameters <= 12 k", Bound("parameters", "<=", 12_000)),
        ("  loss<=1e-3  ", Bound("loss", "<=", 1e-3)),
        ("margin >= -.5", Bound("margin", ">=", -0.5)),
        ("latency on phone <= 3", Bound("latency on phone", "<=", 3)),
        ("size <= 2.01 kB", Bound("size", "<=", 2010)),
    ],
)
def test_a_bound_is_read_in_the_unit_of_its_quantity(text, expected):
    assert parse_bound(text) == expected


@given(
    st.floats(allow_nan=False, allow_subnormal=False, min_value=-1e200, max_value=1e200),
    st.sampled_from(sorted(UNITS)),
    st.sampled_from(["<=", ">="]),
)
def test_a_number_with_a_unit_is_the_number_times_the_unit(number, unit, comparison):
    bound = parse_bound(f"x {comparison} {number!r} {unit}")
    assert bound.comparison == comparison
    assert math.isclose(bound.value, number * UNITS[unit], rel_tol=1e-15)


@given(st.integers(0, 10**7), st.integers(0, 3))
def test_decimal_kilobytes_are_whole_bytes(n, digits):
    text = f"{n // 10**digits}.{n % 10**digits:0{digits}d}" if digits else str(n)
    assert parse_bound(f"size <= {text} kB").value == n * 10 ** (3 - digits)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("", "a bound is written like"),
        ("size", "a bound is written like"),
        ("size 40 kB", "a bound is written like"),
        ("<= 40 kB", "a bound is written like"),
        ("size <= ", "a bound is written like"),
        ("size < 40 kB", "write <= or >="),
        ("size = 40 kB", "not set to a value"),
        ("size == 40 kB", "not set to a value"),
        ("size ≤ 40 kB", "write <= for ≤"),
        ("40 kB >= size", "not a number"),
        ("1 <= size <= 2", "a bound is written like"),
        ("size <= forty", "not a number"),
        ("size <= inf", "not a number"),
        ("size <= 1e999", "too large"),
        ("size <= 1e300 MiB k", "unknown unit"),
        ("size <= 40 kb", 'Did you mean "kB"'),
        ("size <= 40 KB", 'Did you mean "kB"'),
        ("size <= 40 parsecs", 'unknown unit "parsecs"'),
    ],
)
def test_what_is_no_bound_is_refused_with_what_one_looks_like(text, hint):
    with pytest.raises(ConfigError) as raised:
        parse_bound(text)
    assert hint in str(raised.value)


def test_the_own_unit_of_a_quantity_may_follow_its_number():
    assert parse_bound("energy <= 3 mJ", {"energy": "mJ"}) == Bound("energy", "<=", 3)
    assert parse_bound("size <= 40 kB", {"size": "bytes"}) == Bound("size", "<=", 40_000)
    assert parse_bound("size <= 40 kB", {"size": "kB"}) == Bound("size", "<=", 40)
    assert parse_bound("size <= 1 MB", {"size": "kB"}) == Bound("size", "<=", 1000)
    with pytest.raises(ConfigError, match='unknown unit "mJ"'):
        parse_bound("energy <= 3 mJ", {"energy": "J"})


def test_bytes_of_what_has_no_bytes_are_refused():
    with pytest.raises(ConfigError, match="unit of bytes"):
        parse_bound("accuracy >= 0.9 kB", {"accuracy": ""})


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["<=", ">="]), st.integers(-9, 9)), min_size=1))
def test_several_bounds_are_joined_by_commas(parts):
    text = ", ".join(f"{name}{comparison}{value}" for name, comparison, value in parts)
    assert parse_bounds(text) == [Bound(*part) for part in parts]


@given(st.floats(allow_nan=False, allow_infinity=False), st.floats(allow_nan=False))
def test_a_bound_includes_its_limit_and_its_side(limit, value):
    assert Bound("x", "<=", limit).holds(value) == (value <= limit)
    assert Bound("x", ">=", limit).holds(value) == (value >= limit)
    assert Bound("x", "<=", limit).holds(limit)
    assert Bound("x", ">=", limit).holds(limit)
    assert not Bound("x", "<=", limit).holds(math.nan)
