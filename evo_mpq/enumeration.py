"""Whether an exhaustive search comes to its end while somebody waits for it."""

from __future__ import annotations

import math
import time

from evo_mpq.errors import ConfigError, Mistake
from evo_mpq.measure.devices import CPU
from evo_mpq.measure.executors import InProcess
from evo_mpq.measure.measurer import Measurer
from evo_mpq.problem import Problem, fixed_threads

PATIENCE_SECONDS = 15 * 60.0
"""An enumeration that would take longer must be asked for."""

_MOST_NEIGHBORS = 256
_LEAST_SECONDS = 0.5


def refuse_large_enumeration(problem: Problem, n_known: int = 0) -> None:
    """Refuses an exhaustive search that nobody would wait for; other searches are let pass.

    Args:
        problem: to be searched.
        n_known: how many of its genomes were measured before.

    Raises:
        ConfigError: with the number of genomes and the estimated time.
    """
    search = problem.settings.search
    if search.algorithm != "exhaustive" or search.minutes is not None:
        return
    n_genomes = problem.space.n_genomes
    left = min(n_genomes, search.evaluations or n_genomes) - n_known
    if left <= 0:
        return
    each = seconds_per_neighbor(problem)
    if left * each > PATIENCE_SECONDS:
        raise ConfigError([Mistake(("search", "algorithm"), _refusal(n_genomes, left, each, problem.device))])


def seconds_per_neighbor(problem: Problem) -> float:
    """Seconds a candidate takes when neighbors are enumerated, measured on the first few of the space.

    One process; more workers are faster. As many are measured as half a second allows, at least two.
    """
    executor = InProcess(problem.compressor, problem.quantities, problem.settings.compute.memory_bytes, problem.device)
    measurer = Measurer(problem.space, problem.compressor, problem.quantities, executor)
    genomes = next(problem.space.enumerate(_MOST_NEIGHBORS))
    n = min(2, len(genomes))
    with fixed_threads(problem.settings.compute.threads):
        measurer(genomes[:n])  # quantized weights are made on first use
        while True:
            began = time.perf_counter()
            measurer(genomes[:n])
            seconds = time.perf_counter() - began
            if seconds >= _LEAST_SECONDS or n == len(genomes):
                return seconds / n
            n = min(4 * n, len(genomes))


def _refusal(n_genomes: int, left: int, each: float, device: str) -> str:
    count = f"{n_genomes:,}" if n_genomes < 1e15 else f"10^{math.log10(n_genomes):.1f}"
    where = "one CPU" if device == CPU else device
    return (
        f"exhaustive search of {count} genomes would take about {duration(left * each)} ({each * 1000:.2g} ms each on "
        f"{where}). Offer fewer options, set evaluations or minutes, or give --yes (from Python: yes=True) to wait"
    )


def duration(seconds: float) -> str:
    """A time in words, rounded.

    >>> duration(90), duration(5 * 3600), duration(1e30)
    ('90 seconds', '5 hours', '3e+22 years')
    """
    for size, unit in ((86400 * 365, "years"), (86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            count = seconds / size
            return f"{count:,.0f} {unit}" if count < 1e6 else f"{count:.0e} {unit}"
    return f"{seconds:.0f} seconds"
