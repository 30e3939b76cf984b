"""One allocation method, one budget, one measured policy: what other tools give, without a search."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evo_mpq.costs import cost_of, lead_objective, tables_of
from evo_mpq.errors import ConfigError, EvoMpqError
from evo_mpq.measure.bounds import Bound, parse_bounds
from evo_mpq.optimize.loop import Spending
from evo_mpq.optimize.seeders.seeder import Seeder
from evo_mpq.predict.factored import FactoredFunction, NotASum
from evo_mpq.problem import Problem
from evo_mpq.reporters import Reporter
from evo_mpq.results.front import Column, Member, column_of
from evo_mpq.results.journal import Journal
from evo_mpq.results.run_directory import RunDirectory
from evo_mpq.session import ASIDE, Session, session_aside


@dataclass(frozen=True)
class Allocation:
    """What a method chose.

    Attributes:
        method: its name.
        member: the policy with its search and test values.
        columns: what these values are, those of the search split.
        loss: of the objective that methods minimize, on the search split.
        measurements: of distinct genomes, for its tables and its choice; earlier ones are counted, too.
        cpu_seconds: of this process, for what of this was not known from earlier ones.
        path: where it is kept in the run directory.
    """

    method: str
    member: Member
    columns: tuple[Column, ...]
    loss: float
    measurements: int
    cpu_seconds: float
    path: Path


@dataclass(frozen=True)
class NotApplicable:
    """A method that cannot be applied.

    Attributes:
        method: its name.
        why: for people.
    """

    method: str
    why: str


def allocate(
    problem: Problem,
    directory: RunDirectory,
    seeders: Mapping[str, Seeder],
    budget: str,
    *,
    base: Path | None = None,
    workers: int | str | None = None,
    reporter: Reporter | None = None,
    interrupted: Callable[[], bool] = lambda: False,
) -> list[Allocation | NotApplicable]:
    """The choice of each method within a budget, measured; kept in the directory's ``allocations``.

    What the directory's journal knows is not measured again, and what is measured here a run in the same directory
    need not measure; nothing else about that run changes.

    Args:
        problem: whose genomes are chosen from.
        directory: locked.
        seeders: the methods by name.
        budget: such as ``"size<=40kB"``.
        base: folder of the user's modules.
        workers: overrides the settings' number of processes.
        reporter: told about long steps.
        interrupted: asked between chunks of measuring whether to stop.

    Raises:
        ConfigError: the budget is none, or no genome is within it (the message has the nearest).
        KeyboardInterrupt: interrupted; what was measured is kept.
        EvoMpqError: the directory holds another run, the disk is full, …
    """
    bound, cost = budgeted(problem, budget)
    if lead_objective(problem) is None:
        raise ConfigError("every objective is computed, so there is nothing that a method could minimize")
    with session_aside(
        problem, directory, base=base, workers=workers, reporter=reporter, interrupted=interrupted
    ) as session:
        return [
            _choice(session, directory, name, seeder, bound, cost, alone=len(seeders) == 1)
            for name, seeder in seeders.items()
        ]


def budgeted(problem: Problem, budget: str) -> tuple[Bound, FactoredFunction]:
    """The bound that a text states, on a cost that methods can allocate.

    Raises:
        ConfigError: it is no upper bound on a cost that is a sum over layers, or the cheapest genome is above it.
    """
    units = {quantity.name: quantity.unit for quantity in problem.quantities} | {"size": "B"}
    bounds = parse_bounds(budget, units)
    free = [quantity.name for quantity in problem.quantities if quantity.form == "free"]
    known = list(dict.fromkeys(["size", *free]))
    if len(bounds) > 1 or bounds[0].comparison != "<=" or bounds[0].name not in known:
        raise ConfigError(f'"{budget}" must be one upper bound on {" or ".join(known)}, such as "size<=40kB"')
    [bound] = bounds
    try:
        _, cost = cost_of(problem, bound.name)
    except NotASum as error:
        raise ConfigError(f"methods cannot allocate {bound.name}: {error}") from error
    lowest = float(cost(problem.space.cheapest()[None])[0])
    if lowest > bound.value:
        raise ConfigError(
            f'no genome of the space meets "{budget}"; the cheapest has {bound.name} {lowest:,.12g} '
            f"{units[bound.name]}. Loosen the bound, or offer cheaper options in the space"
        )
    return bound, cost


def _choice(
    session: Session,
    directory: RunDirectory,
    name: str,
    seeder: Seeder,
    bound: Bound,
    cost: FactoredFunction,
    *,
    alone: bool,
) -> Allocation | NotApplicable:
    problem = session.problem
    lead = lead_objective(problem)
    assert lead is not None, "checked before"
    spending = Spending()
    measure = session.measure_aside(spending, name)
    session.reporter.stage(0, 0, name)
    began = time.process_time()
    try:
        tables = tables_of(problem, lead, measure, cost)
        genome = seeder(problem.space, tables, np.array([bound.value]))[0]
        found = measure(genome[None])
    except EvoMpqError as error:
        if alone:
            raise
        return NotApplicable(name, str(error))
    seconds = time.process_time() - began
    if found.failures[0] is not None:
        return NotApplicable(name, found.failures[0])
    session.show_test([tuple(genome.tolist())])
    member = _member(problem, session.journal, tuple(genome.tolist()))
    document = {
        "method": name,
        "budget": str(bound),
        "measurements": int(spending.evaluations),
        "cpu_seconds": seconds,
        **member.to_json(),
    }
    path = directory.write_allocation(re.sub(r"[^\w.]+", "-", f"{name}-{bound}"), document)
    columns = tuple(map(column_of, problem.quantities))
    loss = float(found.losses[0, problem.objectives.index(lead)])
    return Allocation(name, member, columns, loss, int(spending.evaluations), seconds, path)


def _member(problem: Problem, journal: Journal, genome: tuple[int, ...]) -> Member:
    """A measured genome as if it were on the front."""
    row, held_out = journal.known(genome, ASIDE), journal.held_out(genome)
    assert row is not None and held_out is not None, "it was just measured"
    array = np.array(genome, dtype=np.int64)
    return Member(
        problem.space.genome_id(array),
        genome,
        problem.space.decode(array[None])[0],
        {quantity.name: value for quantity, value in zip(problem.quantities, row.values, strict=True)},
        {name: held_out.intervals.get(name) for name in problem.measured.tested},
    )
