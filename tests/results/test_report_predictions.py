"""How well a search predicted, and where its measurements went: the numbers that the report draws."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from report_samples import predictions_of, rich, sample
from scipy.stats import kendalltau
from small_runs import command, run, write_project

from evo_mpq.optimize.surrogate_search import search
from evo_mpq.results.report import predictions as module
from evo_mpq.results.report import report_data, write_report
from evo_mpq.results.report.predictions import Predictions, mistake_in, predictions
from evo_mpq.results.report.spent import MOST_LEVELS, levels, spent

Inputs = tuple[dict[str, Any], dict[str, Any], dict[str, Any]]


@pytest.fixture(scope="module")
def two() -> Inputs:
    """Two measured objectives, failures, and two batches that were not predicted at all."""
    return rich(n=300, refinements=6, objectives=("kl_divergence", "error_rate", "size"), failures=4)


def found_in(inputs: Inputs, **changes: Any) -> Predictions:
    front, candidates, meta = inputs
    found = predictions({**meta["predictions"], **changes}, front, candidates)
    assert found is not None
    return found


def rounds_of(*batches: tuple[str, Sequence[float | None], Sequence[float | None]]) -> list[dict[str, Any]]:
    """Batches of one objective: proposer, predicted and measured values."""
    rounds: list[dict[str, Any]] = []
    for proposer, predicted, measured in batches:
        before = 30 + sum(len(each["predicted"]) for each in rounds)
        columns = {"predicted": [[v] for v in predicted], "measured": [[v] for v in measured]}
        rounds.append({"measured_before": before, "proposer": proposer, "tau": None, **columns})
    return rounds


def of_rounds(rounds: list[dict[str, Any]], scale: str = "linear", surrogate: str = "gp") -> Predictions:
    document = {
        "surrogate": surrogate,
        "objectives": [{"name": "damage", "unit": "nats", "scale": scale}],
        "rounds": rounds,
        "spent": [],
    }
    found = predictions(document, {"members": []}, {"search": {"damage": []}, "genomes": []})
    assert found is not None
    return found


UP, DOWN = [float(i) for i in range(1, 11)], [float(i) for i in range(10, 0, -1)]


# Predicted against measured


def test_every_candidate_that_has_both_values_is_a_point_of_its_batch(two):
    rounds = two[2]["predictions"]["rounds"]
    found = found_in(two)
    assert [batch.before for batch in found.batches] == [each["measured_before"] for each in rounds]
    assert [batch.after - batch.before for batch in found.batches] == [len(each["predicted"]) for each in rounds]
    assert [entry.name for entry in found.objectives] == ["kl_divergence", "error_rate"]
    for column, entry in enumerate(found.objectives):
        pairs = [
            (predicted[column], measured[column], place)
            for place, each in enumerate(rounds)
            for predicted, measured in zip(each["predicted"], each["measured"], strict=True)
            if predicted[column] is not None and measured[column] is not None
        ]
        assert list(zip(entry.predicted, entry.measured, entry.batch, strict=True)) == pairs
        assert len(pairs) < sum(batch.size for batch in found.batches)  # failed candidates are left out
        assert len(entry.texts) == len(entry.member) == len(pairs)


def test_taus_are_kendalls_of_each_batch_and_the_sentence_has_that_of_all(two):
    rounds = two[2]["predictions"]["rounds"]
    for column, entry in enumerate(found_in(two).objectives):
        for each, tau in zip(rounds, entry.taus, strict=True):
            columns = [np.array(each[key], dtype=float)[:, column] for key in ("predicted", "measured")]
            known = np.isfinite(columns).all(axis=0)
            assert tau == pytest.approx(kendalltau(columns[0][known], columns[1][known]).statistic, abs=1e-5)
        pooled = kendalltau(entry.predicted, entry.measured).statistic
        assert f"{len(entry.predicted)} predictions" in entry.sentence
        assert f"τ = {pooled:.2f};" in entry.sentence


def test_points_of_the_front_are_told_by_their_measured_values(two):
    front, _, _ = two
    entry = found_in(two).objectives[0]
    known = [(place, value) for place, value in zip(entry.member, entry.measured, strict=True) if place is not None]
    assert len({place for place, _ in known}) == len(known) > 3
    for place, value in known:
        assert front["members"][place]["search"]["kl_divergence"] == pytest.approx(value, rel=1e-9)


def test_values_that_several_genomes_have_tell_of_no_member():
    front, candidates, _ = copy.deepcopy(rich(n=80, refinements=4))
    rows = candidates["search"]["kl_divergence"]
    rows[:] = [0.5] * len(rows)
    document = predictions_of(front, candidates, misled=False)
    found = predictions(document, front, candidates)
    assert found is not None and set(found.objectives[0].member) == {None}


def test_logarithmic_objectives_have_ticks_and_are_off_by_a_factor():
    found = of_rounds(rounds_of(("surrogate", [0.1, 0.01, 0.001], [0.2, 0.02, 0.002])), "log10").objectives[0]
    assert found.log and {1e-3, 1e-2, 1e-1} <= {tick for tick, _, _ in found.ticks}
    assert "within a factor of 2.00 of" in found.sentence
    linear = of_rounds(rounds_of(("surrogate", [0.1, 0.2, 0.3], [0.15, 0.25, 0.35]))).objectives[0]
    assert not linear.log and linear.ticks == []
    assert "within 0.05 nats of" in linear.sentence


def test_values_that_no_logarithm_has_stand_at_its_floor():
    found = of_rounds(rounds_of(("surrogate", [0.1, 0.01], [0.1, 0.0])), "log10").objectives[0]
    assert min(found.measured) > 0


def test_a_batch_without_an_order_has_no_tau():
    batches = rounds_of(("surrogate", [1.0], [1.0]), ("surrogate", [1.0, 1.0], [1.0, 2.0]), ("surrogate", UP, UP))
    found = of_rounds(batches)
    assert found.objectives[0].taus == [None, None, 1.0]
    assert "3 batches of 1 to 10: τ = 1.00" in found.objectives[0].batches
    alone = of_rounds(rounds_of(("surrogate", [1.0], [1.0]))).objectives[0]
    assert alone.sentence == "" and alone.batches == "No batch has two candidates to be ordered."


# Who chose


def test_the_mark_is_that_of_the_search():
    assert (module.LEAST_TAU, module.LATEST) == (search.LEAST_TAU, search.LATEST)


def test_the_latest_predictions_are_those_that_the_search_goes_by():
    found = of_rounds(rounds_of(("surrogate", UP[:4], UP[:4]), ("surrogate", UP, UP), *[("surrogate", UP, DOWN)] * 2))
    assert found.objectives[0].latest[:2] == [None, 1.0]
    assert found.objectives[0].latest[3] == -1.0  # the first fourteen are forgotten
    assert found.least == 0.3


def test_it_is_said_when_nsga2_took_over_and_why():
    batches = [("surrogate", UP, UP), ("surrogate", UP, DOWN), ("surrogate", UP, DOWN), ("nsga2", UP, UP)]
    text = of_rounds(rounds_of(*batches, ("surrogate", UP, UP))).chosen
    assert "NSGA-II chose 1 of 5 batches, the first after 60 measurements" in text
    assert "had fallen to −1.00" in text
    text = of_rounds(rounds_of(("surrogate", UP, UP), ("nsga2", UP, UP))).chosen
    assert "when the surrogate had nothing to propose" in text
    text = of_rounds(rounds_of(("surrogate", UP, UP), ("surrogate", UP, UP))).chosen
    assert text.endswith("the lowest was 1.00. The surrogate chose all of them.")


def test_a_predicted_front_that_is_measured_as_it_is_is_never_replaced():
    found = of_rounds(rounds_of(("surrogate", UP, DOWN)), surrogate="shapley")
    assert found.least is None and found.chosen == "" and found.objectives[0].latest == []


# Where the measurements went


def test_parts_add_up_to_all_measurements_in_the_order_of_measuring(two):
    document = two[2]["predictions"]
    found = spent(document)
    assert found is not None
    assert sum(part.measurements for part in found.parts) == sum(each["measurements"] for each in document["spent"])
    assert sum(part.share for part in found.parts) == pytest.approx(1)
    assert [part.key for part in found.parts][-2:] == ["surrogate", "nsga2"]
    assert "were chosen by the surrogate and 20 were chosen by NSGA-II." in found.sentence


def test_a_table_that_the_search_asked_for_stands_before_it_once():
    purposes = [("table of single options", 3), ("surrogate", 5), ("table of single options", 2), ("shapley", 0)]
    entries = [{"purpose": name, "measurements": n, "hypervolume": None} for name, n in purposes]
    found = spent({"spent": entries})
    assert found is not None
    assert [(part.key, part.measurements) for part in found.parts] == [("table of single options", 5), ("surrogate", 5)]
    assert found.sentence == (
        "5 of 10 measurements (50 %) were made before the search, for recipes and tables; 5 were chosen by the "
        "surrogate."
    )
    assert spent({"spent": entries[:1]}) is None and spent(None) is None


def levels_of(final: float | None, **volumes: float | None) -> Any:
    entries = [{"purpose": name, "measurements": 1, "hypervolume": volume} for name, volume in volumes.items()]
    return levels({"hypervolume": {"value": final}}, {"spent": entries})


def test_levels_are_shares_of_the_end_highest_first_and_equal_ones_are_one():
    found = levels_of(2.0, uniform=1.8, sensitivity=1.9, shapley=1.8001, surrogate=None)
    assert [level.label for level in found.drawn] == ["sensitivity 95.0 %", "shapley, uniform 90.0 %"]
    assert [level.up for level in found.drawn] == [1.9, 1.8001]
    assert found.sentence.endswith("sensitivity 95.0 %, shapley and uniform 90.0 %.")


def test_no_more_levels_are_drawn_than_can_be_told_apart():
    found = levels_of(1.0, **{f"method_{n}": 0.9 - 0.05 * n for n in range(9)})
    assert len(found.drawn) == MOST_LEVELS and found.sentence.count("method_") == 9


def test_nothing_is_compared_with_a_hypervolume_that_is_not_known():
    assert levels_of(None, uniform=1.0).drawn == [] and levels_of(0.0, uniform=0.0).drawn == []
    assert levels({"hypervolume": {"value": 1.0}}, None).drawn == []


# The page


@pytest.mark.parametrize("settings", [{"bound": 1}, {"finished": False}, {"objectives": ("kl_divergence",)}, {}])
def test_reports_hold_their_predictions_and_leave_their_inputs_alone(settings):
    inputs = rich(n=60, refinements=3, **settings)
    before = copy.deepcopy(inputs)
    assert report_data(*inputs)["predictions"]["objectives"][0]["name"] == "kl_divergence"
    assert "How well the search predicted" in write_report(*inputs)
    assert inputs == before


def test_without_predictions_there_is_no_section(two):
    data = report_data(*sample(n=60, refinements=3))
    assert data["predictions"] is None and data["spent"] is None and data["hypervolume"]["levels"]["drawn"] == []
    front, candidates, meta = two
    plain = {**meta["predictions"], "surrogate": None, "rounds": []}
    data = report_data(front, candidates, {**meta, "predictions": plain})
    assert data["predictions"] is None and data["spent"] is not None
    unknown = rounds_of(("surrogate", [None, None], [1.0, 2.0]))
    objectives = [{"name": "damage", "unit": "", "scale": "linear"}]
    assert predictions({**plain, "rounds": unknown, "objectives": objectives}, front, candidates) is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda document: [], "it is no object"),
        (lambda document: {**document, "spent": None}, "spent is no list"),
        (
            lambda document: {key: value for key, value in document.items() if key != "surrogate"},
            "'surrogate' is missing",
        ),
        (lambda document: {**document, "rounds": [{}]}, "'measured_before' is missing"),
        (lambda document: {**document, "rounds": [{**document["rounds"][0], "predicted": [[1.0]]}]}, "rounds[0]"),
        (lambda document: {**document, "rounds": [3]}, "not subscriptable"),
        (lambda document: {**document, "spent": [{"purpose": "x", "measurements": "many"}]}, "many"),
    ],
)
def test_what_is_wrong_with_a_document_is_told(two, change, words):
    document = two[2]["predictions"]
    assert mistake_in(document) is None
    assert words in str(mistake_in(change(document)))


def data_of(path: Any) -> dict[str, Any]:
    found = re.search(r'id="data">(.*?)</script>', path.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    data: dict[str, Any] = json.loads(found[1])
    return data


def test_a_run_shows_its_predictions_and_a_broken_file_of_them_is_a_note(tmp_path):
    out = tmp_path / "out"
    run(write_project(tmp_path), out)
    document = json.loads((out / "predictions.json").read_text(encoding="utf-8"))
    assert mistake_in(document) is None
    data = data_of(out / "report.html")
    assert [part["key"] for part in data["spent"]["parts"]] == [each["purpose"] for each in document["spent"]]
    assert (data["predictions"] is None) == (not document["rounds"])
    front = (out / "front.json").read_bytes()
    for text in ("{", '{"rounds": 3}', "[]"):
        (out / "predictions.json").write_text(text, encoding="utf-8")
        assert command("report", out).exit_code == 0
        data = data_of(out / "report.html")
        assert data["predictions"] is None and data["spent"] is None
        assert any("predictions.json cannot be read" in note for note in data["about"]["notes"])
    (out / "predictions.json").unlink()
    assert command("report", out).exit_code == 0
    data = data_of(out / "report.html")
    assert data["predictions"] is None
    assert not any("predictions.json" in note for note in data["about"]["notes"])
    assert (out / "front.json").read_bytes() == front
