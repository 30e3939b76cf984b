"""What ``evo-mpq check`` says about a problem: its layers, genes and objectives, and what a measurement costs."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

from rich.table import Table

from evo_mpq import plugins
from evo_mpq.console import stdout_console
from evo_mpq.costs import lead_objective
from evo_mpq.errors import MeasurementError
from evo_mpq.measure.executors import InProcess
from evo_mpq.measure.measurer import Measurer
from evo_mpq.measure.objectives import as_quantity
from evo_mpq.measure.statistics import WANTED_RELATIVE_ERROR
from evo_mpq.network.blocks import matching_blocks
from evo_mpq.network.calling import tensors_of
from evo_mpq.network.products import Product
from evo_mpq.problem import Problem, fixed_threads, middle_policy
from evo_mpq.quantities import DIVERGENCE, is_divergence
from evo_mpq.searching import table_share
from evo_mpq.space.building import space_table


@dataclass(frozen=True)
class Trial:
    """What measuring the uniform genome of middle bits once tells.

    Attributes:
        size: of its packed file, in bytes.
        seconds: of the measurement; neighbors that are measured together take less each.
        alive: bytes of the tensors that are alive at once, a lower bound of the memory it takes.
        kl: divergence from the float network on the search split, in nats.
        standard_error: of it; NaN where it is unknown.
        samples: of the search split.
        divergence: its name.
    """

    size: int
    seconds: float
    alive: int
    kl: float
    standard_error: float
    samples: int
    divergence: str = DIVERGENCE

    @property
    def samples_needed(self) -> int | None:
        """Size of the search split at which the standard error falls below 5 % of the KL; None if nothing tells.

        >>> Trial(1, 1.0, 1, kl=0.1, standard_error=0.01, samples=400).samples_needed
        1600
        """
        if not (self.kl > 0 and math.isfinite(self.standard_error)):
            return None
        return math.ceil(self.samples * (self.standard_error / (WANTED_RELATIVE_ERROR * self.kl)) ** 2)


def try_middle(problem: Problem) -> Trial:
    """Measures the uniform genome of middle bits.

    Raises:
        MeasurementError: it cannot be measured.
    """
    lead = lead_objective(problem)
    if lead is None or not is_divergence(lead):
        lead = as_quantity(plugins.resolve(DIVERGENCE, "objectives", None))
    executor = InProcess(problem.compressor, [lead], problem.settings.compute.memory_bytes, problem.device)
    measurer = Measurer(problem.space, problem.compressor, [lead], executor)
    policy = middle_policy(problem.space)
    search = problem.network.splits.search
    with fixed_threads(problem.settings.compute.threads):
        measurer.policies([policy])  # quantized weights are made on first use
        began = time.perf_counter()
        values, _, _ = measurer.policies([policy])
        seconds = time.perf_counter() - began
        alive = problem.compressor.live_bytes(policy, tensors_of(next(iter(search.batches())).inputs))
    if values.failures[0] is not None:
        raise MeasurementError(f"the uniform genome of middle bits cannot be measured: {values.failures[0]}")
    return Trial(
        problem.compressor.packed_bytes(policy),
        seconds,
        alive,
        float(values.values[0, 0]),
        float(values.standard_errors[0, 0]),
        len(search),
        lead.name,
    )


def print_check(problem: Problem, trial: Trial) -> None:
    """Prints what the settings mean on stdout."""
    console = stdout_console()
    console.print(_layer_table(problem))
    console.print(_gene_table(problem))
    if problem.network.prune_groups:
        console.print(_group_table(problem))
    told = (pruning_lines(problem), block_lines(problem), space_lines(problem), quantity_lines(problem))
    for line in itertools.chain(*told, trial_lines(trial)):
        console.print(line, soft_wrap=True)


def _layer_table(problem: Problem) -> Table:
    table = _table(problem.network.name, "layer", "kind", "weight", "weights", "MACs")
    for site in problem.network.sites():
        if isinstance(site, Product):
            table.add_row(site.name, site.kind, "", "", f"{site.macs:,}")
        else:
            shape = "×".join(map(str, site.shape))
            table.add_row(site.name, site.kind, shape, f"{site.n_parameters:,}", f"{site.macs:,}")
    return table


def _group_table(problem: Problem) -> Table:
    table = _table("channels that are pruned together", "group", "channels", "given by", "read by")
    for group in problem.network.prune_groups:
        table.add_row(group.name, f"{group.n_channels}", ", ".join(group.rows), ", ".join(group.columns))
    return table


def pruning_lines(problem: Problem) -> Iterator[str]:
    """The channels that cannot be pruned, and why."""
    for refused in problem.network.refused_groups:
        yield f"not pruned: {', '.join(refused.layers)}. {refused.reason}"


def block_lines(problem: Problem) -> Iterator[str]:
    """What becomes of each block that may be left out, and why other modules that a pattern matches may not."""
    network, patterns = problem.network, problem.settings.space.architecture.drop
    found = network.blocks
    for name in problem.space.blocks:
        block = found[name]
        assert not isinstance(block, str), "the space offers blocks only"
        meaning = "passes its input on" if block.becomes == "identity" else "adds nothing to its residual connection"
        yield f"block {name}, left out: {meaning}"
    for name in matching_blocks(patterns, found) if patterns else ():
        if isinstance(reason := found[name], str):
            yield f"not left out: {name}. {reason}"
    possible = [name for name, block in found.items() if not isinstance(block, str)]
    if not patterns and possible:
        yield f"blocks that could be left out (architecture: {{drop: […]}}): {', '.join(possible)}"


def _gene_table(problem: Problem) -> Table:
    table = _table("genes", "gene", "values", "layers")
    for row in space_table(problem.space):
        table.add_row(row["gene"], " ".join(map(str, row["values"])), ", ".join(row["layers"]))
    return table


def _table(title: str, *headers: str) -> Table:
    return Table(*headers, title=title, title_justify="left", header_style="bold")


def space_lines(problem: Problem) -> Iterator[str]:
    """The space, the search and the data, in sentences."""
    space, search = problem.space, problem.settings.search
    edges = f"; tensors between layers at {space.edges} bits" if space.edges else ""
    yield f"space: {space.n_genes} genes, 10^{space.log10_genomes:.1f} genomes{edges}"
    limits = [f"{key} {value:g}" for key in ("evaluations", "minutes", "stall") if (value := getattr(search, key))]
    yield f"search: {search.algorithm}, {', '.join(limits) or 'all genomes'}"
    sizes = {name: len(getattr(problem.network.splits, name)) for name in ("calibration", "search", "test")}
    share = table_share(problem) if search.algorithm == "nsga2" else 1.0
    tables = f"; tables on {math.ceil(share * sizes['search']):,} of the search samples" if share < 1 else ""
    yield "samples: " + ", ".join(f"{name} {n:,}" for name, n in sizes.items()) + tables


def quantity_lines(problem: Problem) -> Iterator[str]:
    """Objectives with units and kinds, constraints, and what is reported on the test split."""
    for quantity in problem.objectives:
        unit = f" [{quantity.unit}]" if quantity.unit else ""
        yield f"{quantity.direction} {quantity.name}{unit} ({quantity.kind})"
    for constraint in problem.constraints:
        yield f"subject to {constraint}{' (modelled)' if constraint.quantity.kind == 'modelled' else ''}"
    for bounds in problem.picks:
        yield f"to pick from within {' and '.join(map(str, bounds))}"
    yield f"on the test split: {', '.join(problem.measured.tested) or 'nothing'}"


def trial_lines(trial: Trial) -> Iterator[str]:
    """What the measurement told, in sentences."""
    yield (
        f"the uniform genome of middle bits: {trial.size:,} bytes; {trial.seconds:.3g} s a measurement (less with "
        f"neighbors); {trial.alive / 2**20:.3g} MiB of tensors alive, a lower bound of the memory it takes"
    )
    error = f" ± {trial.standard_error:.2g}" if math.isfinite(trial.standard_error) else ", standard error unknown"
    yield f"its {trial.divergence} to the float network: {trial.kl:.4g}{error} nats on {trial.samples:,} search samples"
    needed = trial.samples_needed
    if needed is not None and needed > trial.samples:
        yield f"the standard error falls below 5 % of it with about {needed:,} search samples"
    elif needed is not None:
        yield f"its standard error is below 5 % of it; about {needed:,} search samples would do"
