"""What must hold before splits are used: they read the same twice, look alike, and share no samples."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils import _pytree as pytree

from evo_mpq.errors import DataError
from evo_mpq.network.data.splits import RawBatch, Split, Splits, form_of, origin, splits_from

MOST_COPIES = 0.01
"""Fraction of a split that may be exact copies of another split's samples; they are left out."""

# (who gives way, to whom): test is never touched, and calibration may lie inside train.
_PAIRS = (
    ("search", "train"),
    ("search", "test"),
    ("train", "test"),
    ("calibration", "test"),
    ("calibration", "search"),
)


def checked_splits(data: Any, batch_size: int = 256) -> tuple[Splits, tuple[str, ...]]:
    """The splits of what a data factory returned, ready for use, and notes for the user.

    This is the one door for data: `splits_from`, `check_alike`, `check_stable` and `make_disjoint` in this order.

    Args:
        data: see `splits_from`.
        batch_size: samples per batch.

    Raises:
        DataError: anything is wrong with the data.
    """
    splits = splits_from(data, batch_size)
    check_alike(splits)
    check_stable(splits)
    return make_disjoint(splits)


def check_alike(splits: Splits) -> None:
    """Sees that the inputs of all splits are nested alike, with the same types and numbers of dimensions.

    Raises:
        DataError: the first two splits that differ.
    """
    first, *others = splits.present
    expected = _kind(first)
    for split in others:
        if (found := _kind(split)) != expected:
            raise DataError(
                f"Inputs of the {split.name} split are {_kind_text(found)}, those of the {first.name} split "
                f"{_kind_text(expected)}; all splits must feed the same network."
            )


def _kind(split: Split) -> tuple[Any, tuple[tuple[int, torch.dtype], ...]]:
    structure, leaves = form_of(next(split.batches()).inputs)
    return structure, tuple((len(shape) + 1, dtype) for shape, dtype in leaves)


def _kind_text(kind: tuple[Any, tuple[tuple[int, torch.dtype], ...]]) -> str:
    structure, leaves = kind
    tensors = [f"{str(dtype).removeprefix('torch.')} with {n} dimensions" for n, dtype in leaves]
    return str(pytree.tree_unflatten(tensors, structure))


def first_batch_is_stable(split: Split) -> bool:
    """Whether the first batch, read twice from the dataset, is the same to the bit (NaN equals itself)."""
    first, second = split.read_first(), split.read_first()
    return list(_sample_bytes(first)) == list(_sample_bytes(second))


def check_stable(splits: Splits) -> None:
    """Sees that calibration, search and test read the same each time; train may be augmented.

    Raises:
        DataError: a split has random transforms.
    """
    for split in (splits.calibration, splits.search, splits.test):
        if not first_batch_is_stable(split):
            raise DataError(
                f"The {split.name} split gave different samples when its first batch was read twice. Candidates can "
                "be compared only on the same samples: take random transforms (augmentation, dropout, shuffling) out "
                "of the calibration, search and test data."
            )


def make_disjoint(splits: Splits) -> tuple[Splits, tuple[str, ...]]:
    """The splits without samples that two of them share, and a note for each pair that shared some.

    Samples are compared by the datasets' ``groups`` where both have them, by position where both are parts of one
    dataset, else by the exact bytes of their inputs. Shared groups and positions are mistakes in the user's
    splitting. Copies happen in real data (windows of text, collected images): up to 1 % of a split is left out,
    from search in favor of test and train, from calibration in favor of search and test, from train in favor of
    test. Calibration may lie inside train, and repeats inside a split are legal.

    Raises:
        DataError: splits share groups or positions, or more than 1 % of copies.
    """
    current = {field.name: getattr(splits, field.name) for field in fields(splits)}
    digests: dict[str, list[bytes]] = {}
    notes = []
    for name, other in _PAIRS:
        if current[name] is None or current[other] is None:
            continue
        if _datasets_tell(current[name], current[other]):
            _refuse_declared(current[name], current[other])
            continue
        for split in (name, other):
            if split not in digests:
                digests[split] = input_digests(current[split])
        copies = _copies(digests[name], digests[other])
        if not copies:
            continue
        _check_few(current[name], current[other], len(copies))
        notes.append(
            f"{len(copies)} of {len(current[name])} {name} samples are exact copies of {other} samples and were left "
            f"out of {name}."
        )
        current[name] = current[name].without(copies)
        left_out = set(copies)
        digests[name] = [digest for i, digest in enumerate(digests[name]) if i not in left_out]
    return replace(splits, **current), tuple(notes)


def _datasets_tell(one: Split, other: Split) -> bool:
    """Whether the splits' datasets themselves say what is shared: by groups, or as parts of one dataset."""
    both_grouped = one.groups is not None and other.groups is not None
    return both_grouped or origin(one.dataset)[0] is origin(other.dataset)[0]


