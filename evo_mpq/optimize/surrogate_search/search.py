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
from evo_mpq.optimize.surrogate_search.acquisition import SharedWork, greedy_batch
from evo_mpq.optimize.surrogate_search.models import Cost, Expectation, LossModels
from evo_mpq.optimize.surrogate_search.picking import best_within, for_picks
from evo_mpq.optimize.surrogate_search.proposals import evolved, program_genomes, relatives, weighted
from evo_mpq.optimize.surrogate_search.rounds import Proposer, Round, recent_tau
from evo_mpq.predict.factored import FactoredFunction
from evo_mpq.predict.surrogates.gaussian_process import GaussianProcess
from evo_mpq.predict.surrogates.surrogate import ResidualModel
from evo_mpq.predict.tables.options import OptionTable
from evo_mpq.predict.tables.sensitivities import least_table, table_genomes
from evo_mpq.space.search_space import SearchSpace
from evo_mpq.typing import FloatMatrix, FloatVector, Genomes, Losses

OPTIMISM = 0.5
"""Deviations by which a candidate is expected to be better than its mean."""

EXPLORATION = 0.15
"""Of a batch, chosen as if candidates were two deviations better than their means."""

N_RELATIVES = 2000
"""Candidates near the front that a batch is chosen from, besides those of programs."""

PICKS_SHARE = 0.3
"""Of a batch, for the best point within each of the limits that a user will pick by."""

