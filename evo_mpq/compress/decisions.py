"""What candidates decide, column by column of the program."""

from __future__ import annotations

import copy
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from evo_mpq.compress.program import Column


class Decisions:
    """What several candidates decide, as integers that are equal where decisions are.

    Args:
        columns: of the program.
        rows: per candidate one value per column.

    Attributes:
        columns: as given.
        codes: ``(n, n_columns)`` numbers of the values. Candidates that stand side by side in the lexicographic order
            of these rows share the most computation.
        values: per column what its codes stand for.
    """

    def __init__(self, columns: Sequence[Column], rows: Sequence[Sequence[Hashable]]) -> None:
        self.columns = tuple(columns)
        self.values: list[list[Hashable]] = []
        self.codes = np.empty((len(rows), len(self.columns)), dtype=np.int64)
        for place in range(len(self.columns)):
            codes: dict[Hashable, int] = {}
            self.codes[:, place] = [codes.setdefault(row[place], len(codes)) for row in rows]
            self.values.append(list(codes))

    def value(self, candidate: int, column: int) -> Any:
        """What a candidate decides in a column."""
        return self.values[column][self.codes[candidate, column]]

    def order(self) -> npt.NDArray[np.int64]:
        """``(n,)`` positions of the candidates in lexicographic order."""
        return np.lexsort(self.codes.T[::-1])

    def of(self, rows: npt.NDArray[np.int64]) -> Decisions:
        """The decisions of some candidates, in the order of ``rows``."""
        chosen = copy.copy(self)
        chosen.codes = self.codes[rows]
        return chosen
