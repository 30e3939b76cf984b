"""Laws of the canvases: the same from a seed, made of digits that no other split has, with their target on them."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from evo_mpq.errors import DataError
from evo_mpq.network.data.canvas import CANVAS_SIDE, Scene, canvas_content, digit_sources, digits_canvas, paint
from evo_mpq.network.data.checks import checked_splits
from evo_mpq.network.data.kinds import digits, raw_digits

SIZES = {"calibration": 20, "search": 30, "test": 600, "train": 700}
"""Of test and train more than one generator draws."""


def inks(dataset: torch.utils.data.TensorDataset) -> torch.Tensor:
    """``(n, 24, 24)`` standardized canvases as what was painted, 0 to 1; black is the smallest value there is."""
    canvases = dataset.tensors[0][:, 0]
    return (canvases - canvases.min()) / (canvases.max() - canvases.min())


def digest(**options: object) -> str:
    content = hashlib.sha256()
    for name, dataset in digits_canvas(**{**SIZES, **options}).items():  # type: ignore[arg-type]
        content.update(name.encode())
        for tensor in dataset.tensors:
            content.update(tensor.numpy().tobytes())
        content.update(np.asarray(dataset.groups).tobytes())
    return content.hexdigest()


def test_canvases_are_standardized_images_with_classes():
    data = digits_canvas(**SIZES)
    assert {name: len(dataset) for name, dataset in data.items()} == SIZES
    for dataset in data.values():
        canvases, targets = dataset.tensors
        assert canvases.dtype == torch.float32 and canvases.shape[1:] == (1, CANVAS_SIDE, CANVAS_SIDE)
        assert targets.dtype == torch.int64 and targets.min() >= 0 and targets.max() <= 9
    assert {*data["test"].tensors[1].tolist()} == {*range(10)}
    assert abs(float(data["test"].tensors[0].mean())) < 0.05
    assert float(data["test"].tensors[0].std()) == pytest.approx(1, abs=0.05)


def test_without_a_size_there_are_20000_test_samples_3000_search_samples_and_no_train_split():
    data = digits_canvas()
    assert {name: len(dataset) for name, dataset in data.items()} == {
        "calibration": 256,
        "search": 3000,
        "test": 20_000,
    }
    assert all(len(np.unique(data[name].groups)) == n for name, n in {"search": 300, "test": 597}.items())


def test_a_thousand_canvases_take_less_than_a_tenth_of_a_second_or_little_more_on_a_busy_machine():
    digits_canvas(search=1, test=1)
    before = time.process_time()
    digits_canvas(calibration=1, search=1, test=10_000)
    assert time.process_time() - before < 3


def test_a_seed_gives_the_same_bytes_in_another_process_whatever_its_threads():
    environment = {**os.environ, "PYTHONHASHSEED": "7", "OMP_NUM_THREADS": "2"}
    command = [sys.executable, "-c", "import test_canvas; print(test_canvas.digest())"]
    answer = subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=Path(__file__).parent, check=True
    )
    assert answer.stdout.strip() == digest()


@pytest.mark.parametrize("changed", [{"seed": 1}, {"fragments": 1}, {"strokes": 2}, {"noise": 0.1}])
def test_other_options_give_other_canvases(changed):
    assert digest(**changed) != digest()


def test_the_callers_generators_are_left_alone():
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002 - the global generator is what is looked at
    before = torch.get_rng_state()
    expected = np.random.get_state()[1].tolist()  # type: ignore[index, union-attr]  # noqa: NPY002
    digits_canvas(**SIZES)
    assert torch.equal(torch.get_rng_state(), before)
    assert np.random.get_state()[1].tolist() == expected  # type: ignore[index, union-attr]  # noqa: NPY002


def test_fewer_canvases_are_the_first_ones_of_more_and_calibration_is_the_beginning_of_train():
    more, fewer = digits_canvas(**SIZES), digits_canvas(calibration=7, search=4, test=501, train=0)
    assert "train" not in fewer
    for name, dataset in fewer.items():
        for tensor, longer in zip(dataset.tensors, more[name].tensors, strict=True):
            assert torch.equal(tensor, longer[: len(tensor)])
        assert np.array_equal(dataset.groups, more[name].groups[: len(dataset)])
    assert torch.equal(more["calibration"].tensors[0], more["train"].tensors[0][:20])


# Sources


@pytest.mark.parametrize("seed", [0, 1])
def test_every_digit_is_a_source_of_one_split_and_those_of_train_are_those_of_digits(seed):
    sources = digit_sources(seed)
    assert {name: len(part) for name, part in sources.items()} == {"train": 900, "search": 300, "test": 597}
    assert sorted(np.concatenate(list(sources.values()))) == [*range(1797)]
    images, _ = digits(seed=seed)["train"].tensors
    pixels, _ = raw_digits()
    np.testing.assert_allclose(images[:, 0].numpy() * 6 + 4.9, pixels[sources["train"]], atol=1e-5)


def test_groups_are_the_digits_that_targets_are_made_from():
    data, sources, (_, classes) = digits_canvas(**SIZES), digit_sources(0), raw_digits()
    for name, dataset in data.items():
        assert {*dataset.groups} <= {*sources["train" if name == "calibration" else name]}
        assert dataset.tensors[1].tolist() == classes[dataset.groups].tolist()


def test_the_checks_of_data_find_nothing_and_keep_the_groups():
    splits, notes = checked_splits(digits_canvas(**SIZES))
    assert notes == ()
    assert all(split.groups is not None and len(split.groups) == len(split) for split in splits.present)


def test_clutter_too_is_made_of_the_splits_own_digits():
    """Digits of other splits are made white, and nothing changes."""
    pixels, _ = raw_digits()
    images = torch.from_numpy((pixels / 16).astype(np.float32))
    sources = digit_sources(0)
    for name, own in sources.items():
        spoilt = torch.ones_like(images)
        spoilt[own] = images[own]
        first, second = (paint(some, own, 40, (0, 1), Scene())[0] for some in (images, spoilt))
        assert torch.equal(first, second), name


def test_content_tells_seeds_apart():
    assert canvas_content(0) == canvas_content(0) != canvas_content(1)


# What is on a canvas


def targets_alone() -> torch.Tensor:
    """The test canvases with nothing but their targets, 0 to 1 of the largest ink there."""
    return inks(digits_canvas(**SIZES, fragments=0, strokes=0, noise=0.0)["test"])


def test_a_target_is_ten_to_sixteen_pixels_large_and_lies_on_the_canvas():
    for canvas in targets_alone():
        rows, columns = (torch.nonzero(canvas.amax(dim=axis) > 0.02).flatten() for axis in (1, 0))
        height = int(rows[-1] - rows[0]) + 1
        # a digit fills its image from top to bottom; corners of a rotated one, and its blurred border, add to it
        assert 8 <= height <= 20
        assert int(columns[-1] - columns[0]) + 1 <= 20
        assert 0.3 <= float(canvas.max()) <= 1


def test_targets_are_everywhere_on_the_canvas():
    """All of a digit is on the canvas, so there are fewer in the corners, but in each of them there are some."""
    reached = (targets_alone() > 0.2).double().mean(dim=0)
    assert reached[8:16, 8:16].min() > 0.2
    for corner in (reached[:8, :8], reached[:8, 16:], reached[16:, :8], reached[16:, 16:]):
        assert corner[2:6, 2:6].mean() > 0.02


def test_a_target_looks_like_its_digit():
    """Moved to the middle, canvases are nearest to the mean digit of their own class far more often than by chance."""
    data = digits_canvas(**SIZES, fragments=0, strokes=0, noise=0.0)["test"]
    canvases, targets = inks(data), data.tensors[1]
    places = torch.arange(CANVAS_SIDE, dtype=torch.float32)
    centered = []
    for canvas in canvases:
        down, right = ((canvas.sum(dim=axis) * places).sum() / canvas.sum() for axis in (1, 0))
        centered.append(canvas.roll((round(11.5 - float(down)), round(11.5 - float(right))), (0, 1)).flatten())
    features = torch.nn.functional.normalize(torch.stack(centered))
    means = torch.stack([features[:300][targets[:300] == label].mean(dim=0) for label in range(10)])
    nearest = torch.cdist(features[300:], means).argmin(dim=1)
    assert (nearest == targets[300:]).double().mean() > 0.6


def test_clutter_hides_nothing_darker_than_the_target():
    """Composited by maximum: every pixel is at least as bright as the target's."""
    pixels, _ = raw_digits()
    images = torch.from_numpy((pixels / 16).astype(np.float32))
    own = digit_sources(0)["test"]
    alone, chosen = paint(images, own, 600, (0, 2), Scene(0, 0, 0.0))
    crowded, same = paint(images, own, 600, (0, 2), Scene(2, 1, 0.0))
    assert np.array_equal(chosen, same)
    assert (crowded >= alone).all()
    added = (crowded > alone).flatten(1).sum(dim=1)
    assert added.double().mean() > 40
    assert crowded[crowded > alone].max() <= 0.8


