"""The searches that are compared. Each spends a ledger; what it measures is what it has found.

Those of this project are the run's own parts, in its own loop. The others are recipes of papers and of libraries.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from benchmarks.efficiency.worlds import Exhausted, Ledger, World
from evo_mpq.measure.measurements import Measurements, Values
from evo_mpq.optimize.budget import Budget
from evo_mpq.optimize.loop import Recorded, Spending, run_search
from evo_mpq.optimize.pareto import HypervolumeBox, non_dominated
from evo_mpq.optimize.programs.elimination import pareto_program
from evo_mpq.optimize.random_search import RandomSearch
from evo_mpq.optimize.seeders.spdy import spdy
from evo_mpq.optimize.seeders.uniform import uniform
from evo_mpq.optimize.surrogate_search.proposals import weighted
from evo_mpq.predict.tables.options import OptionTable, additive, one_at_a_time_genomes
from evo_mpq.predict.tables.sensitivities import measured_sensitivities
from evo_mpq.predict.tables.tables import Tables
from evo_mpq.problem import Problem
from evo_mpq.searching import make_searcher, prepare, table_share
from evo_mpq.seeding import Seeding
from evo_mpq.typing import Genomes

WEIGHTINGS = 6
"""Of several costs, of which sensitivity + program has a program each."""

RESTLESS = 40
"""Generations in a row that may bring nothing new, of searches that repeat themselves."""

AMQ_START, AMQ_BATCH = 100, 25
"""Random genomes at first, of half of the budget at most, and genomes measured per round."""

EVOPRESS_OFFSPRING = 4
"""Per generation; of each of nine sizes, or fewer where the budget is small."""

SPDY_SHARE = 0.5
"""Of what the table leaves, for the search of coefficients."""


@dataclass(frozen=True)
class Found:
    """What a search measured, in order.

    Attributes:
        genomes: ``(n, n_genes)``, each once.
        own: ``(n,)`` CPU seconds besides measuring until each was asked.
        own_seconds: in all.
        n_sketched: genomes that it measured on a part of the samples besides.
        part: of the samples.
    """

    genomes: Genomes
    own: np.ndarray
    own_seconds: float
    n_sketched: int = 0
    part: float = 0.0

    def first(self, n: int) -> Found:
        """What it had after so many measurements."""
        if n >= len(self.genomes):
            return self
        return Found(self.genomes[:n], self.own[:n], float(self.own[n]))


@dataclass(frozen=True)
class Arm:
    """A search.

    Attributes:
        spend: measures through a ledger until its budget is spent.
        anytime: whether it does the same at first whatever the budget is.
        chance: whether seeds matter.
        slow: seconds per measurement of its own.
    """

    spend: Callable[[Ledger, int], None]
    anytime: bool = False
    chance: bool = True
    slow: bool = False

    def run(self, world: World, budget: int, seed: int) -> Found:
        """What it finds."""
        ledger = Ledger(world, budget)
        with contextlib.suppress(Exhausted):
            self.spend(ledger, seed)
        return Found(ledger.genomes, ledger.own, ledger.own_seconds, ledger.n_sketched, ledger.part)


class InMemory:
    """A journal that keeps what it is told as long as the search lasts."""

    diverged = False

    def __init__(self) -> None:
        self._rows: dict[tuple[str, tuple[int, ...]], _Row] = {}

    def known(self, genome: tuple[int, ...], fidelity: str = "search") -> _Row | None:
        return self._rows.get((fidelity, genome))

    def measured(self, genomes: Genomes, values: Values, fidelity: str = "search", **_: Any) -> None:
        for genome, row, errors in zip(genomes.tolist(), values.values, values.standard_errors, strict=True):
            self._rows[fidelity, tuple(genome)] = _Row(row.tolist(), errors.tolist())

    def asked(self, generation: int, genomes: Genomes) -> None:
        """Nothing is replayed."""

    def decision(self, key: str, decide: Callable[[], Any]) -> Any:
        return decide()


@dataclass(frozen=True)
class _Row:
    values: Sequence[float]
    standard_errors: Sequence[float]
    failure: None = None


def own(algorithm: str = "nsga2", **fitness: Any) -> Callable[[Ledger, int], None]:
    """A run of this project, as `evo-mpq run` makes it, of which the uncompressed network counts as a measurement."""

    def spend(ledger: Ledger, seed: int) -> None:
        problem = _set(ledger.world.problem, ledger.budget, seed, algorithm, fitness)
        searcher = make_searcher(problem)
        seeding = Seeding(problem, prepare=lambda tables, sketches: prepare(searcher, problem, tables, sketches))
        journal, spending, part = InMemory(), Spending(), table_share(problem)
        spending.count("reference")
        ledger.count()

        def recorded(measure: Callable[[Genomes], Measurements], fidelity: str, share: float) -> Recorded:
            def values(genomes: Genomes) -> tuple[Values, float, int]:
                found = measure(genomes)
                return Values(found.losses, found.standard_errors, found.failures), 0.0, 0

            return Recorded(
                values,
                journal,  # type: ignore[arg-type]
                problem.objectives,
                problem.objectives,
                spending=spending,
                fidelity=fidelity,
                share=share,
                least_chunk=ledger.budget,
            )

        sketch = None
        if part < 1:
            sketch = recorded(lambda genomes: ledger.sketch(genomes, part), "sketch", part)
        run_search(
            problem.space,
            searcher,
            recorded(ledger.measure, "search", 1.0),
            journal=journal,  # type: ignore[arg-type]
            budgets=[Budget(evaluations=ledger.budget)],
            box=lambda losses: HypervolumeBox.around(losses, problem.log_scale),
            begin=seeding,
            sketch=sketch,
        )

    return spend


def _set(problem: Problem, budget: int, seed: int, algorithm: str, fitness: Mapping[str, Any]) -> Problem:
    said = problem.settings.search
    changed = said.fitness.model_copy(update=dict(fitness))
    search = said.model_copy(update={"evaluations": budget, "algorithm": algorithm, "fitness": changed})
    settings = problem.settings.model_copy(update={"seed": seed, "search": search})
    seeders = {name: seeder for name, seeder in problem.seeders.items() if name in changed.seeds}
    return replace(problem, settings=settings, seeders=seeders)


def random(ledger: Ledger, seed: int) -> None:
    """Genomes drawn gene by gene."""
    searcher = RandomSearch(ledger.space, 10, seed)
    while ledger.left and len(genomes := searcher.ask(ledger.left)):
        searcher.tell(ledger.measure(genomes))


def sensitivity_and_program(ledger: Ledger, seed: int) -> None:
    """The one-at-a-time table, then of the exact program's front as much as fits, evenly spread."""
    table = _table(ledger)
    front = _program_front(ledger, table)
    known = {row.tobytes() for row in ledger.genomes}
    front = np.array([row for row in front if row.tobytes() not in known]).reshape(-1, ledger.space.n_genes)
    if len(front) > ledger.left:
        front = front[np.linspace(0, len(front) - 1, ledger.left).round().astype(int)]
    ledger.measure(front)


