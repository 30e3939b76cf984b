"""The allocation method made of pairwise interactions and the integer program."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest

from evo_mpq.optimize.programs import integer
from evo_mpq.optimize.seeders import clado as module
from evo_mpq.optimize.seeders.clado import clado
from evo_mpq.predict.factored import Factor, FactoredFunction
from evo_mpq.predict.tables.options import Estimates
from evo_mpq.predict.tables.tables import Tables
from evo_mpq.space.building import SpaceLayer, build_space
from evo_mpq.space.search_space import SearchSpace
from evo_mpq.typing import FloatVector, Genomes

SEEDS = range(5)
BITS = np.array([2.0, 3.0, 4.0, 8.0])
BUDGETS = np.array([10.0, 13.0, 19.0])


def bits_space() -> SearchSpace:
    return build_space(
        [SpaceLayer(f"layers.{i}") for i in range(5)], defaults={"weight_bits": [int(bits) for bits in BITS]}
    )


def loss_of(seed: int) -> Any:
    """Quadratic in errors of one direction per layer, so that layers add up or cancel."""
    rng = np.random.default_rng(seed)
    directions = rng.normal(size=(5, 2))

    def loss(genomes: Genomes) -> FloatVector:
        return np.sum((2.0 ** -BITS[genomes] * (genomes < 3) @ directions) ** 2, axis=1)

    return loss


def tables_of(seed: int, **allowances: int) -> Tables:
    space, loss = bits_space(), loss_of(seed)
    cost = FactoredFunction(tuple(Factor((gene,), BITS) for gene in range(5)))

    def measure(genomes: Genomes) -> Estimates:
        return Estimates(loss(genomes), np.zeros(len(genomes)))

    return Tables(space, cost, measure, cast(Any, None), **allowances)


def best_losses(seed: int, tables: Tables) -> FloatVector:
    genomes = np.concatenate(list(tables.space.enumerate()))
    losses, costs = loss_of(seed)(genomes), tables.cost(genomes)
    return np.array([losses[costs <= budget].min() for budget in BUDGETS])


@pytest.mark.parametrize("seed", SEEDS)
def test_of_a_quadratic_loss_the_best_genome_within_every_budget_is_found(seed: int) -> None:
    tables = tables_of(seed)
    found = clado(tables.space, tables, BUDGETS)
    assert np.all(tables.cost(found) <= BUDGETS)
    assert loss_of(seed)(found) == pytest.approx(best_losses(seed, tables), rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("allowance", [0, 4, 20])
def test_with_few_measurements_budgets_are_kept_too(allowance: int) -> None:
    tables = tables_of(0, methods_allowance=allowance)
    found = clado(tables.space, tables, BUDGETS)
    assert tables.interactions.n_measurements == allowance
    assert np.all(tables.cost(found) <= BUDGETS)
    assert tables.space.legal(found).all()


def test_projecting_the_matrix_is_another_method() -> None:
    tables = tables_of(1)
    assert np.all(tables.cost(clado(tables.space, tables, BUDGETS, psd=True)) <= BUDGETS)


def test_no_budgets_are_no_genomes() -> None:
    tables = tables_of(0)
    assert clado(tables.space, tables, np.zeros(0)).shape == (0, 5)


def test_where_the_solver_finds_nothing_within_its_limits_the_additive_model_chooses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tables = tables_of(0)

    def in_vain(*args: Any, **limits: Any) -> Any:
        raise integer.LimitReached

    monkeypatch.setattr(module, "integer_program", in_vain)
    found = clado(tables.space, tables, BUDGETS)
    assert np.all(tables.cost(found) <= BUDGETS)
    assert tables.space.legal(found).all()


def test_no_clock_decides_what_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[dict[str, Any]] = []
    solve: Any = vars(integer)["milp"]

    def watched(*args: Any, options: dict[str, Any], **rest: Any) -> Any:
        given.append(dict(options))
        return solve(*args, options=options, **rest)

    monkeypatch.setattr(integer, "milp", watched)
    tables = tables_of(0)
    clado(tables.space, tables, BUDGETS)
    assert len(given) >= len(BUDGETS)
    assert all(options == {"mip_rel_gap": 0.0, "node_limit": module.MOST_NODES} for options in given)


def test_a_program_of_many_pairs_holds_the_strongest_and_exchanges_see_all(monkeypatch: pytest.MonkeyPatch) -> None:
    tables = tables_of(2)
    sizes = []
    solve: Any = vars(module)["integer_program"]

    def watched(space: SearchSpace, loss: FactoredFunction, *rest: Any, **limits: Any) -> Any:
        sizes.append(sum(factor.table.size for factor in loss.factors if len(factor.genes) > 1))
        return solve(space, loss, *rest, **limits)

    monkeypatch.setattr(module, "integer_program", watched)
    whole = clado(tables.space, tables, BUDGETS)
    monkeypatch.setattr(module, "MOST_ENTRIES", 50)
    few = clado(tables.space, tables, BUDGETS)
    assert sizes == [160] * len(BUDGETS) + [48] * len(BUDGETS)
    assert np.all(tables.cost(few) <= BUDGETS)
    assert loss_of(2)(whole).sum() <= loss_of(2)(few).sum()
