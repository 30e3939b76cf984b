"""What a run measures before it searches: the uniform ladder, tables of what genes do, the choices of recipes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from evo_mpq.costs import cost_of, lead_objective, spaced_budgets, tables_of
from evo_mpq.errors import MeasurementError
from evo_mpq.measure.measurements import Measurements
from evo_mpq.optimize.loop import Screen, Start
from evo_mpq.optimize.searcher import first_of_new
from evo_mpq.optimize.seeders.waterfill import allocation_gain
from evo_mpq.optimize.starts import uniform_ladder
from evo_mpq.predict.factored import FactoredFunction
from evo_mpq.predict.tables.sensitivities import least_table, table_genomes
from evo_mpq.predict.tables.tables import Tables
from evo_mpq.problem import Problem
from evo_mpq.results.front import GenomeKey
from evo_mpq.searching import TABLE, Asked, Sketches, needs_tables
from evo_mpq.typing import FloatVector, Genomes

UNIFORM = "uniform"
"""Under this name a run measures the whole uniform ladder first; it frames the hypervolume."""

PREPARATION = "tables for the surrogate"
"""What `searching.prepare` measures; see `Seeding.asked`."""

MOST_BUDGETS = 48
"""A method proposes at most so many genomes, for budgets from the cheapest to the most expensive."""

SEEDS_SHARE = 0.25
"""Of what the table leaves of the budget, for all methods: what they measure and what they propose."""

OWN_SHARE = 2 / 3
"""Of a method's part of that, for what it measures to find its genomes; what it leaves is for these."""


