"""From genomes to values of every quantity: free ones computed, called ones called, the rest measured together."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from evo_mpq.compress.compressor import Compressor
from evo_mpq.measure.candidate import Candidate
from evo_mpq.measure.evaluator import failure_message
from evo_mpq.measure.executors import Executor
from evo_mpq.measure.measurements import Values
from evo_mpq.measure.objectives import Constraint, Quantity
from evo_mpq.space.policy import Policy
from evo_mpq.space.search_space import SearchSpace
from evo_mpq.typing import FloatMatrix, FloatVector, Genomes


class Measurer:
    """Measures candidates in all quantities of a run.

    Args:
        space: translates genomes.
        compressor: what candidates are made with.
        quantities: of the run, in the order of the columns.
        executor: measures those of outputs.
    """

    def __init__(
        self, space: SearchSpace, compressor: Compressor, quantities: Sequence[Quantity], executor: Executor
    ) -> None:
        self._space = space
        self._compressor = compressor
        self.quantities = tuple(quantities)
        self._executor = executor

    def __call__(self, genomes: Genomes) -> tuple[Values, float, int]:
        """Values of genomes on the search split, the CPU seconds it took, and the samples that were measured."""
        return self.policies(self._space.decode(genomes))

    def on_part(self, share: float) -> Callable[[Genomes], tuple[Values, float, int]]:
        """The same on a part of the search split's samples."""
        return lambda genomes: self.policies(self._space.decode(genomes), share=share)

    def policies(
        self, policies: Sequence[Policy], split: str = "search", share: float = 1.0
    ) -> tuple[Values, float, int]:
        """Values of policies on a part of a split, the CPU seconds it took, and the samples that were measured."""
        outputs = self._executor.measure(policies, split, share=share)
        began = time.process_time()
        values = outputs.values.values.copy()
        failures = list(outputs.values.failures)
        for row, policy in enumerate(policies):
            candidate = Candidate(policy, self._compressor)
            for column, quantity in enumerate(self.quantities):
                if quantity.form == "outputs" or failures[row] is not None:
                    continue
                try:
                    values[row, column] = quantity.value(candidate)
                except Exception as error:
                    failures[row] = failure_message(quantity.name, error)
                    continue
                if not np.isfinite(values[row, column]):
                    failures[row] = f"{quantity.name} is {values[row, column]}"
        failed = np.array([failure is not None for failure in failures], dtype=bool)
        values[failed] = np.nan
        errors = np.where(failed[:, None], np.nan, outputs.values.standard_errors)
        seconds = outputs.cpu_seconds + time.process_time() - began
        return Values(values, errors, tuple(failures)), seconds, outputs.samples

    def free_violations(self, genomes: Genomes, constraints: Sequence[Constraint]) -> FloatMatrix:
        """``(n, n_constraints)`` violations of the constraints on free quantities; 0 in the columns of the others.

        They are known before anything is measured, so what violates them need not be. Where one cannot be computed
        it stays 0: measuring then records why.
        """
        violations = np.zeros((len(genomes), len(constraints)))
        columns = [i for i, constraint in enumerate(constraints) if constraint.quantity.form == "free"]
        for row, policy in enumerate(self._space.decode(genomes) if columns else []):
            candidate = Candidate(policy, self._compressor)
            for column in columns:
                try:
                    value = np.array([constraints[column].quantity.value(candidate)])
                except Exception:
                    continue
                violations[row, column] = np.nan_to_num(constraints[column].violation(value)[0])
        return violations

    def test(self, policies: Sequence[Policy]) -> tuple[Values, tuple[dict[str, FloatVector], ...], float, int]:
        """Values on the test split, per-sample values by quantity, CPU seconds and samples.

        Only quantities of outputs have a value there; the others are NaN.
        """
        outputs = self._executor.measure(policies, "test", keep_samples=True)
        named = tuple({self.quantities[q].name: samples for q, samples in rows.items()} for rows in outputs.per_sample)
        return outputs.values, named, outputs.cpu_seconds, outputs.samples
