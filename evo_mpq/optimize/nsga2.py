"""NSGA-II behind ask and tell. The only file that imports pymoo."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from pymoo.algorithms.moo.nsga2 import binary_tournament
from pymoo.core.population import Population
from pymoo.core.problem import Problem
from pymoo.operators.selection.tournament import TournamentSelection
from pymoo.operators.survival.rank_and_crowding import RankAndCrowding

from evo_mpq.measure.measurements import Measurements
from evo_mpq.optimize.operators import mutate, uniform_crossover
from evo_mpq.optimize.pareto import in_scale, non_dominated
from evo_mpq.optimize.searcher import SeenGenomes, Turns, UnseenGenomes
from evo_mpq.optimize.starts import cost_spread
from evo_mpq.space.search_space import SearchSpace
from evo_mpq.typing import BoolVector, Genomes

HARDER_TRIES = 6
"""How often mating is repeated, each time with twice the mutation rate, before random genomes fill up."""

SUITORS = 3
"""Tournaments among whose winners the father is chosen."""

MUTATIONS = 0.5
"""Genes of a child that change on average, besides those that crossover changes."""

GROWTH = 4
"""How many times ``population_size`` a front may hold and still survive as a whole."""

Rows: TypeAlias = npt.NDArray[np.int64]


class NSGA2:
    """The non-dominated sorting genetic algorithm (Deb et al. 2002), for genomes that are slow to measure.

    Tournaments, ranking, crowding and constraint domination are pymoo's, the operators are those of
    `operators.py`. What is done differently makes a few hundred measurements go farther (numbers are in
    ``benchmarks/README.md``):

    - Generations are small, so that most children descend from parents that were found late.
    - Survivors are the front, and dominated genomes only as far as it has fewer than ``population_size``
      members. So the population is small and greedy at first, and grows with the front.
    - Parents are similar to each other (Ishibuchi and Shibata 2003): children of parents from the two ends
      of a front would all land in its middle.
    - Many children are not mutated: with similar parents, crossover alone makes small steps.

    No genome is asked twice. The first population is ``initial`` and what was remembered, filled up to
    ``population_size`` with genomes spread over cost. When mating yields too few new genomes it mutates
    harder and at last draws unseen genomes at random, so small spaces are searched to their end.

    Args:
        space: what is searched.
        population_size: genomes asked per generation. As many survive it, or the whole front where that is
            larger, up to four times as many.
        seed: of all random choices; the same seed and the same measurements give the same run.
        initial: ``(n, n_genes)`` genomes to ask first.
        log_scale: per objective, whether crowding distances are taken on a logarithmic scale; default: none.

    Raises:
        ValueError: a population of fewer than 2, or an illegal genome in ``initial``.

    >>> from evo_mpq.space.building import SpaceLayer, build_space
    >>> layers = [SpaceLayer(f"layer{i}") for i in range(12)]
    >>> space = build_space(layers, defaults={"weight_bits": [2, 3, 4, 6, 8]})
    >>> def evaluate(genomes):
    ...     bits = np.array([2, 3, 4, 6, 8])[genomes]
    ...     losses = np.stack([(np.arange(1, 13) * 4.0**-bits).sum(axis=1), bits.sum(axis=1)], axis=1)
    ...     return Measurements(losses, np.zeros((len(bits), 0)), np.zeros_like(losses), (None,) * len(bits))
    >>> searcher = NSGA2(space, population_size=10, seed=0)
    >>> for generation in range(50):
    ...     genomes = searcher.ask()
    ...     searcher.tell(evaluate(genomes))
    >>> searcher.population.shape  # the front
    (39, 12)
    """

    def __init__(
        self,
        space: SearchSpace,
        population_size: int = 10,
        seed: int = 0,
        initial: Genomes | None = None,
        log_scale: Sequence[bool] | None = None,
    ) -> None:
        if population_size < 2:
            raise ValueError(f"population_size must be at least 2, got {population_size}")
        if initial is not None and not np.all(space.legal(initial)):
            row = int(np.argmin(space.legal(initial)))
            raise ValueError(f"row {row} of initial is no legal genome: {initial[row].tolist()}")
        self._space = space
        self._size = population_size
        self._rng = np.random.default_rng(seed)
        self._log_scale = log_scale
        self._initial = initial
        self._start: Genomes | None = None  # what is left of the first population; None before the first ask
        self._seen = SeenGenomes()
        self._unseen = UnseenGenomes(space, self._seen, self._rng)
        self._turns = Turns()
        self._population = Population()
        self._survival = RankAndCrowding()
        self._selection = TournamentSelection(func_comp=binary_tournament)

    @property
    def population(self) -> Genomes:
        """``(n, n_genes)`` genomes of the present population, at most four times ``population_size``."""
        return np.array([member.X for member in self._population], dtype=np.int64).reshape(-1, self._space.n_genes)

    def ask(self, limit: int | None = None) -> Genomes:
        """The next generation; see `Searcher.ask`."""
        n = self._turns.rows(self._size, limit)
        if self._start is None:
            self._start = self._first_population()
        self._start = self._start[self._seen.new(self._start)]  # some may have been remembered meanwhile
        if len(self._start):
            genomes, self._start = self._start[:n], self._start[n:]
        else:
            genomes = self._offspring(n)
        self._seen.add(genomes)
        return self._turns.asked(genomes)

    def tell(self, measurements: Measurements) -> None:
        """Select the survivors of population and offspring; see `Searcher.tell`."""
        self._learn(self._turns.told(measurements), measurements)

    def remember(self, genomes: Genomes, measurements: Measurements) -> None:
        """Let genomes measured elsewhere compete for the population; see `Searcher.remember`."""
        new = self._seen.new(genomes)  # a genome stands in the population once
        self._seen.add(genomes)
        self._learn(genomes, measurements, new)

    def _first_population(self) -> Genomes:
        initial = np.empty((0, self._space.n_genes), dtype=np.int64) if self._initial is None else self._initial
        initial = initial[self._seen.new(initial)]
        taken = self._seen.copy()
        taken.add(initial)
        missing = max(0, self._size - len(taken))
        return np.concatenate([initial, cost_spread(self._space, missing, self._rng, taken)])

    def _offspring(self, n: int) -> Genomes:
        offspring = np.empty((0, self._space.n_genes), dtype=np.int64)
        for attempt in range(HARDER_TRIES if len(self._population) else 0):
            rate = min(1.0, 2**attempt * MUTATIONS / self._space.n_genes)
            children = self._mate(n - len(offspring), rate)
            children = children[self._seen.new(children)]
            self._seen.add(children)
            offspring = np.concatenate([offspring, children])
            if len(offspring) == n:
                return offspring
        return np.concatenate([offspring, self._unseen.draw(n - len(offspring))])

    def _mate(self, n: int, rate: float) -> Genomes:
        genomes = self.population
        mothers, fathers = self._parents(genomes, n)
        children = uniform_crossover(genomes[mothers], genomes[fathers], self._rng)
        return self._space.canonical(mutate(children, self._space.cardinalities, self._rng, rate))

    def _parents(self, genomes: Genomes, n: int) -> tuple[Rows, Rows]:
        """``(n,)`` mothers, and as father of each the most similar of several winners of tournaments."""
        # What `binary_tournament` reads of an algorithm.
        chooser = SimpleNamespace(tournament_type="comp_by_dom_and_crowding", random_state=self._rng)
        winners = self._selection.do(
            None, self._population, n, 1 + SUITORS, to_pop=False, algorithm=chooser, random_state=self._rng
        )
        mothers, suitors = winners[:, 0], winners[:, 1:]
        levels = genomes / (self._space.cardinalities - 1)
        distances = np.abs(levels[suitors] - levels[mothers, None]).sum(axis=2)  # (n, SUITORS)
        distances[suitors == mothers[:, None]] = np.inf  # with itself there is nothing to cross
        return mothers, suitors[np.arange(n), distances.argmin(axis=1)]

    def _learn(self, genomes: Genomes, measurements: Measurements, new: BoolVector | None = None) -> None:
        rows = _usable(measurements) if new is None else _usable(measurements) & new
        if not rows.any():
            return
        losses, violations = measurements.losses[rows], measurements.violations[rows]
        arrivals = Population.new(
            X=genomes[rows],
            F=losses if self._log_scale is None else in_scale(losses, self._log_scale),
            G=violations,
        )
        # The problem is asked for nothing but whether there are constraints.
        problem = Problem(n_var=genomes.shape[1], n_obj=losses.shape[1], n_ieq_constr=violations.shape[1], xl=0, xu=1)
        competitors = Population.merge(self._population, arrivals)
        self._population = self._survival.do(
            problem, competitors, n_survive=self._survivors(competitors), random_state=self._rng
        )

    def _survivors(self, competitors: Population) -> int:
        """How many of the competitors survive: the feasible front, within bounds."""
        feasible = np.all(competitors.get("G") <= 0, axis=1)
        front = int(non_dominated(competitors.get("F")[feasible]).sum())
        return min(max(front, self._size), GROWTH * self._size)


def _usable(measurements: Measurements) -> BoolVector:
    """``(n,)`` rows that may enter a population.

    One NaN would poison the sorting of all. Rows that violate a constraint are compared by their violations
    alone, so their losses need not be known.
    """
    comparable = np.all(np.isfinite(measurements.violations), axis=1)
    known = np.all(np.isfinite(measurements.losses), axis=1) | ~measurements.feasible
    usable: BoolVector = measurements.succeeded & comparable & known
    return usable
