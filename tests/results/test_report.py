from __future__ import annotations

import base64
import copy
import csv
import gzip
import html
import io
import itertools
import json
import math
import re
import shlex
from html.parser import HTMLParser
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_samples import HOSTILE, sample

from evo_mpq.results.front import front_schema
from evo_mpq.results.report import points as points_file
from evo_mpq.results.report import report_data, write_report
from evo_mpq.results.report.formatting import (
    format_cell,
    format_count,
    format_percent,
    format_power,
    format_tick,
    format_value,
    middle_out,
    prefixed,
)
from evo_mpq.results.report.headline import (
    cost_sentence,
    emptiness,
    failure_lines,
    figures,
    gain,
    gains,
    knee_position,
    statuses,
    verdict_sentence,
)
from evo_mpq.results.report.hypervolume import hypervolume_curve
from evo_mpq.results.report.layers import layer_rows, layer_tables, parameter_rows, row_order
from evo_mpq.results.report.optimism import optimism, rank_agreement
from evo_mpq.results.report.page import export_command, script_json
from evo_mpq.results.report.path import chosen_kinds, path_sentence, size_parts
from evo_mpq.results.report.points import (
    best_so_far,
    cloud,
    dominating_members,
    first_measured,
    marks,
    plot_axes,
    points,
    projected_fronts,
    starting_axes,
)
from evo_mpq.results.report.searched import constraint_texts, searched, searched_sentence
from evo_mpq.results.report.spreadsheet import members_csv
from evo_mpq.results.report.ticks import decade_ticks, is_decade, nice_ticks

Inputs = tuple[dict[str, Any], dict[str, Any], dict[str, Any]]
SETTINGS: dict[str, dict[str, Any]] = {
    "two objectives": {},
    "weights only": {"activations": False},
    "three objectives": {"objectives": ("kl_divergence", "size", "latency")},
    "maximized": {"objectives": ("accuracy", "size")},
    "one objective": {"objectives": ("kl_divergence",)},
    "unfinished": {"finished": False},
    "constrained": {"bound": 150_000, "failures": 5},
    "nothing feasible": {"bound": 1, "failures": 5},
    "joint": {"joint": True, "n": 250},
}


def made(case: str, n: int = 150) -> Inputs:
    return sample(**{"n": n, "refinements": 6, **SETTINGS[case]})


@pytest.fixture(scope="module")
def two() -> Inputs:
    return made("two objectives")


@pytest.fixture(scope="module")
def three() -> Inputs:
    return made("three objectives")


@pytest.fixture(scope="module")
def joint() -> Inputs:
    return made("joint")


def values_of(network: dict[str, Any], objectives: list[dict[str, Any]]) -> list[float]:
    signs = {"minimize": 1.0, "maximize": -1.0}
    return [signs[o["direction"]] * network["search"][o["name"]] for o in objectives]


def dominates(first: list[float], second: list[float]) -> bool:
    return all(a <= b for a, b in zip(first, second, strict=True))


def axes_of(inputs: Inputs) -> list[Any]:
    front, candidates, meta = inputs
    return plot_axes(front, candidates, meta["log_scale"])


def axis(inputs: Inputs, key: str) -> Any:
    return next(axis for axis in axes_of(inputs) if axis.key == key)


# Numbers as text


@given(st.floats(1e-12, 1e15) | st.floats(-1e15, -1e-12), st.sampled_from(["B", "", "MACs", "nats", "ms"]))
def test_a_formatted_value_reads_back_to_three_digits(value, unit):
    text = format_value(value, unit)
    number, _, shown = text.replace(",", "").replace("−", "-").partition(" ")
    prefix = shown.removesuffix(unit)
    factor = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}[prefix]
    assert float(number) * factor == pytest.approx(value, rel=0.0051)
    assert shown.endswith(unit)
    assert prefix == "" or unit in ("B", "", "MACs")


@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_what_is_no_number_is_a_dash(value):
    assert format_value(value, "B") == "–"


@given(st.floats(0, 1e15))
def test_a_cell_has_its_unit_only_where_a_prefix_changes_it(value):
    assert format_cell(value, "nats") == format_value(value, "")
    assert format_cell(value, "B") == format_value(value, "B")


