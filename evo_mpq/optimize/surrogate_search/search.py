"""Search that measures little: surrogates fitted to everything measured choose what to measure next."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from evo_mpq.errors import MeasurementError
from evo_mpq.measure.measurements import Measurements
from evo_mpq.optimize.archive import Archive
from evo_mpq.optimize.loop import Screen
from evo_mpq.optimize.nsga2 import NSGA2
from evo_mpq.optimize.pareto import MARGIN, in_scale
from evo_mpq.optimize.searcher import SeenGenomes, Turns
from evo_mpq.optimize.surrogate_search.acquisition import greedy_batch
from evo_mpq.optimize.surrogate_search.models import Cost, Expectation, LossModels
from evo_mpq.optimize.surrogate_search.proposals import program_genomes, relatives, weighted
from evo_mpq.optimize.surrogate_search.rounds import Proposer, Round, recent_tau
from evo_mpq.predict.factored import FactoredFunction
from evo_mpq.predict.surrogates.surrogate import ResidualModel
from evo_mpq.predict.tables.options import OptionTable, one_at_a_time_genomes
from evo_mpq.predict.tables.sensitivities import coarse_genomes
from evo_mpq.space.search_space import SearchSpace
from evo_mpq.typing import FloatMatrix, FloatVector, Genomes

OPTIMISM = 0.5
"""Deviations by which a candidate is expected to be better than its mean."""

EXPLORATION = 0.15
"""Of a batch, chosen as if candidates were two deviations better than their means."""

N_RELATIVES = 2000
"""Candidates near the front that a batch is chosen from, besides those of programs."""

TABLE_SHARE = 0.5
"""Of the budget, for a table of single options where none was measured before; a larger one is measured in part."""

COARSE_SHARE = 0.9
"""Of the budget, that a table that is measured in part may take."""

LEAST_TAU = 0.3
"""Rank correlation of the latest predictions below which the next batch is NSGA-II's."""

LATEST = 20
"""Predictions that this rank correlation is taken over."""


