"""Everything that allocation methods may ask of a problem, each table made when it is first asked for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from evo_mpq.compress.compressor import Compressor
from evo_mpq.predict.factored import FactoredFunction
from evo_mpq.predict.shapley.contributions import Contributions
from evo_mpq.predict.shapley.estimators import MEASUREMENTS_PER_GENE
from evo_mpq.predict.shapley.kernel import kernel
from evo_mpq.predict.tables.interactions import InteractionTable, measured_interactions, worthwhile_pairs
from evo_mpq.predict.tables.options import Measure, OptionTable
from evo_mpq.predict.tables.sensitivities import measured_sensitivities
from evo_mpq.space.search_space import SearchSpace

if TYPE_CHECKING:
    from evo_mpq.predict.supernet.mixture import Supernet


@dataclass(frozen=True, eq=False)
class Tables:
    """What is known of the genes of a problem.

    Attributes:
        space: of the genes.
        cost: what budgets bound, exactly, such as bytes.
        measure: measures the loss of genomes, through the journal.
        compressor: makes candidates, for methods that look at weights and gradients.
        seed: of every random choice.
        left: measurements by ``measure`` that are left before the table of sensitivities, which takes a part of them;
            None for any number.
        methods_allowance: likewise that each method may make besides, for contributions, pairs or coefficients; None
            for any number.
    """

    space: SearchSpace
    cost: FactoredFunction
    measure: Measure
    compressor: Compressor
    seed: int = 0
    left: int | None = None
    methods_allowance: int | None = None

    @cached_property
    def sensitivities(self) -> OptionTable:
        """What each option of each gene costs alone, measured.

        Raises:
            MeasurementError: the most expensive genome cannot be measured.
        """
        return measured_sensitivities(self.space, self.measure, self.left)

    @property
    def contributions_take(self) -> int:
        """Measurements that contributions are made of where the allowance reaches: fewer say little."""
        return MEASUREMENTS_PER_GENE * self.space.n_genes

    @cached_property
    def contributions(self) -> Contributions:
        """What each step of each gene contributes: kernel, 4 measurements per gene; sensitivities divide over levels.

        Raises:
            MeasurementError: the most expensive or the cheapest genome cannot be measured.
        """
        n = self.contributions_take
        if self.methods_allowance is not None:
            n = max(2, min(n, self.methods_allowance))
        rng = np.random.default_rng(self.seed)
        return kernel(self.space, self.measure, n, rng, levels=self.sensitivities)

    @cached_property
    def interactions(self) -> InteractionTable:
        """What options of two genes cost beyond what each costs alone, measured.

        Raises:
            MeasurementError: the most expensive genome cannot be measured.
        """
        return measured_interactions(
            self.space,
            self.measure,
            self.sensitivities,
            allowance=self.methods_allowance,
            pairs=worthwhile_pairs(self.space, self.sensitivities),
        )

    @cached_property
    def supernet(self) -> Supernet:
        """A network that mixes all options of bits, its weights trained on the train split; not to be changed.

        Raises:
            ConfigError: there is no train split.
        """
        from evo_mpq.predict.supernet.training import trained_supernet

        return trained_supernet(self.space, self.compressor, seed=self.seed)
