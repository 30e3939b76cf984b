"""What the objectives that second-order statistics model have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import groupby
from typing import Any, cast

from torch import Tensor

from evo_mpq.compress.channels import WeightForm
from evo_mpq.compress.compressor import Compressor
from evo_mpq.errors import Mistakes
from evo_mpq.measure.candidate import Candidate
from evo_mpq.predict.statistics.layer_losses import Forms, LayerLosses
from evo_mpq.predict.statistics.perturbations import weighted_squares


@dataclass(frozen=True)
class SecondOrderObjective:
    """The divergence from the float network to second order in the errors of weights, in nats; modelled, not measured.

    A sum over layers of quadratic forms ``½ e' G e``, whose curvature ``G`` subclasses estimate once on the calibration
    split: the divergence is zero at the float network, and so is its gradient. Outputs without classes count as means
    of normal distributions of unit variance, whose divergence is half the squared error. The errors are those of the
    weights that would be deployed. Removed channels are weights that became zero, and so are all weights of layers that
    lie in dropped blocks: what goes around a block is not credited, and how layers' errors add up or cancel is not seen
    either. Activations and edges are not judged. Free: nothing is built, and each form of a layer is judged once.

    Attributes:
        seed: of the random vectors that the curvature is estimated with.

    Raises:
        ConfigError: an option is no whole number, or too small.
    """

    seed: int = 0
    _losses: LayerLosses[Any] = field(init=False, repr=False, compare=False)

    unit = "nats"
    direction = "minimize"
    modelled = True
    log_scale = True

    def __post_init__(self) -> None:
        mistakes = Mistakes()
        for option in fields(self):
            if option.init:
                self._check(option.name, getattr(self, option.name), 1 if option.name == "probes" else 0, mistakes)
        mistakes.check()
        object.__setattr__(self, "_losses", self.layer_losses())

    @staticmethod
    def _check(name: str, value: Any, least: int, mistakes: Mistakes) -> None:
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            mistakes.add((name,), f"expected a whole number of at least {least}, got {value!r}")

    def layer_losses(self) -> LayerLosses[Any]:
        """What computes the losses of layers."""
        raise NotImplementedError

    def __call__(self, candidate: Candidate) -> float:
        """The modelled divergence, from the policy alone."""
        return self._losses(cast(Compressor, candidate.compressor), candidate.policy)

    def prepare_all(self, candidates: Sequence[Candidate]) -> None:
        """Judges all forms of layers that the candidates have, in one pass."""
        for compressor, own in groupby(candidates, lambda candidate: candidate.compressor):
            self._losses.prepare(cast(Compressor, compressor), [candidate.policy for candidate in own])


def half_squares(
    compressor: Compressor, forms: Forms, curvatures: Mapping[str, Tensor | float]
) -> dict[tuple[str, WeightForm], float]:
    """``½ sum of g ΔW²`` of layers in forms.

    Args:
        compressor: of the network, with the weights' forms.
        forms: per layer.
        curvatures: ``g``, per layer a number, or a tensor in the shape of its weight.
    """
    return {key: squares / 2 for key, squares in weighted_squares(compressor, forms, curvatures).items()}
