"""Runs in which surrogates choose what is measured."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_runs import command, findings, front, run, write_project

from evo_mpq.config import load, validate
from evo_mpq.optimize.nsga2 import NSGA2
from evo_mpq.problem import build_problem
from evo_mpq.results.report.formatting import format_value
from evo_mpq.results.run_directory import RunDirectory
from evo_mpq.searching import FREE_POPULATION, make_searcher, pick_limits, table_share, work_after

PURPOSES = {
    "uniform",
    "table of single options",
    "sensitivity",
    "shapley",
    "surrogate",
    "nsga2",
    "random",
    "exhaustive",
}


def predictions(out: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((out / "predictions.json").read_text())
    return document


def test_a_run_says_what_it_expected_and_what_it_measured_for_what(tmp_path):
    yaml, out = write_project(tmp_path), tmp_path / "out"
    run(yaml, out, "--set", "search.evaluations=40")
    document = predictions(out)
    assert document["surrogate"] == "auto"
    assert [objective["name"] for objective in document["objectives"]] == ["soft_kl_divergence"]
    spent = {each["purpose"]: each["measurements"] for each in document["spent"]}
    assert spent.keys() <= PURPOSES and sum(spent.values()) == front(out)["measurements"]
    assert sum(len(each["measured"]) for each in document["rounds"]) == spent["surrogate"] + spent.get("nsga2", 0)
    assert "Kendall's tau" in (out / "log.txt").read_text()


MANY_SAMPLES = ("--set", "data.search=1600")
FEWER = ("--set", "search.evaluations=40")


def test_tables_are_measured_on_a_part_of_a_large_search_split(tmp_path):
    yaml, part, whole = write_project(tmp_path), tmp_path / "part", tmp_path / "whole"
    run(yaml, part, *MANY_SAMPLES, *FEWER)
    run(yaml, whole, *MANY_SAMPLES, *FEWER, "--set", "search.fitness.table_share=1")
    document = predictions(part)
    assert document["table_share"] == 250 / 1600
    sketched, values = RunDirectory(part).read_journal().rows("search[0.15625]")
    spent = {each["purpose"]: each for each in document["spent"]}
    assert spent["table of single options"]["sketched"] == 10  # three genes of four options, and the base
    assert sum(each["sketched"] for each in document["spent"]) == len(sketched)
    assert sum(each["measurements"] for each in document["spent"]) <= 40
    assert RunDirectory(whole).read_journal().rows("search[0.15625]")[0].size == 0
    losses = dict(zip(map(tuple, sketched.tolist()), values.values[:, 0].tolist(), strict=True))
    for member in front(part)["members"]:  # what is shown was measured on all of it
        genome = tuple(member["genome"])
        assert genome not in losses or member["search"]["soft_kl_divergence"] != losses[genome]


def test_a_run_with_tables_of_a_part_resumes_to_the_same_front(tmp_path):
    yaml, whole, parts = write_project(tmp_path), tmp_path / "whole", tmp_path / "parts"
    run(yaml, whole, *MANY_SAMPLES, *FEWER)
    run(yaml, parts, *MANY_SAMPLES, *FEWER)
    lines = (parts / "journal").read_bytes().splitlines(keepends=True)
    for kept in range(2, len(lines), 3):
        (parts / "journal").write_bytes(b"".join(lines[:kept]))
        run(yaml, parts, *MANY_SAMPLES, *FEWER)
        assert findings(parts) == findings(whole)


CALLED = """
class Norm:
    name, unit, direction = "norm", "", "minimize"

    def __call__(self, candidate):
        return float(sum(parameter.abs().sum() for parameter in candidate.module().state_dict().values()))
