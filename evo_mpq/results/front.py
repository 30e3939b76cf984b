"""The front of a run: what its user keeps, reads, and picks a point from.

``front.json`` is described by ``front.schema.json`` beside this file. Values are in the units stated and in
their original directions.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from evo_mpq.errors import ConfigError, RunError
from evo_mpq.measure.bounds import Bound, parse_bounds
from evo_mpq.measure.statistics import Groups, Interval, Verdict, verdicts
from evo_mpq.optimize.pareto import in_scale, knee, non_dominated
from evo_mpq.results.journal import HeldOut
from evo_mpq.space.policy import Policy
from evo_mpq.space.search_space import SearchSpace
from evo_mpq.typing import BoolVector, FloatMatrix, FloatVector, Genomes, Losses

if TYPE_CHECKING:
    from evo_mpq.measure.objectives import Quantity

GenomeKey: TypeAlias = tuple[int, ...]
SearchValues: TypeAlias = Mapping[str, float | None]
"""Values on the search split by name; None where there is none."""
TestValues: TypeAlias = Mapping[str, Interval | None]
"""Values on the test split by name; None as long as it was not shown, or where it has none."""


@dataclass(frozen=True)
class Column:
    """One objective of a front.

    Attributes:
        name: the key of its values.
        unit: of its values; empty for plain numbers.
        direction: what is better.
        kind: whether its values were measured, are exact, or are modelled.
        scale: in which it enters hypervolume and knee.
    """

    name: str
    unit: str
    direction: Literal["minimize", "maximize"]
    kind: Literal["measured", "exact", "modelled"]
    scale: Literal["linear", "log10"] = "linear"

    @property
    def label(self) -> str:
        """The name with the unit; an estimate is called one wherever it is shown.

        >>> Column("energy", "mJ", "minimize", "modelled").label
        'energy [mJ] (modelled)'
        """
        unit = f" [{self.unit}]" if self.unit else ""
        return f"{self.name}{unit}{' (modelled)' if self.kind == 'modelled' else ''}"

    def losses(self, values: npt.ArrayLike) -> FloatVector:
        """``(n,)`` values as something to minimize, in their own unit."""
        return np.asarray(values, dtype=np.float64) * (1.0 if self.direction == "minimize" else -1.0)


@dataclass(frozen=True)
class Member:
    """One point of a front.

    Attributes:
        id: short hash of the genome; what `Front.pick` and the commands take.
        genome: indices into the values of the genes.
        policy: what the genome means.
        search: values on the search split (and of what needs no samples).
        test: values on the test split with 95 % intervals; shown, never decided by.
    """

    id: str
    genome: GenomeKey
    policy: Policy
    search: SearchValues = field(hash=False)
    test: TestValues = field(hash=False)

    def to_json(self, exact: Collection[str] = ()) -> dict[str, Any]:
        """As in ``front.json``; values of the quantities named in ``exact`` are whole where they are integers."""
        return {
            "id": self.id,
            "genome": list(self.genome),
            "policy": self.policy.to_json(),
            "search": _search_to_json(self.search, exact),
            "test": _test_to_json(self.test),
        }

    @staticmethod
    def from_json(document: Mapping[str, Any]) -> Member:
        """The member that ``to_json`` turned into ``document``.

        Raises:
            KeyError, TypeError, ValueError: it is not of that form.
        """
        return Member(
            document["id"],
            tuple(document["genome"]),
            Policy.from_json(document["policy"]),
            _search_from_json(document["search"]),
            _test_from_json(document["test"]),
        )


@dataclass(frozen=True)
class Seed:
    """What became of the suggestion of an allocation method.

    Attributes:
        name: the method's.
        genome: what it suggested.
        feasible: whether it was measured without failing and meets the constraints.
        search: as in `Member`.
        test: as in `Member`.
        verdict: whether the test split confirms that the member which dominates it on the search split is
            better; None where there is nothing to compare (infeasible, or no values per test sample).
    """

    name: str
    genome: GenomeKey
    feasible: bool
    search: SearchValues = field(hash=False)
    test: TestValues = field(hash=False)
    verdict: Verdict | None = None


@dataclass(frozen=True)
class Hypervolume:
    """How the dominated hypervolume grew, on the scales of the objectives.

    Attributes:
        value: at the end; None as long as no reference point is fixed.
        reference_point: one number an objective, all minimized, on the objectives' scales.
        per_generation: after each generation.
        measurements: distinct genomes measured by then, one number a generation.
    """

    value: float | None = None
    reference_point: tuple[float, ...] = ()
    per_generation: tuple[float, ...] = ()
    measurements: tuple[int, ...] = ()


@dataclass(frozen=True)
class Front:
    """The non-dominated, feasible, fully measured points of a run, and what they are compared with.

    Attributes:
        finished: the budget was spent (or the space exhausted); otherwise there are no test values.
        reproducible: the front follows from the settings alone; False once a replay asked for something else.
        objectives: in the order of the settings.
        genes: the values of each gene by name.
        measurements: number of distinct genomes measured.
        cpu_seconds: what all measurements took, over all processes.
        sample_forwards: how many samples went through a network.
        hypervolume: its growth.
        reference_search: the uncompressed network on the search split.
        reference_test: the uncompressed network on the test split.
        seeds: suggestions of allocation methods that were measured.
        members: ordered by the first objective, best first.
    """

    finished: bool
    reproducible: bool
    objectives: tuple[Column, ...]
    genes: Mapping[str, tuple[Any, ...]] = field(hash=False)
    measurements: int
    cpu_seconds: float
    sample_forwards: int
    hypervolume: Hypervolume
    reference_search: SearchValues = field(hash=False)
    reference_test: TestValues = field(hash=False)
    seeds: tuple[Seed, ...]
    members: tuple[Member, ...]

    @property
    def leading(self) -> Column:
        """The first measured objective, by which points within a bound are ranked; else the first."""
        return next((column for column in self.objectives if column.kind == "measured"), self.objectives[0])

    @cached_property
    def knee(self) -> Member:
        """The member farthest below the line (hyperplane) through the front's extremes, see `pareto.knee`.

        Raises:
            RunError: the front is empty.
        """
        members = self._some_members()
        losses = np.array([self._losses(member) for member in members])
        return members[knee(in_scale(losses, [column.scale == "log10" for column in self.objectives]))]

    def pick(self, what: str) -> Member:
        """The member that a user means; test values play no part.

        Args:
            what: ``"knee"``, the id of a member, or bounds on search values joined by commas, like
                ``"size<=40kB"``: of the members within them, the best in the first measured objective.

        Raises:
            ConfigError: it is none of these, or no member is within the bounds (the message names the
                nearest).
            RunError: the front is empty.
        """
        members = self._some_members()
        text = what.strip()
        if any(sign in text for sign in "<>=≤≥"):
            return self._best_within(parse_bounds(text, {c.name: c.unit for c in self.objectives}), text)
        if text == "knee":
            return self.knee
        for member in members:
            if member.id == text:
                return member
        ids = [member.id for member in members]
        close = difflib.get_close_matches(text, ["knee", *ids], n=1)
        hint = f'. Did you mean "{close[0]}"?' if close else ""
        raise ConfigError(
            f'"{what}" is neither "knee", nor the id of one of the {len(ids)} members ({ids[0]}, …), nor a '
            f'bound like "size<=40kB"{hint}'
        )

    def best_within(self, bounds: str) -> Member | None:
        """What `pick` takes for bounds; None where no member is within them."""
        try:
            return self.pick(bounds)
        except ConfigError:
            return None

    def _some_members(self) -> tuple[Member, ...]:
        if not self.members:
            raise RunError("the front is empty: nothing that meets the constraints was measured")
        return self.members

    def _best_within(self, bounds: Sequence[Bound], text: str) -> Member:
        names = list(self.members[0].search)
        for bound in bounds:
            if bound.name not in names:
                close = difflib.get_close_matches(bound.name, names, n=1)
                hint = f'. Did you mean "{close[0]}"?' if close else ""
                known = ", ".join(names)
                raise ConfigError(f'"{bound.name}" is no value of the front; there are {known}{hint}')
        within = [
            member
            for member in self.members
            if all(bound.holds(_number(member.search[bound.name])) for bound in bounds)
        ]
        if not within:
            raise ConfigError(self._nearest(bounds, text))
        return min(within, key=self._rank)

    def _losses(self, member: Member) -> tuple[float, ...]:
        return tuple(float(column.losses(_number(member.search[column.name]))) for column in self.objectives)

    def _rank(self, member: Member) -> tuple[float, ...]:
        """Losses, the first measured objective's before all."""
        losses = self._losses(member)
        return (losses[self.objectives.index(self.leading)], *losses)

    def _nearest(self, bounds: Sequence[Bound], text: str) -> str:
        nearest = min(
            self.members,
            key=lambda member: sum(_excess(bound, _number(member.search[bound.name])) for bound in bounds),
        )
        units = {column.name: column.unit for column in self.objectives}
        values = ", ".join(
            f"{bound.name} {_number(nearest.search[bound.name]):.12g} {units.get(bound.name, '')}".rstrip()
            for bound in bounds
        )
        return f'no member of the front meets "{text}"; the nearest is {nearest.id} with {values}'

    # JSON

    def to_json(self) -> dict[str, Any]:
        """The document of ``front.json``."""
        exact = {column.name for column in self.objectives if column.kind == "exact"}
        return {
            "finished": self.finished,
            "reproducible": self.reproducible,
            "objectives": [
                {
                    "name": column.name,
                    "unit": column.unit,
                    "direction": column.direction,
                    "kind": column.kind,
                    "scale": column.scale,
                }
                for column in self.objectives
            ],
            "genes": [{"name": name, "values": list(values)} for name, values in self.genes.items()],
            "measurements": self.measurements,
            "cost": {"cpu_seconds": self.cpu_seconds, "sample_forwards": self.sample_forwards},
            "hypervolume": {
                "value": self.hypervolume.value,
                "reference_point": list(self.hypervolume.reference_point),
                "per_generation": list(self.hypervolume.per_generation),
                "measurements": list(self.hypervolume.measurements),
            },
            "reference": {
                "search": _search_to_json(self.reference_search, exact),
                "test": _test_to_json(self.reference_test),
            },
            "seeds": [
                {
                    "name": seed.name,
                    "genome": list(seed.genome),
                    "feasible": seed.feasible,
                    "search": _search_to_json(seed.search, exact),
                    "test": _test_to_json(seed.test),
                    "verdict": seed.verdict,
                }
                for seed in self.seeds
            ],
            "members": [member.to_json(exact) for member in self.members],
        }

    @staticmethod
    def from_json(document: Mapping[str, Any]) -> Front:
        """The front that ``to_json`` turned into ``document``.

        Raises:
            KeyError, TypeError, ValueError: it is not of that form; ``front.schema.json`` tells where.
        """
        hypervolume = document["hypervolume"]
        return Front(
            finished=document["finished"],
            reproducible=document["reproducible"],
            objectives=tuple(Column(**column) for column in document["objectives"]),
            genes={gene["name"]: tuple(gene["values"]) for gene in document["genes"]},
            measurements=document["measurements"],
            cpu_seconds=document["cost"]["cpu_seconds"],
            sample_forwards=document["cost"]["sample_forwards"],
            hypervolume=Hypervolume(
                hypervolume["value"],
                tuple(hypervolume["reference_point"]),
                tuple(hypervolume["per_generation"]),
                tuple(hypervolume["measurements"]),
            ),
            reference_search=_search_from_json(document["reference"]["search"]),
            reference_test=_test_from_json(document["reference"]["test"]),
            seeds=tuple(
                Seed(
                    seed["name"],
                    tuple(seed["genome"]),
                    seed["feasible"],
                    _search_from_json(seed["search"]),
                    _test_from_json(seed["test"]),
                    seed["verdict"],
                )
                for seed in document["seeds"]
            ),
            members=tuple(map(Member.from_json, document["members"])),
        )

    @staticmethod
    def read(path: Path) -> Front:
        """The front that a ``front.json`` holds.

        Raises:
            RunError: there is none, or it is no front.
        """
        try:
            return Front.from_json(json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError as error:
            raise RunError(f"there is no {path}; a run writes it when it ends or is interrupted") from error
        except OSError as error:
            raise RunError(f"cannot read {path}: {error.strerror}") from error
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(
                f"{path} is not a front that this version reads ({type(error).__name__}: {error}); "
                "run the same command again to write it anew"
            ) from error


def build_front(
    *,
    space: SearchSpace,
    quantities: Sequence[Quantity],
    objectives: Sequence[str],
    genomes: Genomes,
    values: FloatMatrix,
    feasible: BoolVector,
    seeds: Sequence[tuple[str, GenomeKey]],
    reference: Mapping[str, float],
    test_names: Sequence[str],
    held_out: Mapping[GenomeKey | None, HeldOut],
    hypervolume: Hypervolume,
    measurements: int,
    cpu_seconds: float,
    sample_forwards: int,
    finished: bool,
    reproducible: bool,
    groups: Groups = None,
) -> Front:
    """The front of everything that was measured, with the verdict on every seed.

    Args:
        space: gives genes, policies and ids.
        quantities: what the columns of ``values`` are.
        objectives: names of those quantities that are objectives, in the order of the settings.
        genomes: ``(n, n_genes)`` all that was measured at full fidelity, in the order it was measured: of
            rows with equal objectives, the first stays.
        values: ``(n, n_quantities)`` raw values, NaN in failed rows.
        feasible: ``(n,)`` rows that did not fail and meet the constraints.
        seeds: name and genome of each suggestion; those that were not measured are left out.
        reference: search values of the uncompressed network by name.
        test_names: what is reported on the test split.
        held_out: what the test split said, by genome; None is the uncompressed network.
        hypervolume: its growth.
        measurements: number of distinct genomes measured.
        cpu_seconds: what all measurements took.
        sample_forwards: how many samples went through a network.
        finished: the budget was spent.
        reproducible: no replay asked for something else.
        groups: ``(n_samples,)`` labels of the test samples that belong together, for the verdicts.
    """
    by_name = {quantity.name: quantity for quantity in quantities}
    names = list(by_name)
    # a journal without measurements does not know how wide its rows would be
    genomes, values = genomes.reshape(-1, space.n_genes), values.reshape(-1, len(names))
    columns = tuple(column_of(by_name[name]) for name in objectives)
    losses = np.stack([column.losses(values[:, names.index(column.name)]) for column in columns], axis=1)
    front = front_rows(losses, feasible)
    rows = {tuple(genome): row for row, genome in enumerate(np.asarray(genomes).tolist())}

    def key(row: int) -> GenomeKey:
        return tuple(int(gene) for gene in genomes[row])

    def search(row: int) -> dict[str, float | None]:
        return _search_values(dict(zip(names, values[row].tolist(), strict=True)))

    def test(genome: GenomeKey | None) -> dict[str, Interval | None]:
        shown = held_out[genome].intervals if genome in held_out else {}
        return {name: _known(shown.get(name)) for name in test_names}

    lead = next((place for place, column in enumerate(columns) if column.kind == "measured"), 0)

    def rival(genome: GenomeKey) -> GenomeKey | None:
        row = rows[genome]
        member = dominating_row(losses, front, row, lead) if feasible[row] else None
        return None if member is None else key(member)

    measured = [(name, genome) for name, genome in seeds if genome in rows]
    judged = _verdicts([(genome, rival(genome)) for _, genome in measured], held_out, columns[lead], groups)
    return Front(
        finished=finished,
        reproducible=reproducible,
        objectives=columns,
        genes={gene.name: tuple(gene.values) for gene in space.genes},
        measurements=measurements,
        cpu_seconds=float(cpu_seconds),
        sample_forwards=int(sample_forwards),
        hypervolume=hypervolume,
        reference_search=_search_values(reference),
        reference_test=test(None),
        seeds=tuple(
            Seed(name, genome, bool(feasible[rows[genome]]), search(rows[genome]), test(genome), found)
            for (name, genome), found in zip(measured, judged, strict=True)
        ),
        members=tuple(
            Member(space.genome_id(key(row)), key(row), policy, search(row), test(key(row)))
            for row, policy in zip(front.tolist(), space.decode(genomes[front]), strict=True)
        ),
    )


def front_rows(losses: Losses, feasible: BoolVector) -> npt.NDArray[np.int64]:
    """Rows of the non-dominated, feasible points, ordered by their losses; of equal points the first row.

    Args:
        losses: ``(n, m)``, all minimized; rows that are not finite never count.
        feasible: ``(n,)`` which rows count.

    Returns:
        ``(f,)`` rows, in lexicographic order of their losses.

    >>> front_rows(np.array([[2.0, 1.0], [1.0, 2.0], [2.0, 2.0], [1.0, 2.0]]), np.ones(4, dtype=bool))
    array([1, 0])
    """
    candidates = np.flatnonzero(feasible)
    rows = candidates[non_dominated(losses[candidates])]
    return rows[np.lexsort(losses[rows].T[::-1])]


def dominating_row(losses: Losses, front: npt.NDArray[np.int64], row: int, lead: int) -> int | None:
    """Of the front's rows that weakly dominate ``row``, the one with the lowest loss in column ``lead``."""
    dominating = front[np.all(losses[front] <= losses[row], axis=1)]
    return int(dominating[np.argmin(losses[dominating, lead])]) if len(dominating) else None


def front_schema() -> dict[str, Any]:
    """The JSON schema of ``front.json``, as it ships with the package."""
    text = (files("evo_mpq.results") / "front.schema.json").read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


def column_of(quantity: Quantity) -> Column:
    """The column of a quantity."""
    scale: Literal["linear", "log10"] = "log10" if quantity.log_scale else "linear"
    return Column(quantity.name, quantity.unit, quantity.direction, quantity.kind, scale)


def _verdicts(
    pairs: Sequence[tuple[GenomeKey, GenomeKey | None]],
    held_out: Mapping[GenomeKey | None, HeldOut],
    column: Column,
    groups: Groups,
) -> list[Verdict | None]:
    """What the test split says of each seed and the member that dominates it; None where it cannot compare them."""
    found: list[Verdict | None] = [None] * len(pairs)
    compared: dict[int, tuple[FloatVector, FloatVector]] = {}
    for place, (seed, member) in enumerate(pairs):
        first, second = _per_sample(held_out.get(seed)), None if member is None else _per_sample(held_out.get(member))
        if first is not None and second is not None:
            compared[place] = first, second
    if compared:
        seeds, members = (np.stack(rows) for rows in zip(*compared.values(), strict=True))
        for place, said in zip(compared, verdicts(seeds, members, groups, direction=column.direction), strict=True):
            found[place] = said
    return found


def _per_sample(shown: HeldOut | None) -> FloatVector | None:
    """Test values per sample, if all samples have one."""
    values = None if shown is None else shown.per_sample
    return None if values is None or np.isnan(values).any() else values


def _excess(bound: Bound, value: float) -> float:
    """By how much a value is out of a bound, relative to it."""
    excess = value - bound.value if bound.comparison == "<=" else bound.value - value
    return max(excess, 0.0) / max(abs(bound.value), 1e-12)


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _known(interval: Interval | None) -> Interval | None:
    """JSON has no NaN and no infinity: such a test value is none."""
    return interval if interval is not None and math.isfinite(interval.value) else None


def _search_values(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: float(value) if math.isfinite(value) else None for name, value in values.items()}


def _search_to_json(values: SearchValues, exact: Collection[str]) -> dict[str, float | None]:
    # bytes and operations are counted: 38400, not 38400.0
    return {
        name: int(value) if value is not None and name in exact and value.is_integer() else value
        for name, value in values.items()
    }


def _search_from_json(values: Mapping[str, float | None]) -> dict[str, float | None]:
    return {name: None if value is None else float(value) for name, value in values.items()}


def _test_to_json(values: TestValues) -> dict[str, dict[str, float | None]]:
    return {
        name: {"value": None, "low": None, "high": None}
        if interval is None
        else {"value": interval.value, "low": interval.low, "high": interval.high}
        for name, interval in values.items()
    }


def _test_from_json(values: Mapping[str, Mapping[str, float | None]]) -> dict[str, Interval | None]:
    return {
        name: None if entry["value"] is None else Interval(entry["value"], entry["low"], entry["high"])
        for name, entry in values.items()
    }