@given(st.floats(7, 400))
def test_a_power_of_ten_reads_back(log10):
    mantissa, _, power = format_power(log10).partition(" × 10")
    exponent = int(power.translate(str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789")))
    assert math.log10(float(mantissa)) + exponent == pytest.approx(log10, abs=0.03)
    assert 1 <= float(mantissa) < 10


@given(st.integers(0, 1000))
def test_a_percentage_reads_back_to_a_thousandth(thousandths):
    assert float(format_percent(thousandths / 1000).removesuffix(" %")) == thousandths / 10


def test_small_numbers_of_genomes_are_counted_out():
    assert format_power(math.log10(59_049)) == format_count(59_049) == "59,049"


@given(st.floats(0, 1e15), st.sampled_from(["B", "", "BOPs", "ms"]))
def test_axes_are_drawn_in_numbers_of_a_few_digits(largest, unit):
    divisor, name = prefixed(largest, unit)
    assert name.endswith(unit)
    if unit != "ms" and largest >= 10_000:
        assert 5 <= largest / divisor < 10_000
    if unit == "ms":
        assert (divisor, name) == (1.0, "ms")


@given(st.text(max_size=80), st.integers(5, 40))
def test_shortened_names_keep_both_ends(name, longest):
    short = middle_out(name, longest)
    assert len(short) == min(len(name), longest)
    head, _, tail = short.partition("…")
    assert short == name or (name.startswith(head) and name.endswith(tail))


@given(
    st.floats(1e-9, 1e9),
    st.floats(1.01, 1e6),
    st.booleans(),
)
def test_ticks_are_few_and_ascending_and_within_their_ends(low, ratio, log):
    high = low * ratio
    ticks = nice_ticks(low, high, log)
    assert 1 <= len(ticks) <= 6
    assert ticks == sorted(set(ticks))
    assert all(low * (1 - 1e-9) <= tick <= high * (1 + 1e-9) for tick in ticks)


@given(st.floats(1e-9, 1e9), st.floats(1.01, 1e6))
def test_ticks_of_decades_are_all_of_theirs(low, ratio):
    ticks = decade_ticks(low, low * ratio)
    expected = {float(f"{f}e{e}") for f in (1, 2, 5) for e in range(-10, 17)}
    assert set(ticks) == {tick for tick in expected if low <= tick <= low * ratio}
    assert {tick for tick in ticks if is_decade(tick)} == {float(f"1e{e}") for e in range(-10, 17)} & set(ticks)


@given(st.sampled_from([1, 2, 5]), st.integers(-9, 3))
def test_ticks_read_back_exactly(factor, exponent):
    tick = float(f"{factor}e{exponent}")
    assert float(format_tick(tick).replace("−", "-")) == tick


# The headline


def test_the_headline_says_how_much_smaller_the_knee_is(two):
    front, _, meta = copy.deepcopy(two)
    knee = next(member for member in front["members"] if member["id"] == meta["knee"])
    knee["search"]["size"], front["reference"]["search"]["size"] = 40_000, 492_000
    first, second = figures(front, meta)[:2]
    assert (first.value, first.label) == ("12.3×", "smaller at the knee")
    assert first.detail == "40 kB of 492 kB"
    assert second.label == "kl_divergence at the knee"
    assert second.unit == "nats"
    assert second.detail.startswith("test ")


def test_gains_are_of_what_is_minimized_and_beats_the_uncompressed_network():
    size = {"name": "size", "direction": "minimize"}
    accuracy = {"name": "accuracy", "direction": "maximize"}
    assert gain(size, 10.0, 40.0) == "4.00× smaller"
    assert gain(size, 40.0, 10.0) is None
    assert gain(size, 0.0, 10.0) is None
    assert gain(size, None, 10.0) is None
    assert gain(accuracy, 0.2, 0.9) is None
    assert gain({**size, "name": "macs"}, 1.0, 2.0) == "2.00× lower macs"


def test_modelled_costs_say_so_wherever_they_are_shown(three):
    front, candidates, meta = three
    data = report_data(front, candidates, meta)
    for axis in data["axes"]:
        assert ("(modelled)" in axis["label"]) == (axis["name"] == "latency")
        assert ("(modelled)" in axis["heading"]) == (axis["name"] == "latency")
        assert ("(modelled)" in axis["title"]) == (axis["name"] == "latency")
    assert "lower latency (modelled) at the knee" in [figure["label"] for figure in data["figures"]]
    assert any("latency (modelled)" in text for text in gains(front, front["members"][-1]))
    assert any("(modelled)" in axis["label"] for axis in data["parallel"])
    assert "latency (modelled)" in data["csv"].splitlines()[0]


def test_the_knee_of_the_front_comes_before_that_of_the_meta_data(two):
    front, _, meta = two
    ids = [member["id"] for member in front["members"]]
    assert knee_position(front, meta) == ids.index(meta["knee"])
    assert knee_position({**front, "knee": ids[1]}, meta) == 1
    assert knee_position(front, {**meta, "knee": None}) is None
    assert knee_position(front, {**meta, "knee": "no such id"}) is None
    without = figures(front, {**meta, "knee": None})
    assert [figure.label for figure in without] == ["points on the front", "of CPU time"]


def test_an_unfinished_run_says_so_and_shows_no_test_values():
    front, candidates, meta = made("unfinished")
    data = report_data(front, candidates, meta)
    assert [status["title"] for status in data["statuses"]] == ["Unfinished"]
    assert f"{front['measurements']} candidates were measured so far" in data["statuses"][0]["text"]
    assert set(data["members"]["texts"]["test:accuracy"]) == {"not shown yet"}
    assert not any(axis["known"] for axis in data["axes"] if axis["split"] == "test")
    assert data["optimism"] == []
    assert "has not been shown yet" in data["cost"]
    assert "when the run has finished" in data["verdict_sentence"]


def test_a_finished_run_never_promises_values_that_will_not_come(two):
    front, candidates, meta = copy.deepcopy(two)
    front["members"][0]["test"]["accuracy"] = {"value": None, "low": None, "high": None}
    data = report_data(front, candidates, meta)
    assert data["members"]["texts"]["test:accuracy"][0] == "–"


def test_a_front_that_does_not_follow_from_its_settings_says_so(two):
    front, _, _ = two
    assert [status.title for status in statuses({**front, "reproducible": False})] == [
        "Finished",
        "Not reproducible",
    ]


def test_the_cost_is_told_in_three_currencies_and_test_is_counted(two):
    front, _, meta = two
    front = {**front, "measurements": 400, "cost": {"cpu_seconds": 83.1, "sample_forwards": 160_000}}
    assert cost_sentence(front, {**meta, "test_shown": 52}) == (
        "400 candidates were measured, in 83.1 s of CPU time and 160,000 sample-forwards. "
        "The test split was shown to 52 networks, once each, and decided nothing."
    )
    assert "test" not in cost_sentence(front, {k: v for k, v in meta.items() if k != "test_shown"})


def test_failures_are_counted_by_message_the_most_frequent_first():
    failures = [[[0], "a"], [[1], "b"], [[2], "b"], *([[i], f"message {i}"] for i in range(40))]
    lines = failure_lines({"failures": failures})
    assert lines[0] == "b (2 candidates)"
    assert lines[-1] == "and 22 other messages"


@pytest.mark.parametrize(
    ("measured", "failed", "expected"),
    [(0, 0, "Nothing was measured yet"), (3, 3, "all 3 candidates failed"), (3, 1, "(1 of them failed) none meets")],
)
def test_an_empty_front_says_why(measured, failed, expected):
    candidates = {"genomes": [[i] for i in range(measured)], "failures": [[[i], "x"] for i in range(failed)]}
    assert expected in emptiness({"members": []}, candidates)
    assert emptiness({"members": [1]}, candidates) == ""


def test_verdicts_are_counted(two):
    front, _, _ = two
    seeds = [{"feasible": True, "verdict": verdict} for verdict in ("dominated", "tied", "dominated", None)]
    assert verdict_sentence({**front, "seeds": seeds}) == (
        "4 recipes were measured beside the search. On the test split: 2 dominated, 1 tied."
    )
    seeds = [{"feasible": False, "verdict": None}]
    assert "none of them within the constraints." in verdict_sentence({**front, "seeds": seeds})


# Points and axes


def test_the_first_axes_are_the_objectives_and_the_last_is_the_order(three):
    keys = [axis.key for axis in axes_of(three)]
    assert keys == [
        "search:kl_divergence",
        "search:size",
        "search:latency",
        "test:kl_divergence",
        "test:accuracy",
        "order",
    ]
    assert starting_axes(three[0]) == ("search:size", "search:kl_divergence", "search:latency")


def test_one_objective_is_drawn_in_the_order_of_measuring():
    assert starting_axes(made("one objective")[0]) == ("order", "search:kl_divergence", None)


def test_axes_are_logarithmic_where_the_objective_is_or_its_costs_span_decades(two):
    front, candidates, meta = two
    assert axis(two, "search:kl_divergence").log
    assert axis(two, "search:size").log  # the uncompressed network is 16 times larger than two bits
    near = copy.deepcopy(front)
    near["reference"]["search"]["size"] = max(candidates["search"]["size"])
    assert not axis((near, candidates, meta), "search:size").log
    assert not axis(made("maximized"), "search:accuracy").log


@given(st.lists(st.floats(0, 10), min_size=1, max_size=12))
def test_every_value_has_a_place_on_a_logarithmic_axis(values):
    front, candidates, meta = made_small(values)
    found = next(a for a in plot_axes(front, candidates, meta["log_scale"]) if a.key == "search:kl_divergence")
    if not any(value > 0 for value in values):
        assert found.floor is None and not found.log
        return
    assert found.log and found.floor is not None and found.floor > 0
    assert bool(found.below) == any(value < found.floor for value in values)
    # what lies above the run's own floor keeps its place
    assert all(value >= found.floor for value in values if value >= 1e-6)


def made_small(values: list[float]) -> Inputs:
    """A run with one objective, no member, and these candidates."""
    front = {
        "finished": True,
        "reproducible": True,
        "objectives": [
            {"name": "kl_divergence", "unit": "nats", "direction": "minimize", "kind": "measured", "scale": "log10"}
        ],
        "genes": [],
        "seeds": [],
        "members": [],
        "reference": {"search": {}, "test": {}},
    }
    candidates = {
        "genomes": [[i] for i in range(len(values))],
        "search": {"kl_divergence": values},
        "feasible": [True] * len(values),
        "failures": [],
    }
    return front, candidates, {"log_scale": []}


def test_negative_values_allow_no_logarithm():
    front, candidates, _ = made_small([-1.0, 2.0])
    found = plot_axes(front, candidates, ["kl_divergence"])[0]
    assert found.floor is None and not found.log


def test_points_hold_what_the_front_says(two):
    front, candidates, _ = two
    order = first_measured(candidates)
    found = points(front["members"], axes_of(two), order, finished=True)
    for i, member in enumerate(front["members"]):
        assert found.values["search:size"][i] == member["search"]["size"]
        assert found.values["test:accuracy"][i] == member["test"]["accuracy"]["value"]
        assert found.low["test:accuracy"][i] == member["test"]["accuracy"]["low"]
        assert found.high["test:accuracy"][i] == member["test"]["accuracy"]["high"]
        assert found.values["order"][i] == 1 + candidates["genomes"].index(member["genome"])
        assert found.texts["search:size"][i] == format_value(member["search"]["size"], "B")
        assert found.intervals["test:accuracy"][i].startswith("[")


@pytest.mark.parametrize("case", SETTINGS)
def test_every_candidate_that_has_values_is_a_member_or_in_the_cloud(case):
    inputs = made(case)
    front, candidates, _ = inputs
    found = cloud(front, candidates, axes_of(inputs))
    failed = {tuple(genome) for genome, _ in candidates["failures"]}
    members = {tuple(member["genome"]) for member in front["members"]}
    expected = [
        place for place, genome in enumerate(candidates["genomes"], start=1) if tuple(genome) not in failed | members
    ]
    assert found.values["order"] == expected
    assert found.measured == len(expected)
    assert found.feasible == [candidates["feasible"][place - 1] for place in expected]
    for name, column in candidates["search"].items():
        assert found.values[f"search:{name}"] == [column[place - 1] for place in expected]


def test_too_many_candidates_are_thinned_but_counted(monkeypatch):
    monkeypatch.setattr(points_file, "MOST_DRAWN", 60)
    inputs = made("two objectives")
    front, candidates, _ = inputs
    first, second = (cloud(front, candidates, axes_of(inputs)) for _ in range(2))
    assert first == second
    assert len(first.feasible) == len(first.values["order"]) == 60
    assert first.measured == len(candidates["genomes"]) - len(front["members"])
    assert first.values["order"] == sorted(first.values["order"], key=lambda place: place or 0)


def test_thinning_leaves_out_only_what_others_cover_where_that_is_enough(monkeypatch):
    monkeypatch.setattr(points_file, "MOST_DRAWN", 50)
    values = [1.0 + i % 40 for i in range(400)]  # forty places, ten candidates each
    front, candidates, _ = made_small(values)
    objective = front["objectives"][0]
    front["objectives"] = [{**objective, "scale": "linear"}, {**objective, "name": "size", "scale": "linear"}]
    candidates["search"]["size"] = values
    found = cloud(front, candidates, plot_axes(front, candidates, ()))
    assert len(found.feasible) == 40
    assert set(found.values["search:size"]) == set(values)


losses = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=14)


def front_of(rows: list[tuple[int, ...]], directions: tuple[str, ...]) -> dict[str, Any]:
    """A document whose members have the given values."""
    names = ["loss", "size", "third"][: len(directions)]
    kinds = ["measured", "exact", "exact"]
    return {
        "objectives": [
            {"name": name, "unit": "", "direction": direction, "kind": kind}
            for name, direction, kind in zip(names, directions, kinds, strict=False)
        ],
        "members": [
            {"id": str(i), "genome": [i], "search": dict(zip(names, map(float, row), strict=False))}
            for i, row in enumerate(rows)
        ],
    }


directions = st.tuples(*[st.sampled_from(["minimize", "maximize"])] * 3)


@given(losses, losses, directions)
def test_the_dominating_member_is_what_brute_force_finds(rows, others, ways):
    front = front_of(rows, ways)
    networks = front_of(others, ways)["members"]
    found = dominating_members(front, [network["search"] for network in networks])
    for network, place in zip(networks, found, strict=True):
        target = values_of(network, front["objectives"])
        candidates = [
            values_of(member, front["objectives"])
            for member in front["members"]
            if dominates(values_of(member, front["objectives"]), target)
        ]
        assert (place is None) == (not candidates)
        if place is not None:
            chosen = values_of(front["members"][place], front["objectives"])
            assert chosen in candidates
            assert chosen[0] == min(candidate[0] for candidate in candidates)


@given(losses, directions)
def test_projected_fronts_are_what_brute_force_leaves(rows, ways):
    front = front_of(rows, ways)
    names = [objective["name"] for objective in front["objectives"]]
    lines = projected_fronts(front)
    assert len(lines) == 6
    for across, up in itertools.permutations(names, 2):
        pairs = [
            values_of(member, [o for o in front["objectives"] if o["name"] in (across, up)])
            for member in front["members"]
        ]
        line = lines[f"search:{across}|search:{up}"]
        assert {tuple(pairs[i]) for i in line} == {
            tuple(p) for p in pairs if not any(dominates(q, p) and q != p for q in pairs)
        }
        across_values = [front["members"][i]["search"][across] for i in line]
        assert across_values == sorted(across_values)


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=20), st.sampled_from(["minimize", "maximize"]))
def test_best_so_far_is_the_running_best_of_what_is_feasible(rows, way):
    front = front_of([], (way,))
    candidates = {"search": {"loss": [float(value) for value, _ in rows]}, "feasible": [ok for _, ok in rows]}
    places, values = best_so_far(front, candidates)["search:loss"]
    best = min if way == "minimize" else max
    for place, value in zip(places, values, strict=True):
        assert value == best(v for v, ok in rows[: int(place)] if ok)
    steps = values[:-1] if len(values) > 1 and values[-1] == values[-2] else values
    assert steps == sorted(set(values), reverse=way == "minimize")
    assert not any(ok for _, ok in rows) or places[-1] == len(rows)


