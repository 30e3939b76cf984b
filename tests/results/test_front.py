import copy
import itertools
import json
import math
import pickle
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evo_mpq.errors import ConfigError, RunError
from evo_mpq.measure.statistics import Interval, interval, verdict
from evo_mpq.results.front import Front, Hypervolume, build_front, dominating_row, front_rows, front_schema
from evo_mpq.results.journal import HeldOut
from evo_mpq.space.genes import Gene
from evo_mpq.space.search_space import SearchSpace


@dataclass(frozen=True)
class Quantity:
    """What a front needs of a quantity."""

    name: str
    unit: str = ""
    direction: str = "minimize"
    kind: str = "measured"
    log_scale: bool = False


SIZE = Quantity("size", "bytes", kind="exact")
KL = Quantity("kl_divergence", "nat", log_scale=True)
ACCURACY = Quantity("accuracy", direction="maximize")
SPACE = SearchSpace(
    ["stem", "head"],
    [
        Gene("stem.weight_bits", (2, 3, 4, 8), "weight_bits", ("stem",)),
        Gene("head.weight_bits", (2, 3, 4, 8), "weight_bits", ("head",)),
    ],
)
VALIDATOR = jsonschema.Draft202012Validator(front_schema())
ALL = np.array(list(itertools.product(range(4), repeat=2)))


def built(
    values: Any,
    *,
    quantities: Sequence[Any] = (KL, SIZE),
    objectives: Sequence[str] | None = None,
    feasible: Any = None,
    **changes: Any,
) -> Front:
    """The front of the first rows of the space with the given values."""
    values = np.array(values, dtype=float)
    settings: dict[str, Any] = {
        "space": SPACE,
        "quantities": quantities,
        "objectives": [quantity.name for quantity in quantities] if objectives is None else objectives,
        "genomes": ALL[: len(values)],
        "values": values,
        "feasible": np.isfinite(values).all(axis=1) if feasible is None else np.array(feasible, dtype=bool),
        "seeds": (),
        "reference": {quantity.name: 0.5 for quantity in quantities},
        "test_names": ["kl_divergence", "f1"],
        "held_out": {},
        "hypervolume": Hypervolume(0.5, (1.0, 2.0), (0.25, 0.5), (3, 5)),
        "measurements": len(values),
        "cpu_seconds": 1.5,
        "sample_forwards": 400,
        "finished": True,
        "reproducible": True,
    }
    return build_front(**{**settings, **changes})


def key(row: int) -> tuple[int, ...]:
    return tuple(ALL[row].tolist())


losses = st.one_of(st.integers(0, 4).map(float), st.floats(-10, 10), st.just(math.nan))
tables = st.integers(1, 3).flatmap(
    lambda m: st.lists(st.lists(losses, min_size=m, max_size=m), min_size=1, max_size=16)
)


def dominates_weakly(first: Sequence[float], second: Sequence[float]) -> bool:
    return all(a <= b for a, b in zip(first, second, strict=True))


# What is on a front


@given(tables, st.lists(st.booleans(), min_size=16, max_size=16))
def test_a_front_is_what_brute_force_leaves(table, flags):
    points, feasible = np.array(table), np.array(flags[: len(table)])
    counted = [i for i in range(len(table)) if feasible[i] and not np.isnan(points[i]).any()]
    expected = [
        i
        for i in counted
        if not any(
            dominates_weakly(points[j], points[i]) and (not dominates_weakly(points[i], points[j]) or j < i)
            for j in counted
            if j != i
        )
    ]
    found = front_rows(points, feasible).tolist()
    assert found == sorted(expected, key=lambda row: tuple(points[row]))
    assert points.tobytes() == np.array(table).tobytes()


@given(tables, st.randoms())
def test_members_do_not_depend_on_the_order_of_measuring_where_no_two_are_equal(table, random):
    points = np.unique(np.array(table), axis=0)
    order = list(range(len(points)))
    random.shuffle(order)
    shuffled = points[order]
    everything = np.ones(len(points), dtype=bool)
    np.testing.assert_array_equal(points[front_rows(points, everything)], shuffled[front_rows(shuffled, everything)])


