"""When a search ends."""

from __future__ import annotations

from dataclasses import dataclass

STALL_GAIN = 1e-4
"""A relative gain of hypervolume that is not above this counts as none."""


@dataclass(frozen=True)
class Budget:
    """What a search may spend; the first limit that is reached ends it. Without limits only the space does.

    Attributes:
        evaluations: everything that is measured: reference, seeds and search; a measurement on k of K batches
            counts k/K.
        minutes: wall-clock time, summed over interruptions.
        stall: generations in a row without progress.

    Raises:
        ValueError: a limit that is not positive.
    """

    evaluations: int | None = None
    minutes: float | None = None
    stall: int | None = None

    def __post_init__(self) -> None:
        for name in ("evaluations", "minutes", "stall"):
            limit = getattr(self, name)
            if limit is not None and not limit > 0:
                raise ValueError(f"{name} must be positive, got {limit}")


class Stall:
    """Counts generations in a row without progress.

    Progress is a hypervolume more than 0.01 % above the one that was progress last, so that small steps add
    up; as long as nothing is feasible, it is a total violation of the constraints as much below the last one.

    >>> stall = Stall()
    >>> for hypervolume in [1.0, 2.0, 2.0, 2.00001]:
    ...     stall.update(hypervolume, violation=0.0)
    >>> stall.generations
    2
    """

    def __init__(self) -> None:
        self.generations = 0
        self._hypervolume = 0.0
        self._violation = float("inf")

    def update(self, hypervolume: float, violation: float) -> None:
        """Take what one more generation has led to.

        Args:
            hypervolume: of the front so far.
            violation: the lowest total violation of any candidate so far; 0 once one is feasible, infinite
                if none succeeded.
        """
        if violation < self._violation * (1 - STALL_GAIN):
            self._violation = violation
            self.generations = 0
        elif hypervolume > self._hypervolume * (1 + STALL_GAIN):
            self.generations = 0
        else:
            self.generations += 1
            return
        self._hypervolume = hypervolume
