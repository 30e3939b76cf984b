"""The estimators of contributions, by name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from evo_mpq.predict.shapley.estimator import Estimator
from evo_mpq.predict.shapley.exact import exact
from evo_mpq.predict.shapley.kernel import kernel
from evo_mpq.predict.shapley.lattice import lattice
from evo_mpq.predict.shapley.permutation import permutation

ESTIMATORS: Mapping[str, Estimator] = MappingProxyType(
    {"kernel": kernel, "permutation": permutation, "lattice": lattice, "exact": exact}
)
"""The first one is the default."""

MEASUREMENTS_PER_GENE = 4
"""Measurements that an estimator takes where nothing else is said."""