class Seeding:
    """What is measured before the search, and under which names.

    Args:
        problem: that is searched.
        screen: finds genomes that cannot meet the constraints; those are not measured.
        say: told what the tables say, before the search begins.
        prepare: given the tables, and what was measured for them on a part of the samples, before the search begins.

    Attributes:
        recipes: name and genome of what was proposed, each genome once, in the order of measuring.
        asked: per purpose what was to be measured for it.
        share: part of the samples that tables were measured on.
        notes: which recipes were left out, and why.
    """

    def __init__(
        self,
        problem: Problem,
        screen: Screen | None = None,
        say: Callable[[str], None] = lambda message: None,
        prepare: Callable[[Tables, Sketches], None] = lambda tables, sketches: None,
    ) -> None:
        self._problem = problem
        self._screen = screen
        self._say = say
        self._prepare = prepare
        self.recipes: list[tuple[str, GenomeKey]] = []
        self.asked: dict[str, Asked] = {}
        self.share = 1.0
        self._sketches: list[tuple[Genomes, Measurements]] = []
        self.notes: list[str] = []

    def __call__(self, start: Start) -> None:
        """Measures the ladder, the tables that recipes need, and what they propose; see `optimize.loop.Begin`."""
        problem = self._problem
        self._start, self.share = start, start.share
        if UNIFORM in problem.seeders:
            self._begin(UNIFORM)
            ladder = uniform_ladder(problem.space)
            genomes = np.array([genome for _, genome in ladder])
            self._measure(self._named([f"{UNIFORM} {name}" for name, _ in ladder], genomes))
        # the other algorithms are baselines, or measure everything anyhow
        evolves = problem.settings.search.algorithm == "nsga2"
        others = [name for name in problem.seeders if evolves and name != UNIFORM]
        if evolves and (others or needs_tables(problem)) and self._worth_a_table(others, start.left()):
            self._measure_others(others)

    def _worth_a_table(self, names: Sequence[str], budget: int | None) -> bool:
        """Whether recipes have something to go by, and the budget allows it."""
        if lead_objective(self._problem) is None:
            self._leave_out(names, "every objective is computed, so there is nothing to predict")
            return False
        if budget is None:
            return True
        cost = self._table_cost(budget)
        if not cost or _part(budget - cost, len(names)) < 1:
            least = math.ceil(self.share * len(least_table(self._problem.space)))
            self._leave_out(names, f"their table takes at least {least} of the {budget} measurements that are left")
            return False
        return True

    def _table_cost(self, budget: int) -> int:
        """Measurements that the table takes of a budget, rounded up; 0 if not even the least one fits."""
        return math.ceil(self.share * len(table_genomes(self._problem.space, int(budget / self.share))))

    def _measure(self, genomes: Genomes) -> Measurements:
        self.asked[self._purpose].whole += [tuple(row) for row in genomes.tolist()]
        return self._start.measure(genomes)

    def _sketch(self, genomes: Genomes) -> Measurements:
        """Measures for tables: on a part of the samples where that is worth it."""
        if self.share == 1:
            return self._measure(genomes)
        self.asked[self._purpose].part += [tuple(row) for row in genomes.tolist()]
        found = self._start.sketch(genomes)
        self._sketches.append((genomes, found))
        return found

    def _measure_others(self, names: Sequence[str]) -> None:
        problem, space, left = self._problem, self._problem.space, self._start.left
        budget = left()
        lead = lead_objective(problem)
        assert lead is not None
        cost_name, cost = cost_of(problem)
        part, for_table, methods_allowance = None, None, None
        if budget is not None:
            part = _part(budget - self._table_cost(budget), len(names))
            for_table, methods_allowance = int(budget / self.share), int(OWN_SHARE * part / self.share)
        tables = tables_of(problem, lead, self._sketch, cost, for_table, methods_allowance)
        self._begin(TABLE)
        try:
            n_options = sum(map(len, tables.sensitivities.losses))
        except MeasurementError as error:
            self._leave_out(names, str(error))
            return
        if space.steps("weight_bits"):
            self._say(_gain_sentence(n_options, allocation_gain(space, tables), lead.name))
        budgets = self._budgets(cost_name, cost, MOST_BUDGETS if part is None else min(part, MOST_BUDGETS))
        for name in names:
            self._begin(name)
            before = left()
            try:
                proposed = problem.seeders[name](space, tables, budgets)
            except MeasurementError as error:
                self._leave_out([name], str(error))
                continue
            after = left()
            spent = 0 if before is None or after is None else before - after
            chosen = self._new(proposed, None if part is None else max(1, part - spent))
            self._measure(self._named([f"{name} {place + 1}" for place in range(len(chosen))], chosen))
        self._begin(PREPARATION)
        try:
            self._prepare(tables, self._sketches)
        except MeasurementError as error:
            self._leave_out([PREPARATION], str(error))

    def _budgets(self, cost_name: str, cost: FactoredFunction, n: int) -> FloatVector:
        """Ascending, at most ``n``: those that points will be picked within, and spaced ones."""
        lowest = cost(self._problem.space.cheapest()[None])[0]
        picks = [bound.bound for bounds in self._problem.picks for bound in bounds if bound.quantity.name == cost_name]
        named = np.unique([value for value in picks if value >= lowest])[:n]
        spaced = spaced_budgets(self._problem, cost_name, cost, n - len(named)) if n > len(named) else named
        return np.unique(np.concatenate([named, spaced]))

    def _new(self, proposed: Genomes, most: int | None) -> Genomes:
        """Those that no recipe proposed before and that can meet the constraints; of many, evenly spread ones."""
        new: Genomes = proposed[
            first_of_new([tuple(row) for row in proposed.tolist()], {genome for _, genome in self.recipes})
        ]
        if self._screen is not None and len(new):
            new = new[np.all(self._screen(new) <= 0, axis=1)]
        if most is None or len(new) <= most:
            return new
        spread: Genomes = new[np.linspace(0, len(new) - 1, most).round().astype(int)]
        return spread

    def _begin(self, purpose: str) -> None:
        """What is measured from now on is for this."""
        self._purpose = purpose
        self.asked.setdefault(purpose, Asked())

    def _named(self, names: Sequence[str], genomes: Genomes) -> Genomes:
        """The genomes, which are entered under their names."""
        self.recipes += [(name, tuple(row)) for name, row in zip(names, genomes.tolist(), strict=True)]
        return genomes

    def _leave_out(self, names: Sequence[str], why: str) -> None:
        self.notes.append(f"not measured before the search: {', '.join(names)}; {why}")


def _gain_sentence(n_options: int, gain: float, objective: str) -> str:
    """What the table says before the search."""
    return (
        f"by what each of {n_options} options costs alone, mixed weight bits could bring {objective} down to "
        f"{gain:.0%} of what equal bits have at the same size"
    )


def _part(left: int, n_methods: int) -> int:
    """Measurements that each of several methods gets of what the table leaves of the budget."""
    return int(SEEDS_SHARE * left) // max(1, n_methods)