"""


@pytest.mark.parametrize(
    ("overrides", "share"),
    [
        (["data.search=500"], 1.0),
        (["data.search=1000"], 0.25),
        (["data.search=1600"], 250 / 1600),
        (["data.search=4000"], 0.125),
        (["data.search=500", "search.fitness.table_share=0.5"], 0.5),
        (["data.search=4000", "search.fitness.table_share=1"], 1.0),
        # what is called for a candidate takes as long on fewer samples
        (["data.search=4000", "objectives=[kl_divergence, size, {kind: 'my_norm:Norm'}]"], 1.0),
    ],
)
def test_the_part_of_the_samples_follows_from_how_many_there_are(tmp_path, monkeypatch, overrides, share):
    monkeypatch.syspath_prepend(str(tmp_path))
    yaml = write_project(tmp_path, my_norm=CALLED)
    assert table_share(build_problem(load(yaml, overrides).settings, base=tmp_path)) == share


@pytest.mark.parametrize("share", ["0", "1.5", "half", "true"])
def test_a_share_of_the_samples_is_one(tmp_path, share):
    yaml, out = write_project(tmp_path), tmp_path / "out"
    message = run(yaml, out, "--set", f"search.fitness.table_share={share}", code=2).stderr
    assert "search.fitness.table_share: must be" in message and not out.exists()


@pytest.mark.parametrize("surrogate", ["auto", "gp", "pairwise", "forest", "additive", "shapley", "none"])
def test_no_number_on_a_front_was_predicted(tmp_path, surrogate):
    yaml, out = write_project(tmp_path), tmp_path / "out"
    run(yaml, out, "--set", f"search.fitness.surrogate={surrogate}", "--set", "search.evaluations=40")
    genomes, values = RunDirectory(out).read_journal().rows()
    measured = dict(zip(map(tuple, genomes.tolist()), values.values.tolist(), strict=True))
    for member in front(out)["members"]:
        assert list(member["search"].values())[:2] == measured[tuple(member["genome"])][:2]


def test_shapley_alone_measures_the_front_that_it_expects_and_ends(tmp_path):
    yaml, out = write_project(tmp_path), tmp_path / "out"
    run(yaml, out, "--set", "search.fitness.surrogate=shapley", "--set", "search.evaluations=60")
    document = predictions(out)
    assert document["surrogate"] == "shapley" and document["rounds"]
    assert front(out)["finished"] and front(out)["measurements"] < 60


def test_shapley_is_of_one_measured_objective(tmp_path):
    yaml, out = write_project(tmp_path), tmp_path / "out"
    objectives = "objectives=[kl_divergence, cross_entropy, size]"
    message = run(yaml, out, "--set", objectives, "--set", "search.fitness.surrogate=shapley", code=2).stderr
    assert "search.fitness.surrogate: shapley is of one measured objective, and kl_divergence, cross_entropy" in message


def test_without_a_surrogate_nothing_is_predicted(tmp_path):
    yaml, out = write_project(tmp_path), tmp_path / "out"
    run(yaml, out, "--set", "search.fitness={surrogate: none, seeds: [uniform]}")
    document = predictions(out)
    assert document["surrogate"] is None and document["rounds"] == []
    assert {each["purpose"] for each in document["spent"]} == {"uniform", "nsga2"}


def test_interrupted_and_resumed_a_run_expects_the_same(tmp_path):
    yaml, whole, parts = write_project(tmp_path), tmp_path / "whole", tmp_path / "parts"
    run(yaml, whole, "--set", "search.evaluations=45")
    run(yaml, parts, "--set", "search.evaluations=45")
    journal = (parts / "journal").read_bytes()
    lines = journal.splitlines(keepends=True)
    for kept in (len(lines) // 2, len(lines) - 4):
        (parts / "journal").write_bytes(b"".join(lines[:kept]))
        run(yaml, parts, "--set", "search.evaluations=45")
        assert findings(parts) == findings(whole)
        assert predictions(parts) == predictions(whole)


@pytest.mark.parametrize(
    "objectives",
    [
        '["soft_kl_divergence", "cross_entropy", "size"]',
        '["soft_kl_divergence", "size", "bops"]',
        '["error_rate", "size"]',
    ],
    ids=["two measured", "two computed", "linear"],
)
def test_every_measured_objective_is_predicted(tmp_path, objectives):
    yaml, out = write_project(tmp_path), tmp_path / "out"
    run(yaml, out, "--set", f"objectives={objectives}", "--set", "search.evaluations=60")
    document = predictions(out)
    measured = [name for name in json.loads(objectives) if name not in ("size", "bops")]
    assert [objective["name"] for objective in document["objectives"]] == measured
    expected = [each for each in document["rounds"] if each["proposer"] == "surrogate"]
    assert expected and all(len(row) == len(measured) for each in expected for row in each["predicted"])
    assert len(front(out)["members"]) > 1


def test_measured_constraints_are_expected_to_be_met(tmp_path):
    yaml, out = write_project(tmp_path), tmp_path / "out"
    run(yaml, out, "--set", 'constraints=["kl_divergence <= 0.02", "size <= 1100"]', "--set", "search.evaluations=60")
    members = front(out)["members"]
    assert members and all(m["search"]["soft_kl_divergence"] <= 0.02 and m["search"]["size"] <= 1100 for m in members)
    _, values = RunDirectory(out).read_journal().rows()
    before = sum(s["measurements"] for s in predictions(out)["spent"] if s["purpose"] not in ("surrogate", "nsga2"))
    chosen = values.values[before:]
    assert (chosen[:, 1] <= 1100).all()  # what is computed is never violated


def test_without_a_number_of_evaluations_a_batch_shares_what_it_computes(tmp_path):
    yaml, by_time, more = write_project(tmp_path), tmp_path / "by time", tmp_path / "more"
    run(yaml, by_time, "--set", "search={stall: 2}", "--set", "space.defaults.weight_bits=[2, 3, 4, 5, 6, 8]")
    count = front(by_time)["measurements"] + 12
    # going on with a number replays what was chosen without one
    options = ("--set", "space.defaults.weight_bits=[2, 3, 4, 5, 6, 8]", "--set", f"search={{evaluations: {count}}}")
    run(yaml, by_time, *options)
    assert front(by_time)["reproducible"] and front(by_time)["measurements"] == count - 1  # and the reference
    run(yaml, more, *options)
    assert findings(more) != findings(by_time)


def test_the_work_after_a_gene_is_the_layers_from_its_first_one_on(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    yaml = write_project(tmp_path)
    problem = build_problem(load(yaml).settings, base=tmp_path)
    macs = np.array([6 * 8, 8 * 8, 8 * 4])
    assert work_after(problem) == pytest.approx([1.0, macs[1:].sum() / macs.sum(), macs[2] / macs.sum()])


def test_where_every_objective_is_computed_a_large_population_is_evolved(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    yaml = write_project(tmp_path)
    settings = {"model": "digits_mlp", "data": "digits", "objectives": ["size", "bops"]}
    searcher = make_searcher(build_problem(validate(settings), base=yaml.parent))
    assert isinstance(searcher, NSGA2) and len(searcher.ask()) == FREE_POPULATION
    named = make_searcher(build_problem(validate({**settings, "search": {"population": 12}}), base=yaml.parent))
    assert len(named.ask()) == 12


def test_pairs_may_be_measured_for_the_surrogate(tmp_path):
    yaml, out = write_project(tmp_path), tmp_path / "out"
    run(yaml, out, "--set", "search.fitness.interactions=auto", "--set", "search.evaluations=100")
    spent = {each["purpose"]: each["measurements"] for each in predictions(out)["spent"]}
    assert spent["tables for the surrogate"] > 0
    assert np.isfinite(front(out)["hypervolume"]["value"])


def test_a_search_split_that_is_too_small_to_rank_members_is_said_so(tmp_path):
    yaml = write_project(tmp_path)
    few = run(yaml, tmp_path / "few", "--set", "data.search=20").stderr
    assert re.search(r"20 search samples are few: .* of soft_kl_divergence is \d+% of it; about [\d,]+ samples", few)
    assert "are few" not in run(yaml, tmp_path / "many", "--set", "data.search=3000").stderr


def sizes(out: Path) -> list[int]:
    return sorted(member["search"]["size"] for member in front(out)["members"])


def test_recipes_are_asked_for_the_sizes_that_will_be_picked(tmp_path):
    yaml, plain, picked = write_project(tmp_path), tmp_path / "plain", tmp_path / "picked"
    few = ("--set", "search.evaluations=20")
    run(yaml, plain, *few)
    limit = sizes(plain)[len(sizes(plain)) // 2] - 1
    run(yaml, picked, *few, "--set", f"search.picks=['size <= {limit}']")

    def best_seed(out):
        found = front(out)["seeds"]
        return min(seed["search"]["soft_kl_divergence"] for seed in found if seed["search"]["size"] <= limit)

    assert best_seed(picked) <= best_seed(plain)


def test_the_best_of_a_small_space_within_a_pick_is_found(tmp_path):
    yaml, everything, picked = write_project(tmp_path), tmp_path / "everything", tmp_path / "picked"
    run(yaml, everything, "--set", "search={algorithm: exhaustive}")
    size = sizes(everything)[len(sizes(everything)) // 2]
    run(yaml, picked, "--set", "search.evaluations=36", "--set", f"search.picks=['size <= {size}']")
    best, found = (
        min(
            member["search"]["soft_kl_divergence"]
            for member in front(out)["members"]
            if member["search"]["size"] <= size
        )
        for out in (everything, picked)
    )
    assert found == best
    printed = command("report", picked).output
    assert f"size <= {size}" in " ".join(printed.split())
    assert rf"Best within size \u2264 {format_value(size, 'B')}: " in (picked / "report.html").read_text()


def test_a_pick_that_nothing_measured_is_within_has_no_best(tmp_path):
    yaml, out = write_project(tmp_path), tmp_path / "out"
    run(
        yaml, out, "--set", "search.evaluations=4", "--set", "search.picks=['size <= 1 MB, soft_kl_divergence <= 1e-9']"
    )
    assert re.search(r"soft_kl_divergence \\u2264 \S+ nats: nothing", (out / "report.html").read_text())


@pytest.mark.parametrize(
    ("pick", "message"),
    [
        ("accuracy >= 0.9", '"accuracy" is no objective; points are picked within bounds on soft_kl_divergence, size'),
        ("sizes <= 1 kB", '"sizes" is no objective (did you mean size?)'),
        ("size >= 1 kB", "size is better when lower: say size <= the worst to pick"),
        ("size <= 10", "no candidate of the space keeps size <= 10 B (nearest: "),
        ("size <= 10 nats", 'unknown unit "nats"'),
    ],
)
def test_a_pick_that_nothing_can_meet_is_refused_before_anything_is_measured(tmp_path, pick, message):
    yaml, out = write_project(tmp_path), tmp_path / "out"
    result = command("run", yaml, "--out", out, "--set", f"search.picks=['{pick}']")
    assert result.exit_code == 2
    assert message in " ".join(result.output.split()) and "search.picks[0]" in result.output
    assert not (out / "front.json").exists()


def test_limits_of_picks_are_losses_and_constraints_on_computed_objectives_are_one(tmp_path):
    settings = {
        "model": "digits_mlp",
        "data": "digits",
        "objectives": ["accuracy", "size", "macs"],
        "space": {"defaults": {"weight_bits": [2, 4]}},
    }
    infinite = float("inf")
    picks = {"picks": ["size <= 9 kB, accuracy >= 0.9", "macs <= 2 M"]}
    problem = build_problem(validate({**settings, "search": picks}))
    assert pick_limits(problem).tolist() == [[-0.9, 9000, infinite], [infinite, infinite, 2e6]]
    bounds = ["size <= 9 kB", "size <= 8 kB", "accuracy >= 0.9", "macs >= 10"]
    assert pick_limits(build_problem(validate({**settings, "constraints": bounds}))).tolist() == [
        [infinite, 8000, infinite]
    ]
    assert pick_limits(build_problem(validate(settings))).shape == (0, 3)
