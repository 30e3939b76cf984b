"""Digits among clutter on a larger canvas: a problem with errors to make, and as many samples as are wanted.

What is random about a canvas is drawn by numpy; where a digit's pixels come to lie is computed by torch, pixel by
pixel, so that a seed gives the same canvases to the bit in every process and with every number of threads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from evo_mpq.errors import DataError
from evo_mpq.network.data.kinds import N_TRAIN, GroupedTensors, digits_order, raw_digits

CANVAS_SIDE = 24
"""Height and width of a canvas in pixels."""

N_SEARCH_SOURCES = 300
"""Digits that canvases of the search split are made from; 900 are for train and calibration, 597 for test."""

_SIZES = (10.0, 16.0)  # side of the target on the canvas, in pixels
_FRAGMENT_SIZES = (8.0, 14.0)  # side of a digit of which half is left
_MOST_ROTATION = 0.25  # radians, either way
_CONTRASTS = (0.6, 1.0)  # of the target; an ink of 1 is white
_CLUTTER_INKS = (0.3, 0.8)
_STROKE_WIDTH = 1.0  # pixels
_MEAN, _STD = 0.14, 0.20  # of the pixels, 0 to 1; rounded, so that they tell nothing about single images
_CHUNK = 500  # canvases that one generator draws: the first ones are the same, however many are asked for


@dataclass(frozen=True)
class Scene:
    """What a canvas holds besides its target.

    Attributes:
        fragments: halves of other digits of the same split.
        strokes: straight lines.
        noise: standard deviation of what is added to every pixel; an ink of 1 is white.

    Raises:
        DataError: a number is negative, or of the wrong type.
    """

    fragments: int = 2
    strokes: int = 1
    noise: float = 0.12

    def __post_init__(self) -> None:
        for name, kinds in {"fragments": (int,), "strokes": (int,), "noise": (int, float)}.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, kinds) or not 0 <= value < np.inf:
                raise DataError(f"{name}: {value!r} is out of range; it is a number from 0.")


def digits_canvas(
    *,
    calibration: int = 256,
    search: int = 3000,
    test: int = 20_000,
    train: int = 0,
    seed: int = 0,
    fragments: int = 2,
    strokes: int = 1,
    noise: float = 0.12,
) -> Mapping[str, GroupedTensors]:
    """One digit to find among clutter on a 24x24 canvas, made from scikit-learn's; float32 ``(1, 24, 24)``.

    The target is 10 to 16 pixels large, rotated by at most a quarter radian, and nowhere cut off. Clutter is painted
    over it by the maximum, noise is added, and the result clipped to 0…1 and standardized. The 1,797 digits are
    divided before anything is made of them: 900 are the targets and the clutter of train and calibration, 300 those of
    search, 597 those of test, by the same permutation as those of ``digits``. Each split's ``groups`` is the digit that
    is the target, so that errors are clustered by it. 1,000 canvases take less than a tenth of a second and 2.3 MB.

    Args:
        calibration: canvases of the calibration split, the first ones of train.
        search: canvases of the search split.
        test: canvases of the test split.
        train: canvases of the train split; 0: there is none.
        seed: of the division and of the canvases; fewer canvases are the first ones of more.
        fragments: halves of other digits on each canvas.
        strokes: straight lines on each canvas.
        noise: standard deviation of the pixels' noise, where black is 0 and white is 1.

    Raises:
        DataError: a size or another number is out of range.

    >>> data = digits_canvas(search=5, test=7)
    >>> {name: len(dataset) for name, dataset in data.items()}
    {'calibration': 256, 'search': 5, 'test': 7}
    >>> data["test"][0][0].shape
    torch.Size([1, 24, 24])
    """
    sizes = {"calibration": calibration, "search": search, "test": test, "train": train}
    _check_sizes(sizes)
    scene = Scene(fragments, strokes, noise)
    pixels, classes = raw_digits()
    images, targets = torch.from_numpy((pixels / 16).astype(np.float32)), torch.from_numpy(classes)
    sources = digit_sources(seed)
    made = {}
    for name, size in sizes.items():
        if size:
            split = "train" if name == "calibration" else name
            canvases, chosen = paint(images, sources[split], size, (seed, list(sources).index(split)), scene)
            made[name] = GroupedTensors(((canvases - _MEAN) / _STD)[:, None], targets[chosen], groups=chosen)
    return made


def digit_sources(seed: int) -> dict[str, npt.NDArray[np.int64]]:
    """The positions of the digits that each split's canvases are made from: train, search and test."""
    first, last = N_TRAIN, N_TRAIN + N_SEARCH_SOURCES
    parts = np.split(digits_order(seed), [first, last])
    return dict(zip(("train", "search", "test"), parts, strict=True))


def canvas_content(seed: int) -> bytes:
    """Everything that the canvases of the train split follow from, to tell whether they are still the same."""
    pixels, classes = raw_digits()
    sources = digit_sources(seed)["train"]
    return Path(__file__).read_bytes() + pixels[sources].tobytes() + classes[sources].tobytes()


