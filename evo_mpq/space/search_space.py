"""The search space: the only translator between genomes and policies."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from evo_mpq.space.genes import BIT_KINDS, DROP_KIND, PRUNE_KIND, Gene, GeneValue
from evo_mpq.space.policy import UNTOUCHED, LayerPolicy, Policy
from evo_mpq.typing import BoolVector, Genomes

Genome: TypeAlias = npt.NDArray[np.int64]
"""``(n_genes,)`` one row of ``Genomes``."""


@dataclass(frozen=True)
class SearchSpace:
    """All that may be chosen for a network.

    A genome is a row of indices into the values of the genes; a policy is what it means. Genes all of whose
    layers lie in blocks that are left out are inactive: they decide nothing, and stand at their first value in
    the one canonical form of all genomes that mean the same network. Every method that returns genomes returns
    canonical ones.

    Args:
        layers: names of all layers, in graph order.
        genes: the decision variables; a field of a layer is set by at most one of them, and a layer lies in at
            most one block. The population evaluator shares most when they stand in the order of their layers.
        fixed: what is done to a layer wherever no gene decides; layers that are not named stay untouched.
        edges: bits of the tensors between quantized layers that no gene governs, or None for float.

    Raises:
        ValueError: repeated layers, an unknown layer, or two genes for one field of a layer.

    >>> bits = SearchSpace(["stem", "head"], [Gene("stem.weight_bits", (2, 4), "weight_bits", ("stem",))])
    >>> [policy.layers["stem"].weight_bits for policy in bits.decode(np.array([[0], [1]]))]
    [2, 4]
    """

    layers: Sequence[str]
    genes: Sequence[Gene]
    fixed: Mapping[str, LayerPolicy] = field(default_factory=dict, hash=False)
    edges: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", tuple(self.layers))
        object.__setattr__(self, "genes", tuple(self.genes))
        object.__setattr__(self, "fixed", dict(self.fixed))
        _check_layers(self.layers, self.genes, self.fixed)

    @property
    def n_genes(self) -> int:
        """Length of a genome."""
        return len(self.genes)

    @property
    def blocks(self) -> tuple[str, ...]:
        """Names of the blocks that may be left out."""
        return tuple(gene.name.removesuffix(f".{DROP_KIND}") for gene in self.genes if gene.kind == DROP_KIND)

    @cached_property
    def cardinalities(self) -> Genome:
        """``(n_genes,)`` number of values of each gene."""
        cardinalities = np.array([gene.cardinality for gene in self.genes], dtype=np.int64)
        cardinalities.flags.writeable = False
        return cardinalities

    @cached_property
    def homes(self) -> list[frozenset[int]]:
        """Per gene the genes of the blocks that all of its layers lie in; empty if one layer lies in none.

        A gene is inactive where all its homes stand at their first value; a block's own gene is its home, too.
        """
        block_of = {name: block for block in self._blocks for name in self.genes[block].layers}
        homes = []
        for gene in self.genes:
            blocks = [block_of.get(name) for name in gene.layers]
            homes.append(frozenset() if None in blocks else frozenset(block for block in blocks if block is not None))
        return homes

    @cached_property
    def n_genomes(self) -> int:
        """Number of distinct canonical genomes, exactly.

        A block alone with its genes has as many forms as these, and one more without it. A gene that spans several
        blocks is inactive only if all of them are left out: inclusion and exclusion over the sets of blocks that
        genes span, of which there are few, because each is a tie.
        """
        within = dict.fromkeys(self._blocks, 1)
        spanning: dict[frozenset[int], int] = {}
        always = 1
        for gene, blocks in enumerate(self.homes):
            cardinality = self.genes[gene].cardinality
            if gene in within:
                continue
            if not blocks:
                always *= cardinality
            elif len(blocks) == 1:
                within[next(iter(blocks))] *= cardinality
            else:
                spanning[blocks] = spanning.get(blocks, 1) * cardinality
        total = 0
        for left_out in itertools.product((False, True), repeat=len(spanning)):
            gone = frozenset[int]().union(*itertools.compress(spanning, left_out))
            factors = (1 - n if out else n for out, n in zip(left_out, spanning.values(), strict=True))
            kept = (n + 1 for block, n in within.items() if block not in gone)
            total += math.prod(factors) * math.prod(kept)
        return always * total

    @property
    def log10_genomes(self) -> float:
        """Decimal logarithm of ``n_genomes``."""
        return math.log10(self.n_genomes)

    def decode(self, genomes: Genomes) -> list[Policy]:
        """What each of ``(n, n_genes)`` genomes means.

        Raises:
            ValueError: an index outside its gene's values.
        """
        rows = self._checked(genomes)
        columns = [table[rows[:, genes] @ strides] for genes, strides, table in self._tables]
        dropped = [
            {self.genes[block].name: True for block in np.array(self._blocks)[out]}
            for out in rows[:, self._blocks] == 0
        ]
        return [
            Policy(dict(zip(self.layers, row, strict=True)), architecture)
            for row, architecture in zip(zip(*columns, strict=True), dropped, strict=True)
        ]

    def encode(self, policies: Sequence[Policy]) -> Genomes:
        """``(n, n_genes)`` the canonical genomes that mean ``policies``.

        Raises:
            ValueError: a policy is not in this space; the message names the layer and its legal values.
        """
        rows = [self._encode(policy) for policy in policies]
        return self.canonical(np.array(rows, dtype=np.int64).reshape(len(rows), self.n_genes))

    def canonical(self, genomes: Genomes) -> Genomes:
        """``(n, n_genes)`` the one genome that stands for each network, inactive genes at 0; a copy."""
        rows = np.array(genomes, dtype=np.int64)
        for gene, blocks in enumerate(self.homes):
            if blocks and gene not in self._blocks:
                rows[np.all(rows[:, sorted(blocks)] == 0, axis=1), gene] = 0
        return rows

    def legal(self, genomes: Genomes) -> BoolVector:
        """``(n,)`` which rows hold indices of existing values and are canonical."""
        rows = np.asarray(genomes)
        in_range = np.all((rows >= 0) & (rows < self.cardinalities), axis=1)
        legal = np.zeros(len(rows), dtype=bool)
        legal[in_range] = np.all(self.canonical(rows[in_range]) == rows[in_range], axis=1)
        return legal

    def sample(self, n: int, rng: np.random.Generator) -> Genomes:
        """``(n, n_genes)`` genomes, each gene drawn uniformly; rows may repeat."""
        return self.canonical(rng.integers(self.cardinalities, size=(n, self.n_genes)))

    def enumerate(self, chunk: int = 4096) -> Iterator[Genomes]:
        """Every canonical genome once, in lexicographic order, up to ``chunk`` rows at a time."""
        n_vectors = math.prod(gene.cardinality for gene in self.genes)
        for start in range(0, n_vectors, chunk):
            rows = self._vectors(start, min(chunk, n_vectors - start))
            rows = rows[self.legal(rows)]
            if len(rows):
                yield rows

    def nearest(self, weight_bits: int, activation_bits: int, prune_ratio: float = 0.0) -> Genome:
        """``(n_genes,)`` the genome whose every gene is the legal value nearest to what is given.

        Of two values that are equally near, the more expensive one is taken. Blocks are kept.
        """
        wanted = dict(zip((*BIT_KINDS, PRUNE_KIND), (weight_bits, activation_bits, prune_ratio), strict=True))
        return self._one(
            [
                _nearest(gene.values, wanted[gene.kind]) if gene.kind in wanted else gene.cardinality - 1
                for gene in self.genes
            ]
        )

    def most_expensive(self) -> Genome:
        """``(n_genes,)`` the genome of every gene's last value."""
        return self._one(self.cardinalities - 1)

    def cheapest(self) -> Genome:
        """``(n_genes,)`` the genome of every gene's first value."""
        return self._one(np.zeros(self.n_genes, dtype=np.int64))

    def steps(self, kind: str) -> tuple[GeneValue, ...]:
        """All values that genes of a kind take, ascending and without repeats."""
        return tuple(sorted({value for gene in self.genes if gene.kind == kind for value in gene.values}))

    def genome_id(self, genome: npt.ArrayLike) -> str:
        """Eight hexadecimal characters that name a genome in files and commands."""
        return hashlib.sha256(np.asarray(genome, dtype="<i8").tobytes()).hexdigest()[:8]

    @cached_property
    def _blocks(self) -> list[int]:
        """Genes that leave a block out at their first value."""
        return [index for index, gene in enumerate(self.genes) if gene.kind == DROP_KIND]

    def _one(self, genome: npt.ArrayLike) -> Genome:
        row: Genome = self.canonical(np.asarray(genome, dtype=np.int64)[None])[0]
        return row

    def _checked(self, genomes: Genomes) -> Genomes:
        rows = np.asarray(genomes)
        if rows.ndim != 2 or rows.shape[1] != self.n_genes or not np.issubdtype(rows.dtype, np.integer):
            raise ValueError(f"genomes must be integers of shape (n, {self.n_genes}), got {rows.dtype} {rows.shape}")
        outside = np.argwhere((rows < 0) | (rows >= self.cardinalities))
        if len(outside):
            row, column = outside[0]
            gene = self.genes[column]
            raise ValueError(
                f"row {row} has index {rows[row, column]} for gene {gene.name!r}, "
                f"which has the {gene.cardinality} values {gene.values}"
            )
        return rows.astype(np.int64, copy=False)

    def _vectors(self, start: int, n: int) -> Genomes:
        """``(n, n_genes)`` the lexicographic ranks ``start, start + 1, ...`` as mixed-radix numbers."""
        rows = np.empty((n, self.n_genes), dtype=np.int64)
        carry = np.arange(n)  # what is still to be added to the digits of ``start``, a whole chunk at once
        for gene in reversed(range(self.n_genes)):
            radix = self.genes[gene].cardinality
            start, digit = divmod(start, radix)  # ``start`` is a Python integer: spaces exceed 64 bits
            carry, rows[:, gene] = np.divmod(carry + digit, radix)
        return rows

    @cached_property
    def _tables(self) -> list[tuple[list[int], Genome, npt.NDArray[Any]]]:
        """Per layer: its genes, their strides, and the policy of every combination of their values.

        Built once, so that decoding is one look-up per layer and equal policies are one object.
        """
        interned: dict[LayerPolicy, LayerPolicy] = {}
        tables = []
        for name in self.layers:
            genes = [
                index for index, gene in enumerate(self.genes) if name in gene.layers and index not in self._blocks
            ]
            shape = [self.genes[index].cardinality for index in genes]
            table = np.empty(math.prod(shape), dtype=object)
            for code, choice in enumerate(np.ndindex(*shape)):
                values = {
                    self.genes[gene].kind: self.genes[gene].values[index]
                    for gene, index in zip(genes, choice, strict=True)
                }
                policy = replace(self.fixed.get(name, UNTOUCHED), **values)
                table[code] = interned.setdefault(policy, policy)
            strides = np.array([math.prod(shape[place + 1 :]) for place in range(len(shape))], dtype=np.int64)
            tables.append((genes, strides, table))
        return tables

    def _encode(self, policy: Policy) -> list[int]:
        if set(policy.layers) != set(self.layers):
            different = sorted(set(policy.layers) ^ set(self.layers))
            raise ValueError(f"the policy is not of this network: {different[0]!r} is in only one of them")
        blocks = [self.genes[block] for block in self._blocks]
        if unknown := sorted(set(policy.architecture) - {gene.name for gene in blocks}):
            raise ValueError(f"the policy is not of this space: {unknown[0]!r} is no choice of it")
        dropped = {name for gene in blocks if policy.architecture.get(gene.name) for name in gene.layers}
        for name, (genes, _, table) in zip(self.layers, self._tables, strict=True):
            if name not in dropped and policy.layers[name] not in table.tolist():
                kinds = {self.genes[gene].kind: self.genes[gene].values for gene in genes}
                raise ValueError(_not_in_space(name, policy.layers[name], table[0], kinds))
        return [self._index(gene, policy, dropped) for gene in self.genes]

    def _index(self, gene: Gene, policy: Policy, dropped: set[str]) -> int:
        """Which value of a gene a policy has; 0 for inactive genes."""
        if gene.kind == DROP_KIND:
            return 0 if policy.architecture.get(gene.name) else 1
        active = [name for name in gene.layers if name not in dropped]
        values = [getattr(policy.layers[name], gene.kind) for name in active]
        if len(set(values)) > 1:
            raise ValueError(
                f"layers {', '.join(map(repr, active))} share one choice and must have the same "
                f"{gene.kind}, got {', '.join(map(str, values))}"
            )
        return gene.values.index(values[0]) if values else 0