def _table(ledger: Ledger) -> OptionTable:
    genomes = one_at_a_time_genomes(ledger.space)
    ledger.measure(genomes)  # in order, as far as the budget reaches
    return measured_sensitivities(ledger.space, ledger.estimates)


def _program_front(ledger: Ledger, table: OptionTable) -> Genomes:
    """Of the table's sum against bytes; against several weightings of costs where there are several."""
    space, costs = ledger.space, ledger.world.programs
    model = additive(space, table)
    if len(costs) == 1:
        return pareto_program(space, model, costs[0]).genomes
    largest = np.array([cost(space.most_expensive()[None])[0] for cost in costs])
    shares = np.linspace(0, 1, WEIGHTINGS)
    fronts = [
        pareto_program(space, model, weighted(costs, np.array([share, 1 - share]) / largest)).genomes
        for share in shares
    ]
    genomes = np.unique(np.concatenate(fronts), axis=0)
    losses = np.column_stack([model(genomes), *(cost(genomes) for cost in costs)])
    genomes = genomes[non_dominated(losses)]
    return genomes[np.argsort(costs[0](genomes))]


def spdy_alone(ledger: Ledger, seed: int) -> None:
    """SPDY's search of coefficients in half of what the table leaves, then its choices for evenly spaced sizes."""
    space, cost = ledger.space, ledger.world.programs[0]
    _table(ledger)
    allowance = max(1, int(SPDY_SHARE * ledger.left))
    tables = Tables(space, cost, ledger.estimates, ledger.world.problem.compressor, seed, None, allowance)
    lowest, highest = cost(np.stack([space.cheapest(), space.most_expensive()]))
    for n in (allowance, 4 * allowance, 16 * allowance):  # neighboring budgets may choose the same genome
        budgets = np.geomspace(1.001 * lowest, highest, n + 1)[1:]
        budgets[-1] = highest
        ledger.measure(spdy(space, tables, budgets))


