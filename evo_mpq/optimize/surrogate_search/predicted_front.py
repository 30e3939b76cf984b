"""NSGA-II on predictions alone: a fixed model and computed costs; the front that it ends with is measured."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from evo_mpq.measure.measurements import Measurements
from evo_mpq.optimize.nsga2 import NSGA2
from evo_mpq.optimize.pareto import in_scale, non_dominated
from evo_mpq.optimize.searcher import SeenGenomes, Turns
from evo_mpq.optimize.surrogate_search.models import Cost
from evo_mpq.optimize.surrogate_search.rounds import Round
from evo_mpq.predict.tables.options import OptionTable, additive
from evo_mpq.space.search_space import SearchSpace
from evo_mpq.typing import Genomes, Losses

POPULATION, GENERATIONS = 100, 50
"""Of NSGA-II on predictions, which cost microseconds."""


class PredictedFront:
    """The front of NSGA-II on a table's sums and on computed costs, asked once, evenly where not all of it fits.

    Args:
        space: what is searched.
        costs: per objective how it is computed; None for the one that the table is of.
        batch_size: genomes asked at a time.
        seed: of all random choices.
        log_scale: per objective, whether it is compared on a logarithmic scale; default: none.

    Attributes:
        model: what predicts, by name.
        rounds: that were told so far.
    """

    model = "shapley"

    def __init__(
        self,
        space: SearchSpace,
        costs: Sequence[Cost | None],
        *,
        batch_size: int = 10,
        seed: int = 0,
        log_scale: Sequence[bool] | None = None,
    ) -> None:
        self._space = space
        self._costs = tuple(costs)
        self._log_scale = [False] * len(self._costs) if log_scale is None else list(log_scale)
        self._measured = self._costs.index(None)
        self._batch_size = batch_size
        self._seed = seed
        self._table: OptionTable | None = None
        self._seen = SeenGenomes()
        self._turns = Turns()
        self._front: Genomes | None = None
        self.rounds: list[Round] = []

    def believe(self, table: OptionTable) -> None:
        """Take what options cost; before the first `ask`."""
        self._table = table

    def ask(self, limit: int | None = None) -> Genomes:
        """The next part of the front; see `Searcher.ask`. No row once all of it was asked."""
        n = self._turns.rows(self._batch_size, limit)
        if self._front is None:
            front = self._predicted_front()
            front = front[self._seen.new(front)]
            if limit is not None and len(front) > limit:
                front = front[np.linspace(0, len(front) - 1, limit).round().astype(int)]
            self._front = front
        genomes, self._front = self._front[:n], self._front[n:]
        self._seen.add(genomes)
        return self._turns.asked(genomes)

    def tell(self, measurements: Measurements) -> None:
        """Compare a part of the front with what was expected of it; see `Searcher.tell`."""
        genomes = self._turns.told(measurements)
        columns = [self._measured]
        predicted = in_scale(self._losses(genomes), self._log_scale)[:, columns]
        measured = in_scale(measurements.losses, self._log_scale)[:, columns]
        self.rounds.append(Round.of(len(self._seen) - len(genomes), "surrogate", predicted, measured))

    def remember(self, genomes: Genomes, measurements: Measurements) -> None:
        """Do not ask genomes that were measured elsewhere; see `Searcher.remember`."""
        self._seen.add(genomes)

    def _predicted_front(self) -> Genomes:
        """Ordered by the predicted loss."""
        if self._table is None:
            raise RuntimeError("believe() a table before the first ask()")
        ends = np.stack([self._space.cheapest(), self._space.most_expensive()])
        searcher = NSGA2(self._space, POPULATION, self._seed, initial=ends, log_scale=self._log_scale)
        found = [ends[:0]]
        for _ in range(GENERATIONS):
            genomes = searcher.ask()
            if not len(genomes):
                break
            losses = self._losses(genomes)
            nothing = np.zeros((len(genomes), 0))
            searcher.tell(Measurements(losses, nothing, np.full_like(losses, np.nan), (None,) * len(genomes)))
            found.append(genomes)
        genomes = np.concatenate(found)
        losses = self._losses(genomes)
        front: Genomes = genomes[non_dominated(losses)]
        return front[np.argsort(losses[non_dominated(losses), self._measured])]

    def _losses(self, genomes: Genomes) -> Losses:
        assert self._table is not None
        model = additive(self._space, self._table)
        return np.stack([(cost or model)(genomes) for cost in self._costs], axis=1)