GENERATIONS = 5
"""Of NSGA-II on what is expected, where exact programs do not cover the trade-offs."""

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
        generations: of NSGA-II on what is expected, before each batch; its children are candidates as well. Default:
            none where all costs are sums of factors, whose exact programs find the same for less, and 5 otherwise.
        seed: of all random choices; the same seed and the same measurements give the same run.
        log_scale: per objective, whether it is compared on a logarithmic scale; default: none.
        screen: violations of the constraints that need no measuring; what violates them is not asked.
        n_constraints: columns of violations.
        measured_constraints: those of constraints that are measured.
        model: name of what predicts.
        after: ``(n_genes,)`` part of a forward pass that depends on a gene, where the budget counts computing: a batch
            then gains most per computing, and shares much of it. Default: each measurement counts the same.
        picks: ``(k, n_objectives)`` most losses of points that will be picked, infinite where any will do: a part of
            each batch is for the best in the first measured objective within each of them.

    Attributes:
        model: what predicts, by name.
        rounds: that were told so far.

    Raises:
        ValueError: every objective is computed, or batches of fewer than 1.
    """

    def __init__(
        self,
        space: SearchSpace,
        costs: Sequence[Cost | None],
        residual: Callable[[], ResidualModel] | None = GaussianProcess,
        *,
        batch_size: int = 10,
        generations: int | None = None,
        seed: int = 0,
        log_scale: Sequence[bool] | None = None,
        screen: Screen | None = None,
        n_constraints: int = 0,
        measured_constraints: Sequence[int] = (),
        model: str = "surrogate",
        after: FloatVector | None = None,
        picks: FloatMatrix | None = None,
    ) -> None:
        self.model = model
        self._after = after
        self._space = space
        self._costs = tuple(costs)
        self._log_scale = [False] * len(self._costs) if log_scale is None else list(log_scale)
        self._measured = [column for column, cost in enumerate(self._costs) if cost is None]
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if not self._measured:
            raise ValueError("every objective is computed, so there is nothing to predict; NSGA2 searches them exactly")
        self._models = LossModels(space, self._costs, self._log_scale, n_constraints, measured_constraints, residual)
        self._picks = in_scale(np.empty((0, len(self._costs))) if picks is None else picks, self._log_scale)
        self._fitted = False
        self._batch_size = batch_size
        exact = len(self._measured) == 1 and all(isinstance(cost, FactoredFunction | None) for cost in costs)
        self._generations = (0 if exact and len(costs) > 1 else GENERATIONS) if generations is None else generations
        self._seed = seed
        self._screen = screen
        self._plain = NSGA2(space, max(2, batch_size), seed, log_scale=log_scale)
        self._archive = Archive(space.n_genes, len(self._costs), n_constraints)
        self._seen = SeenGenomes()
        self._turns = Turns()
        self._open: tuple[Proposer | Literal["table"], FloatMatrix] | None = None
        self._table: Genomes | None = None
        self.rounds: list[Round] = []

    def believe(self, table: OptionTable, column: int) -> None:
        """Take what options cost in an objective as the prior, rather than the one-at-a-time table; before `ask`."""
        self._models.believe(table, column)

    def sketched(self, genomes: Genomes, measurements: Measurements) -> None:
        """Take tables from what was measured on a part of the samples, rather than ask one; before `ask`."""
        self._models.sketched(genomes, measurements)

    def ask(self, limit: int | None = None) -> Genomes:
        """The next batch; see `Searcher.ask`."""
        n = self._turns.rows(self._batch_size, limit)
        if self._table is None:
            self._table = self._first(limit)
        self._table = self._table[self._seen.new(self._table)]  # some may have been remembered meanwhile
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
        """The table of single options, unless it was measured before; in part or not at all if the budget is small."""
        if self._models.has_sketch or not self._seen.new(least_table(self._space)).any():
            return np.empty((0, self._space.n_genes), dtype=np.int64)
        table = table_genomes(self._space, limit)
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
        if self._generations:
            children = evolved(self._space, candidates, expected.losses, self._expected_losses, self._generations)
            candidates = self._new(np.concatenate([candidates, children]))
            expected = self._models.expected(candidates)
        rows = self._batch(candidates, expected, n)
        return candidates[rows]

    def _expected_losses(self, genomes: Genomes) -> Losses:
        return self._models.expected(genomes).losses

    def _candidates(self, rng: np.random.Generator) -> Genomes:
        """New genomes that do not violate what is known to be violated."""
        front = self._archive.front()
        pools = []
        if len(front):
            ordered = front[np.argsort(self._archive.losses[front, self._order()])]
            pools.append(relatives(self._space, self._archive.genomes[ordered], N_RELATIVES, rng))
        rows, known = self._comparable()
        for best in best_within(self._picks, known, self._measured[0]):
            if len(best):
                n = N_RELATIVES // (2 * len(self._picks))
                pools.append(relatives(self._space, self._archive.genomes[rows[best]], n, rng))
        programs = [cost for cost in self._costs if isinstance(cost, FactoredFunction)]
        if programs:
            table = self._models.additive(len(self.rounds))
            cost = programs[0] if len(programs) == 1 else weighted(programs, self._weights(programs, rng))
            pools.append(program_genomes(self._space, table, cost))
        if not pools:
            return np.empty((0, self._space.n_genes), dtype=np.int64)
        return self._new(np.concatenate(pools))

    def _new(self, genomes: Genomes) -> Genomes:
        """Those that were not asked and violate nothing that is computed, each once."""
        genomes = genomes[self._seen.new(genomes)]
        if self._screen is not None and len(genomes):
            genomes = genomes[np.all(self._screen(genomes) <= 0, axis=1)]
        return genomes

    def _order(self) -> int:
        """The objective along which a front is ordered: a cost where there is one."""
        return next((column for column, cost in enumerate(self._costs) if cost is not None), 0)

    def _weights(self, costs: Sequence[FactoredFunction], rng: np.random.Generator) -> FloatVector:
        """Random weights of costs, each relative to that of the most expensive genome."""
        largest = np.array([cost(self._space.most_expensive()[None])[0] for cost in costs])
        weights: FloatVector = rng.dirichlet(np.ones(len(costs))) / np.maximum(np.abs(largest), 1e-12)
        return weights

    def _batch(self, candidates: Genomes, expected: Expectation, n: int) -> list[int]:
        _, known = self._comparable()
        hopeful = expected.losses - OPTIMISM * expected.deviations
        best = np.minimum(known.min(axis=0), hopeful.min(axis=0))
        worst = known.max(axis=0)
        span = np.where(worst > best, worst - best, 1.0) * (1 + MARGIN)
        front = (in_scale(self._archive.losses[self._archive.front()], self._log_scale) - best) / span
        work = None if self._after is None else SharedWork(candidates, self._after)
        means = (expected.losses - best) / span
        picked = self._for_picks(known, expected, n)
        front = np.concatenate([front, means[picked]])
        left = n - len(picked)
        n_bold = int(np.ceil(EXPLORATION * left)) if left > 1 else 0
        hopeful = (hopeful - best) / span
        chosen = greedy_batch(front, hopeful, left - n_bold, expected.feasible, work=work, chosen=picked)
        front, chosen = np.concatenate([front, means[chosen]]), [*picked, *chosen]
        bold = means - 2.0 * expected.deviations / span
        more = greedy_batch(front, bold, n - len(chosen), expected.feasible, work=work, chosen=chosen)
        return [*chosen, *more]

    def _for_picks(self, known: Losses, expected: Expectation, n: int) -> list[int]:
        """The part of a batch of ``n`` that is for the best within the limits that a user will pick by."""
        if not len(self._picks):
            return []
        n = int(np.ceil(PICKS_SHARE * n))
        return for_picks(self._picks, known, expected, self._measured[0], n, turn=n * len(self.rounds))

    def _comparable(self) -> tuple[np.ndarray, Losses]:
        """Rows that candidates are compared with, those that are feasible if any is, and their losses in scale."""
        measured = np.all(np.isfinite(self._archive.losses), axis=1)
        feasible = self._archive.measurements.feasible & measured
        rows = np.flatnonzero(feasible if feasible.any() else measured)
        return rows, in_scale(self._archive.losses[rows], self._log_scale)