def pymoo_nsga2(ledger: Ledger, seed: int) -> None:
    """pymoo's NSGA-II as its documentation has it for integers."""
    from pymoo.core.evaluator import Evaluator
    from pymoo.core.termination import NoTermination
    from pymoo.problems.static import StaticProblem

    problem, algorithm = _pymoo(ledger.space.cardinalities - 1, len(ledger.world.costs) + 1, 50)
    algorithm.setup(problem, termination=NoTermination(), seed=seed)
    idle = 0
    while ledger.left and idle < RESTLESS:
        before = ledger.left
        offspring = algorithm.ask()
        if offspring is None or len(offspring) == 0:
            return
        genomes = ledger.space.canonical(offspring.get("X").astype(np.int64))
        losses = ledger.measure(genomes).losses
        Evaluator().eval(StaticProblem(problem, F=losses), offspring)
        algorithm.tell(infills=offspring)
        idle = 0 if ledger.left < before else idle + 1


def _pymoo(highest: np.ndarray, n_objectives: int, population: int, sampling: Any = None) -> tuple[Any, Any]:
    from pymoo.algorithms.moo.nsga2 import NSGA2
    from pymoo.core.problem import Problem as PymooProblem
    from pymoo.operators.crossover.sbx import SBX
    from pymoo.operators.mutation.pm import PM
    from pymoo.operators.repair.rounding import RoundingRepair
    from pymoo.operators.sampling.rnd import IntegerRandomSampling

    problem = PymooProblem(n_var=len(highest), n_obj=n_objectives, xl=0, xu=highest, vtype=int)
    algorithm = NSGA2(
        pop_size=population,
        sampling=IntegerRandomSampling() if sampling is None else sampling,
        crossover=SBX(prob=1.0, eta=3.0, vtype=float, repair=RoundingRepair()),
        mutation=PM(prob=1.0, eta=3.0, vtype=float, repair=RoundingRepair()),
        eliminate_duplicates=True,
    )
    return problem, algorithm


def optuna_sampler(name: str) -> Callable[[Ledger, int], None]:
    """Optuna with one of its samplers, every gene an integer; ``default`` is what it takes for several objectives."""

    def spend(ledger: Ledger, seed: int) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        sampler = optuna.samplers.NSGAIISampler(seed=seed) if name == "nsga2" else optuna.samplers.TPESampler(seed=seed)
        study = optuna.create_study(directions=["minimize"] * (1 + len(ledger.world.costs)), sampler=sampler)
        most = ledger.space.cardinalities - 1
        idle = 0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            while ledger.left and idle < 50 * RESTLESS:
                before = ledger.left
                trial = study.ask()
                row = [trial.suggest_int(f"gene{gene}", 0, int(high)) for gene, high in enumerate(most)]
                study.tell(trial, ledger.measure(ledger.space.canonical(np.array([row]))).losses[0].tolist())
                idle = 0 if ledger.left < before else idle + 1

    return spend


