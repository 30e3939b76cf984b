"""Which layers and which of their bits matter: the Shapley contributions of a problem's genes, kept with its run."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from evo_mpq.costs import cost_of, lead_objective, tables_of
from evo_mpq.errors import ConfigError
from evo_mpq.optimize.loop import Spending
from evo_mpq.predict.shapley.contributions import Contributions
from evo_mpq.predict.shapley.estimators import ESTIMATORS, MEASUREMENTS_PER_GENE
from evo_mpq.problem import Problem
from evo_mpq.reporters import Reporter
from evo_mpq.results.run_directory import RunDirectory
from evo_mpq.session import session_aside
from evo_mpq.space.search_space import SearchSpace


def contribute(
    problem: Problem,
    directory: RunDirectory,
    estimator: str = next(iter(ESTIMATORS)),
    n_measurements: int | None = None,
    *,
    base: Path | None = None,
    workers: int | str | None = None,
    reporter: Reporter | None = None,
    interrupted: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Estimates the contributions of all genes; kept as ``contributions.json`` in the directory.

    What the directory's journal knows is not measured again, and what is measured here a run in the same directory
    need not measure; nothing else about that run changes.

    Args:
        problem: whose genes contribute.
        directory: locked.
        estimator: its name.
        n_measurements: for the estimator; default: 4 per gene. The table of sensitivities, by which estimators
            divide what they do not measure step by step, comes besides.
        base: folder of the user's modules.
        workers: overrides the settings' number of processes.
        reporter: told about long steps.
        interrupted: asked between chunks of measuring whether to stop.

    Returns:
        The document that was written.

    Raises:
        ConfigError: no such estimator, too few measurements for it, or nothing is measured.
        KeyboardInterrupt: interrupted; what was measured is kept.
        EvoMpqError: the directory holds another run, the disk is full, …
    """
    if estimator not in ESTIMATORS:
        raise ConfigError(f'there is no estimator "{estimator}"; there are {", ".join(ESTIMATORS)}')
    lead = lead_objective(problem)
    if lead is None:
        raise ConfigError("every objective is computed, so there is no loss that genes could contribute to")
    space = problem.space
    n = MEASUREMENTS_PER_GENE * space.n_genes if n_measurements is None else n_measurements
    with session_aside(
        problem, directory, base=base, workers=workers, reporter=reporter, interrupted=interrupted
    ) as session:
        spending = Spending()
        began = time.process_time()
        tables = tables_of(problem, lead, session.measure_aside(spending, "contributions"), cost_of(problem)[1])
        rng = np.random.default_rng(problem.settings.seed)
        try:
            found = ESTIMATORS[estimator](space, tables.measure, n, rng, levels=tables.sensitivities)
        except ValueError as error:
            raise ConfigError(f"{estimator}: {error}") from error
    document = {
        "estimator": estimator,
        "objective": {"name": lead.name, "unit": lead.unit},
        "measurements": int(spending.evaluations),
        "cpu_seconds": time.process_time() - began,
        **contributions_json(space, found),
    }
    directory.write_contributions(document)
    return document


def contributions_json(space: SearchSpace, found: Contributions) -> dict[str, Any]:
    """Contributions as JSON values: per gene its steps from the most expensive value down."""
    return {
        "top": found.top,
        "bottom": found.bottom,
        "efficiency_gap": found.efficiency_gap,
        "genes": [
            {
                "name": gene.name,
                "kind": gene.kind,
                "layers": list(gene.layers),
                "total": float(steps.sum()),
                "total_error": float(total_error),
                "steps": [
                    {
                        "from": gene.values[step + 1],
                        "to": gene.values[step],
                        "loss": float(steps[step]),
                        "error": float(errors[step]),
                    }
                    for step in reversed(range(len(steps)))
                ],
            }
            for gene, steps, errors, total_error in zip(
                space.genes, found.increments, found.standard_errors, found.total_errors, strict=True
            )
        ],
    }