def test_marks_are_the_uncompressed_network_and_the_seeds_by_name(two):
    front, candidates, _ = two
    found = marks(front, axes_of(two), first_measured(candidates))
    assert found.names == ["uncompressed", *(seed["name"] for seed in front["seeds"])]
    assert found.labels == [name.removeprefix("uniform ") for name in found.names]
    assert found.reference == [True] + [False] * len(front["seeds"])
    assert found.member[0] is None
    assert found.points.values["search:size"][0] == front["reference"]["search"]["size"]
    assert found.points.values["order"][0] is None
    for seed, place in zip(front["seeds"], found.member[1:], strict=True):
        member = front["members"][place]
        assert dominates(values_of(member, front["objectives"]), values_of(seed, front["objectives"]))


# Layers


def tables_of(inputs: Inputs) -> list[Any]:
    return layer_tables(inputs[0], inputs[2]["layers"], inputs[2]["points"])


@pytest.mark.parametrize("case", ["two objectives", "weights only", "joint"])
def test_the_heatmap_holds_the_policies_of_what_is_left(case):
    inputs = made(case)
    front, _, meta = inputs
    tables = tables_of(inputs)
    expected = {
        "weights only": ["weight_bits"],
        "two objectives": ["weight_bits", "activation_bits"],
        "joint": ["weight_bits", "activation_bits", "prune_ratio"],
    }
    assert [table.key for table in tables] == expected[case]
    for table in tables:
        for member, point, row in zip(front["members"], meta["points"], table.rows, strict=True):
            for column, place in zip(table.columns, row, strict=True):
                name = meta["layers"][column]["name"]
                assert (place is None) == (name not in point["parameters"])
                value = member["policy"]["layers"][name][table.key]
                if place is not None and table.key == "prune_ratio":
                    assert table.steps[place].height == 100 * (1 - value)
                elif place is not None:
                    assert table.steps[place].label == str(value)
        used = {place for row in table.rows for place in row} - {None}
        assert used == set(range(len(table.steps)))
        levels = [step.level for step in table.steps]
        assert levels == sorted(levels, reverse=table.key == "prune_ratio")
        assert all(0 <= level <= 1 for level in levels)
        assert all(step.height <= table.top for step in table.steps)


