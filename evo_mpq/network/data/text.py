"""Text that every Python has: the source and documentation of its standard library, as bytes."""

from __future__ import annotations

import hashlib
import os
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from evo_mpq.errors import DataError
from evo_mpq.network.data.kinds import GroupedTensors

CONTEXT = 128
"""Bytes of a window, each of which a network predicts from those before it."""

ENDINGS = (".py", ".txt")
"""Files that are read."""

SMALLEST, LARGEST = 1_500, 400_000
"""Bytes of the smallest and the largest file that are read: no stubs, no tables."""

SHARES = {"train": 0.75, "search": 0.10, "test": 0.15}
"""Of the files; no file is in two splits."""

_PASSED_OVER = frozenset({"site-packages", "dist-packages", "__pycache__"})


def stdlib_text(
    *, calibration: int = 128, search: int = 800, test: int = 1000, train: int = 0, seed: int = 0
) -> Mapping[str, GroupedTensors]:
    """Windows of 128 bytes of the standard library's source and text, and the byte that follows each; int64.

    Read are the ``.py`` and ``.txt`` files of the Python that runs, without installed packages and without files whose
    content is no UTF-8 or was seen before. Files are divided at random, so that search and test are text that a network
    trained on the train split never saw. Windows do not overlap, and each split's first ones come from as many files as
    possible: one of each file, then a second one, and so on. A split's ``groups`` are the names of the files. What
    these hold depends on the version of Python, and so does the data.

    Args:
        calibration: windows of the calibration split, the first ones of train.
        search: windows of the search split.
        test: windows of the test split.
        train: windows of the train split; 0: there is none.
        seed: of the division and of the order; fewer windows are the first ones of more.

    Raises:
        DataError: a size is out of range, or the standard library cannot be read.

    >>> data = stdlib_text(search=20, test=30)
    >>> inputs, targets = data["test"][0]
    >>> inputs.shape, bool((inputs[1:] == targets[:-1]).all()), len(set(data["test"].groups))
    (torch.Size([128]), True, 30)
    """
    sizes = {"calibration": calibration, "search": search, "test": test, "train": train}
    _check_sizes(sizes)
    files = library_files()
    names = file_splits(files, seed)
    made = {}
    for name, size in sizes.items():
        if size:
            split = "train" if name == "calibration" else name
            chance = np.random.default_rng((seed, list(names).index(split)))
            made[name] = _windows(name, {key: files[key] for key in names[split]}, size, chance)
    return made


def library_files() -> dict[str, bytes]:
    """The files that are read, by their sorted paths below the standard library's folder.

    Raises:
        DataError: there are too few to be divided, as in a Python that has its library in an archive.
    """
    root = Path(sysconfig.get_path("stdlib"))
    files: dict[str, bytes] = {}
    seen: set[bytes] = set()
    for path in sorted(_paths(root)):
        content = path.read_bytes()
        digest = hashlib.sha256(content).digest()
        if SMALLEST <= len(content) <= LARGEST and digest not in seen and _is_text(content):
            seen.add(digest)
            files[path.relative_to(root).as_posix()] = content
    if len(files) < 100:
        raise DataError(f"{root} holds {len(files)} files of source or text; stdlib_text needs a full Python.")
    return files


def file_splits(names: Sequence[str] | Mapping[str, bytes], seed: int) -> dict[str, list[str]]:
    """The names of the files of train, search and test, each in an order of its own."""
    ordered = sorted(names)
    order = np.random.default_rng(seed).permutation(len(ordered))
    ends = np.cumsum([round(share * len(ordered)) for share in SHARES.values()])[:-1]
    parts = np.split(order, ends)
    return {split: [ordered[i] for i in part] for split, part in zip(SHARES, parts, strict=True)}


def text_content(seed: int) -> bytes:
    """Everything that the windows of the train split follow from, to tell whether they are still the same."""
    files = library_files()
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for name in file_splits(files, seed)["train"]:
        digest.update(f"{name} {len(files[name])}\n".encode())
        digest.update(files[name])
    return digest.digest()


def _paths(root: Path) -> Iterator[Path]:
    for folder, inner, names in os.walk(root):
        inner[:] = [name for name in inner if name not in _PASSED_OVER]
        yield from (Path(folder, name) for name in names if name.endswith(ENDINGS))


def _is_text(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return b"\0" not in content


def _windows(split: str, files: Mapping[str, bytes], n: int, chance: np.random.Generator) -> GroupedTensors:
    """The first ``n`` windows of some files: one of each in the files' order, then a second one, and so on."""
    lengths = np.array([len(content) for content in files.values()])
    counts = (lengths - 1) // CONTEXT  # the last byte of a window's target lies behind it
    if n > counts.sum():
        raise DataError(f"{split}: {n} is out of range; its files have {counts.sum()} windows of {CONTEXT} bytes.")
    owner = np.repeat(np.arange(len(counts)), counts)
    rank = np.concatenate([np.arange(count) for count in counts])
    place = np.concatenate([chance.permutation(count) for count in counts])  # of a window in its file
    first = np.lexsort((owner, rank))[:n]
    starts = (np.cumsum(lengths) - lengths)[owner[first]] + CONTEXT * place[first]
    windows = _cut(b"".join(files.values()), starts)
    return GroupedTensors(windows[:, :-1], windows[:, 1:], groups=np.array(list(files))[owner[first]])


def _cut(text: bytes, starts: npt.NDArray[np.int64]) -> torch.Tensor:
    """``(n, 129)`` int64 bytes of a text from each start on."""
    codes = np.frombuffer(text, dtype=np.uint8)
    return torch.from_numpy(codes[starts[:, None] + np.arange(CONTEXT + 1)].astype(np.int64))


def _check_sizes(sizes: Mapping[str, Any]) -> None:
    for name, size in sizes.items():
        least = 0 if name == "train" else 1
        if isinstance(size, bool) or not isinstance(size, int) or size < least:
            raise DataError(f"{name}: {size!r} is no number of windows; a whole number from {least} is.")
