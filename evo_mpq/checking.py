"""What `evo-mpq check` says about a problem: its layers, genes and objectives, and what a measurement costs."""

from __future__ import annotations

import math
import sys
import time

import numpy as np
from rich.console import Console
from rich.table import Table

from evo_mpq import plugins
from evo_mpq.measure.executors import InProcess
from evo_mpq.measure.measurer import Measurer
from evo_mpq.measure.objectives import as_quantity
from evo_mpq.network.calling import tensors_of
from evo_mpq.problem import Problem, fixed_threads, middle_policy
from evo_mpq.space.building import space_table

_WANTED_RELATIVE_ERROR = 0.05


def print_check(problem: Problem) -> None:
    """Prints what the settings mean, measuring one candidate."""
    console = Console(file=sys.stdout, highlight=False, width=None if sys.stdout.isatty() else 140)
    network, space = problem.network, problem.space
    table = Table("layer", "kind", "weight", "weights", "MACs", title=network.name, title_justify="left")
    for layer in network.layers:
        shape = "×".join(map(str, layer.shape))
        table.add_row(layer.name, layer.kind, shape, f"{layer.n_parameters:,}", f"{layer.macs:,}")
    console.print(table)
    genes = Table("gene", "values", "layers", title="genes", title_justify="left")
    for row in space_table(space):
        genes.add_row(row["gene"], " ".join(map(str, row["values"])), ", ".join(row["layers"]))
    console.print(genes)
    edges = f", {space.edges}-bit edges" if space.edges else ""
    console.print(f"{space.n_genes} genes, 10^{space.log10_genomes:.1f} genomes{edges}")
    for quantity in problem.objectives:
        unit = f" [{quantity.unit}]" if quantity.unit else ""
        console.print(f"{quantity.direction} {quantity.name}{unit} ({quantity.kind})", markup=False)
    for constraint in problem.constraints:
        console.print(f"subject to {constraint}", markup=False)
    sizes = {name: len(getattr(network.splits, name)) for name in ("calibration", "search", "test")}
    console.print("samples: " + ", ".join(f"{name} {n}" for name, n in sizes.items()))
    for note in problem.notes:
        console.print(f"note: {note}", style="yellow", markup=False)
    for line in measured_lines(problem):
        console.print(line, markup=False)


def measured_lines(problem: Problem) -> list[str]:
    """What measuring the genome of middle options once tells, in sentences."""
    divergence = as_quantity(plugins.resolve("kl_divergence", "objectives", None))
    executor = InProcess(problem.compressor, [divergence], problem.settings.compute.memory_bytes)
    measurer = Measurer(problem.space, problem.compressor, [divergence], executor)
    policy = middle_policy(problem.space)
    with fixed_threads(problem.settings.compute.threads):
        measurer.policies([policy])  # quantized weights are made on first use
        began = time.perf_counter()
        values, _, _ = measurer.policies([policy])
        seconds = time.perf_counter() - began
        alive = problem.compressor.live_bytes(
            policy, tensors_of(next(iter(problem.network.splits.search.batches())).inputs)
        )
    if values.failures[0] is not None:
        return [f"the genome of middle options cannot be measured: {values.failures[0]}"]
    kl, error = float(values.values[0, 0]), float(values.standard_errors[0, 0])
    lines = [
        f"the genome of middle options: {problem.compressor.packed_bytes(policy):,} bytes, "
        f"{seconds:.3g} s a measurement alone (less with neighbors), at least {alive / 2**20:.1f} MiB of tensors alive",
        f"its KL to the float network: {kl:.4g} ± {error:.2g} nats (standard error)",
    ]
    n = len(problem.network.splits.search)
    if kl > 0 and math.isfinite(error) and error > _WANTED_RELATIVE_ERROR * kl:
        needed = math.ceil(n * (error / (_WANTED_RELATIVE_ERROR * kl)) ** 2)
        lines.append(f"the standard error falls below 5 % with about {needed:,} search samples (now {n:,})")
    return lines


def seconds_per_neighbor(problem: Problem) -> float:
    """Seconds per candidate when neighbors are enumerated, measured on a few of them."""
    executor = InProcess(problem.compressor, problem.quantities, problem.settings.compute.memory_bytes)
    measurer = Measurer(problem.space, problem.compressor, problem.quantities, executor)
    genomes = next(problem.space.enumerate(64))
    with fixed_threads(problem.settings.compute.threads):
        measurer(np.asarray(genomes))
        began = time.perf_counter()
        measurer(np.asarray(genomes))
        return (time.perf_counter() - began) / len(genomes)