def _refuse_declared(one: Split, other: Split) -> None:
    if one.groups is not None and other.groups is not None:
        shared = sorted(set(one.groups.tolist()) & set(other.groups.tolist()), key=str)
        if shared:
            raise DataError(
                f"The {one.name} and {other.name} splits share {len(shared)} of their groups, {_some(shared)}. Put "
                "all samples of a group into one split; labels of `groups` must differ between datasets, too."
            )
        return
    same = np.intersect1d(_positions(one), _positions(other))
    if len(same):
        raise DataError(
            f"The {one.name} and {other.name} splits share {len(same)} samples of one dataset, at the positions "
            f"{_some(same.tolist())}. Split the positions so that each is used once."
        )


def _positions(split: Split) -> npt.NDArray[np.int64]:
    base, positions = origin(split.dataset)
    # A part may count from the end (Subset accepts it), and one sample must have one position.
    return np.arange(len(base)) if positions is None else positions % len(base)


def _copies(digests: list[bytes], others: list[bytes]) -> list[int]:
    other = set(others)
    return [i for i, digest in enumerate(digests) if digest in other]


def _check_few(split: Split, other: Split, n_copies: int) -> None:
    if n_copies > MOST_COPIES * len(split):
        raise DataError(
            f"{n_copies} of {len(split)} {split.name} samples ({n_copies / len(split):.1%}) are exact copies of "
            f"{other.name} samples. At most {MOST_COPIES:.0%} is put down to chance and left out; make the splits from "
            "different samples, or the measured values say little about new ones."
        )


def _some(values: list[Any]) -> str:
    return ", ".join(map(repr, values[:3])) + (", …" if len(values) > 3 else "")


def input_digests(split: Split) -> list[bytes]:
    """16 bytes per sample that are equal where the inputs are equal to the bit."""
    return [
        hashlib.blake2b(content, digest_size=16).digest()
        for batch in split.batches()
        for content in _rows(batch.inputs)
    ]


def _sample_bytes(batch: RawBatch) -> Iterator[bytes]:
    return _rows((batch.inputs,) if batch.targets is None else (batch.inputs, batch.targets))


def _rows(batch: Any) -> Iterator[bytes]:
    """The bytes of each sample's tensors, one after the other."""
    leaves = pytree.tree_leaves(batch)
    n = len(leaves[0])
    arrays = [leaf.reshape(n, leaf.numel() // n).view(torch.uint8).numpy() for leaf in leaves if leaf.numel()]
    return (b"".join(array[i].tobytes() for array in arrays) for i in range(n))


def fingerprint(splits: Splits) -> str:
    """What data this is: SHA-256, hexadecimal; independent of batches.

    Splits count by the bytes, shapes and types of their samples. Datasets with an attribute ``files``, one path per
    sample or any number of them, count by the names (below the folder that holds them all), sizes and modification
    times of these files instead, so that large data is not read and may be moved. A train split that is augmented at
    random counts by its length.

    Raises:
        DataError: a file does not exist.
    """
    digest = hashlib.sha256()
    for split in splits.present:
        digest.update(f"{split.name} {len(split)}\n".encode())
        for content in _identity(split):
            digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()


def _identity(split: Split) -> Iterator[bytes]:
    files = _files(split.dataset)
    if files is not None:
        folder = Path(os.path.commonpath([Path(file).absolute().parent for file in files])) if files else Path()
        yield from (_file_identity(split, Path(file).absolute(), folder) for file in files)
        yield _positions(split).astype("<i8").tobytes()
        return
    if split.name == "train" and not first_batch_is_stable(split):
        return
    for k, batch in enumerate(split.batches()):
        if k == 0:
            yield _form_text(batch)
        yield from _sample_bytes(batch)


def _form_text(batch: RawBatch) -> bytes:
    """Paths, shapes and types of a batch's tensors, in words of our own: those of torch change with its versions."""
    leaves, _ = pytree.tree_flatten_with_path({"inputs": batch.inputs, "targets": batch.targets})
    return "".join(
        f"{pytree.keystr(path)} {None if leaf is None else (tuple(leaf.shape[1:]), str(leaf.dtype))}\n"
        for path, leaf in leaves
    ).encode()


def _files(dataset: Any) -> list[str] | None:
    base, _ = origin(dataset)
    files = getattr(base, "files", None)
    if not isinstance(files, list | tuple) or not all(isinstance(file, str | os.PathLike) for file in files):
        return None
    return [os.fspath(file) for file in files]


def _file_identity(split: Split, file: Path, folder: Path) -> bytes:
    try:
        status = file.stat()
    except OSError as error:
        raise DataError(f"A file of the {split.name} split cannot be found: {error}.") from error
    return f"{file.relative_to(folder).as_posix()}\n{status.st_size}\n{status.st_mtime_ns}".encode()