def test_every_layer_is_in_the_tables_that_are_about_it(joint):
    layers = joint[2]["layers"]
    weights, activations, channels = (set(table.columns) for table in tables_of(joint))
    for place, layer in enumerate(layers):
        assert (place in weights) == (layer["kind"] != "product")
        assert place in activations
        assert (place in channels) == bool(layer.get("prunable"))
    embedding = {**layers[0], "kind": "embedding"}
    activations = tables_of((joint[0], joint[1], {**joint[2], "layers": [embedding, *layers[1:]]}))[1]
    assert activations.columns == list(range(1, len(layers)))


def test_cells_of_channels_count_them(joint):
    channels = tables_of(joint)[2]
    names = [joint[2]["layers"][column]["name"] for column in channels.columns]
    left_out = 0
    for point, row, texts in zip(joint[2]["points"], channels.rows, channels.texts, strict=True):
        for name, place, text in zip(names, row, texts, strict=True):
            assert text == ("" if place is None else "{}/{}".format(*point["channels"][name]))
            left_out += place is None
    assert left_out > 0
    assert [step.legend for step in channels.steps] == ["all channels", "25 % removed", "50 % removed"]


def test_layers_without_a_policy_are_untouched(two):
    front, _, meta = two
    other = {**meta["layers"][0], "name": "not in any policy"}
    points = [{**point, "parameters": {**point["parameters"], other["name"]: 9}} for point in meta["points"]]
    table = layer_tables(front, [meta["layers"][0], other], points)[0]
    assert {row[1] for row in table.rows} == {len(table.steps) - 1}
    assert table.steps[-1].label == "float"
    assert table.steps[-1].level is None
    assert table.steps[-1].height <= table.top


