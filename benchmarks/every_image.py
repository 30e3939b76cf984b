"""Every network of a space of digits_resnet on every image that nothing was trained on; kept as files.

A stored table has the luck of its split. With the divergences of single images, benchmarks draw splits of their own.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np

from benchmarks.exact_front import CHUNK, MEBIBYTES, TABLES, problem_of
from benchmarks.mixed_pairs import seconds_each
from evo_mpq.costs import cost_of
from evo_mpq.measure.executors import InProcess
from evo_mpq.measure.objectives import as_quantity
from evo_mpq.objectives.kl_divergence import KLDivergence
from evo_mpq.objectives.soft_kl_divergence import SoftKLDivergence
from evo_mpq.problem import Problem
from evo_mpq.typing import Genomes

N_SEARCHED = 400
"""Images of a split that are searched; the others judge."""


class EveryImage:
    """Divergences of all genomes on all images of the search and the test split, measured on first use.

    Args:
        space: ``bits`` or ``joint``, see `benchmarks.exact_front`.

    Attributes:
        problem: of the space; its first objective is the softened divergence.
        genomes: ``(n, n_genes)`` all of them, in lexicographic order.
        sizes: ``(n,)`` bytes.
        softened: ``(n, n_images)`` nats.
        plain: likewise.
    """

    def __init__(self, space: str) -> None:
        self.problem = problem_of(space, 0)
        self.genomes = np.concatenate(list(self.problem.space.enumerate()))
        self.sizes = cost_of(self.problem, "size")[1](self.genomes)
        self._places = {genome.tobytes(): place for place, genome in enumerate(self.genomes)}
        files = {name: TABLES / f"digits_resnet_{space}_seed0_{name}.npy" for name in ("softened", "plain")}
        if not all(file.exists() for file in files.values()):
            _measure(self.problem, list(files.values()))
        self.softened, self.plain = (np.load(file, mmap_mode="r") for file in files.values())

    @property
    def groups(self) -> np.ndarray:
        """``(n_images,)`` each image is one of its own."""
        return np.arange(self.plain.shape[1])

    @cached_property
    def seconds_a_sample(self) -> float:
        """CPU seconds of a measurement on one image, on average."""
        return seconds_each(self.problem) / len(self.problem.network.splits.search)

    def divergences(self, genomes: Genomes, kind: int) -> np.ndarray:
        """``(n, n_images)`` nats, see `benchmarks.efficiency.splits`."""
        return (self.softened, self.plain)[kind][self.rows(genomes)]

    def rows(self, genomes: Genomes) -> np.ndarray:
        """``(n,)`` places of genomes."""
        return np.array([self._places[genome.tobytes()] for genome in np.ascontiguousarray(genomes)], dtype=np.int64)


def _measure(problem: Problem, files: list[Path]) -> None:
    """Writes ``(n, n_images)`` softened and plain divergences of all genomes."""
    quantities = [as_quantity(SoftKLDivergence()), as_quantity(KLDivergence())]
    executor = InProcess(problem.compressor, quantities, 256 * MEBIBYTES)
    parts = []
    for split in ("search", "test"):
        found = []
        for rows in problem.space.enumerate(CHUNK):
            samples = executor.measure(problem.space.decode(rows), split, keep_samples=True).per_sample
            found.append(np.array([[each[0], each[1]] for each in samples], dtype=np.float32))
        parts.append(np.concatenate(found))
    TABLES.mkdir(parents=True, exist_ok=True)
    for place, file in enumerate(files):
        np.save(file, np.concatenate([part[:, place] for part in parts], axis=1))