@given(tables)
def test_the_front_weakly_dominates_every_feasible_row_and_the_best_dominating_member_is_found(table):
    points = np.array(table)
    feasible = ~np.isnan(points).any(axis=1)
    rows = front_rows(points, feasible)
    for row in range(len(points)):
        dominating = [other for other in rows if dominates_weakly(points[other], points[row])]
        assert bool(dominating) >= feasible[row]
        found = dominating_row(points, rows, row, 0)
        assert (found is None) == (not dominating)
        if dominating:
            assert found in dominating
            assert points[found, 0] == min(points[other, 0] for other in dominating)


def test_of_equal_rows_the_first_measured_stays():
    front = built([[1.0, 5.0], [0.5, 9.0], [1.0, 5.0], [0.5, 9.0]])
    assert [member.genome for member in front.members] == [key(1), key(0)]


def test_infeasible_and_failed_rows_are_no_members():
    front = built([[math.nan, 1.0], [0.1, 2.0], [0.0, 1.0]], feasible=[False, True, False])
    assert [member.genome for member in front.members] == [key(1)]


def test_a_run_that_was_stopped_before_it_measured_anything_has_an_empty_front():
    front = built(np.empty((0, 0)), genomes=np.empty((0, 0), dtype=np.int64), feasible=[], finished=False)
    assert front.members == ()
    VALIDATOR.validate(front.to_json())


def test_values_keep_units_and_directions_and_maximized_objectives_are_maximized():
    table = [[0.9, 100.0], [0.8, 50.0], [0.7, 60.0]]
    front = built(table, quantities=(ACCURACY, SIZE))
    assert [member.search for member in front.members] == [
        {"accuracy": 0.9, "size": 100.0},
        {"accuracy": 0.8, "size": 50.0},
    ]


def test_a_constraints_quantity_is_shown_and_decides_nothing():
    front = built(
        [[1.0, 10.0, 0.2], [2.0, 20.0, 0.9]],
        quantities=(KL, SIZE, ACCURACY),
        objectives=["kl_divergence", "size"],
    )
    assert len(front.members) == 1
    assert front.members[0].search == {"kl_divergence": 1.0, "size": 10.0, "accuracy": 0.2}
    assert [column.name for column in front.objectives] == ["kl_divergence", "size"]


def test_members_say_what_their_genome_means():
    front = built([[1.0, 5.0], [0.5, 9.0]])
    for member in front.members:
        assert member.id == SPACE.genome_id(member.genome)
        assert [member.policy] == SPACE.decode(np.array([member.genome]))
    assert front.genes == {gene.name: gene.values for gene in SPACE.genes}


# Test values and verdicts


def shown(per_sample: Any) -> HeldOut:
    samples = np.array(per_sample)
    return HeldOut({"kl_divergence": interval(samples), "accuracy": Interval(0.5)}, samples)


def test_test_values_are_those_journalled_and_none_where_there_are_none():
    held_out = {
        None: shown([0.0, 0.0]),
        key(0): shown([1.0, 3.0]),
        key(1): HeldOut({"f1": Interval(math.nan)}),
    }
    front = built([[1.0, 5.0], [0.5, 9.0], [0.1, 20.0]], held_out=held_out)
    by_genome = {member.genome: member.test for member in front.members}
    assert by_genome[key(0)] == {"kl_divergence": interval(np.array([1.0, 3.0])), "f1": None}
    assert by_genome[key(1)] == by_genome[key(2)] == {"kl_divergence": None, "f1": None}
    assert front.reference_test == {"kl_divergence": Interval(0.0, 0.0, 0.0), "f1": None}


