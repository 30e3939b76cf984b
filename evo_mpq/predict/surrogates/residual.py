"""A surrogate of two parts: the additive model, and a model of what it leaves unexplained."""

from __future__ import annotations

import numpy as np

from evo_mpq.predict.surrogates.additive import Additive
from evo_mpq.predict.surrogates.surrogate import Prediction, ResidualModel
from evo_mpq.typing import FloatVector, Genomes


class OnResidual:
    """The additive model, and another one on its residuals.

    Without the additive model underneath, the same models fall behind the exact program of a table: most of a loss is
    a sum, and what is left is small.

    Args:
        prior: fitted anew whenever this is.
        residual: fitted to what it leaves.

    Attributes:
        prior: the additive model.
        residual: the other one.
    """

    def __init__(self, prior: Additive, residual: ResidualModel) -> None:
        self.prior = prior
        self.residual = residual

    def fit(self, genomes: Genomes, losses: FloatVector, errors: FloatVector) -> None:
        """Fit the sum, then what it leaves; see `Surrogate.fit`."""
        self.prior.fit(genomes, losses, errors)
        residuals = losses - self.prior.predict(genomes).means
        self.residual.fit(self.prior.features(genomes), residuals, np.nan_to_num(errors, nan=0.0))

    def predict(self, genomes: Genomes) -> Prediction:
        """Both parts, with the deviation of the second; see `Surrogate.predict`."""
        means, deviations = self.residual.predict(self.prior.features(genomes))
        return Prediction(self.prior.predict(genomes).means + means, deviations)