def test_parameters_are_those_that_remain(joint):
    layers, points = joint[2]["layers"], joint[2]["points"]
    total = sum(layer["n_parameters"] for layer in layers)
    for point, row in zip(points, parameter_rows(layers, points), strict=True):
        for layer, (text, share) in zip(layers, row, strict=True):
            if layer["kind"] == "product" or layer["name"] not in point["parameters"]:
                assert (text, share) == ("–", 0.0)
            else:
                assert text == format_count(point["parameters"][layer["name"]])
                assert share == pytest.approx(point["parameters"][layer["name"]] / total)


@pytest.mark.parametrize("case", ["two objectives", "three objectives", "joint"])
def test_rows_of_the_heatmap_are_ordered_by_what_they_are_labelled_by(case):
    front = made(case)[0]
    found = row_order(front)
    assert found.axis == "search:size"
    assert sorted(found.members) == list(range(len(front["members"])))
    sizes = [front["members"][i]["search"]["size"] for i in found.members]
    assert sizes == sorted(sizes, reverse=True)
    assert "by size, largest first" in found.caption


@pytest.mark.parametrize("way", ["minimize", "maximize"])
def test_without_an_exact_objective_the_best_row_is_on_top(way):
    front = front_of([(3,), (1,), (2,)], (way,))
    found = row_order(front)
    assert found.members == ([1, 2, 0] if way == "minimize" else [0, 2, 1])
    assert "by loss, best first" in found.caption


# The path


ALL_KINDS = frozenset(["drop", "prune_ratio", "weight_bits", "activation_bits"])


def point(
    blocks: Any = (), removed: float | None = 0.0, weights: float | None = 32.0, activations: float | None = 32.0
):
    return {"blocks": blocks, "removed_channels": removed, "weight_bits": weights, "activation_bits": activations}


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (
            point(["stage1.1", "stage3.1"], 0.38, 2.62, 5.31),
            "Blocks stage1.1 and stage3.1 left out, 38 % of prunable channels removed, 2.6 bits per weight on average, "
            "activations 5.3 bits.",
        ),
        (
            point(["a"], 0.0, 4.0, 8.0),
            "Block a left out, no channel removed, 4 bits per weight on average, activations 8 bits.",
        ),
        (point([], 0.0), "All blocks kept, no channel removed, float weights, float activations."),
        (
            point(list("abcde")),
            "Blocks a, b, c, d and e left out, no channel removed, float weights, float activations.",
        ),
        (
            point(list("abcdef"), None, None, None),
            "Blocks a, b, c, d and 2 more left out.",
        ),
    ],
)
def test_the_path_is_told_from_coarse_to_fine(said, expected):
    assert path_sentence(said, ALL_KINDS) == expected


