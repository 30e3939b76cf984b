"""Splits of the user's data, as batches whose order and boundaries never change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, default_collate

from evo_mpq.errors import DataError, EvoMpqError, user_frame

CACHE_BYTES = 1 << 30
"""Below this size a split is kept in memory once it was read."""

NEEDED = ("calibration", "search", "test")
"""Splits that every search needs."""

Form: TypeAlias = tuple[Any, tuple[tuple[tuple[int, ...], torch.dtype], ...]]
"""Structure of a sample's tensors, and of each tensor its shape and type."""


@dataclass(frozen=True, eq=False)
class RawBatch:
    """Consecutive samples of a split, as the dataset gives them.

    The tensors belong to the split's memory: read them, never write into them.

    Attributes:
        inputs: a tensor, or mappings, tuples and lists of tensors, ``(n, ...)`` each.
        targets: the same, or None where the data has no targets.
        indices: ``(n,)`` int64 positions of the samples in their split.
    """

    inputs: Any
    targets: Any
    indices: Tensor

    def __len__(self) -> int:
        return len(self.indices)


class Split:
    """One split of the data: a dataset, read in batches of fixed order and fixed boundaries.

    Batches are stacked by ``torch.utils.data.default_collate``, tensor by tensor, into contiguous CPU memory of
    their own, so that a batch has the same bits whenever and wherever it is read. They stay in memory if the split
    is smaller than ``cache_bytes``; a larger one is read from its dataset each time.

    A split that fits in memory pickles as its batches and leaves the dataset behind, so worker processes need
    neither the user's code nor files; a larger one pickles its dataset, which must then allow it.

    Args:
        name: ``"calibration"``, ``"search"``, ``"test"`` or ``"train"``; for messages.
        dataset: a torch ``Dataset`` with a length, or a sequence; each sample is a pair ``(inputs, target)``
            whose target may be None. Its attribute ``groups``, if it has one, is a label per sample (the file or
            image it was made from).
        batch_size: samples per batch; the last one may be smaller.
        cache_bytes: keep batches in memory below this size.

    Attributes:
        name: as given.
        dataset: as given; in a process that received the batches instead, these.
        batch_size: as given.
        groups: ``(n,)`` the dataset's labels of related samples, or None.

    Raises:
        DataError: the dataset is empty, or nothing that has samples by position.
        ValueError: the batch size is not positive.

    >>> split = Split("search", [(torch.full((2,), float(i)), i % 2) for i in range(5)], batch_size=2)
    >>> [batch.targets.tolist() for batch in split.batches()]
    [[0, 1], [0, 1], [0]]
    """

    def __init__(self, name: str, dataset: Any, batch_size: int = 256, *, cache_bytes: int = CACHE_BYTES) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size is a number of samples, at least 1, not {batch_size}")
        self.name = name
        self.dataset = dataset
        self.batch_size = batch_size
        self._n = _length(name, dataset)
        self.groups = _groups(name, dataset, self._n)
        self._cache_bytes = cache_bytes
        self._cached: dict[int, RawBatch] = {}
        self._form: tuple[Form, Form | None] | None = None

    def __len__(self) -> int:
        return self._n

    def __repr__(self) -> str:
        return f"Split({self.name!r}, {self._n} samples in {self.n_batches} batches)"

    @property
    def n_batches(self) -> int:
        """Batches of one pass, the smaller last one included."""
        return -(-self._n // self.batch_size)

    def batches(self) -> Iterator[RawBatch]:
        """All samples in the dataset's order, the same batches at every call.

        Raises:
            DataError: a sample cannot be read, is no pair, or is shaped unlike the others.
        """
        return (self._batch(k) for k in range(self.n_batches))

    def whole(self) -> RawBatch:
        """All samples in one batch (see `batches`)."""
        batches = list(self.batches())
        if len(batches) == 1:
            return batches[0]
        return RawBatch(
            pytree.tree_map(lambda *parts: torch.cat(parts), *[batch.inputs for batch in batches]),
            None
            if batches[0].targets is None
            else pytree.tree_map(lambda *parts: torch.cat(parts), *[batch.targets for batch in batches]),
            torch.arange(self._n),
        )

    def read_first(self) -> RawBatch:
        """The first batch, read from the dataset even if it is in memory."""
        return self._read(0)

    def without(self, positions: Sequence[int]) -> Split:
        """This split without some of its samples."""
        left_out = set(positions)
        kept = [i for i in range(self._n) if i not in left_out]
        return Split(self.name, Subset(self.dataset, kept), self.batch_size, cache_bytes=self._cache_bytes)

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        if self._fits(self._batch(0)):
            batches = list(self.batches())
            state["_cached"] = dict(enumerate(batches))
            state["dataset"] = _Stacked(batches, self._n, self.batch_size)
        return state

    def _batch(self, k: int) -> RawBatch:
        if k in self._cached:
            return self._cached[k]
        batch = self._read(k)
        if self._fits(batch):
            self._cached[k] = batch
        return batch

    def _fits(self, batch: RawBatch) -> bool:
        """Whether the split stays in memory, judged by one batch: all samples have the same size."""
        leaves = pytree.tree_leaves((batch.inputs, batch.targets))
        n_bytes = sum(leaf.numel() * leaf.element_size() for leaf in leaves if leaf is not None)
        return bool(n_bytes / len(batch) * self._n < self._cache_bytes)

    def _read(self, k: int) -> RawBatch:
        positions = range(k * self.batch_size, min((k + 1) * self.batch_size, self._n))
        samples = [self._sample(i) for i in positions]
        inputs = self._stack("inputs", [sample[0] for sample in samples], positions)
        targets = self._stack_targets([sample[1] for sample in samples], positions)
        form = (form_of(inputs), None if targets is None else form_of(targets))
        if self._form is None:
            self._form = form
        elif form != self._form:
            raise DataError(
                f"Sample {positions[0]} of the {self.name} split holds {_form_text(form)}, its first sample "
                f"{_form_text(self._form)}. {_REMEDY}"
            )
        return RawBatch(inputs, targets, torch.arange(positions.start, positions.stop))

    def _sample(self, i: int) -> tuple[Any, Any]:
        try:
            sample = self.dataset[i]
        except EvoMpqError:
            raise
        except Exception as error:
            raise DataError(
                f"Sample {i} of the {self.name} split cannot be read: {type(error).__name__}: {error}"
                f"{user_frame(error)}."
            ) from error
        if not isinstance(sample, tuple | list) or len(sample) != 2:
            raise DataError(
                f"Sample {i} of the {self.name} split is {_describe(sample)}; a sample is a pair "
                f"(inputs, target), with None as the target where there is none.{self._pair_hint()}"
            )
        return sample[0], sample[1]

    def _pair_hint(self) -> str:
        if isinstance(self.dataset, tuple | list) and all(isinstance(part, Tensor) for part in self.dataset):
            return " All inputs and all targets as two tensors are torch.utils.data.TensorDataset(inputs, targets)."
        return ""

    def _stack_targets(self, targets: Sequence[Any], positions: range) -> Any:
        missing = [target is None for target in targets]
        if all(missing):
            return None
        if any(missing):
            raise DataError(
                f"Sample {positions[missing.index(True)]} of the {self.name} split has None as its target and "
                f"sample {positions[missing.index(False)]} has one; either all samples have targets or none."
            )
        return self._stack("target", targets, positions)

    def _stack(self, part: str, values: Sequence[Any], positions: range) -> Any:
        """One tensor per leaf of the values' common structure."""
        flat = [pytree.tree_flatten(_plain(value)) for value in values]
        leaves, structure = flat[0]
        for i, (_, other) in zip(positions, flat, strict=True):
            if other != structure:
                raise DataError(
                    f"The {part} of sample {i} of the {self.name} split is {_describe(values[i - positions[0]])}, "
                    f"that of sample {positions[0]} is {_describe(values[0])}; all samples must be nested alike."
                )
        if not leaves:
            raise DataError(
                f"The {part} of sample {positions[0]} of the {self.name} split holds nothing: {values[0]!r}."
            )
        columns = list(zip(*(column for column, _ in flat), strict=True))
        names = _leaf_names(part, pytree.tree_unflatten(leaves, structure))
        stacked = [self._stack_leaf(name, column, positions) for name, column in zip(names, columns, strict=True)]
        return pytree.tree_unflatten(stacked, structure)

    def _stack_leaf(self, name: str, column: Sequence[Any], positions: range) -> Tensor:
        shapes = [tuple(getattr(leaf, "shape", ())) for leaf in column]
        ragged = next((j for j, shape in enumerate(shapes) if shape != shapes[0]), None)
        if ragged is not None:
            raise DataError(
                f"The {name} of sample {positions[ragged]} of the {self.name} split has shape {shapes[ragged]}, "
                f"that of sample {positions[0]} has {shapes[0]}. {_REMEDY}"
            )
        try:
            stacked = default_collate(list(column))
        except (TypeError, RuntimeError, ValueError):
            stacked = None
        if not isinstance(stacked, Tensor):
            raise DataError(
                f"The {name} of sample {positions[0]} of the {self.name} split is {_describe(column[0])}; "
                "samples are made of tensors, numpy arrays and numbers (convert images and strings in the dataset)."
            )
        return stacked.detach().cpu()


class _Stacked(Dataset[tuple[Any, Any]]):
    """Batches as a dataset of their samples again."""

    def __init__(self, batches: Sequence[RawBatch], n: int, batch_size: int) -> None:
        self._batches = batches
        self._n = n
        self._batch_size = batch_size

    def __len__(self) -> int:
        return self._n

    def __getitem__(self, i: int) -> tuple[Any, Any]:
        batch, row = self._batches[i // self._batch_size], i % self._batch_size
        inputs = pytree.tree_map(lambda tensor: tensor[row], batch.inputs)
        targets = None if batch.targets is None else pytree.tree_map(lambda tensor: tensor[row], batch.targets)
        return inputs, targets


@dataclass(frozen=True, eq=False)
class Splits:
    """The data of a search, in splits that share no samples (but calibration may lie inside train).

    Attributes:
        calibration: sets ranges and statistics.
        search: ranks candidates.
        test: shown once, at the end.
        train: for methods that train; None where there is none. Workers that measure do not need it.
    """

    calibration: Split
    search: Split
    test: Split
    train: Split | None = None

    @property
    def present(self) -> tuple[Split, ...]:
        """The splits that there are."""
        return tuple(split for split in (self.calibration, self.search, self.test, self.train) if split is not None)


def splits_from(data: Any, batch_size: int = 256) -> Splits:
    """Splits of what a data factory returned; only their kinds and lengths are looked at.

    Args:
        data: a mapping with the keys calibration, search, test and optionally train; each a torch ``Dataset`` or a
            sequence of ``(inputs, target)``.
        batch_size: samples per batch.

    Raises:
        DataError: no mapping, missing or unknown splits, empty ones, or ones that are no datasets.
    """
    if not isinstance(data, Mapping):
        raise DataError(
            f"Data is a mapping with the keys calibration, search, test and optionally train; got {_describe(data)}."
        )
    data = {key: value for key, value in data.items() if not (key == "train" and value is None)}
    missing = [name for name in NEEDED if data.get(name) is None]
    unknown = [name for name in data if name not in (*NEEDED, "train")]
    if missing or unknown:
        raise DataError(_wrong_keys(missing, unknown))
    return Splits(**{name: Split(name, dataset, batch_size) for name, dataset in data.items()})


def _wrong_keys(missing: Sequence[str], unknown: Sequence[Any]) -> str:
    text = "Data needs the splits calibration, search and test, and may have train"
    if missing:
        text += f"; {' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing"
    for name in unknown:
        close = get_close_matches(str(name), (*NEEDED, "train"), 1)
        text += f"; {name!r} is no split" + (f" (did you mean {close[0]!r}?)" if close else "")
    return text + ". The splits must not share samples; the network must not have been trained on search or test."


def partition(
    n: int,
    *,
    calibration: int,
    search: int | None,
    test: int | None,
    train: int = 0,
    seed: int,
    what: str = "The data",
) -> dict[str, npt.NDArray[np.int64]]:
    """Random disjoint positions of the splits among ``n`` samples.

    Args:
        n: how many samples there are.
        calibration: samples of the calibration split.
        search: samples of the search split; None: half of the rest, or all of it if ``test`` is given.
        test: likewise.
        train: samples of the train split; 0: there is none.
        seed: of the permutation.
        what: what to call the data in errors.

    Returns:
        Positions by the name of the split, in a random order; without ``"train"`` where that is 0.

    Raises:
        DataError: a size is out of range, or there are too few samples.

    >>> {name: len(positions) for name, positions in partition(
    ...     100, calibration=30, search=None, test=None, seed=0).items()}
    {'calibration': 30, 'search': 35, 'test': 35}
    """
    for name, size in {"calibration": calibration, "search": search, "test": test, "train": train}.items():
        least = 0 if name == "train" else 1
        if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < least):
            raise DataError(f"{name}: {size!r} is no number of samples; a whole number from {least} is.")
    rest = n - calibration - train - (search or 0) - (test or 0)
    open_splits = (search is None) + (test is None)
    if rest < open_splits:
        asked = {"calibration": calibration, "search": search, "test": test, "train": train}
        sizes = ", ".join(f"{name}={size}" for name, size in asked.items() if size)
        raise DataError(
            f"{what} has {n} samples, too few for {sizes}"
            + (" and at least one for each other split" if open_splits else "")
            + ". Give smaller numbers for calibration, search and test."
        )
    search_size = search if search is not None else (rest + 1) // 2 if test is None else rest
    test_size = test if test is not None else rest // 2 if search is None else rest
    sizes_in_order = {"calibration": calibration, "search": search_size, "test": test_size, "train": train}
    order = np.random.default_rng(seed).permutation(n)
    ends = np.cumsum(list(sizes_in_order.values()))
    parts = np.split(order, ends)[: len(sizes_in_order)]
    return {name: part for name, part in zip(sizes_in_order, parts, strict=True) if len(part)}


def form_of(batch: Any) -> Form:
    """How a batch's tensors are nested, and each sample's shapes and types."""
    leaves, structure = pytree.tree_flatten(batch)
    return structure, tuple((tuple(leaf.shape[1:]), leaf.dtype) for leaf in leaves)


def origin(dataset: Any) -> tuple[Any, npt.NDArray[np.int64] | None]:
    """The dataset below nested ``Subset`` s, and the positions chosen from it (None: all)."""
    positions: npt.NDArray[np.int64] | None = None
    while isinstance(dataset, Subset):
        chosen = np.asarray(dataset.indices, dtype=np.int64)
        positions = chosen if positions is None else chosen[positions]
        dataset = dataset.dataset
    return dataset, positions


_REMEDY = "All samples of a split must have one shape and type: resize, crop or pad them in the dataset."


def _length(name: str, dataset: Any) -> int:
    hint = _dataset_hint(dataset)
    if hint is not None:
        raise DataError(
            f"The {name} split is {_describe(dataset)}; it must be a torch Dataset with a length, or a list of pairs "
            f"(inputs, target). {hint}".rstrip()
        )
    try:
        n = len(dataset)
    except Exception as error:
        raise DataError(
            f"The {name} split, {_describe(dataset)}, has no length ({type(error).__name__}: {error}); a Dataset "
            "needs __len__ and __getitem__."
        ) from error
    if n == 0:
        raise DataError(f"The {name} split is empty; it needs at least one sample.")
    return n


def _dataset_hint(dataset: Any) -> str | None:
    """Why something is no dataset, as advice; None: it looks like one."""
    if isinstance(dataset, DataLoader):
        return "Give its `.dataset`; batches are made here, always in the same order."
    if isinstance(dataset, IterableDataset | Iterator):
        return "Samples are read by position: make a list of it."
    if isinstance(dataset, Tensor | np.ndarray):
        return "Inputs and targets as two tensors are torch.utils.data.TensorDataset(inputs, targets)."
    if isinstance(dataset, type):
        return "Give an instance of the class."
    if isinstance(dataset, Mapping | str | bytes):
        return ""
    if isinstance(dataset, Dataset) or (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        return None
    return ""


def _groups(name: str, dataset: Any, n: int) -> npt.NDArray[Any] | None:
    base, positions = origin(dataset)
    labels = getattr(base, "groups", None)
    if labels is None or callable(labels):
        return None
    groups = np.asarray(labels)
    if groups.ndim != 1 or len(groups) != (n if positions is None else len(base)):
        raise DataError(
            f"`groups` of the {name} split's dataset has shape {groups.shape}; it is one label per sample, for "
            f"{n if positions is None else len(base)} samples."
        )
    return groups if positions is None else groups[positions]


def _plain(value: Any) -> Any:
    """Mappings of other libraries as dictionaries, so that structures compare and pickle."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(_plain, value))
    if isinstance(value, tuple):
        return tuple(map(_plain, value))
    if isinstance(value, list):
        return list(map(_plain, value))
    return value


def _leaf_names(part: str, value: Any) -> list[str]:
    paths, _ = pytree.tree_flatten_with_path(value)
    return [part + pytree.keystr(path) for path, _ in paths]


def _form_text(form: tuple[Form, Form | None]) -> str:
    def text(part: str, form: Form) -> str:
        structure, leaves = form
        names = _leaf_names(part, pytree.tree_unflatten(list(range(len(leaves))), structure))
        return ", ".join(
            f"{name} {shape} {str(dtype).removeprefix('torch.')}"
            for name, (shape, dtype) in zip(names, leaves, strict=True)
        )

    inputs, targets = form
    return f"{text('inputs', inputs)} and " + ("no target" if targets is None else text("target", targets))


def _describe(value: Any) -> str:
    if isinstance(value, Tensor | np.ndarray):
        return f"a {type(value).__name__} of shape {tuple(value.shape)}"
    if isinstance(value, Mapping):
        return f"a {type(value).__name__} with the keys {', '.join(map(str, value)) or '(none)'}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    if value is None:
        return "None"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    return f"a {type(value).__name__}"
