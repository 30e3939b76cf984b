"""Everything that allocation methods may ask of a problem, each table made when it is first asked for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from evo_mpq.compress.compressor import Compressor
from evo_mpq.predict.factored import FactoredFunction
from evo_mpq.predict.tables.options import Measure, OptionTable
from evo_mpq.predict.tables.sensitivities import measured_sensitivities
from evo_mpq.space.search_space import SearchSpace


@dataclass(frozen=True, eq=False)
class Tables:
    """What is known of the genes of a problem.

    Attributes:
        space: of the genes.
        cost: what budgets bound, exactly, such as bytes.
        measure: measures the loss of genomes, through the journal.
        compressor: makes candidates, for methods that look at weights and gradients.
        seed: of every random choice.
        allowance: measurements that the table of sensitivities may take; None for any number.
    """

    space: SearchSpace
    cost: FactoredFunction
    measure: Measure
    compressor: Compressor
    seed: int = 0
    allowance: int | None = None

    @cached_property
    def sensitivities(self) -> OptionTable:
        """What each option of each gene costs alone, measured.

        Raises:
            MeasurementError: the most expensive genome cannot be measured.
        """
        return measured_sensitivities(self.space, self.measure, self.allowance)
