"""Allocation methods and contributions: alone by their commands, and as seeds of a run."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from small_runs import YAML, command, front, run, write_project

import evo_mpq
from evo_mpq.config import load
from evo_mpq.costs import cost_of, layer_scopes
from evo_mpq.plugins import available
from evo_mpq.problem import Problem, build_problem
from evo_mpq.results.journal import Journal

MEASURED = ["uniform", "sensitivity", "shapley", "clado", "spdy", "waterfill"]
COMPUTED = ["hawq", "fisher", "mpqco", "fima", "ompq"]
SIZE = "size<=2000"  # two bits everywhere take 1.7 kB, eight 1.9


def problem_of(yaml: Path) -> Problem:
    config = load(yaml)
    return build_problem(config.settings, config.base)


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    return write_project(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="module")
def budget(project) -> int:
    """Bytes between the cheapest and the most expensive genome."""
    problem = problem_of(project)
    _, cost = cost_of(problem)
    lowest, highest = cost(np.stack([problem.space.cheapest(), problem.space.most_expensive()]))
    return int(lowest + 0.4 * (highest - lowest))


def test_the_cost_of_a_genome_is_the_length_of_its_file(project):
    problem = problem_of(project)
    name, cost = cost_of(problem)
    genomes = np.concatenate(list(problem.space.enumerate()))
    sizes = [problem.compressor.packed_bytes(policy) for policy in problem.space.decode(genomes)]
    assert name == "size"
    assert np.array_equal(cost(genomes), sizes)
    assert set().union(*layer_scopes(problem)) == set(range(problem.space.n_genes))


def test_a_modelled_error_is_a_sum_over_layers_but_no_cost_that_budgets_are_set_on(tmp_path):
    error = '{kind: "evo_mpq.objectives.hawq_error:HAWQError"}'
    problem = problem_of(write_project(tmp_path, YAML + f"objectives: [kl_divergence, {error}, bops, size]\n"))
    assert cost_of(problem)[0] == "bops"
    name, errors = cost_of(problem, "hawq_error")
    lowest, highest = errors(np.stack([problem.space.cheapest(), problem.space.most_expensive()]))
    assert name == "hawq_error" and lowest > highest > 0


@pytest.mark.parametrize("method", [*MEASURED, *COMPUTED])
def test_each_method_gives_one_measured_policy_within_the_budget_that_exports(method, project, budget, tmp_path):
    out = tmp_path / "run"
    result = command("allocate", project, "--method", method, "--budget", f"size<={budget}", "--out", out, "--quiet")
    assert result.exit_code == 0, result.output
    [file] = (out / "allocations").iterdir()
    found = json.loads(file.read_text())
    assert found["method"] == method
    assert found["search"]["size"] <= budget
    assert found["test"]["kl_divergence"]["value"] >= 0
    packed = tmp_path / "small.safetensors"
    exported = command("export", out, "--pick", found["id"], "--out", packed)
    assert exported.exit_code == 0, exported.output
    assert packed.stat().st_size == found["search"]["size"]


def test_all_methods_give_a_table_and_tell_why_one_cannot_be_applied(project, budget, tmp_path):
    result = command("allocate", project, "--method", "all", "--budget", f"size<={budget}", "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    for method in available("seeders"):
        assert method in result.output
    assert "train" in result.output  # smpq and differentiable have nothing to train on here


def test_a_run_is_the_same_after_allocations_and_measures_nothing_of_theirs_again(project, budget, tmp_path):
    run(project, tmp_path / "alone")
    for method in ("sensitivity", "clado"):
        command("allocate", project, "--method", method, "--budget", f"size<={budget}", "--out", tmp_path / "both")
    command("contributions", project, "--out", tmp_path / "both")
    aside = Journal.read(tmp_path / "both" / "journal").rows("aside")[0].tolist()
    run(project, tmp_path / "both")
    journal = Journal.read(tmp_path / "both" / "journal")
    alone, both = front(tmp_path / "alone"), front(tmp_path / "both")
    assert both["members"] == alone["members"]
    assert both["seeds"] == alone["seeds"]
    assert both["hypervolume"] == alone["hypervolume"]
    assert both["cost"]["sample_forwards"] < alone["cost"]["sample_forwards"] + 32 * len(aside)
    assert journal.n_measured == len({tuple(row) for row in aside} | {tuple(row) for row in journal.rows()[0].tolist()})


def test_allocating_in_a_finished_run_changes_nothing_of_it_and_its_report_shows_the_choice(project, budget, tmp_path):
    out = tmp_path / "run"
    run(project, out)
    before = front(out)
    command("allocate", project, "--method", "clado", "--budget", f"size<={budget}", "--out", out, "--quiet")
    assert front(out) == before
    again = run(project, out)
    assert "nothing was measured" in again.output
    assert front(out)["members"] == before["members"]
    assert "clado" in (out / "report.html").read_text()


def test_contributions_add_up_to_what_the_cheapest_network_loses(project, tmp_path):
    out = tmp_path / "run"
    result = command("contributions", project, "--measurements", 16, "--out", out)
    assert result.exit_code == 0, result.output
    found = json.loads((out / "contributions.json").read_text())
    steps = [step["loss"] for gene in found["genes"] for step in gene["steps"]]
    assert sum(steps) == pytest.approx(found["bottom"] - found["top"])
    assert [gene["name"] for gene in found["genes"]] == [gene.name for gene in problem_of(project).space.genes]
    assert "first.weight_bits" in result.output


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--budget", "size<=10"], "the cheapest has size"),
        (["--budget", "size>=10"], "must be one upper bound"),
        (["--budget", "accuracy<=1"], "must be one upper bound on size"),
        (["--budget", "size<=9kB, size<=8kB"], "must be one upper bound"),
        (["--budget", "small"], "is not a bound"),
        (["--budget", SIZE, "--method", "clad"], "did you mean clado"),
        (["--budget", SIZE, "--method", "smpq"], "train"),
    ],
)
def test_what_cannot_be_allocated_is_told_before_any_work(words, told, project, tmp_path):
    result = command("allocate", project, *words, "--out", tmp_path / "run", "--quiet")
    assert result.exit_code == 2
    assert told in result.output
    assert not (tmp_path / "run" / "allocations").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--estimator", "kernal"], "there are kernel"),
        (["--measurements", "1"], "kernel"),
    ],
)
def test_what_cannot_be_estimated_is_told(words, told, project, tmp_path):
    result = command("contributions", project, *words, "--out", tmp_path / "run", "--quiet")
    assert result.exit_code == 2
    assert told in result.output


SEEDED = YAML.replace(
    "evaluations: 24", "evaluations: 120, fitness: {seeds: [uniform, sensitivity, shapley, clado, hawq]}"
)


@pytest.mark.parametrize("seed", range(5))
def test_the_front_weakly_dominates_every_feasible_seed_on_the_search_split(seed, tmp_path):
    project = write_project(tmp_path, SEEDED + f"seed: {seed}\n")
    run(project, tmp_path / "run")
    found = front(tmp_path / "run")
    assert {entry["name"].rpartition(" ")[0] for entry in found["seeds"]} >= {"uniform", "sensitivity"}
    for entry in found["seeds"]:
        assert any(
            all(member["search"][name] <= entry["search"][name] for name in ("soft_kl_divergence", "size"))
            for member in found["members"]
        ), entry["name"]
        assert entry["verdict"] in ("dominated", "tied", "not")


def test_methods_get_at_most_a_quarter_of_what_their_table_leaves(tmp_path):
    project = write_project(tmp_path, SEEDED)
    run(project, tmp_path / "run")
    lines = (tmp_path / "run" / "journal").read_text().splitlines()
    asked = [json.loads(line[9:]) for line in lines if '"kind":"asked"' in line]
    before = {tuple(genome) for record in asked if record["generation"] == 0 for genome in record["genomes"]}
    problem = problem_of(project)
    table, ladder = 1 + sum(gene.cardinality - 1 for gene in problem.space.genes), 4
    left = 120 - 1 - ladder - table
    assert table <= len(before) <= ladder + table + left // 4


def test_methods_that_a_budget_has_no_room_for_are_left_out_and_told(tmp_path):
    project = write_project(tmp_path, SEEDED.replace("120", "20"))
    result = run(project, tmp_path / "run")
    assert "not measured before the search: sensitivity, shapley, clado, hawq" in result.output
    assert {entry["name"].split()[0] for entry in front(tmp_path / "run")["seeds"]} == {"uniform"}


def test_a_method_of_ones_own_is_a_seed(tmp_path):
    method = "import numpy as np\ndef top(space, tables, budgets):\n    return space.most_expensive()[None]\n"
    yaml = SEEDED.replace("[uniform, sensitivity, shapley, clado, hawq]", '["my_methods:top"]')
    run(write_project(tmp_path, yaml, my_methods=method), tmp_path / "run")
    [entry] = front(tmp_path / "run")["seeds"]
    assert entry["name"] == "my_methods:top 1"
    assert entry["genome"] == [3, 3, 3]


def test_from_python_the_same_seeds_give_the_same_front(tmp_path):
    project = write_project(tmp_path, SEEDED)
    run(project, tmp_path / "yaml")
    problem = problem_of(project)
    splits = problem.network.splits
    found = evo_mpq.search(
        {"kind": "my_nets:build"},
        calibration=splits.calibration.dataset,
        search=splits.search.dataset,
        test=splits.test.dataset,
        batch_size=16,
        space={"defaults": {"weight_bits": [2, 3, 4, 8]}},
        population=6,
        evaluations=120,
        seeds=["uniform", "sensitivity", "shapley", "clado", "hawq"],
        quiet=True,
    )
    assert [member["genome"] for member in front(tmp_path / "yaml")["members"]] == [
        list(member.genome) for member in found.front.members
    ]


def test_the_table_has_units_says_what_is_modelled_and_begins_with_the_best(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "250")
    error = '{kind: "evo_mpq.objectives.hawq_error:HAWQError"}'
    yaml = write_project(tmp_path, YAML + f"objectives: [accuracy, size, {error}]\n")
    result = command("allocate", yaml, "--method", "all", "--budget", SIZE, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    heads, *rows = [re.split(r"\s*[│┃]\s*", line)[1:-1] for line in result.stdout.splitlines() if line[:1] in "│┃"]
    assert {"size [B]", "hawq_error [nats] (modelled)", "test accuracy"} <= set(heads)
    accuracies = [float(row[heads.index("accuracy")]) for row in rows]
    assert len(rows) > 5 and accuracies == sorted(accuracies, reverse=True) and accuracies[0] > accuracies[-1]
    assert "A measurement that several methods need counts for each" in result.stdout
    assert "measuring on the test split" in result.stderr and "of the front" not in result.output
