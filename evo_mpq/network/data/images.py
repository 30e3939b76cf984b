"""Images in folders named after their classes; the one file that imports Pillow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from evo_mpq.errors import DataError
from evo_mpq.network.data.splits import partition

EXTENSIONS = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
"""Files with other endings are passed over."""


@dataclass(frozen=True, eq=False)
class Preparation:
    """What happens to an image between its file and the network.

    Attributes:
        resize: shorter side in pixels, or ``(height, width)``; None: nothing.
        crop: ``(height, width)`` of the part in the middle; None: all.
        mean: ``(channels, 1, 1)``, subtracted from values in 0 to 1.
        std: ``(channels, 1, 1)``, divided by afterwards.
        channels: 1 or 3.
    """

    resize: int | tuple[int, int] | None
    crop: tuple[int, int] | None
    mean: Tensor
    std: Tensor
    channels: int

    def read(self, file: str) -> Tensor:
        """``(channels, height, width)`` float32 of an image file.

        Raises:
            DataError: the file is no image, or is smaller than the crop.
        """
        image = _open(file, "RGB" if self.channels == 3 else "L")
        if self.resize is not None:
            image = _resized(image, self.resize)
        if self.crop is not None:
            image = _center_crop(image, self.crop, file)
        pixels = torch.from_numpy(np.array(image, dtype=np.float32) / np.float32(255))
        pixels = pixels.permute(2, 0, 1) if self.channels == 3 else pixels[None]
        return (pixels - self.mean) / self.std


class ImageFiles(Dataset[tuple[Tensor, int]]):
    """Image files with their classes, decoded when they are read.

    Attributes:
        files: a path per image.
        labels: a class index per image.
        preparation: of every image.
    """

    def __init__(self, files: Sequence[str], labels: Sequence[int], preparation: Preparation) -> None:
        self.files = list(files)
        self.labels = list(labels)
        self.preparation = preparation

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return self.preparation.read(self.files[i]), self.labels[i]


def image_folder(
    path: str | Path,
    *,
    resize: int | Sequence[int] | None = None,
    crop: int | Sequence[int] | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    channels: int = 3,
    calibration: int = 256,
    search: int | None = None,
    test: int | None = None,
    train: int = 0,
    seed: int = 0,
    base: str | Path | None = None,
) -> Mapping[str, ImageFiles]:
    """Images of a folder with one folder per class, split at random.

    The classes are the sorted names of the folders, those without images included, so that their order can be that
    of the network's outputs. Resizing and cropping follow torchvision's (bilinear with antialiasing, center crop),
    so that accuracies of its networks can be reproduced.

    Args:
        path: the folder. Images that the network was trained on do not belong in it.
        resize: the shorter side in pixels, or ``[height, width]``; None: as they are.
        crop: side or ``[height, width]`` of the part in the middle; None: all.
        mean: subtracted from values in 0 to 1, one number or one per channel; None: 0.
        std: divided by afterwards; None: 1.
        channels: 3 (RGB) or 1 (gray).
        calibration: images of the calibration split.
        search: images of the search split; None: half of the rest (all of it if ``test`` is given).
        test: likewise.
        train: images of the train split.
        seed: of the random split.
        base: folder that a relative path starts from; None: the working directory.

    Raises:
        DataError: Pillow is missing, the folder holds no images or too few, a setting is out of range.
    """
    root = Path(base or ".") / Path(path).expanduser()
    files, labels = _find_images(root)
    if channels not in (1, 3):
        raise DataError(f"channels: {channels!r} is neither 3 (RGB) nor 1 (gray).")
    preparation = Preparation(
        None if resize is None else resize if _is_side(resize) else _pair("resize", resize),
        None if crop is None else _pair("crop", crop),
        _per_channel("mean", 0.0 if mean is None else mean, channels),
        _per_channel("std", 1.0 if std is None else std, channels),
        channels,
    )
    if not bool(torch.all(preparation.std > 0)):
        raise DataError(f"std: {std} holds a number that is not positive; values are divided by it.")
    parts = partition(
        len(files), calibration=calibration, search=search, test=test, train=train, seed=seed, what=str(root)
    )
    return {
        name: ImageFiles([files[i] for i in positions], [labels[i] for i in positions], preparation)
        for name, positions in parts.items()
    }


def _find_images(root: Path) -> tuple[list[str], list[int]]:
    _pillow()
    if not root.is_dir():
        raise DataError(f"{root} is no folder; image_folder needs one with one folder of images per class.")
    classes = sorted(folder for folder in root.iterdir() if folder.is_dir() and not folder.name.startswith("."))
    files: list[str] = []
    labels: list[int] = []
    for label, folder in enumerate(classes):
        found = [str(file) for file in sorted(folder.rglob("*")) if file.suffix.lower() in EXTENSIONS]
        files += found
        labels += [label] * len(found)
    if not files:
        names = ", ".join(folder.name for folder in classes[:3]) or "none"
        raise DataError(
            f"{root} holds no images in folders of classes (folders: {names}; endings looked for: "
            f"{', '.join(sorted(EXTENSIONS))})."
        )
    return files, labels


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise DataError("image_folder needs Pillow: pip install 'evo-mpq[images]'.") from error
    return Image


def _open(file: str, mode: str) -> Any:
    image = _pillow()
    try:
        with image.open(file) as opened:
            return opened.convert(mode)
    except (OSError, SyntaxError, ValueError) as error:  # Pillow raises all three for damaged files
        raise DataError(f"{file} cannot be read as an image: {error}.") from error


def _resized(image: Any, resize: int | tuple[int, int]) -> Any:
    if isinstance(resize, int):
        shorter, longer = sorted(image.size)
        scaled = int(resize * longer / shorter)
        size = (resize, scaled) if image.width <= image.height else (scaled, resize)
    else:
        size = (resize[1], resize[0])
    return image.resize(size, _pillow().Resampling.BILINEAR)


def _center_crop(image: Any, crop: tuple[int, int], file: str) -> Any:
    height, width = crop
    if image.height < height or image.width < width:
        raise DataError(
            f"{file} has {image.height}x{image.width} pixels (height x width), less than the crop of {height}x{width}; "
            "set resize to at least the crop."
        )
    top, left = round((image.height - height) / 2), round((image.width - width) / 2)
    return image.crop((left, top, left + width, top + height))


def _is_side(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _pair(key: str, value: Any) -> tuple[int, int]:
    pair = (value, value) if _is_side(value) else value
    if not isinstance(pair, list | tuple) or len(pair) != 2 or not all(map(_is_side, pair)):
        raise DataError(f"{key}: {value!r} is neither a number of pixels nor [height, width].")
    return pair[0], pair[1]


def _per_channel(key: str, value: Any, channels: int) -> Tensor:
    try:
        numbers = torch.tensor(value, dtype=torch.float32).reshape(-1)
    except (TypeError, ValueError, RuntimeError):
        numbers = torch.empty(0)
    if len(numbers) not in (1, channels):
        raise DataError(f"{key}: {value!r} is neither one number nor one for each of {channels} channels.")
    return numbers.expand(channels).reshape(channels, 1, 1).clone()