@given(st.sets(st.sampled_from(sorted(ALL_KINDS))))
def test_nothing_is_said_of_kinds_that_the_space_does_not_have(kinds):
    text = path_sentence(point(["a"], 0.5, 3.0, 5.0), frozenset(kinds)).lower()
    words = {"drop": "block", "prune_ratio": "channels", "weight_bits": "weight", "activation_bits": "activations"}
    assert {kind for kind, word in words.items() if word in text} == kinds


def test_kinds_are_those_of_genes_and_those_of_all_members():
    genes = [{"name": "stem.weight_bits", "values": [2, 4]}, {"name": "a.drop", "values": [True, False]}]
    untouched = point([], None)
    assert chosen_kinds({"genes": genes}, [untouched]) == {"weight_bits", "drop"}
    assert chosen_kinds({"genes": genes[1:]}, [point(weights=4.0)]) == {"weight_bits", "drop"}
    assert chosen_kinds({"genes": []}, [untouched, point(removed=0.1, activations=8.0)]) == {
        "prune_ratio",
        "activation_bits",
    }
    assert chosen_kinds({"genes": [{"name": "x.later_kind", "values": [1, 2]}]}, []) == frozenset()


@pytest.mark.parametrize("case", ["two objectives", "joint", "weights only"])
def test_parts_of_the_bar_are_the_bytes_of_the_uncompressed_network(case):
    front, _, meta = made(case)
    kinds = chosen_kinds(front, meta["points"])
    reference = front["reference"]["search"]["size"]
    for member, said in zip(front["members"], meta["points"], strict=True):
        parts = size_parts(said, kinds)
        assert said["n_bytes"] == member["search"]["size"]  # or the sample is wrong
        assert sum(said["savings"].values()) == reference - said["n_bytes"]
        assert {part.key for part in parts} == {*kinds, "left"}
        assert sum(part.share for part in parts) == pytest.approx(1.0)
        for part in parts:
            n_bytes = said["n_bytes"] if part.key == "left" else said["savings"][part.key]
            whole = reference + sum(-n for n in said["savings"].values() if n < 0)
            assert part.share == pytest.approx(max(0, n_bytes) / whole)


def test_saved_bytes_have_a_minus_and_added_ones_a_plus():
    said = {"n_bytes": 100, "savings": {"drop": 0, "prune_ratio": 0, "weight_bits": 1900, "activation_bits": -12}}
    texts = {part.key: part.text for part in size_parts(said, frozenset(["weight_bits", "activation_bits", "drop"]))}
    assert texts == {"drop": "0 B", "weight_bits": "−1.9 kB", "activation_bits": "+12 B", "left": "100 B"}
    assert {part.key for part in size_parts(said, frozenset())} == {"weight_bits", "activation_bits", "left"}


# What was searched


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([[2, 3, 4, 6]], "weight bits 2–6"),
        ([[4, 8]], "weight bits 4/8"),
        ([[4, 8], [2, 4]], "weight bits 2–8"),
        ([[2, 4, 8, 32]], "weight bits 2–8/float"),
        ([[8, 32]], "weight bits 8/float"),
    ],
)
def test_options_of_bits_are_summed_up(values, expected):
    genes = [{"name": f"layer{i}.weight_bits", "values": options} for i, options in enumerate(values)]
    assert [kind.summary for kind in searched({"genes": genes})] == [expected]


def test_the_page_says_what_is_searched_and_within_which_constraints(joint):
    front, _, meta = joint
    bounds = [
        {"name": "size", "comparison": "<=", "bound": 40_000, "unit": "B"},
        {"name": "accuracy", "comparison": ">=", "bound": 0.95, "unit": ""},
    ]
    assert searched_sentence(front, {**meta, "constraints": bounds}) == (
        "Searched: weight bits 2–8, activation bits 4/8, 5 groups of channels, 7 blocks. "
        "Constraints: size ≤ 40 kB, accuracy ≥ 0.95."
    )
    assert "Constraint: size ≤ 40 kB." in searched_sentence(front, {**meta, "constraints": bounds[:1]})
    assert "onstraint" not in searched_sentence(front, {})
    assert constraint_texts({}) == []
    assert {kind.label: kind.options for kind in searched(front)} == {
        "weight bits": "2, 3, 4, 6, 8 in 12 places",
        "activation bits": "4, 8 in 13 places",
        "channels": "0 %, 25 %, 50 % removed of 5 groups",
        "blocks": "stage1.0, stage1.1, stage2.1, stage2.2, stage3.3, stage3.4, stage4.4 may be left out",
    }
    assert searched({"genes": []}) == []


def test_shares_of_layers_sum_to_one(two):
    rows = layer_rows(two[2]["layers"])
    assert sum(row.share for row in rows) == pytest.approx(1.0)
    assert [row.name for row in rows] == [layer["name"] for layer in two[2]["layers"]]
    assert layer_rows([{"name": "x", "kind": "linear", "shape": [0, 0], "n_parameters": 0, "macs": 0}])[0].share == 0


# Progress and optimism


