"""The built-in kinds of data: functions that return the splits of a search.

Like a user's own, each returns a mapping with the keys calibration, search, test and optionally train, whose values
are torch ``Dataset`` s; ``evo_mpq.network.data.checks.checked_splits`` makes them usable.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from evo_mpq.errors import DataError
from evo_mpq.network.data.images import image_folder
from evo_mpq.network.data.splits import partition

__all__ = ["GroupedTensors", "arrays", "digits", "image_folder"]

N_DIGITS = 1797
"""Images of scikit-learn's digits."""

N_TRAIN = 900
"""Of these, the images that built-in networks may be trained on."""

_MEAN, _STD = 4.9, 6.0  # of the pixels, 0 to 16; rounded, so that they tell nothing about single images

DIGITS_BACKGROUND = -_MEAN / _STD
"""What an empty pixel of `digits` becomes."""


class GroupedTensors(TensorDataset):
    """Samples in tensors that know what they were made from.

    Args:
        tensors: of ``n`` samples each, as of any ``TensorDataset``.
        groups: ``(n,)`` labels.

    Attributes:
        groups: as given; samples with one label stay in one split, and errors are clustered by it.
    """

    def __init__(self, *tensors: Tensor, groups: Sequence[Any] | npt.NDArray[Any]) -> None:
        super().__init__(*tensors)
        self.groups = groups


def digits(
    *, calibration: int = 256, search: int = 400, test: int = 497, train: int = N_TRAIN, seed: int = 0
) -> Mapping[str, TensorDataset]:
    """scikit-learn's 8x8 images of handwritten digits, float32 ``(1, 8, 8)`` of about zero mean and unit variance.

    The first 900 images of a permutation can be trained on and the other 897 measured on, whatever the sizes are: a
    built-in network trained with the same seed never saw a search or test image.

    Args:
        calibration: images of the calibration split, taken from those of train.
        search: images of the search split.
        test: images of the test split; ``search + test`` is at most 897.
        train: images of the train split, at most 900.
        seed: of the permutation.

    Raises:
        DataError: a size is out of range.

    >>> {name: len(dataset) for name, dataset in digits(search=300).items()}
    {'calibration': 256, 'search': 300, 'test': 497, 'train': 900}
    """
    _check_size("train", train, N_TRAIN, "the images that may be trained on")
    _check_size("calibration", calibration, train, "the images of train, from which it is taken")
    _check_size("search", search, N_DIGITS - N_TRAIN, "the images that are not trained on")
    _check_size("test", test, N_DIGITS - N_TRAIN - search, "the images that train and search leave")
    pixels, classes = raw_digits()
    images = torch.from_numpy(((pixels - _MEAN) / _STD).astype(np.float32))[:, None]
    targets = torch.from_numpy(classes)
    order = torch.from_numpy(digits_order(seed))
    held_out = order[N_TRAIN:]
    positions = {
        "calibration": order[:calibration],
        "search": held_out[:search],
        "test": held_out[search : search + test],
        "train": order[:train],
    }
    return {name: TensorDataset(images[part], targets[part]) for name, part in positions.items()}


def raw_digits() -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """scikit-learn's digits as they are: ``(1797, 8, 8)`` pixels from 0 to 16, and ``(1797,)`` classes."""
    from sklearn.datasets import load_digits

    raw = load_digits()
    return raw.images, raw.target.astype(np.int64)


def digits_order(seed: int) -> npt.NDArray[np.int64]:
    """A permutation of the 1,797 digits, of which the first 900 may be trained on."""
    return np.random.default_rng(seed).permutation(N_DIGITS)


def _check_size(name: str, size: Any, most: int, of_what: str) -> None:
    if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= most:
        raise DataError(f"{name}: {size!r} is out of range; digits has 1 to {most} images here, {of_what}.")


def arrays(
    path: str | Path,
    *,
    calibration: int = 256,
    search: int | None = None,
    test: int | None = None,
    train: int = 0,
    seed: int = 0,
    base: str | Path | None = None,
) -> Mapping[str, TensorDataset]:
    """Samples of an ``.npz`` file with the arrays ``x`` (inputs) and ``y`` (targets), split at random.

    Floats become float32 and whole numbers int64, so images are stored as floats, normalized as the network wants
    them, and tokens as whole numbers.

    Args:
        path: the file. Samples that the network was trained on do not belong in it.
        calibration: samples of the calibration split.
        search: samples of the search split; None: half of the rest (all of it if ``test`` is given).
        test: likewise.
        train: samples of the train split.
        seed: of the random split.
        base: folder that a relative path starts from; None: the working directory.

    Raises:
        DataError: the file is missing, unreadable or holds something else, or there are too few samples.
    """
    file = Path(base or ".") / Path(path).expanduser()
    stored = _load_npz(file)
    x, y = (_tensor(file, name, stored[name]) for name in ("x", "y"))
    if len(x) != len(y):
        raise DataError(f"{file}: x has {len(x)} samples and y has {len(y)}; they must have the same number.")
    parts = partition(len(x), calibration=calibration, search=search, test=test, train=train, seed=seed, what=str(file))
    return {name: TensorDataset(x[part], y[part]) for name, part in parts.items()}


def _load_npz(file: Path) -> dict[str, npt.NDArray[Any]]:
    try:
        stored = np.load(file, allow_pickle=False)
        if not isinstance(stored, np.lib.npyio.NpzFile):
            raise DataError(f"{file} is no .npz file; {_HOW_TO_SAVE}.")
        with stored:
            missing = [name for name in ("x", "y") if name not in stored.files]
            if missing:
                held = ", ".join(stored.files) or "nothing"
                raise DataError(f"{file} holds {held}, but no {' and no '.join(missing)}; {_HOW_TO_SAVE}.")
            return {name: stored[name] for name in ("x", "y")}
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{file} cannot be read: {error}.") from error
    except ValueError as error:
        raise DataError(
            f"{file} cannot be read: {error}. Arrays of objects are not loaded, because such a file could run code: "
            f"stack samples of one shape with numpy.stack, then {_HOW_TO_SAVE}."
        ) from error


_HOW_TO_SAVE = "write it with numpy.savez(path, x=inputs, y=targets)"


def _tensor(file: Path, name: str, array: npt.NDArray[Any]) -> torch.Tensor:
    if array.ndim == 0:
        raise DataError(f"{file}: {name} is a single number; its first dimension must count samples.")
    if array.dtype.kind == "f":
        return torch.from_numpy(array.astype(np.float32))
    if array.dtype.kind in "iu":
        return torch.from_numpy(array.astype(np.int64))
    if array.dtype.kind == "b":
        return torch.from_numpy(array)
    raise DataError(f"{file}: {name} holds {array.dtype}; numbers are needed.")