@pytest.mark.parametrize("quantity", [KL, ACCURACY])
def test_verdicts_compare_a_seed_with_the_dominating_member_that_is_best_in_the_first_measured_objective(
    quantity,
):
    sign = 1.0 if quantity.direction == "minimize" else -1.0
    rng = np.random.default_rng(0)
    # three members dominate row 3 on the search split; row 1 is the best of them in the measured objective
    table = [[50.0, sign * 3.0], [80.0, sign * 1.0], [60.0, sign * 2.0], [90.0, sign * 4.0]]
    samples = {row: rng.normal(size=30) for row in range(4)}
    samples[1] = samples[3] - sign * (1.0 + 0.1 * rng.normal(size=30))
    groups = np.repeat(np.arange(15), 2)
    held_out = {key(row): shown(values) for row, values in samples.items()}
    front = built(
        table,
        quantities=(SIZE, quantity),
        seeds=[("recipe", key(3)), ("best", key(1)), ("never measured", key(9))],
        held_out=held_out,
        groups=groups,
    )
    assert front.leading.name == quantity.name
    assert [(seed.name, seed.verdict) for seed in front.seeds] == [("recipe", "dominated"), ("best", "tied")]
    assert front.seeds[0].verdict == verdict(samples[3], samples[1], groups, direction=quantity.direction)
    held_out[key(1)] = shown(samples[3] + sign * (1.0 + 0.1 * rng.normal(size=30)))
    worse = built(table, quantities=(SIZE, quantity), seeds=[("recipe", key(3))], held_out=held_out)
    assert worse.seeds[0].verdict == "not"


def test_groups_of_test_samples_count_for_verdicts():
    held_out = {
        key(0): shown(np.zeros(100)),
        key(1): shown(np.concatenate([np.full(50, 1.0), np.full(50, -0.4)])),
    }
    table = [[1.0, 5.0], [2.0, 9.0]]
    found = [
        built(table, seeds=[("recipe", key(1))], held_out=held_out, groups=groups).seeds[0].verdict
        for groups in (None, np.repeat([0, 1], 50))
    ]
    assert found == ["dominated", "tied"]


def test_a_seed_that_cannot_be_compared_has_no_verdict():
    table = [[1.0, 5.0], [2.0, 9.0], [3.0, 10.0], [math.nan, 3.0]]
    held_out = {key(0): shown([0.0, 0.1]), key(1): HeldOut({}), key(2): shown([0.5, math.nan])}
    seeds = [("no samples", key(1)), ("failed on test", key(2)), ("failed", key(3))]
    front = built(table, seeds=seeds, held_out=held_out)
    assert [(seed.feasible, seed.verdict) for seed in front.seeds] == [
        (True, None),
        (True, None),
        (False, None),
    ]
    assert front.seeds[2].search == {"kl_divergence": None, "size": 3.0}
    unshown = built(table, seeds=seeds, finished=False)
    assert [seed.verdict for seed in unshown.seeds] == [None] * 3


# JSON


@st.composite
def fronts(draw):
    n_rows = draw(st.integers(0, 16))
    quantities = draw(st.permutations([KL, SIZE, ACCURACY]))[: draw(st.integers(1, 3))]
    table = [[draw(losses) for _ in quantities] for _ in range(n_rows)]
    numbers = st.floats(allow_nan=True, allow_infinity=True)
    drawn = st.builds(
        lambda a, b, samples: HeldOut({"kl_divergence": Interval(a), "f1": Interval(b, b, b)}, samples),
        numbers,
        st.floats(allow_nan=False, allow_infinity=False),
        st.none() | st.lists(numbers, min_size=3, max_size=3).map(np.array),
    )
    rows = st.integers(0, max(n_rows - 1, 0))
    held_out = draw(st.dictionaries(st.none() | rows.map(key), drawn, max_size=8))
    return built(
        np.array(table).reshape(n_rows, len(quantities)),
        quantities=quantities,
        feasible=[draw(st.booleans()) for _ in range(n_rows)],
        seeds=[(f"seed {row}", key(row)) for row in draw(st.lists(rows, max_size=3))],
        held_out=held_out,
        finished=draw(st.booleans()),
        reproducible=draw(st.booleans()),
        hypervolume=draw(st.sampled_from([Hypervolume(), Hypervolume(1.5, (1.0, 2.0), (0.5, 1.5), (3, 9))])),
    )