def _check_layers(layers: Sequence[str], genes: Sequence[Gene], fixed: Mapping[str, LayerPolicy]) -> None:
    if not layers or len(set(layers)) < len(layers):
        raise ValueError(f"a search space needs layers with different names, got {list(layers)}")
    governed = [(name, gene.kind) for gene in genes for name in gene.layers]
    unknown = sorted(({name for name, _ in governed} | set(fixed)) - set(layers))
    if unknown:
        raise ValueError(f"{unknown[0]!r} is none of the layers of the search space")
    if len(set(governed)) < len(governed):
        twice = next(pair for pair in governed if governed.count(pair) > 1)
        raise ValueError(f"two genes set the {twice[1]} of layer {twice[0]!r}")


def _nearest(values: Sequence[GeneValue], target: float) -> int:
    # Values are ordered from cheap to expensive, so among equally near ones the last is the most expensive.
    return min(range(len(values)), key=lambda index: (abs(values[index] - target), -index))


def _not_in_space(
    name: str, policy: LayerPolicy, example: LayerPolicy, kinds: Mapping[str, Sequence[GeneValue]]
) -> str:
    for kind in LayerPolicy.__dataclass_fields__:
        legal = kinds.get(kind, (getattr(example, kind),))
        if getattr(policy, kind) not in legal:
            return (
                f"layer {name!r} has {kind} {getattr(policy, kind)}, "
                f"which is not in the search space; legal: {', '.join(map(str, legal))}"
            )
    raise AssertionError("a policy that is not in the table differs in some field")