@pytest.mark.parametrize(
    ("document", "across", "label"),
    [
        ({"per_generation": [1.0, 2.0], "measurements": [40, 80]}, [40, 80], "candidates measured"),
        ({"per_generation": [[40, 1.0], [80, 2.0]]}, [40, 80], "candidates measured"),
        ({"per_generation": [1.0, 2.0]}, [1, 2], "generations"),
        ({"per_generation": [], "measurements": []}, [], "candidates measured"),
    ],
)
def test_the_hypervolume_is_drawn_over_measurements_where_they_are_known(document, across, label):
    curve = hypervolume_curve({"hypervolume": document})
    assert (curve.across, curve.across_label) == (across, label)
    assert curve.up == [1.0, 2.0][: len(across)]


def agreement_by_counting(first: list[float], second: list[float]) -> float | None:
    pairs = list(itertools.combinations(range(len(first)), 2))
    signs = [(np.sign(first[i] - first[j]), np.sign(second[i] - second[j])) for i, j in pairs]
    untied = [sum(a != 0 for a, _ in signs), sum(b != 0 for _, b in signs)]
    if len(first) < 3 or 0 in untied:
        return None
    return float(sum(a * b for a, b in signs) / math.sqrt(untied[0] * untied[1]))


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=12))
def test_rank_agreement_is_what_counting_pairs_gives(rows):
    first, second = [float(a) for a, _ in rows], [float(b) for _, b in rows]
    found = rank_agreement(np.array(first), np.array(second))
    expected = agreement_by_counting(first, second)
    assert (found is None) == (expected is None)
    assert found is None or found == pytest.approx(expected)


def test_optimism_counts_what_the_pairs_say(two):
    front, candidates, _ = two
    axes = axes_of(two)
    members = points(front["members"], axes, first_measured(candidates), finished=True)
    (found,) = optimism(front["objectives"], axes, members)  # sizes have no test values
    pairs = [(m["search"]["kl_divergence"], m["test"]["kl_divergence"]) for m in front["members"]]
    assert found.ratio == pytest.approx(float(np.median([t["value"] / s for s, t in pairs])))
    assert found.difference == pytest.approx(float(np.median([t["value"] - s for s, t in pairs])))
    assert found.covered == sum(t["low"] <= s <= t["high"] for s, t in pairs)
    assert found.intervals == len(pairs)
    assert f"{found.ratio:.2f} times" in found.sentence
    assert f"{found.covered} of {len(pairs)} intervals" in found.sentence


def test_optimism_without_intervals_speaks_of_differences_only():
    inputs = made("maximized")
    front, candidates, _ = copy.deepcopy(inputs)
    for member in front["members"]:
        value = member["search"]["accuracy"] - 0.01
        member["test"]["accuracy"] = {"value": value, "low": None, "high": None}
    axes = axes_of((front, candidates, inputs[2]))
    members = points(front["members"], axes, first_measured(candidates), finished=True)
    (found,) = optimism(front["objectives"], axes, members)
    assert found.ratio is None
    assert found.difference == pytest.approx(-0.01)
    assert "0.01 below that on search" in found.sentence
    assert "intervals" not in found.sentence
    assert found.rank_agreement == pytest.approx(1.0)


def test_the_better_end_of_every_parallel_axis_is_up(three):
    front, candidates, meta = three
    data = report_data(front, candidates, meta)
    assert [axis["key"] for axis in data["parallel"]] == data["objectives"]
    for axis, objective in zip(data["parallel"], front["objectives"], strict=True):
        values = [member["search"][objective["name"]] for member in front["members"]]
        heights = axis["heights"]
        best = values.index(min(values) if objective["direction"] == "minimize" else max(values))
        assert heights[best] == max(heights) == 1.0
        assert min(heights) == 0.0
        # ordered like the values
        assert rank_agreement(np.array(values), -np.array(heights)) == pytest.approx(1.0)
        assert all(-1e-9 <= height <= 1 + 1e-9 for height, _ in axis["ticks"])


def test_two_objectives_need_no_parallel_axes(two):
    assert report_data(*two)["parallel"] == []


# Table and command


def test_the_csv_reads_back_with_all_digits(two):
    front, candidates, _ = two
    axes = axes_of(two)
    members = points(front["members"], axes, first_measured(candidates), finished=True)
    rows = list(
        csv.DictReader(io.StringIO(members_csv(front, axes, members, [()] * len(front["members"])), newline=""))
    )
    assert [row["id"] for row in rows] == [member["id"] for member in front["members"]]
    for row, member in zip(rows, front["members"], strict=True):
        assert float(row["search kl_divergence [nats]"]) == member["search"]["kl_divergence"]
        assert float(row["test kl_divergence [nats] low"]) == member["test"]["kl_divergence"]["low"]
        for gene, place in zip(front["genes"], member["genome"], strict=True):
            assert float(row[gene["name"]]) == gene["values"][place]


def test_no_name_in_the_csv_is_a_formula(two):
    front, candidates, _ = copy.deepcopy(two)
    front["genes"][0]["name"] = '=cmd|"/c calc"!A0'
    axes = axes_of(two)
    members = points(front["members"], axes, first_measured(candidates), finished=True)
    header = next(csv.reader(io.StringIO(members_csv(front, axes, members, [()] * len(front["members"])), newline="")))
    assert header.count('\'=cmd|"/c calc"!A0') == 1


