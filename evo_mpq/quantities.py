"""What a run measures of every candidate: its objectives, what constraints bound, and what is reported besides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from evo_mpq import plugins
from evo_mpq.config import ObjectiveSettings, Settings, did_you_mean
from evo_mpq.errors import ConfigError, Mistake, Mistakes
from evo_mpq.measure.bounds import Bound, bounded_name, parse_bound, parse_bounds
from evo_mpq.measure.candidate import Candidate
from evo_mpq.measure.objectives import Constraint, Quantity, as_quantity, probe, unique_names

DIVERGENCE, SOFTENED, ACCURACY = "kl_divergence", "soft_kl_divergence", "accuracy"
"""Built-in quantities that play parts of their own, by the names under which they come in."""

EntryPath: TypeAlias = tuple[str, int]
"""Where the settings name a quantity: ``("objectives", 0)``."""


@dataclass(frozen=True, eq=False)
class Quantities:
    """Everything that is measured of a candidate, by the part that it plays.

    Attributes:
        objectives: what the front trades off.
        metrics: what is reported on the test split besides; objectives may be among them.
        constraints: bounds on objectives, metrics or other quantities.
        picks: bounds on objectives that points will be picked within, all of an entry at once.
    """

    objectives: tuple[Quantity, ...]
    metrics: tuple[Quantity, ...] = ()
    constraints: tuple[Constraint, ...] = ()
    picks: tuple[tuple[Constraint, ...], ...] = ()

    @property
    def all(self) -> tuple[Quantity, ...]:
        """Each once, objectives first: the columns of the run's values."""
        bounded = [constraint.quantity for constraint in self.constraints]
        return tuple({quantity.name: quantity for quantity in [*self.objectives, *bounded, *self.metrics]}.values())

    @property
    def tested(self) -> tuple[str, ...]:
        """Names of those that are reported on the test split: objectives and metrics of outputs."""
        reported = [quantity.name for quantity in [*self.objectives, *self.metrics] if quantity.form == "outputs"]
        return tuple(dict.fromkeys(reported))

    @property
    def sources(self) -> tuple[Any, ...]:
        """The objects that compute them, as the user wrote them."""
        return tuple(getattr(quantity.object, "metric", quantity.object) for quantity in self.all)

    def with_default_metrics(self, *, class_labels: bool) -> Quantities:
        """These with the metrics of settings that name none: accuracy, and the plain divergence beside a softened one.

        Where something else has the name of one, that is reported.
        """
        softened = any(_is_a(SOFTENED, quantity) for quantity in self.objectives)
        wanted = [*([ACCURACY] if class_labels else []), *([DIVERGENCE] if softened else [])]
        named = {quantity.name: quantity for quantity in self.all}
        return replace(self, metrics=(*self.metrics, *(named.get(name) or _built_in(name) for name in wanted)))

    def probed(self, candidate: Candidate) -> Quantities:
        """These in their final forms: whether a called one is free is found by calling it for a candidate."""
        final = {quantity.name: probe(quantity, candidate) for quantity in self.all}
        return Quantities(
            tuple(final[quantity.name] for quantity in self.objectives),
            tuple(final[quantity.name] for quantity in self.metrics),
            _of(final, self.constraints),
            tuple(_of(final, bounds) for bounds in self.picks),
        )


def _of(quantities: Mapping[str, Quantity], bounds: Sequence[Constraint]) -> tuple[Constraint, ...]:
    """Bounds on quantities of the same names."""
    return tuple(replace(bound, quantity=quantities[bound.quantity.name]) for bound in bounds)


def is_divergence(quantity: Quantity) -> bool:
    """Whether it compares the outputs' probabilities with the float network's, and needs no labels."""
    return _is_a(DIVERGENCE, quantity)


def _is_a(name: str, quantity: Quantity) -> bool:
    """Whether it is the built-in quantity of that name, or a kind of it."""
    return isinstance(quantity.object, plugins.resolve(name, "objectives", None))


def read_quantities(settings: Settings, base: Path | None) -> Quantities:
    """The quantities that the settings name.

    Args:
        settings: of the run.
        base: the folder that the user's modules are looked for in.

    Raises:
        ConfigError: every mistake in objectives, metrics and constraints.
    """
    entries = _entries(settings)
    places = {path: _first_place(path, entries) for path in entries}
    mistakes = Mistakes()
    read: dict[EntryPath, Quantity] = {}
    for path in dict.fromkeys(places.values()):
        with mistakes.about(*path):
            read[path] = _quantity(entries[path], base, path)
    with mistakes.about():
        _check_names(read)
    constraints = _constraints(settings.constraints, list(read.values()), mistakes)
    objectives = tuple(read[place] for path, place in places.items() if path[0] == "objectives" and place in read)
    picks = _picks(settings.search.picks, objectives, mistakes)
    mistakes.check()
    return Quantities(
        objectives,
        tuple(read[place] for path, place in places.items() if path[0] == "metrics"),
        constraints,
        picks,
    )