class SurrogateSearch:
    """Proposes what surrogates expect to add most to the front.

    Costs that need no measuring are computed, never modelled. Each measured objective and constraint has a surrogate:
    an additive model around the one-at-a-time table, fitted to everything that was measured, and another model on what
    that leaves. A batch is chosen from the exact program of the additive model and from relatives of the front, by
    greedy gains of predicted hypervolume, most of it half a deviation above the mean.

    What was remembered may hold a table, as that of `evo_mpq.seeding` does; otherwise the table is asked first. While
    predictions rank the latest measurements badly, batches are NSGA-II's, which learns of everything as well.

    Args:
        space: what is searched.
        costs: per objective how it is computed, or None where it is measured. Costs that are sums of factors are used
            in exact programs.
        residual: makes the model of what the additive model leaves; None for the additive model alone.
        batch_size: genomes asked at a time.
        seed: of all random choices; the same seed and the same measurements give the same run.
        log_scale: per objective, whether it is compared on a logarithmic scale; default: none.
        screen: violations of the constraints that need no measuring; what violates them is not asked.
        measured_constraints: columns of the other constraints.

    Attributes:
        rounds: that were told so far.
    """

    def __init__(
        self,
        space: SearchSpace,
        costs: Sequence[Cost | None],
        residual: Callable[[], ResidualModel] | None,
        *,
        batch_size: int = 10,
        seed: int = 0,
        log_scale: Sequence[bool] | None = None,
        screen: Screen | None = None,
        n_constraints: int = 0,
        measured_constraints: Sequence[int] = (),
    ) -> None:
        self._space = space
        self._costs = tuple(costs)
        self._log_scale = [False] * len(self._costs) if log_scale is None else list(log_scale)
        self._measured = [column for column, cost in enumerate(self._costs) if cost is None]
        if not self._measured:
            raise ValueError("every objective is computed, so there is nothing to predict; NSGA2 searches them exactly")
        self._models = LossModels(space, self._costs, self._log_scale, measured_constraints, residual)
        self._fitted = False
        self._batch_size = batch_size
        self._seed = seed
        self._screen = screen
        self._plain = NSGA2(space, batch_size, seed, log_scale=log_scale)
        self._archive = Archive(space.n_genes, len(self._costs), n_constraints)
        self._seen = SeenGenomes()
        self._turns = Turns()
        self._open: tuple[Proposer | Literal["table"], FloatMatrix] | None = None
        self._table: Genomes | None = None
        self.rounds: list[Round] = []

    def believe(self, table: OptionTable, column: int) -> None:
        """Take what options cost in an objective as the prior, rather than the one-at-a-time table; before `ask`."""
        self._models.believe(table, column)

    def ask(self, limit: int | None = None) -> Genomes:
        """The next batch; see `Searcher.ask`."""
        n = self._turns.rows(self._batch_size, limit)
        if self._table is None:
            self._table = self._first(limit)
        if len(self._table):
            genomes, self._table = self._table[:n], self._table[n:]
            proposer: Proposer | Literal["table"] = "table"
        else:
            proposer, genomes = "surrogate", self._chosen(n)
            if not len(genomes):
                proposer, genomes = "nsga2", self._plain.ask(n)
        self._seen.add(genomes)
        predicted = np.empty((len(genomes), len(self._measured)))
        predicted[:] = np.nan
        if self._fitted and len(genomes):
            predicted = self._models.expected(genomes).losses[:, self._measured]
        self._open = proposer, predicted
        return self._turns.asked(genomes)

    def tell(self, measurements: Measurements) -> None:
        """Learn what the batch came to; see `Searcher.tell`."""
        genomes = self._turns.told(measurements)
        assert self._open is not None
        proposer, predicted = self._open
        if proposer == "nsga2":
            self._plain.tell(measurements)
        else:
            self._plain.remember(genomes, measurements)
        n = len(self._archive)
        self._archive.add(genomes, measurements)
        if proposer != "table" and self._fitted:
            measured = in_scale(measurements.losses, self._log_scale)[:, self._measured]
            self.rounds.append(Round.of(n, proposer, predicted, measured))

    def remember(self, genomes: Genomes, measurements: Measurements) -> None:
        """Learn from genomes measured elsewhere; see `Searcher.remember`."""
        self._seen.add(genomes)
        self._plain.remember(genomes, measurements)
        self._archive.add(genomes, measurements)

    def _first(self, limit: int | None) -> Genomes:
        """The table of single options, unless the genome that it stands around was measured before."""
        table = one_at_a_time_genomes(self._space)
        if not self._seen.new(table[:1])[0]:
            return table[:0]
        if limit is not None and len(table) > TABLE_SHARE * limit:
            table = coarse_genomes(self._space)
        if limit is not None and len(table) > COARSE_SHARE * limit:
            return table[:0]
        return table[self._seen.new(table)]

    def _trusted(self) -> bool:
        """Whether the latest predictions ranked what was measured."""
        tau = recent_tau(self.rounds, LATEST)
        return bool(np.isnan(tau) or tau >= LEAST_TAU)

    def _chosen(self, n: int) -> Genomes:
        """At most ``n`` genomes that the surrogates choose; none if they cannot be trusted or find nothing."""
        nothing = np.empty((0, self._space.n_genes), dtype=np.int64)
        try:
            self._models.fit(self._archive)
        except MeasurementError:
            return nothing
        self._fitted = True
        if not self._trusted():
            return nothing
        rng = np.random.default_rng([self._seed, len(self._archive)])
        candidates = self._candidates(rng)
        if not len(candidates):
            return nothing
        expected = self._models.expected(candidates)
        rows = self._batch(expected, n)
        return candidates[rows]

    def _candidates(self, rng: np.random.Generator) -> Genomes:
        """New genomes that do not violate what is known to be violated."""
        front = self._archive.front()
        pools = []
        if len(front):
            ordered = front[np.argsort(self._archive.losses[front, self._order()])]
            pools.append(relatives(self._space, self._archive.genomes[ordered], N_RELATIVES, rng))
        programs = [cost for cost in self._costs if isinstance(cost, FactoredFunction)]
        if programs:
            table = self._models.additive(len(self.rounds))
            cost = programs[0] if len(programs) == 1 else weighted(programs, self._weights(programs, rng))
            pools.append(program_genomes(self._space, table, cost))
        if not pools:
            return np.empty((0, self._space.n_genes), dtype=np.int64)
        candidates = np.concatenate(pools)
        candidates = candidates[self._seen.new(candidates)]
        if self._screen is not None and len(candidates):
            candidates = candidates[np.all(self._screen(candidates) <= 0, axis=1)]
        return candidates

    def _order(self) -> int:
        """The objective along which a front is ordered: a cost where there is one."""
        return next((column for column, cost in enumerate(self._costs) if cost is not None), 0)

    def _weights(self, costs: Sequence[FactoredFunction], rng: np.random.Generator) -> FloatVector:
        """Random weights of costs, each relative to that of the most expensive genome."""
        largest = np.array([cost(self._space.most_expensive()[None])[0] for cost in costs])
        weights: FloatVector = rng.dirichlet(np.ones(len(costs))) / np.maximum(np.abs(largest), 1e-12)
        return weights

    def _batch(self, expected: Expectation, n: int) -> list[int]:
        rows = self._archive.measurements.feasible
        rows = rows if rows.any() else self._archive.succeeded
        known = in_scale(self._archive.losses[rows], self._log_scale)
        hopeful = expected.losses - OPTIMISM * expected.deviations
        best = np.minimum(known.min(axis=0), hopeful.min(axis=0))
        worst = known.max(axis=0)
        span = np.where(worst > best, worst - best, 1.0) * (1 + MARGIN)
        front = (in_scale(self._archive.losses[self._archive.front()], self._log_scale) - best) / span
        n_bold = int(np.ceil(EXPLORATION * n)) if n > 1 else 0
        chosen = greedy_batch(front, (hopeful - best) / span, n - n_bold, expected.feasible)
        means = (expected.losses - best) / span
        left = np.setdiff1d(np.arange(len(means)), chosen)
        bold = means[left] - 2.0 * expected.deviations[left] / span
        more = greedy_batch(np.concatenate([front, means[chosen]]), bold, n - len(chosen), expected.feasible[left])
        return [*chosen, *left[more].tolist()]