@given(fronts())
@settings(max_examples=60, deadline=None)
def test_every_front_satisfies_its_schema_and_is_read_back_equal(front):
    text = json.dumps(front.to_json(), allow_nan=False)
    VALIDATOR.validate(json.loads(text))
    assert Front.from_json(json.loads(text)) == front


def test_the_schema_is_one_and_refuses_what_is_no_front():
    jsonschema.Draft202012Validator.check_schema(front_schema())
    document = built([[1.0, 5.0], [0.5, 9.0]], seeds=[("uniform", key(0))]).to_json()
    VALIDATOR.validate(document)
    for path in [
        ("members", 0, "id"),
        ("hypervolume", "value"),
        ("cost", "cpu_seconds"),
        ("seeds", 0, "verdict"),
    ]:
        broken = copy.deepcopy(document)
        *parents, last = path
        place: Any = broken
        for part in parents:
            place = place[part]
        del place[last]
        assert not VALIDATOR.is_valid(broken)
        place[last] = "maybe"
        assert not VALIDATOR.is_valid(broken)
    assert not VALIDATOR.is_valid({**document, "extra": 1})


def test_the_document_has_the_keys_that_users_rely_on():
    document = built([[1.0, 5.0], [0.5, 9.0]], seeds=[("uniform", key(0))]).to_json()
    assert list(document) == [
        "finished", "reproducible", "objectives", "genes", "measurements", "cost", "hypervolume", "reference",
        "seeds", "members",
    ]  # fmt: skip
    assert document["objectives"][1] == {
        "name": "size", "unit": "bytes", "direction": "minimize", "kind": "exact", "scale": "linear",
    }  # fmt: skip
    assert document["cost"] == {"cpu_seconds": 1.5, "sample_forwards": 400}
    assert document["genes"][0] == {"name": "stem.weight_bits", "values": [2, 3, 4, 8]}
    member = document["members"][0]
    assert member["genome"] == list(key(1))
    assert member["policy"]["layers"]["head"]["weight_bits"] == 3
    # bytes are counted, so they are whole numbers
    assert json.dumps(member["search"]) == '{"kl_divergence": 0.5, "size": 9}'
    assert member["test"]["f1"] == {"value": None, "low": None, "high": None}


def test_a_front_of_another_form_is_an_error_for_the_user(tmp_path):
    path = tmp_path / "front.json"
    with pytest.raises(RunError, match="there is no"):
        Front.read(path)
    document = built([[1.0, 5.0]]).to_json()
    del document["members"][0]["policy"]
    for text in ("", "[]", "{}", json.dumps(document)):
        path.write_text(text)
        with pytest.raises(RunError, match="is not a front"):
            Front.read(path)


def test_fronts_are_values():
    front = built([[1.0, 5.0], [0.5, 9.0]])
    assert pickle.loads(pickle.dumps(front)) == front
    assert len(set(front.members)) == 2
    with pytest.raises(AttributeError):
        front.members[0].id = "other"  # type: ignore[misc]


# Picking

FRONT = built(
    [[1e-5, 80_000.0, 0.99], [1e-3, 40_000.0, 0.97], [1e-2, 39_000.0, 0.96], [0.5, 10_000.0, 0.60]],
    quantities=(KL, SIZE, ACCURACY),
    objectives=["kl_divergence", "size"],
)


def test_an_id_picks_its_member():
    for member in FRONT.members:
        assert FRONT.pick(member.id) is member
        assert FRONT.pick(f" {member.id} ") is member


@pytest.mark.parametrize(
    ("what", "size"),
    [
        ("size<=40kB", 40_000),
        ("size <= 40 kB", 40_000),
        ("size<=40000", 40_000),
        ("size<=39999 B", 39_000),
        ("size<=1MiB", 80_000),
        ("size >= 10 kB", 80_000),
        ("accuracy<=.96", 39_000),
        ("size<=79kB, accuracy<=0.965", 39_000),
        ("kl_divergence>=0.1", 10_000),
    ],
)
def test_a_bound_picks_the_best_within_it_by_the_first_measured_objective(what, size):
    assert FRONT.pick(what).search["size"] == size