def _entries(settings: Settings) -> dict[EntryPath, ObjectiveSettings]:
    lists = {"objectives": settings.objectives, "metrics": settings.metrics or ()}
    return {(key, i): entry for key, entries in lists.items() for i, entry in enumerate(entries)}


def _first_place(path: EntryPath, entries: Mapping[EntryPath, ObjectiveSettings]) -> EntryPath:
    """Where the quantity of an entry is read: a metric that is an objective, too, is measured once."""
    if path[0] != "metrics":
        return path
    objectives = [other for other in entries if other[0] == "objectives"]
    return next((other for other in objectives if _same(entries[other], entries[path])), path)


def _same(entry: ObjectiveSettings, other: ObjectiveSettings) -> bool:
    """Whether two entries name one quantity; objects are compared by identity, as metrics redefine equality."""
    texts = isinstance(entry.kind, str) and entry.kind == other.kind
    return (texts or entry.kind is other.kind) and entry.plain() == other.plain()


def _quantity(entry: ObjectiveSettings, base: Path | None, path: EntryPath) -> Quantity:
    source, options = plugins.resolve(entry.kind, "objectives", base, (*path, "kind")), entry.options
    if isinstance(source, type):
        source = plugins.call_factory(
            source,
            options,
            kind=entry.kind,
            key_path=path,
            base=base,
            offered={"base": base},
            keys=("name", "unit", "direction"),
        )
        options = {}
    try:
        return as_quantity(source, name=entry.name, unit=entry.unit, direction=entry.direction, options=options)
    except ConfigError as error:
        raise ConfigError([Mistake((*path, *mistake.path), mistake.message) for mistake in error.mistakes]) from error


def _built_in(name: str) -> Quantity:
    return as_quantity(plugins.resolve(name, "objectives", None))


def _check_names(read: Mapping[EntryPath, Quantity]) -> None:
    """Refuses two quantities of one name, at the later one's place."""
    paths = list(read)
    try:
        unique_names(list(read.values()))
    except ConfigError as error:
        repeated = [Mistake(paths[int(mistake.path[0])], mistake.message) for mistake in error.mistakes]
        raise ConfigError(repeated) from error


def _constraints(texts: Sequence[str], known: Sequence[Quantity], mistakes: Mistakes) -> tuple[Constraint, ...]:
    """The bounds that texts state; on what is known, or a built-in quantity."""
    by_name = {quantity.name: quantity for quantity in known}
    complete = not mistakes.found  # otherwise an unknown name may only be a consequence
    constraints = []
    for i, text in enumerate(texts):
        with mistakes.about("constraints", i):
            name = bounded_name(text)
            if name not in by_name and not complete and name not in plugins.available("objectives"):
                continue
            quantity = by_name.setdefault(name, by_name.get(name) or _bounded(name, by_name))
            bound = parse_bound(text, {name: quantity.unit})
            constraints.append(Constraint(quantity, bound.comparison, bound.value))
    return tuple(constraints)


def _picks(
    texts: Sequence[str], objectives: Sequence[Quantity], mistakes: Mistakes
) -> tuple[tuple[Constraint, ...], ...]:
    """The bounds on objectives that texts state."""
    by_name = {objective.name: objective for objective in objectives}
    units = {name: objective.unit for name, objective in by_name.items()}
    complete = not mistakes.found  # otherwise an unknown name may only be a consequence
    picks = []
    for place, text in enumerate(texts if complete else ()):
        with mistakes.about("search", "picks", place):
            picks.append(tuple(_pick(bound, by_name) for bound in parse_bounds(text, units)))
    return tuple(picks)


def _pick(bound: Bound, objectives: Mapping[str, Quantity]) -> Constraint:
    """A bound on an objective that leaves what is better."""
    objective = objectives.get(bound.name)
    if objective is None:
        raise ConfigError(
            f'"{bound.name}" is no objective{did_you_mean(bound.name, objectives)}; points are picked within bounds on '
            f"{', '.join(objectives)}"
        )
    constraint = Constraint(objective, bound.comparison, bound.value)
    if not constraint.leaves_better:
        better, comparison = ("lower", "<=") if objective.direction == "minimize" else ("higher", ">=")
        raise ConfigError(f"{bound.name} is better when {better}: say {bound.name} {comparison} the worst to pick")
    return constraint


def _bounded(name: str, known: Mapping[str, Any]) -> Quantity:
    """The built-in quantity of that name.

    Raises:
        ConfigError: there is none; the message has the nearest name.
    """
    offered = plugins.available("objectives")
    if name in offered:
        return _built_in(name)
    names = [*known, *(name for name in offered if name not in known)]
    raise ConfigError(
        f'there is no "{name}" to bound{did_you_mean(name, names)}; known are {", ".join(names)}. Quantities of your '
        "own are bounded by their names if they stand under objectives or metrics"
    )