def amq(ledger: Ledger, seed: int) -> None:
    """AMQ's loop (2025): random start, cubic RBF of the loss, NSGA-II on it, a batch that evens out gaps of size."""
    rng, space = np.random.default_rng(seed), ledger.space
    n_start = min(AMQ_START, ledger.budget // 2)
    ladder = np.stack([np.full(space.n_genes, level) for level in (0, 1, 2)])
    start = space.canonical(np.minimum(ladder, space.cardinalities - 1))
    found = _Told(ledger, np.concatenate([start, space.sample(n_start - len(start), rng)]))
    while ledger.left:
        predict = _cubic_rbf(found.genomes, found.losses[:, 0])
        candidates = _inner_nsga2(ledger, predict, found, rng)
        candidates = found.new(candidates)
        if not len(candidates):
            candidates = found.new(space.sample(AMQ_BATCH, rng))
        sizes = ledger.world.costs[0](candidates)
        found.add(candidates[_gap_filling(sizes, found.front_sizes(), min(AMQ_BATCH, len(candidates)))])


class _Told:
    """What a search with a surrogate was told."""

    def __init__(self, ledger: Ledger, genomes: Genomes) -> None:
        self._ledger = ledger
        self.genomes = genomes[:0]
        self.losses = np.empty((0, 1 + len(ledger.world.costs)))
        self.add(np.unique(genomes, axis=0))

    def add(self, genomes: Genomes) -> None:
        measured: Measurements = self._ledger.measure(genomes)
        self.genomes = np.concatenate([self.genomes, genomes])
        self.losses = np.concatenate([self.losses, measured.losses])

    def new(self, genomes: Genomes) -> Genomes:
        known = {row.tobytes() for row in self.genomes}
        rows = [row for row in np.unique(genomes, axis=0) if row.tobytes() not in known]
        return np.array(rows, dtype=np.int64).reshape(-1, genomes.shape[1])

    def front_sizes(self) -> np.ndarray:
        return self.losses[non_dominated(self.losses), 1]


def _cubic_rbf(genomes: Genomes, losses: np.ndarray) -> Callable[[Genomes], np.ndarray]:
    from scipy.interpolate import RBFInterpolator

    points = genomes.astype(np.float64)
    varies = np.ptp(points, axis=0) > 0
    degree = 1 if len(points) > varies.sum() + 1 else 0
    for smoothing in (0.0, 1e-6, 1e-3):  # where points lie in a plane, the system is singular
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model = RBFInterpolator(points[:, varies], losses, kernel="cubic", degree=degree, smoothing=smoothing)
            return lambda rows: model(rows[:, varies].astype(np.float64))
        except np.linalg.LinAlgError:
            degree = 0
    return lambda rows: np.full(len(rows), losses.mean())


def _inner_nsga2(ledger: Ledger, predict: Any, found: _Told, rng: np.random.Generator) -> Genomes:
    """The last population of 20 generations of 200 on predictions, from the front."""
    from pymoo.core.evaluator import Evaluator
    from pymoo.core.termination import NoTermination
    from pymoo.problems.static import StaticProblem

    space, world = ledger.space, ledger.world
    front = found.genomes[non_dominated(found.losses)][:200]
    start = np.concatenate([front, space.sample(200 - len(front), rng)])
    problem, algorithm = _pymoo(space.cardinalities - 1, len(world.costs) + 1, 200, start)
    algorithm.setup(problem, termination=NoTermination(), seed=int(rng.integers(2**31)))
    for _ in range(20):
        offspring = algorithm.ask()
        if offspring is None or len(offspring) == 0:
            break
        genomes = space.canonical(offspring.get("X").astype(np.int64))
        losses = np.column_stack([predict(genomes), world.computed(genomes)])
        Evaluator().eval(StaticProblem(problem, F=losses), offspring)
        algorithm.tell(infills=offspring)
    return space.canonical(algorithm.pop.get("X").astype(np.int64))


def _gap_filling(sizes: np.ndarray, known: np.ndarray, n: int) -> np.ndarray:
    """Rows that even out gaps of size, one after the other the one farthest from what there is."""
    distance = np.abs(sizes[:, None] - known).min(axis=1) if len(known) else np.full(len(sizes), np.inf)
    chosen: list[int] = []
    for _ in range(n):
        row = int(np.argmax(distance))
        chosen.append(row)
        distance = np.minimum(distance, np.abs(sizes - sizes[row]))
        distance[row] = -1.0
    return np.array(chosen)


def evopress(ledger: Ledger, seed: int) -> None:
    """EvoPress (2025): for each of several sizes, (1 + 4) with swaps of levels that leave the size within its bound."""
    rng, space, cost = np.random.default_rng(seed), ledger.space, ledger.world.programs[0]
    n_sizes = int(np.clip(ledger.budget // 20, 3, 9))
    lowest, highest = cost(np.stack([space.cheapest(), space.most_expensive()]))
    bounds = np.geomspace(1.02 * lowest, highest, n_sizes + 1)[:-1]
    tables = Tables(space, cost, ledger.estimates, ledger.world.problem.compressor, seed)
    parents = uniform(space, tables, bounds)
    losses = ledger.measure(parents).losses[:, 0].copy()
    idle = 0
    while ledger.left and idle < RESTLESS:
        before = ledger.left
        for place, bound in enumerate(bounds):
            offspring = _swapped(ledger, parents[place], bound, rng)
            if not len(offspring):
                continue
            found = ledger.measure(offspring).losses[:, 0]
            if found.min() <= losses[place]:
                parents[place], losses[place] = offspring[np.argmin(found)], found.min()
        idle = 0 if ledger.left < before else idle + 1


def _swapped(ledger: Ledger, parent: np.ndarray, bound: float, rng: np.random.Generator) -> Genomes:
    space, cost = ledger.space, ledger.world.programs[0]
    tried = np.tile(parent, (400, 1))
    for row in tried:
        for _ in range(min(rng.integers(1, 4, size=2))):
            up, down = rng.integers(space.n_genes, size=2)
            row[up] = min(row[up] + 1, space.cardinalities[up] - 1)
            row[down] = max(row[down] - 1, 0)
    tried = space.canonical(tried)
    fits = (cost(tried) <= bound) & np.any(tried != parent, axis=1)
    rows, first = np.unique(tried[fits], axis=0, return_index=True)
    return rows[np.argsort(first)][:EVOPRESS_OFFSPRING]


ARMS: Mapping[str, Arm] = {
    "engine": Arm(own()),
    "engine without seeds": Arm(own(seeds=("uniform",))),
    "engine, whole tables": Arm(own(table_share=1.0)),
    "additive": Arm(own(surrogate="additive")),
    "NSGA-II, seeds": Arm(own(surrogate="none")),
    "NSGA-II": Arm(own(surrogate="none", seeds=("uniform",)), anytime=True),
    "random": Arm(random, anytime=True),
    "pymoo NSGA-II": Arm(pymoo_nsga2, anytime=True),
    "Optuna NSGA-II": Arm(optuna_sampler("nsga2"), anytime=True),
    "Optuna default": Arm(optuna_sampler("default"), anytime=True, slow=True),
    "sensitivity + program": Arm(sensitivity_and_program, chance=False),
    "AMQ": Arm(amq),
    "EvoPress": Arm(evopress),
    "SPDY": Arm(spdy_alone),
}
