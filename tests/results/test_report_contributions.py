"""What matters, and the recipes by method: the numbers that the report draws."""

from __future__ import annotations

import copy
import json
import shlex
from typing import Any

import numpy as np
import pytest
from report_samples import METHODS, contributions_of, rich, sample, with_recipes

from evo_mpq.results.report import report_data, write_report
from evo_mpq.results.report.contributions import Bar, Matters, contributions
from evo_mpq.results.report.page import script_json
from evo_mpq.results.report.recipes import method_of, methods, unmeasured

Inputs = tuple[dict[str, Any], dict[str, Any], dict[str, Any]]


@pytest.fixture(scope="module")
def two() -> Inputs:
    return rich(n=150, refinements=6)


@pytest.fixture(scope="module")
def joint() -> Inputs:
    return rich(n=250, refinements=6, joint=True)


def matters_of(inputs: Inputs) -> Matters:
    front, _, meta = inputs
    found = contributions(front, meta["contributions"], [point["inactive_genes"] for point in meta["points"]])
    assert found is not None
    return found


def losses_of(bar: Bar) -> list[float]:
    return [segment.end - segment.start for segment in bar.segments]


# Contributions


def test_the_bars_are_those_of_all_genes_the_largest_first(two):
    front, _, meta = two
    bars = matters_of(two).bars
    assert sorted(bar.gene for bar in bars) == list(range(len(front["genes"])))
    assert [bar.name for bar in bars] == [front["genes"][bar.gene]["name"] for bar in bars]
    totals = [bar.total for bar in bars]
    assert totals == sorted(totals, reverse=True)
    for bar in bars:
        gene = meta["contributions"]["genes"][bar.gene]
        assert bar.total == pytest.approx(gene["total"])
        assert bar.low is not None and bar.high is not None
        assert (bar.high - bar.low) / 2 == pytest.approx(1.96 * gene["total_error"])
        assert (bar.high + bar.low) / 2 == pytest.approx(bar.total)


def test_segments_are_the_steps_from_the_most_expensive_value_down(two):
    front, _, meta = two
    for bar in matters_of(two).bars:
        values = front["genes"][bar.gene]["values"]
        steps = meta["contributions"]["genes"][bar.gene]["steps"]
        assert [segment.option for segment in bar.segments] == list(reversed(range(len(values) - 1)))
        assert [segment.label for segment in bar.segments] == [f"{step['from']} → {step['to']}" for step in steps]
        assert losses_of(bar) == pytest.approx([step["loss"] for step in steps])
        assert [step.label for step in bar.values if step is not None] == [str(value) for value in values]


def test_steps_that_raise_the_loss_lie_right_of_zero_and_those_that_lower_it_left(two):
    front, candidates, meta = copy.deepcopy(two)
    losses = [0.3, -0.1, 0.2, -0.4]
    gene = meta["contributions"]["genes"][0]
    for step, loss in zip(gene["steps"], losses, strict=True):
        step["loss"] = loss
    bar = next(bar for bar in matters_of((front, candidates, meta)).bars if bar.gene == 0)
    ends = [end for segment in bar.segments for end in (segment.start, segment.end)]
    assert ends == pytest.approx([0, 0.3, 0, -0.1, 0.3, 0.5, -0.1, -0.5])
    assert bar.total == pytest.approx(0.0)


def test_what_is_not_known_is_said_and_adds_nothing(two):
    front, candidates, meta = copy.deepcopy(two)
    gene = meta["contributions"]["genes"][0]
    gene |= {"total": "nan", "total_error": "nan"}
    gene["steps"][-1] |= {"loss": "nan", "error": "nan"}  # as a run directory keeps what is no number
    bar = next(bar for bar in matters_of((front, candidates, meta)).bars if bar.gene == 0)
    assert bar.segments[-1].text == "not known" and losses_of(bar)[-1] == 0
    assert bar.total == pytest.approx(sum(step["loss"] for step in gene["steps"][:-1]))
    assert bar.low is None and bar.high is None and "±" not in bar.text
    assert "NaN" not in script_json(report_data(front, candidates, meta))