def test_noise_has_the_standard_deviation_that_is_asked_for_and_the_result_is_clipped():
    pixels, _ = raw_digits()
    images = torch.from_numpy((pixels / 16).astype(np.float32))
    own = digit_sources(0)["test"]
    clean, noisy = (paint(images, own, 600, (0, 2), Scene(2, 1, noise))[0] for noise in (0.0, 0.1))
    middle = (clean > 0.45) & (clean < 0.55)
    assert float((noisy - clean)[middle].std()) == pytest.approx(0.1, rel=0.05)
    assert noisy.min() == 0 and noisy.max() == 1


# Mistakes


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"test": 0}, "test: 0 is no number of canvases; a whole number from 1"),
        ({"train": -1}, "train: -1 is no number of canvases; a whole number from 0"),
        ({"search": True}, "search: True"),
        ({"calibration": 2.5}, "calibration: 2.5"),
        ({"fragments": -1}, "fragments: -1 is out of range"),
        ({"strokes": 1.5}, "strokes: 1.5 is out of range"),
        ({"noise": float("nan")}, "noise: nan is out of range"),
        ({"noise": "much"}, "noise: 'much' is out of range"),
    ],
)
def test_numbers_out_of_range_are_told(options, told):
    with pytest.raises(DataError, match=told):
        digits_canvas(**options)
