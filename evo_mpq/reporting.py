"""What a journal says of a problem: the front that its user keeps, and the report about it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from evo_mpq import plugins
from evo_mpq.config import dump, resolved
from evo_mpq.errors import RunError
from evo_mpq.measure.candidate import Candidate
from evo_mpq.measure.measurements import Values
from evo_mpq.measure.objectives import Constraint
from evo_mpq.measure.statistics import WANTED_RELATIVE_ERROR, Groups
from evo_mpq.network.products import Product
from evo_mpq.optimize.loop import Result
from evo_mpq.problem import Problem
from evo_mpq.quantities import is_divergence
from evo_mpq.results.front import Front, GenomeKey, Hypervolume, Member, build_front, front_rows
from evo_mpq.results.journal import Journal
from evo_mpq.results.remains import inactive_genes, prunable_layers, remains
from evo_mpq.results.report import write_report
from evo_mpq.results.report.predictions import mistake_in
from evo_mpq.results.run_directory import RunDirectory, versions
from evo_mpq.results.savings import savings
from evo_mpq.space.genes import DROP_KIND
from evo_mpq.typing import BoolVector, FloatVector, Genomes


def measured_rows(problem: Problem, journal: Journal) -> tuple[Genomes, Values]:
    """``(n, n_genes)`` genomes that were measured on the whole search split, in order, and their values."""
    genomes, values = journal.rows()
    # a journal without measurements does not know how wide its rows would be
    shape = (len(genomes), len(problem.quantities))
    return genomes.reshape(-1, problem.space.n_genes), Values(
        values.values.reshape(shape), values.standard_errors.reshape(shape), values.failures
    )


def feasible_rows(problem: Problem, values: Values) -> BoolVector:
    """``(n,)`` rows that did not fail and meet the constraints."""
    feasible = np.array([failure is None for failure in values.failures], dtype=bool)
    for constraint in problem.constraints:
        feasible &= constraint.violation(column(problem, values, constraint.quantity.name)) <= 0
    return feasible


def column(problem: Problem, values: Values, name: str) -> FloatVector:
    """``(n,)`` values of one quantity."""
    return values.values[:, [quantity.name for quantity in problem.quantities].index(name)]


def front_genomes(problem: Problem, journal: Journal) -> list[GenomeKey]:
    """The genomes of the front, best in the first objective first."""
    genomes, values = measured_rows(problem, journal)
    losses = [quantity.loss(column(problem, values, quantity.name)) for quantity in problem.objectives]
    rows = front_rows(np.stack(losses, axis=1), feasible_rows(problem, values))
    return [tuple(genome) for genome in genomes[rows].tolist()]


def front_of(
    problem: Problem,
    journal: Journal,
    result: Result,
    recipes: Sequence[tuple[str, GenomeKey]],
    *,
    finished: bool,
) -> Front:
    """The front of everything that was measured.

    Args:
        problem: that was searched.
        journal: what was measured.
        result: of the search, for its hypervolume.
        recipes: name and genome of those that the front is compared with.
        finished: whether the budget was spent and the test split shown; until then there are no test values, not
            even of members that an earlier budget ended with.
    """
    genomes, values = measured_rows(problem, journal)
    shown: list[GenomeKey | None] = [None, *(tuple(genome) for genome in genomes.tolist())] if finished else []
    reference = journal.reference()
    return build_front(
        space=problem.space,
        quantities=problem.quantities,
        objectives=[quantity.name for quantity in problem.objectives],
        genomes=genomes,
        values=values.values,
        feasible=feasible_rows(problem, values),
        seeds=recipes,
        reference={
            quantity.name: float("nan") if value is None else value
            for quantity, value in zip(problem.quantities, reference.values if reference else (), strict=False)
        },
        test_names=problem.measured.tested,
        held_out={key: found for key in shown if (found := journal.held_out(key)) is not None},
        hypervolume=_hypervolume(result),
        measurements=journal.n_measured,
        cpu_seconds=journal.cpu_seconds,
        sample_forwards=journal.samples,
        finished=finished,
        reproducible=not journal.diverged,
        groups=_test_groups(problem),
    )


def _test_groups(problem: Problem) -> Groups:
    """Labels of the samples that values of the first measured objective on the test split are of, for verdicts.

    None where they are independent, or where the objective measures on inputs of its own.
    """
    test = problem.network.splits.test
    lead = next((quantity for quantity in problem.objectives if quantity.kind == "measured"), None)
    return None if lead is None or lead.inputs(test) is not None else test.groups


def _hypervolume(result: Result) -> Hypervolume:
    return Hypervolume(
        result.hypervolumes[-1][1] if result.hypervolumes else None,
        () if result.box is None else tuple(result.box.reference_point.tolist()),
        tuple(value for _, value in result.hypervolumes),
        tuple(count for count, _ in result.hypervolumes),
    )


def why_empty(problem: Problem, journal: Journal) -> str:
    """Why nothing is on the front: how near the candidates came to each constraint."""
    _, values = measured_rows(problem, journal)
    parts = []
    for constraint in problem.constraints:
        found = column(problem, values, constraint.quantity.name)
        found = found[np.isfinite(found)]
        if len(found):
            nearest = found.min() if constraint.comparison == "<=" else found.max()
            parts.append(f"{constraint} (nearest: {nearest:.6g})")
    if not parts:
        return "nothing was measured that could be on the front"
    listed = " and ".join(parts)
    return f"none of {len(values)} measured candidates meets {listed}; loosen the constraints or offer other options"


def split_note(problem: Problem, journal: Journal, front: Front) -> str | None:
    """What to do about a search split that is too small to rank the members; None where it is large enough.

    Members are compared on the same samples, so that their differences are known better than they are: twice the
    wanted standard error is let pass.
    """
    lead = next(
        (quantity for quantity in problem.objectives if quantity.form == "outputs" and quantity.log_scale), None
    )
    if lead is None:
        return None
    place = [quantity.name for quantity in problem.quantities].index(lead.name)
    rows = [row for member in front.members if (row := journal.known(member.genome)) is not None]
    pairs = [(row.values[place], row.standard_errors[place]) for row in rows]
    relative = [error / value for value, error in pairs if value is not None and error is not None and value > 0]
    if not relative or (median := float(np.median(relative))) <= 2 * WANTED_RELATIVE_ERROR:
        return None
    n = len(problem.network.splits.search)
    needed = math.ceil(n * (median / WANTED_RELATIVE_ERROR) ** 2 / 100) * 100
    unlabeled = "; a divergence needs no labels" if is_divergence(lead) else ""
    return (
        f"{n:,} search samples are few: in the median over the front, the standard error of {lead.name} is "
        f"{median:.0%} of it; about {needed:,} samples would make that {WANTED_RELATIVE_ERROR:.0%}{unlabeled}"
    )


def report_of(problem: Problem, journal: Journal, front: Front, directory: RunDirectory, notes: Sequence[str]) -> str:
    """The report of a run as HTML.

    Args:
        problem: that was searched.
        journal: what was measured.
        front: of it.
        directory: of the run, for the commands to copy and for what was found beside the run. What is there and
            cannot be read is a note in the report.
        notes: what the user should know.
    """
    beside, unread = _beside(directory)
    facts = _facts(problem, journal, front, directory, [*notes, *unread])
    return write_report(front.to_json(), _candidates(problem, journal), {**facts, **beside})


def _beside(directory: RunDirectory) -> tuple[dict[str, Any], list[str]]:
    """Contributions, allocations, predictions and exports in the directory of a run, and why some cannot be read."""
    found: dict[str, Any] = {}
    unread = []
    readers: dict[str, Callable[[], Any]] = {
        "contributions": directory.read_contributions,
        "allocations": directory.read_allocations,
        "predictions": directory.read_predictions,
        "exports": directory.read_exports,
    }
    for name, read in readers.items():
        try:
            found[name] = read()
        except RunError as error:
            unread.append(str(error))
    mistake = mistake_in(found["predictions"]) if found.get("predictions") is not None else None
    if mistake:
        unread.append(f"{directory.path / 'predictions.json'} cannot be read: {mistake}")
        found["predictions"] = None
    return found, unread


def _candidates(problem: Problem, journal: Journal) -> dict[str, Any]:
    """Everything that was measured, in order, for the report."""
    genomes, values = measured_rows(problem, journal)
    listed = genomes.tolist()
    return {
        "genomes": listed,
        "search": {
            quantity.name: [
                value if np.isfinite(value) else None for value in column(problem, values, quantity.name).tolist()
            ]
            for quantity in problem.objectives
        },
        "feasible": feasible_rows(problem, values).tolist(),
        "failures": [
            [genome, failure] for genome, failure in zip(listed, values.failures, strict=True) if failure is not None
        ],
    }


def _bounds(constraints: Sequence[Constraint]) -> list[dict[str, Any]]:
    return [
        {
            "name": constraint.quantity.name,
            "comparison": constraint.comparison,
            "bound": constraint.bound,
            "unit": constraint.quantity.unit,
        }
        for constraint in constraints
    ]


def _pick(front: Front, text: str, bounds: Sequence[Constraint]) -> dict[str, Any]:
    best = front.best_within(text) if front.members else None
    return {"bounds": _bounds(bounds), "best": None if best is None else best.id}


def _facts(
    problem: Problem, journal: Journal, front: Front, directory: RunDirectory, notes: Sequence[str]
) -> dict[str, Any]:
    """What else the report tells about a run; see `evo_mpq.results.report.report_data`."""
    network, space, texts = problem.network, problem.space, problem.settings.search.picks
    return {
        "run": problem.settings.name,
        "network": network.name,
        "layers": _sites(problem),
        "points": _points(problem, front.members),
        "constraints": _bounds(problem.constraints),
        "picks": [_pick(front, text, bounds) for text, bounds in zip(texts, problem.picks, strict=True)],
        "space": {
            "genes": space.n_genes,
            "edges": f"{space.edges} bits" if space.edges else "float",
        },
        "log10_genomes": space.log10_genomes,
        "settings": dump(resolved(problem.settings)),
        "versions": versions(),
        "directory": str(directory.path),
        "methods": plugins.available("seeders"),
        "test_shown": journal.n_held_out,
        "notes": list(notes),
        "samples": {name: len(getattr(network.splits, name)) for name in ("calibration", "search", "test")},
        "log_scale": [quantity.name for quantity in problem.objectives if quantity.log_scale],
        "knee": front.knee.id if front.members else None,
    }


def _sites(problem: Problem) -> list[dict[str, Any]]:
    """The layers and products of the network, and what may be done to their channels and blocks."""
    space = problem.space
    prunable = prunable_layers(space)
    blocks = {
        name: gene.name.removesuffix(f".{DROP_KIND}")
        for gene in space.genes
        if gene.kind == DROP_KIND
        for name in gene.layers
    }
    return [
        {
            "name": site.name,
            "kind": site.kind,
            "shape": [] if isinstance(site, Product) else list(site.shape),
            "n_parameters": 0 if isinstance(site, Product) else site.n_parameters,
            "macs": site.macs,
            "block": blocks.get(site.name),
            "prunable": site.name in prunable,
        }
        for site in problem.network.sites()
    ]


def _points(problem: Problem, members: Sequence[Member]) -> list[dict[str, Any]]:
    """What each member leaves of the network, and where its bytes went."""
    uncompressed = problem.compressor.without_edges()
    prunable = prunable_layers(problem.space)
    points = []
    for member in members:
        candidate = Candidate(member.policy, problem.compressor)
        left = remains(candidate, problem.network.layers, prunable)
        points.append(
            {
                **asdict(left),
                "removed_channels": left.removed_channels,
                "n_bytes": candidate.packed_bytes,
                "savings": savings(member.policy, problem.compressor, uncompressed),
                "inactive_genes": list(inactive_genes(problem.space, left.blocks)),
            }
        )
    return points