def test_genes_that_decide_nothing_are_empty_in_the_csv(joint):
    front, _, meta = joint
    rows = list(csv.DictReader(io.StringIO(report_data(*joint)["csv"], newline="")))
    empty = 0
    for row, member, said in zip(rows, front["members"], meta["points"], strict=True):
        for gene, place in zip(front["genes"], member["genome"], strict=True):
            idle = gene["name"] in said["inactive_genes"]
            assert row[gene["name"]] == ("" if idle else str(gene["values"][place]))
            empty += idle
    assert empty > 0


@given(st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), min_size=1))
def test_the_export_command_survives_a_shell(directory):
    command = export_command({"run": "mine", "directory": directory}, "1a2b3c4d")
    assert shlex.split(command) == [
        *["evo-mpq", "export", directory, "--pick", "1a2b3c4d"],
        *["--format", "safetensors", "--out", "mine-1a2b3c4d.safetensors"],
    ]


# The page


@given(
    st.recursive(st.text() | st.integers() | st.none(), lambda inner: st.dictionaries(st.text(), inner), max_leaves=8)
)
def test_json_in_a_script_reads_back_and_never_ends_it(value):
    text = script_json({"value": value})
    assert json.loads(text) == {"value": value}
    assert not re.search("[<>&]", text)
    assert text.isascii()


class Page(HTMLParser):
    """Collects scripts and addresses of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.scripts: dict[str, str] = {}
        self.addresses: list[str] = []
        self.titles = 0
        self._script: str | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "action")]
        self.titles += tag == "title"
        if tag == "script":
            self._script = given.get("id") or f"script {len(self.scripts)}"
            self.scripts[self._script] = ""

    def handle_endtag(self, tag: str) -> None:
        if tag == "script":
            self._script = None

    def handle_data(self, data: str) -> None:
        if self._script is not None:
            self.scripts[self._script] += data


@pytest.mark.parametrize("case", SETTINGS)
def test_every_kind_of_run_makes_a_page_that_holds_its_numbers(case):
    front, candidates, meta = made(case, n=60)
    jsonschema.validate(front, front_schema())  # what is tested here is what a run writes
    before = copy.deepcopy((front, candidates, meta))
    page = Page(write_report(front, candidates, meta))
    assert (front, candidates, meta) == before
    data = json.loads(page.scripts["data"])
    assert data == json.loads(json.dumps(report_data(front, candidates, meta)))
    assert data["members"]["ids"] == [member["id"] for member in front["members"]]
    assert (data["emptiness"] == "") == bool(front["members"])


def test_a_run_that_measured_nothing_has_a_report():
    front, candidates, meta = made("nothing feasible", n=60)
    front = {**front, "seeds": [], "hypervolume": {"value": None, "reference_point": [], "per_generation": []}}
    candidates = {"genomes": [], "search": {name: [] for name in candidates["search"]}, "feasible": [], "failures": []}
    data = report_data(front, candidates, meta)
    assert "Nothing was measured yet" in data["emptiness"]
    assert write_report(front, candidates, meta)


def test_the_page_needs_no_network_and_forbids_it(two):
    text = write_report(*two)
    page = Page(text)
    assert [address for address in page.addresses if not address.startswith("#")] == []
    assert "default-src 'none'" in text
    plotly = gzip.decompress(base64.b64decode(page.scripts["plotly"])).decode()
    assert plotly.startswith("/**\n* plotly.js v")
    assert len(text) < 2_600_000


def test_the_same_run_has_the_same_report(two):
    assert write_report(*two) == write_report(*copy.deepcopy(two))


def test_not_a_number_reaches_no_browser(two):
    front, candidates, meta = copy.deepcopy(two)
    candidates["search"]["kl_divergence"][11] = math.nan
    candidates["search"]["size"][12] = None
    front["reference"]["search"]["kl_divergence"] = math.inf
    assert "NaN" not in script_json(report_data(front, candidates, meta))


def test_hostile_names_stay_text(two):
    front, candidates, meta = copy.deepcopy(two)
    meta |= {"run": HOSTILE, "network": HOSTILE, "settings": HOSTILE, "notes": [HOSTILE], "directory": HOSTILE}
    meta["versions"] = {HOSTILE: HOSTILE}
    front["seeds"][0]["name"] = HOSTILE
    candidates["failures"] = [[candidates["genomes"][0], HOSTILE]]
    text = write_report(front, candidates, meta)
    page = Page(text)
    assert page.titles == 1
    assert len(page.scripts) == 4
    assert text.count("HACKED") == script_json(report_data(front, candidates, meta)).count("HACKED") + 2
    assert html.escape(HOSTILE) in text
    assert json.loads(page.scripts["data"])["run"] == HOSTILE


def test_a_path_that_is_no_unicode_is_written(two):
    front, candidates, meta = two
    text = write_report(front, candidates, {**meta, "run": "a\udcffb", "directory": "runs/\udcff"})
    assert json.loads(Page(text).scripts["data"])["run"] == "a\udcffb"
    text.encode()


@settings(max_examples=5)
@given(st.integers(0, 1000))
def test_the_sample_front_is_a_front(seed):
    front, candidates, _ = sample(n=60, refinements=3, seed=seed)
    rows = [values_of(member, front["objectives"]) for member in front["members"]]
    everything = list(zip(*(candidates["search"][o["name"]] for o in front["objectives"]), strict=True))
    for values in everything:
        assert any(dominates(row, list(values)) for row in rows)