def paint(
    images: Tensor, sources: npt.NDArray[np.int64], n: int, seed: tuple[int, ...], scene: Scene
) -> tuple[Tensor, npt.NDArray[np.int64]]:
    """Canvases, and the positions of their targets among the images.

    Args:
        images: ``(n_images, h, w)`` float32 inks, 0 to 1.
        sources: ``(n_sources,)`` positions of those that may be used, as targets or in fragments; two at least.
        n: how many canvases.
        seed: of everything random. The targets do not depend on the scene.
        scene: what else is on a canvas.

    Returns:
        ``(n, 24, 24)`` float32 from 0 to 1, and ``(n,)`` positions.
    """
    canvases, chosen = torch.empty(n, CANVAS_SIDE, CANVAS_SIDE), np.empty(n, dtype=np.int64)
    for k, start in enumerate(range(0, n, _CHUNK)):
        part = slice(start, min(start + _CHUNK, n))
        painted, used = _paint_chunk(images, sources, np.random.default_rng((*seed, k)), scene)
        canvases[part], chosen[part] = painted[: part.stop - start], used[: part.stop - start]
    return canvases, chosen


def _paint_chunk(
    images: Tensor, sources: npt.NDArray[np.int64], chance: np.random.Generator, scene: Scene
) -> tuple[Tensor, npt.NDArray[np.int64]]:
    targets = chance.integers(len(sources), size=_CHUNK)
    size = _uniform(chance, *_SIZES)
    # all of the image is on the canvas, except for the corners of a rotated one, which are empty
    placed = _placed(images[sources[targets]], size, size / 2, chance)[0]
    canvas = _uniform(chance, *_CONTRASTS) * placed
    for _ in range(scene.fragments):
        others = (targets + chance.integers(1, len(sources), size=_CHUNK)) % len(sources)
        canvas = torch.maximum(canvas, _fragment(images[sources[others]], chance))
    for _ in range(scene.strokes):
        canvas = torch.maximum(canvas, _stroke(chance))
    noise = torch.from_numpy(chance.standard_normal(canvas.shape, dtype=np.float32))
    return (canvas + scene.noise * noise).clamp_(0, 1), sources[targets]


def _placed(
    images: Tensor, size: Tensor, border: Tensor | float, chance: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Images on canvases of their own, and how far right of and below its center each pixel lies.

    Centers are anywhere but within ``border`` pixels of the canvas's own.
    """
    angle = _uniform(chance, -_MOST_ROTATION, _MOST_ROTATION)
    column, row = (border + (CANVAS_SIDE - 2 * border) * _uniform(chance, 0, 1) for _ in range(2))
    right, down = _pixels() - column, _pixels().mT - row
    cosine, sine = angle.cos(), angle.sin()
    # from -1 to 1 over the image, as grid_sample counts
    places = torch.stack([cosine * right + sine * down, cosine * down - sine * right], dim=-1) * (2 / size)[..., None]
    return functional.grid_sample(images[:, None], places, align_corners=False)[:, 0], right, down


def _fragment(images: Tensor, chance: np.random.Generator) -> Tensor:
    """Images of which one side of a line through the center is left, perhaps beyond the border of the canvas."""
    placed, right, down = _placed(images, _uniform(chance, *_FRAGMENT_SIZES), 0, chance)
    angle = _uniform(chance, 0, 2 * np.pi)
    return _uniform(chance, *_CLUTTER_INKS) * placed * (angle.cos() * right + angle.sin() * down > 0)


def _stroke(chance: np.random.Generator) -> Tensor:
    """A straight line on each canvas, between two points anywhere."""
    column, row, to_right, to_bottom = (_uniform(chance, 0, CANVAS_SIDE) for _ in range(4))
    to_right, to_bottom = to_right - column, to_bottom - row
    right, down = _pixels() - column, _pixels().mT - row
    along = (right * to_right + down * to_bottom) / (to_right.square() + to_bottom.square() + 1e-6)
    along = along.clamp(0, 1)
    distance = torch.hypot(right - along * to_right, down - along * to_bottom)
    return _uniform(chance, *_CLUTTER_INKS) * (0.5 + _STROKE_WIDTH / 2 - distance).clamp(0, 1)


def _pixels() -> Tensor:
    """``(1, 1, 24)`` horizontal positions of the centers of pixels."""
    return torch.arange(CANVAS_SIDE, dtype=torch.float32)[None, None] + 0.5


def _uniform(chance: np.random.Generator, low: float, high: float) -> Tensor:
    """``(n, 1, 1)`` numbers, one for each canvas of a chunk."""
    return torch.from_numpy(chance.uniform(low, high, size=(_CHUNK, 1, 1)).astype(np.float32))


def _check_sizes(sizes: Mapping[str, Any]) -> None:
    for name, size in sizes.items():
        least = 0 if name == "train" else 1
        if isinstance(size, bool) or not isinstance(size, int) or size < least:
            raise DataError(f"{name}: {size!r} is no number of canvases; a whole number from {least} is.")
