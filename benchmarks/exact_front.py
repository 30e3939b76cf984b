"""How long does the exact front of digits_resnet take on one core?

Two spaces: ``bits``, 2, 3 or 4 in every layer, 59,049 genomes; and ``joint``, 2 or 4 bits, all or half of every group's
channels, and a block that may be dropped, 73,728 genomes. All are measured and kept as a table, which other benchmarks
search; a small part of the first is the oracle of the tests.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.presenting import show
from benchmarks.problems import joint
from evo_mpq.measure.executors import InProcess
from evo_mpq.optimize.pareto import non_dominated
from evo_mpq.problem import Problem
from evo_mpq.space.building import SpaceLayer, build_space
from evo_mpq.space.genes import Gene
from evo_mpq.space.search_space import SearchSpace
from evo_mpq.typing import FloatMatrix, FloatVector, Genomes

TABLES = Path(__file__).parent / "tables"
ORACLE = Path(__file__).parent.parent / "tests" / "data" / "digits_resnet_last_six_layers.npz"
CHUNK = 3**8  # genomes that differ in the last eight layers, so that chunks cost no sharing
MEBIBYTES = 1 << 20
JOINT: dict[str, Any] = {"prune": {"ratios": [0.0, 0.5]}, "drop": ["stage*.*"]}


@dataclass(frozen=True, eq=False)
class Table:
    """Everything about every genome of a space, in lexicographic order.

    Attributes:
        genomes: ``(n, n_genes)`` positions in ``bits``.
        layers: ``(n_genes,)`` names of the layers whose weights they choose.
        bits: the options of every layer.
        size: ``(n,)`` bytes of the packed file.
        search_loss: ``(n,)`` the default objective, the softened divergence from the float network, in nats.
        search_loss_error: ``(n,)`` standard errors.
        search_accuracy: ``(n,)``.
        test_kl: ``(n,)`` the plain divergence, in nats.
        test_kl_error: ``(n,)``.
        test_accuracy: ``(n,)``.
        float_size: bytes of the uncompressed network.
        float_accuracy: of the uncompressed network on the search and on the test split.
        genes: JSON of name, values, kind and layers of every gene; empty where all are bits of one layer.
    """

    genomes: Genomes
    layers: np.ndarray
    bits: np.ndarray
    size: FloatVector
    search_loss: FloatVector
    search_loss_error: FloatVector
    search_accuracy: FloatVector
    test_kl: FloatVector
    test_kl_error: FloatVector
    test_accuracy: FloatVector
    float_size: np.ndarray
    float_accuracy: FloatVector
    genes: np.ndarray = field(default_factory=lambda: np.array(""))

    @property
    def space(self) -> SearchSpace:
        """What was enumerated."""
        names = [str(name) for name in self.layers]
        if not str(self.genes):
            bits = [int(bits) for bits in self.bits]
            return build_space([SpaceLayer(name) for name in names], defaults={"weight_bits": bits})
        genes = [
            Gene(name, tuple(values), kind, tuple(layers)) for name, values, kind, layers in json.loads(str(self.genes))
        ]
        return SearchSpace(names, genes)

    @classmethod
    def read(cls, file: Path) -> Table:
        """The table in an .npz file."""
        with np.load(file) as arrays:
            return cls(**{name: arrays[name] for name in arrays.files})

    def write(self, file: Path, n_kept: slice | np.ndarray = slice(None), genes: slice = slice(None)) -> None:
        """Writes some genomes, or all, to an .npz file; of the genomes only some genes."""
        arrays = {part.name: getattr(self, part.name) for part in fields(self)}
        n = len(self.genomes)
        arrays = {name: array[n_kept] if array.shape[:1] == (n,) else array for name, array in arrays.items()}
        arrays |= {"genomes": arrays["genomes"][:, genes].astype(np.int8), "layers": arrays["layers"][genes]}
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(file, **arrays)


def table_file(seed: int, space: str = "bits") -> Path:
    """Where the table of a space and a training seed is kept."""
    return TABLES / f"digits_resnet_{'234' if space == 'bits' else space}_seed{seed}.npz"


def problem_of(space: str, seed: int) -> Problem:
    """What is enumerated."""
    weight_bits, changes = ((2, 3, 4), {}) if space == "bits" else ((2, 4), JOINT)
    return joint(weight_bits=weight_bits, seed=seed, **changes)


def measure_all(problem: Problem, split: str) -> tuple[FloatMatrix, FloatMatrix, float]:
    """Values and standard errors ``(n, n_quantities)`` of all genomes on a split, and the CPU seconds it took."""
    executor = InProcess(problem.compressor, problem.quantities, 256 * MEBIBYTES)
    began = time.process_time()
    found = [executor.measure(problem.space.decode(rows), split).values for rows in problem.space.enumerate(CHUNK)]
    seconds = time.process_time() - began
    return np.concatenate([v.values for v in found]), np.concatenate([v.standard_errors for v in found]), seconds


def measure_table(problem: Problem) -> tuple[Table, float, float]:
    """The table of a problem, and the CPU seconds that its search and test values took."""
    space, compressor = problem.space, problem.compressor
    names = [quantity.name for quantity in problem.quantities]
    kl, accuracy, loss = (names.index(name) for name in ("kl_divergence", "accuracy", problem.objectives[0].name))
    search, search_error, search_seconds = measure_all(problem, "search")
    test, test_error, test_seconds = measure_all(problem, "test")
    genes = json.dumps([[gene.name, gene.values, gene.kind, gene.layers] for gene in space.genes])
    policies = (policy for rows in space.enumerate() for policy in space.decode(rows))
    reference = InProcess(compressor, problem.quantities, 256 * MEBIBYTES)
    float_accuracy = [
        reference.measure([problem.reference], split).values.values[0, accuracy] for split in ("search", "test")
    ]
    table = Table(
        genomes=np.concatenate(list(space.enumerate())).astype(np.int8),
        layers=np.array(space.layers),
        bits=np.array(space.steps("weight_bits")),
        size=np.array([compressor.packed_bytes(policy) for policy in policies]),
        search_loss=search[:, loss],
        search_loss_error=search_error[:, loss],
        search_accuracy=search[:, accuracy],
        test_kl=test[:, kl],
        test_kl_error=test_error[:, kl],
        test_accuracy=test[:, accuracy],
        float_size=np.array(compressor.packed_bytes(problem.reference)),
        float_accuracy=np.array(float_accuracy),
        genes=np.array(genes if any(gene.kind != "weight_bits" for gene in space.genes) else ""),
    )
    return table, search_seconds, test_seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of training and split")
    parser.add_argument("--spaces", nargs="+", default=["bits"], choices=["bits", "joint"])
    parser.add_argument("--oracle", action="store_true", help="write the part that the tests use, of the first seed")
    arguments = parser.parse_args()
    rows = []
    for space, seed in itertools.product(arguments.spaces, arguments.seeds):
        table, search_seconds, test_seconds = measure_table(problem_of(space, seed))
        table.write(table_file(seed, space))
        if arguments.oracle and space == "bits" and seed == arguments.seeds[0]:
            most_expensive = np.all(table.genomes[:, :4] == len(table.bits) - 1, axis=1)
            table.write(ORACLE, most_expensive, genes=slice(4, None))
        front = non_dominated(np.stack([table.search_loss, table.size], axis=1))
        rows.append(
            [
                space,
                seed,
                f"{len(table.genomes):,}",
                f"{search_seconds:.0f}",
                f"{test_seconds:.0f}",
                front.sum(),
                f"{table.size[front].min() / 1000:.1f}–{table.size[front].max() / 1000:.1f}",
                f"{table.search_loss[front].max():.4f}–{table.search_loss[front].min():.5f}",
                f"{table.test_kl[front].max():.4f}–{table.test_kl[front].min():.5f}",
                f"{table.test_accuracy[front].min():.3f}–{table.test_accuracy[front].max():.3f}",
                f"{table.float_accuracy[1]:.3f}",
            ]
        )
    show(
        "How long does the exact front of digits_resnet take on one core?",
        [
            "space",
            "seed",
            "genomes",
            "search, CPU s",
            "test, CPU s",
            "front",
            "kB",
            "search loss",
            "test KL",
            "test accuracy",
            "float",
        ],
        rows,
    )


if __name__ == "__main__":
    main()