@given(st.sampled_from(["size", "kl_divergence", "accuracy"]), st.sampled_from(["<=", ">="]), st.data())
def test_a_bound_picks_what_brute_force_picks(name, comparison, data):
    limit = data.draw(st.sampled_from([member.search[name] for member in FRONT.members]))
    within = [
        member
        for member in FRONT.members
        if (member.search[name] <= limit if comparison == "<=" else member.search[name] >= limit)
    ]
    expected = min(within, key=lambda member: float(str(member.search["kl_divergence"])))
    assert FRONT.pick(f"{name}{comparison}{limit!r}") is expected


def test_a_maximized_first_measured_objective_picks_the_largest():
    front = built([[0.9, 100.0], [0.8, 50.0], [0.7, 40.0]], quantities=(ACCURACY, SIZE))
    assert front.pick("size<=60").search["accuracy"] == 0.8
    assert front.pick("size<=400").search["accuracy"] == 0.9


def test_the_first_measured_objective_ranks_although_an_exact_one_comes_first():
    front = built([[100.0, 0.1], [50.0, 0.2]], quantities=(SIZE, KL))
    assert front.pick("size<=1kB").search["kl_divergence"] == 0.1
    modelled = replace(KL, kind="modelled")
    assert built([[100.0, 0.1]], quantities=(SIZE, modelled)).leading.name == "size"


def test_no_member_within_a_bound_names_the_nearest():
    smallest = FRONT.members[-1]
    with pytest.raises(ConfigError) as raised:
        FRONT.pick("size<=9kB")
    assert 'no member of the front meets "size<=9kB"' in str(raised.value)
    assert f"the nearest is {smallest.id} with size 10000 bytes" in str(raised.value)
    with pytest.raises(ConfigError, match=f"nearest is {FRONT.members[2].id} with size 39000 bytes, accuracy 0.96"):
        FRONT.pick("size<=38kB,accuracy>=0.95")


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("kne", 'Did you mean "knee"'),
        ("", "neither"),
        ("deadbeef", "4 members"),
        ("sise<=40kB", 'Did you mean "size"'),
        ("size<40kB", "write <= or >="),
        ("size<=40kBit", "unknown unit"),
        ("f1>=0.5", "no value of the front"),
        ("size<=40kB,", "is not a bound"),
    ],
)
def test_what_cannot_be_picked_is_told_with_what_can(what, message):
    with pytest.raises(ConfigError) as raised:
        FRONT.pick(what)
    assert message in str(raised.value)


def test_nothing_can_be_picked_from_an_empty_front():
    for what in ("knee", "size<=1"):
        with pytest.raises(RunError, match="empty"):
            built(np.empty((0, 2))).pick(what)


@given(st.data())
def test_picking_never_reads_test_values(data):
    numbers = st.none() | st.floats(0, 1).map(Interval)
    members = tuple(
        replace(member, test={"kl_divergence": data.draw(numbers), "size": data.draw(numbers)})
        for member in FRONT.members
    )
    other = replace(FRONT, members=members)
    for what in ("knee", "size<=40kB", "accuracy>=0.9", FRONT.members[1].id):
        assert other.pick(what).genome == FRONT.pick(what).genome


def test_the_knee_is_farthest_from_the_line_through_the_extremes_on_the_objectives_scales():
    # straight in log10 of KL and size, but for the second point
    table = [[1e-4, 100.0], [1e-3, 60.0], [1e-2, 50.0], [1e-1, 25.0], [1e-0, 0.0]]
    on_log = built(table)
    distances = [1 - (math.log10(kl) + 4) / 4 - size / 100 for kl, size in table]
    assert on_log.knee.genome == key(int(np.argmax(distances))) == key(1)
    on_linear = built(table, quantities=(replace(KL, log_scale=False), SIZE))
    distances = [1 - kl - size / 100 for kl, size in table]
    assert on_linear.knee.genome == key(int(np.argmax(distances))) == key(3)


def test_the_knee_of_one_member_is_that_member():
    assert built([[1.0, 5.0]]).pick("knee").genome == key(0)
