"""Laws of the text: files in one split each, windows that are text, the same from a seed."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import sysconfig
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from evo_mpq.errors import DataError
from evo_mpq.network.data.checks import checked_splits
from evo_mpq.network.data.kinds import GroupedTensors
from evo_mpq.network.data.text import CONTEXT, SHARES, file_splits, library_files, stdlib_text, text_content

SIZES = {"calibration": 5, "search": 300, "test": 400, "train": 1500}


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    return library_files()


@pytest.fixture(scope="module")
def data() -> dict[str, GroupedTensors]:
    return dict(stdlib_text(**SIZES))


def digest(seed: int = 0) -> str:
    content = hashlib.sha256()
    for name, dataset in stdlib_text(**SIZES, seed=seed).items():
        content.update(name.encode())
        for tensor in dataset.tensors:
            content.update(tensor.contiguous().numpy().tobytes())
        content.update("\n".join(dataset.groups).encode())
    return content.hexdigest()


def test_windows_are_bytes_and_the_ones_that_follow(data):
    assert {name: len(dataset) for name, dataset in data.items()} == SIZES
    for dataset in data.values():
        inputs, targets = dataset.tensors
        assert inputs.dtype == targets.dtype == torch.int64
        assert inputs.shape == targets.shape == (len(dataset), CONTEXT)
        assert torch.equal(inputs[:, 1:], targets[:, :-1])
        assert inputs.min() >= 0 and targets.max() < 256


def test_without_a_size_there_are_100000_bytes_to_search_and_to_test_on():
    default = stdlib_text()
    assert default.keys() == {"calibration", "search", "test"}
    assert all(dataset.tensors[1].numel() >= 100_000 for name, dataset in default.items() if name != "calibration")
    assert len(default["calibration"]) * CONTEXT == 16_384


def test_every_window_stands_in_its_file_at_a_place_of_its_own(data, files):
    for dataset in data.values():
        used: Counter[tuple[str, bytes]] = Counter()
        for i, name in enumerate(dataset.groups):
            inputs, targets = dataset[i]
            used[str(name), bytes([*inputs.tolist(), int(targets[-1])])] += 1
        for (name, window), times in used.items():
            content = files[name]
            places = [start for start in range(0, len(content), CONTEXT) if content.startswith(window, start)]
            assert len(places) >= times  # some windows stand at several places of a file


def test_files_are_divided_and_the_division_depends_on_the_seed_only(data, files):
    splits = file_splits(files, 0)
    assert sorted(name for names in splits.values() for name in names) == sorted(files)
    assert {name: round(len(names) / len(files), 2) for name, names in splits.items()} == SHARES
    for name, dataset in data.items():
        assert {*dataset.groups.tolist()} <= {*splits["train" if name == "calibration" else name]}
    assert file_splits(list(reversed(files)), 0) == splits != file_splits(files, 1)


def test_windows_come_from_as_many_files_as_possible(data, files):
    n_files = {name: len(names) for name, names in file_splits(files, 0).items()}
    for name in SHARES:
        counts = np.unique(data[name].groups, return_counts=True)[1]
        assert len(counts) == min(n_files[name], SIZES[name])
        assert counts.max() - counts.min() <= 1 + SIZES[name] // n_files[name]
        assert len({*data[name].groups[: len(counts)].tolist()}) == len(counts)  # one of each first


def test_fewer_windows_are_the_first_ones_of_more_and_calibration_is_the_beginning_of_train(data):
    for name, dataset in stdlib_text(calibration=3, search=20, test=20).items():
        for tensor, longer in zip(dataset.tensors, data[name].tensors, strict=True):
            assert torch.equal(tensor, longer[: len(tensor)])
    assert torch.equal(data["calibration"].tensors[0], data["train"].tensors[0][:5])


def test_a_seed_gives_the_same_bytes_in_another_process():
    code = f"import sys; sys.path.insert(0, {os.path.dirname(__file__)!r}); import test_text; print(test_text.digest())"
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert answer.stdout.strip() == digest() != digest(seed=1)


def test_the_checks_of_data_find_nothing_and_keep_the_files_as_groups(data):
    splits, notes = checked_splits(data)
    assert notes == ()
    assert splits.test.groups is not None and len({*splits.test.groups.tolist()}) > 100


# Which files


def test_only_text_of_the_standard_library_is_read_each_content_once(files):
    root = Path(sysconfig.get_path("stdlib"))
    assert len({*files.values()}) == len(files) > 500
    for name, content in files.items():
        assert name.endswith((".py", ".txt")) and "site-packages" not in name
        assert 1_500 <= len(content) <= 400_000
        assert content.decode() and b"\0" not in content
        assert (root / name).read_bytes() == content


@pytest.fixture
def library(tmp_path, monkeypatch) -> Path:
    """A folder that stands for the standard library, with 100 good files."""
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    for i in range(100):
        (tmp_path / f"module{i:02}.py").write_text(f"# {i}\n" * 500)
    return tmp_path


def test_packages_duplicates_binaries_stubs_and_tables_are_passed_over(library):
    good = b"x = 1\n" * 400
    for folder in ("site-packages", "__pycache__", "test/cjk"):
        (library / folder).mkdir(parents=True)
    for name, content in {
        "site-packages/numpy.py": good + b"# numpy",
        "__pycache__/module.py": good + b"# cache",
        "again.py": good,
        "once.py": good,
        "test/cjk/gb18030.txt": good + b"\xff\xfe",
        "test/zeros.txt": good + b"\0",
        "test/words.txt": good + b"words",
        "stub.py": b"x = 1\n",
        "table.py": b"x" * 400_001,
        "readme.md": good + b"# readme",
    }.items():
        (library / name).write_bytes(content)
    added = {name for name in library_files() if not name.startswith("module")}
    assert added == {"again.py", "test/words.txt"}


def test_the_content_follows_what_the_train_files_hold_and_no_others(library):
    before = text_content(0)
    splits = file_splits(library_files(), 0)
    (library / splits["test"][0]).write_text("# changed\n" * 300)
    assert text_content(0) == before != text_content(1)
    (library / splits["train"][0]).write_text("# changed, too\n" * 300)
    assert text_content(0) != before


# Mistakes


def test_a_python_without_its_library_is_told(library):
    (library / "module00.py").unlink()
    with pytest.raises(DataError, match="holds 99 files of source or text; stdlib_text needs a full Python"):
        stdlib_text()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"test": 0}, "test: 0 is no number of windows; a whole number from 1"),
        ({"train": -1}, "train: -1 is no number of windows; a whole number from 0"),
        ({"search": True}, "search: True"),
        ({"calibration": 10**9}, "calibration: 1000000000 is out of range; its files have"),
    ],
)
def test_numbers_out_of_range_are_told(options, told):
    with pytest.raises(DataError, match=told):
        stdlib_text(**options)