def test_members_have_taken_the_steps_down_to_their_values(two):
    front, _, meta = two
    found = matters_of(two)
    genes = meta["contributions"]["genes"]
    for member, options, sentence in zip(front["members"], found.options, found.sentences, strict=True):
        assert options == member["genome"]
        taken = [
            step["loss"]
            for gene, given, place in zip(genes, front["genes"], options, strict=True)
            for step in gene["steps"]
            if given["values"].index(step["to"]) >= place
        ]
        whole = meta["contributions"]["bottom"] - meta["contributions"]["top"]
        share = sum(taken) / whole
        told = "under 1 %" if 0 < share < 0.01 else f"{100 * share:.0f} %"
        assert f"{told} of the whole way" in sentence.replace("−", "-")


def test_the_ends_of_the_way_are_nothing_and_everything(two):
    front, candidates, meta = two
    document = meta["contributions"]
    ends = []
    for place in (0, -1):
        member = copy.deepcopy(front["members"][0])
        member["genome"] = [range(len(gene["values"]))[place] for gene in front["genes"]]
        member["search"]["kl_divergence"] = 0.2
        ends.append(member)
    found = matters_of(({**front, "members": ends}, candidates, {**meta, "points": [{"inactive_genes": []}] * 2}))
    share = (0.2 - document["top"]) / (document["bottom"] - document["top"])
    assert f"{document['bottom'] - document['top']:.4g} nats, 100 % of the whole way" in found.sentences[0]
    assert "taken on 0 nats, 0 % of the whole way" in found.sentences[1]
    assert all(text.endswith(f"Measured: 0.2 nats ({100 * share:.0f} %).") for text in found.sentences)


def test_genes_of_layers_that_are_left_out_have_taken_nothing(joint):
    front, _, meta = joint
    found = matters_of(joint)
    names = [gene["name"] for gene in front["genes"]]
    left_out = 0
    for point, options in zip(meta["points"], found.options, strict=True):
        assert {names[i] for i, option in enumerate(options) if option is None} == set(point["inactive_genes"])
        left_out += len(point["inactive_genes"])
    assert left_out > 0


def test_every_kind_of_gene_is_named_and_has_the_colors_of_the_heatmap(joint):
    front, candidates, meta = joint
    found = matters_of(joint)
    kinds = {bar.name.rpartition(".")[2]: bar for bar in found.bars}
    assert {kind: bar.label.rpartition(" ")[2] for kind, bar in kinds.items()} == {
        "weight_bits": "weights",
        "activation_bits": "activations",
        "prune_ratio": "channels",
        "drop": "block",
    }
    assert kinds["drop"].values[0] is None and kinds["drop"].segments[0].label == "kept → out"
    assert kinds["prune_ratio"].segments[0].label == "0 % → 25 %"
    levels = {
        step["legend"]: step["level"]
        for table in report_data(front, candidates, meta)["tables"]
        for step in table["steps"]
    }
    for kind in ("weight_bits", "activation_bits", "prune_ratio"):
        shown = {step.legend: step.level for step in kinds[kind].values if step is not None}
        assert shown.items() <= levels.items()


def test_genes_of_one_kind_are_called_as_their_layers():
    front, candidates, meta = rich(n=60, refinements=3, activations=False)
    assert all(" " not in bar.label for bar in matters_of((front, candidates, meta)).bars)


def test_a_maximized_objective_falls(two):
    front, candidates, meta = copy.deepcopy(two)
    front["objectives"][0] |= {"name": "accuracy", "direction": "maximize", "unit": ""}
    for member in front["members"]:
        member["search"]["accuracy"] = 0.9
    document = meta["contributions"]
    document |= {"objective": {"name": "accuracy", "unit": ""}, "top": -0.98, "bottom": -0.38}
    found = matters_of((front, candidates, meta))
    assert found.title == "fall of accuracy"
    assert "lowers accuracy" in found.caption and "from 0.98 to 0.38" in found.caption
    assert found.sentences[0].endswith(f"Measured: 0.9 ({100 * 0.08 / 0.6:.0f} %).")


def test_the_caption_says_what_was_estimated_and_from_what(two):
    caption = matters_of(two).caption
    for part in ("kl_divergence", "from 4.00e−4 nats to", "by kernel", "148 measurements", "12.5 s", "95 % intervals"):
        assert part in caption
    assert "cut short" not in caption
    front, candidates, meta = copy.deepcopy(two)
    meta["contributions"]["efficiency_gap"] = 0.5
    assert "The bars miss 0.5 nats of that way" in matters_of((front, candidates, meta)).caption


