"""What an estimator of contributions is."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from evo_mpq.predict.shapley.contributions import Contributions
from evo_mpq.predict.tables.options import Measure, OptionTable
from evo_mpq.space.search_space import SearchSpace


class Estimator(Protocol):
    """A way to estimate the contributions of steps from measured genomes.

    It is a function, whose first line of documentation is what the command line says of it.
    """

    def __call__(
        self,
        space: SearchSpace,
        measure: Measure,
        n_measurements: int,
        rng: np.random.Generator,
        *,
        levels: OptionTable | None = None,
    ) -> Contributions:
        """The contributions.

        Args:
            space: of the genes.
            measure: measures genomes; never asked for the same one twice.
            n_measurements: most genomes that may be measured, the most expensive and the cheapest one included.
            rng: of everything that is drawn.
            levels: what options cost alone, for estimators that divide contributions over steps; those that measure
                every step leave it aside.

        Raises:
            ValueError: the number of measurements is too small for the estimator.
            MeasurementError: the most expensive or the cheapest genome cannot be measured.
        """
