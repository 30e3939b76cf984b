"""Named arrays that recur all over the package, each with its shape."""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Genomes: TypeAlias = npt.NDArray[np.int64]
"""``(n, n_genes)`` indices into each gene's values; one row is one candidate."""

Losses: TypeAlias = npt.NDArray[np.float64]
"""``(n, n_objectives)`` objective values, all to be minimized."""

FloatVector: TypeAlias = npt.NDArray[np.float64]
"""``(n,)`` floats."""

FloatMatrix: TypeAlias = npt.NDArray[np.float64]
"""``(n, m)`` floats."""

BoolVector: TypeAlias = npt.NDArray[np.bool_]
"""``(n,)`` truth values."""

BoolMatrix: TypeAlias = npt.NDArray[np.bool_]
"""``(n, m)`` truth values."""