def test_without_contributions_there_is_no_section_and_those_of_other_genes_are_not_shown(two):
    front, candidates, meta = copy.deepcopy(two)
    assert contributions(front, None, []) is None
    meta["contributions"]["genes"].reverse()
    assert report_data(front, candidates, meta)["contributions"] is None
    assert report_data(*sample(n=60, refinements=3))["contributions"] is None


@pytest.mark.parametrize("settings", [{"bound": 1}, {"finished": False}, {"objectives": ("kl_divergence",)}, {}])
def test_reports_with_all_of_it_hold_their_numbers_and_leave_their_inputs_alone(settings):
    inputs = rich(n=60, refinements=3, **settings)
    before = copy.deepcopy(inputs)
    data = report_data(*inputs)
    text = write_report(*inputs)
    assert inputs == before
    assert script_json(data) in text
    assert len(data["contributions"]["bars"]) == len(inputs[0]["genes"])
    assert len(data["contributions"]["sentences"]) == len(inputs[0]["members"])


# Recipes


def test_recipes_stand_with_their_methods_in_the_order_of_measuring(two):
    front, candidates, meta = two
    found = methods(front)
    assert [method.name for method in found] == ["uniform", *METHODS]
    assert sorted(place for method in found for place in method.marks) == list(range(1, len(front["seeds"]) + 1))
    names = report_data(front, candidates, meta)["marks"]["names"]
    assert all(method_of(names[place]) == method.name for method in found for place in method.marks)
    assert [method.labelled for method in found] == [True, *(False for _ in METHODS)]


def test_verdicts_are_counted_by_method():
    front, candidates, _ = sample(n=150, refinements=6, bound=150_000)
    front = with_recipes(front, candidates)
    for method in methods(front):
        seeds = [front["seeds"][place - 1] for place in method.marks]
        assert sum(n for _, n, _ in method.counts) == len(seeds)
        for kind, n, text in method.counts:
            assert text.startswith(f"{n} ")
            if kind == "infeasible":
                assert n == sum(not seed["feasible"] for seed in seeds)
            elif kind == "open":
                assert n == sum(seed["feasible"] and seed["verdict"] is None for seed in seeds)
            else:
                assert n == sum(seed["verdict"] == kind for seed in seeds)
    assert {kind for method in methods(front) for kind, _, _ in method.counts} >= {"infeasible", "dominated", "tied"}


def test_methods_that_were_not_measured_are_listed_with_the_way_to_measure_them(two):
    front, _, meta = two
    found = unmeasured(front, meta)
    assert found is not None
    assert found.methods == [("fisher", "Gradient scores."), ("spdy", "A program over coefficients.")]
    assert found.setting == f"search: {{fitness: {{seeds: [uniform, {', '.join(METHODS)}, fisher]}}}}"
    words = shlex.split(found.command)
    assert words[:5] == ["evo-mpq", "allocate", "SPACE", "--method", "fisher"]
    assert words[-2:] == ["--out", meta["directory"]]
    assert unmeasured(front, {**meta, "methods": {"uniform": "measured"}}) is None
    assert unmeasured(front, {"directory": "x"}) is None


def test_choices_made_beside_the_run_keep_their_values(two):
    front, candidates, meta = two
    data = report_data(front, candidates, meta)
    found = data["allocations"]
    assert found["names"] == ["clado size<=40kB", "hawq size<=90kB"]
    assert found["ids"] == [document["id"] for document in meta["allocations"]]
    assert found["member"] == [0, None]
    for place, document in enumerate(meta["allocations"]):
        assert found["points"]["values"]["search:size"][place] == document["search"]["size"]
        assert found["points"]["low"]["test:accuracy"][place] == document["test"]["accuracy"]["low"]
    assert report_data(front, candidates, {**meta, "allocations": []})["allocations"] is None


def test_the_sample_contributions_add_up():
    front, _, _ = sample(n=60, refinements=3)
    document = json.loads(json.dumps(contributions_of(front)))
    assert sum(gene["total"] for gene in document["genes"]) == pytest.approx(document["bottom"] - document["top"])
    assert np.isfinite([step["loss"] for gene in document["genes"] for step in gene["steps"]]).all()
