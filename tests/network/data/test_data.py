"""Laws of the data: batches that never change, splits that share nothing, mistakes that are told."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import sys
from collections import UserDict
from itertools import pairwise
from operator import methodcaller
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset, random_split

from evo_mpq.errors import DataError
from evo_mpq.network.data.checks import (
    check_alike,
    check_stable,
    checked_splits,
    fingerprint,
    first_batch_is_stable,
    input_digests,
    make_disjoint,
)
from evo_mpq.network.data.kinds import DIGITS_BACKGROUND, arrays, digits, image_folder
from evo_mpq.network.data.splits import RawBatch, Split, Splits, partition, splits_from

sizes = st.integers(1, 20)


class Counting(Dataset[Any]):
    """Samples ``i`` with target ``-i``, and how often each was read."""

    def __init__(self, n: int) -> None:
        self.reads = [0] * n

    def __len__(self) -> int:
        return len(self.reads)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        self.reads[i] += 1
        return torch.tensor([float(i)]), -i


class Pair(NamedTuple):
    left: Any
    right: Any


def numbered(values: Any) -> list[tuple[torch.Tensor, int]]:
    """One sample per number."""
    return [(torch.tensor([float(value)]), 0) for value in values]


def splits_of(*datasets: Any, batch_size: int = 7) -> Splits:
    """The calibration, search, test and perhaps train splits, in this order."""
    names = ("calibration", "search", "test", "train")
    return splits_from(dict(zip(names, datasets, strict=False)), batch_size)


def contents(split: Split) -> Any:
    return split.whole().inputs.flatten().tolist()


# Batches


@settings(deadline=None, max_examples=50)
@given(n=sizes, batch_size=sizes)
def test_batches_hold_all_samples_in_order_and_only_the_last_is_smaller(n, batch_size):
    split = Split("search", Counting(n), batch_size)
    batches = list(split.batches())
    assert len(split) == n and split.n_batches == len(batches)
    assert [len(batch) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)
    assert [i for batch in batches for i in batch.indices.tolist()] == list(range(n))
    for batch in batches:
        assert batch.inputs.tolist() == [[float(i)] for i in batch.indices.tolist()]
        assert batch.targets.tolist() == [-i for i in batch.indices.tolist()]


@settings(deadline=None, max_examples=50)
@given(n=sizes, batch_size=sizes)
def test_the_whole_split_is_one_batch_of_all_samples(n, batch_size):
    whole = Split("calibration", Counting(n), batch_size).whole()
    alone = next(Split("calibration", Counting(n), n).batches())
    for part in ("inputs", "targets", "indices"):
        assert getattr(whole, part).dtype == getattr(alone, part).dtype
        assert torch.equal(getattr(whole, part), getattr(alone, part))


def test_a_small_split_is_read_once_and_a_large_one_each_time():
    small, large = Counting(5), Counting(5)
    in_memory, on_demand = Split("search", small, 2), Split("search", large, 2, cache_bytes=1)
    for _ in range(2):
        assert contents(in_memory) == contents(on_demand) == [0, 1, 2, 3, 4]
    assert small.reads == [1] * 5
    assert large.reads == [2] * 5


def test_stopping_after_some_batches_reads_no_further():
    dataset = Counting(10)
    next(Split("search", dataset, 2).batches())
    assert dataset.reads == [1, 1] + [0] * 8


@pytest.mark.parametrize(
    ("make", "read"),
    [
        (lambda i: torch.full((2,), i), lambda inputs: inputs[:, 0]),
        (lambda i: np.full((2,), i), lambda inputs: inputs[:, 0]),
        (lambda i: i, lambda inputs: inputs),
        (lambda i: {"ids": torch.tensor([i]), "mask": torch.ones(3)}, lambda inputs: inputs["ids"][:, 0]),
        (lambda i: UserDict(ids=torch.tensor([i])), lambda inputs: inputs["ids"][:, 0]),
        (lambda i: (torch.tensor([i]), {"deep": [torch.tensor(i)]}), lambda inputs: inputs[1]["deep"][0]),
        (lambda i: Pair(torch.ones(1), i), lambda inputs: inputs.right),
    ],
    ids=["tensor", "array", "number", "mapping", "foreign mapping", "nested", "named tuple"],
)
def test_inputs_keep_their_nesting(make, read):
    split = Split("search", [(make(i), None) for i in range(5)], 2)
    assert [read(batch.inputs).tolist() for batch in split.batches()] == [[0, 1], [2, 3], [4]]
    assert read(split.whole().inputs).tolist() == [0, 1, 2, 3, 4]
    plain = make(0)
    expected = dict if isinstance(plain, UserDict) else type(plain)
    if expected in (dict, tuple, Pair):
        assert type(next(split.batches()).inputs) is expected


def test_targets_may_be_missing_everywhere_or_nested():
    assert Split("search", [(torch.ones(1), None)] * 3, 2).whole().targets is None
    nested = Split("search", [(torch.ones(1), {"label": i}) for i in range(3)], 2).whole()
    assert nested.targets["label"].tolist() == [0, 1, 2]


def test_what_counts_as_large_is_the_split_and_not_a_batch():
    sample_bytes = 4 + 8  # a float32 input, an int64 target
    for cache_bytes, reads in ((5 * sample_bytes, 2), (5 * sample_bytes + 1, 1)):
        dataset = Counting(5)
        split = Split("search", dataset, 2, cache_bytes=cache_bytes)
        assert contents(split) == contents(split)
        assert dataset.reads == [reads] * 5


def test_batches_have_one_memory_layout_whatever_that_of_the_samples():
    picture = torch.randn(4, 4, 3).permute(2, 0, 1)  # channels last, as decoded images often are
    assert not picture.is_contiguous()  # and kernels for other layouts round differently
    split = Split("search", [(picture, 0)] * 3, 2)
    assert all(batch.inputs.is_contiguous() for batch in [*split.batches(), split.whole()])


def test_batches_carry_no_gradients():
    samples = [(torch.ones(1, requires_grad=True), 0)]
    assert not Split("search", samples).whole().inputs.requires_grad


def test_a_batch_size_below_one_is_refused():
    with pytest.raises(ValueError, match="batch_size"):
        Split("search", Counting(3), 0)


# Other processes


def test_a_split_pickles_as_its_batches_and_leaves_the_dataset_behind():
    class Local(Counting):  # a local class does not pickle
        pass

    split = Split("test", Local(5), 2)
    copy: Split = pickle.loads(pickle.dumps(split))
    assert (copy.name, len(copy), copy.batch_size) == ("test", 5, 2)
    for ours, theirs in zip(split.batches(), copy.batches(), strict=True):
        assert torch.equal(ours.inputs, theirs.inputs) and torch.equal(ours.targets, theirs.targets)
    assert torch.equal(copy.read_first().inputs, split.read_first().inputs)
    assert input_digests(copy) == input_digests(split)
    assert contents(copy.without([1])) == [0, 2, 3, 4]


def test_a_split_too_large_for_memory_pickles_as_its_dataset():
    copy = pickle.loads(pickle.dumps(Split("test", Counting(5), 2, cache_bytes=1)))
    assert isinstance(copy.dataset, Counting)
    assert contents(copy) == [0, 1, 2, 3, 4]


def test_a_spawned_process_reads_the_same_batches():
    class Local(Counting):
        pass

    split = Split("test", Local(5), 2)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        theirs: RawBatch = pool.apply(methodcaller("whole"), (split,))
    assert torch.equal(theirs.inputs, split.whole().inputs)


# Mistakes in what the user's function returns


def good() -> dict[str, Any]:
    return {"calibration": numbered(range(3)), "search": numbered(range(3, 6)), "test": numbered(range(6, 9))}


def test_train_may_be_missing_or_none():
    assert splits_from(good()).train is None
    assert splits_from(good() | {"train": None}).train is None
    assert len(splits_from(good() | {"train": numbered(range(9, 12))}).present) == 4


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ([1, 2, 3], "a mapping with the keys calibration, search, test"),
        (None, "got None"),
        ({}, "calibration and search and test are missing"),
        ({"train": numbered([1]), "val": numbered([2])}, "'val' is no split"),
        (good() | {"search": None}, "search is missing"),
        (good() | {"tests": numbered([1])}, "'tests' is no split (did you mean 'test'?)"),
        (good() | {"search": []}, "The search split is empty"),
        (good() | {"search": TensorDataset(torch.empty(0, 2))}, "The search split is empty"),
        (good() | {"search": 3}, "The search split is a int"),
        (good() | {"search": "digits"}, "a torch Dataset with a length, or a list of pairs"),
        (good() | {"search": {"x": 1}}, "a dict with the keys x"),
        (good() | {"search": iter(numbered([1]))}, "make a list of it"),
        (good() | {"search": torch.ones(3, 2)}, "TensorDataset(inputs, targets)"),
        (good() | {"search": Counting}, "Give an instance of the class"),
        (good() | {"search": DataLoader(Counting(3))}, "Give its `.dataset`"),
    ],
)
def test_what_is_no_data_is_told(data, told):
    with pytest.raises(DataError) as raised:
        splits_from(data)
    assert told in str(raised.value)


def test_datasets_without_length_are_told():
    class Stream(IterableDataset[Any]):
        def __iter__(self):
            return iter(numbered([1]))

    class Endless(Dataset[Any]):
        def __getitem__(self, i):
            return numbered([i])[0]

    with pytest.raises(DataError, match="make a list of it"):
        splits_from(good() | {"test": Stream()})
    with pytest.raises(DataError, match="has no length"):
        splits_from(good() | {"test": Endless()})


@pytest.mark.parametrize(
    ("samples", "told"),
    [
        ([torch.ones(3)], "Sample 0 of the search split is a Tensor of shape (3,); a sample is a pair"),
        ([{"image": 1, "label": 2}], "a dict with the keys image, label; a sample is a pair"),
        (TensorDataset(torch.ones(3, 1)), "a tuple of 1; a sample is a pair"),
        ((torch.ones(5, 2), torch.ones(5)), "TensorDataset(inputs, targets)"),
        (
            [(torch.ones(2), 0), (torch.ones(3), 0)],
            "inputs of sample 1 of the search split has shape (3,), that of sample 0 has (2,)",
        ),
        (
            [({"a": torch.ones(2)}, 0), ({"a": torch.ones(1)}, 0)],
            "inputs['a'] of sample 1 of the search split has shape (1,)",
        ),
        ([(torch.ones(2), torch.ones(1)), (torch.ones(2), torch.ones(2))], "target of sample 1"),
        ([({"a": torch.ones(2)}, 0), ({"b": torch.ones(2)}, 0)], "must be nested alike"),
        ([(torch.ones(2), 0), (torch.ones(2), None)], "either all samples have targets or none"),
        ([("a text", 0)], "is a str; samples are made of tensors"),
        ([(torch.ones(1), "cat")], "The target of sample 0 of the search split is a str"),
        ([(Image.new("RGB", (4, 4)), 0)], "is a Image; samples are made of tensors"),
        ([({"a": None}, 0)], "inputs['a'] of sample 0 of the search split is a NoneType"),
        ([({}, 0)], "holds nothing"),
    ],
)
def test_samples_that_make_no_batch_are_told(samples, told):
    with pytest.raises(DataError) as raised:
        Split("search", samples).whole()
    assert told.replace("a NoneType", "None") in str(raised.value)


@pytest.mark.parametrize("odd", [(torch.ones(3), 0), (torch.ones(2, dtype=torch.int64), 0), (torch.ones(2), 0.5)])
def test_samples_that_differ_from_those_of_earlier_batches_are_told(odd):
    samples = [(torch.ones(2), 0)] * 4 + [odd]
    with pytest.raises(DataError, match=r"Sample 4 of the search split holds inputs .* its first sample inputs"):
        Split("search", samples, 2).whole()


def test_an_exception_of_the_users_dataset_is_told_with_its_line():
    class Broken(Counting):
        def __getitem__(self, i):
            raise KeyError("no such file")

    line = Broken.__getitem__.__code__.co_firstlineno + 1
    for dataset in (Broken(3), Subset(Broken(3), [0])):
        with pytest.raises(DataError) as raised:
            Split("search", dataset).whole()
        assert "Sample 0 of the search split cannot be read: KeyError: 'no such file'" in str(raised.value)
        assert f"{__file__}, line {line}" in str(raised.value)


def test_groups_belong_to_the_samples_also_through_nested_subsets():
    def groups(dataset: Any) -> list[str] | None:
        found = Split("test", dataset).groups
        return None if found is None else found.tolist()

    dataset = Numbered(range(6), "aabbcc")
    assert groups(dataset) == ["a", "a", "b", "b", "c", "c"]
    assert groups(Subset(Subset(dataset, [5, 3, 1]), [2, 0])) == ["a", "c"]
    assert groups(Split("test", dataset).without([0, 1, 2]).dataset) == ["b", "c", "c"]
    assert groups(Counting(6)) is None
    with pytest.raises(DataError, match=r"`groups` of the test split's dataset has shape \(2,\)"):
        groups(Numbered(range(6), "ab"))


# Splits that fit together


class Noisy(Counting):
    def __getitem__(self, i):
        return torch.rand(3), 0


class Numbered(Dataset[Any]):
    """Samples of one number each, with labels that say what belongs together."""

    def __init__(self, values: Any, groups: Any = None) -> None:
        self.values = list(values)
        if groups is not None:
            self.groups = list(groups)

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        return torch.tensor([float(self.values[i])]), 0


def test_random_transforms_are_found_in_all_splits_but_train():
    assert not first_batch_is_stable(Split("search", Noisy(3)))
    assert first_batch_is_stable(Split("search", Counting(3)))
    names = ("calibration", "search", "test")
    fixed = {name: [(torch.full((3,), float(i)), 0)] for i, name in enumerate(names)}
    for name in names:
        with pytest.raises(DataError, match=f"The {name} split gave different samples"):
            check_stable(splits_from(fixed | {name: Noisy(3)}))
    check_stable(splits_from(fixed | {"train": Noisy(3)}))


def test_a_random_target_is_found_and_a_fixed_nan_is_not_taken_for_randomness():
    class Labels(Counting):
        def __getitem__(self, i):
            self.reads.append(0)
            return torch.tensor([float("nan")]), len(self.reads)

    assert not first_batch_is_stable(Split("search", Labels(3)))
    assert first_batch_is_stable(Split("search", [(torch.tensor([float("nan")]), 0)]))


@pytest.mark.parametrize(
    "other",
    [torch.ones(2, 2), torch.ones(2, dtype=torch.float64), {"a": torch.ones(2)}, (torch.ones(2),)],
    ids=["dimensions", "type", "nesting", "tuple"],
)
def test_splits_that_cannot_feed_one_network_are_told(other):
    with pytest.raises(DataError, match=r"Inputs of the test split are .* all splits must feed the same network"):
        check_alike(splits_of([(torch.ones(2), 0)], [(torch.zeros(2), 0)], [(other, 0)]))


def test_splits_may_differ_in_sizes_and_targets():
    check_alike(splits_of([(torch.ones(2), None)], [(torch.ones(3), 1)], [(torch.ones(4), 1)]))


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_copies_give_way_to_test_then_to_train_then_to_search_and_nothing_else_is_left_out(data):
    # Lists of numbers are the oracle. Splits have 100 samples, so one copy in each is within 1 %.
    names = ("calibration", "search", "test", "train")
    values = torch.randperm(400, generator=torch.Generator().manual_seed(data.draw(st.integers(0, 99))))
    parts = {name: values[100 * i : 100 * i + 100].tolist() for i, name in enumerate(names)}
    gives_way_to = {
        "search": ("test", "train"),
        "train": ("test",),
        "calibration": ("test", "search"),
    }
    for name in data.draw(st.sets(st.sampled_from(sorted(gives_way_to)))):
        other = data.draw(st.sampled_from(gives_way_to[name]))
        parts[name][data.draw(st.integers(0, 49))] = parts[other][data.draw(st.integers(50, 99))]
    kept, notes = make_disjoint(
        splits_of(*(TensorDataset(torch.tensor(parts[name]), torch.zeros(100)) for name in names))
    )
    expected = {"test": parts["test"]}
    expected["search"] = [v for v in parts["search"] if v not in {*parts["test"], *parts["train"]}]
    expected["train"] = [v for v in parts["train"] if v not in parts["test"]]
    expected["calibration"] = [v for v in parts["calibration"] if v not in {*parts["test"], *expected["search"]}]
    assert {split.name: contents(split) for split in kept.present} == expected
    assert sum(int(note.split()[0]) for note in notes) == 400 - sum(map(len, expected.values()))


def test_up_to_one_percent_of_copies_is_left_out_with_a_note_and_more_is_refused():
    test = numbered(range(1000, 1100))
    one = splits_of(numbered(range(100)), numbered([*range(200, 399), 1005]), test)
    kept, notes = make_disjoint(one)
    assert notes == ("1 of 200 search samples are exact copies of test samples and were left out of search.",)
    assert (len(kept.search), len(kept.test)) == (199, 100)
    assert one.search.whole().inputs.shape == (200, 1)  # what was given is not altered
    three = splits_of(numbered(range(100)), numbered([*range(200, 397), 1005, 1006, 1007]), test)
    with pytest.raises(DataError, match=r"3 of 200 search samples \(1.5%\) are exact copies of test"):
        make_disjoint(three)


def test_calibration_may_lie_inside_train_and_repeats_inside_a_split_are_legal():
    train = numbered(range(100))
    kept, notes = make_disjoint(splits_of(train[:50], numbered([200, 200]), numbered([300, 300]), train))
    assert notes == ()
    assert [len(split) for split in kept.present] == [50, 2, 2, 100]
    dataset = Counting(10)
    parts = [Subset(dataset, part) for part in ([0, 1], [5, 5], [6], [0, 1, 2])]
    assert make_disjoint(splits_of(*parts))[1] == ()


def test_equal_inputs_with_other_targets_are_copies_and_equal_targets_are_not():
    sample, relabeled = (torch.ones(1), 0), (torch.ones(1), 1)
    with pytest.raises(DataError, match="exact copies"):
        make_disjoint(splits_of(numbered([5]), [sample], [relabeled]))


def test_parts_of_one_dataset_are_compared_by_position():
    same = Numbered([7] * 10)  # all samples are equal, so bytes would tell nothing
    parts = [Subset(same, part) for part in ([0, 1], [2, 3], [4, 5])]
    assert make_disjoint(splits_of(*parts))[1] == ()
    assert make_disjoint(splits_of(*random_split(same, [3, 3, 4])))[1] == ()
    for shared in (Subset(same, [9, 4]), Subset(Subset(same, [0, 4]), [1]), Subset(same, [-6]), same):
        with pytest.raises(DataError, match=r"search and test splits share 1 samples.* positions 4"):
            make_disjoint(splits_of(Subset(same, [0]), shared, Subset(same, [4])))


def test_one_dataset_given_twice_is_refused():
    dataset = Counting(10)
    with pytest.raises(DataError, match="share 10 samples of one dataset"):
        make_disjoint(splits_of(numbered([-1]), dataset, dataset))


def test_groups_decide_where_both_datasets_have_them():
    calibration, search = Numbered([1, 2], "aa"), Numbered([3, 4], "bb")
    kept, notes = make_disjoint(splits_of(calibration, search, Numbered([3, 4], "cc")))
    assert notes == () and len(kept.search) == 2  # equal bytes, but other groups
    with pytest.raises(DataError, match="search and test splits share 1 of their groups, 'b'"):
        make_disjoint(splits_of(calibration, search, Numbered([5, 6], "bc")))
    with pytest.raises(DataError, match="exact copies"):  # one side without groups: by bytes
        make_disjoint(splits_of(calibration, search, Numbered([4, 5])))


def test_checked_splits_is_every_check():
    train = numbered(range(100, 200))
    with pytest.raises(DataError, match="mapping"):
        checked_splits([])
    with pytest.raises(DataError, match="gave different"):
        checked_splits({"calibration": Noisy(2), "search": Noisy(2), "test": Noisy(2)})
    with pytest.raises(DataError, match="same network"):
        checked_splits(good() | {"test": [(torch.ones(1, 1), 0)]})
    with pytest.raises(DataError, match="copies"):
        checked_splits(good() | {"test": good()["search"]})
    splits, notes = checked_splits(good() | {"train": train}, batch_size=2)
    assert notes == () and [split.batch_size for split in splits.present] == [2] * 4


def test_a_split_of_one_sample_is_enough():
    splits, _ = checked_splits({"calibration": numbered([1]), "search": numbered([2]), "test": numbered([3])})
    assert [len(split) for split in splits.present] == [1, 1, 1]


# What data it is


def test_the_fingerprint_depends_on_content_and_not_on_batches():
    parts = numbered([1, 2, 3]), numbered([4, 5, 6]), numbered([7, 8, 9])
    prints = {fingerprint(splits_of(*parts, batch_size=size)) for size in (1, 2, 3)}
    assert len(prints) == 1
    moved = torch.tensor([5.0]), 1
    others = [
        splits_of(parts[0], numbered([4, 5, 6.5]), parts[2]),
        splits_of(parts[0], [parts[1][0], moved, parts[1][2]], parts[2]),
        splits_of(parts[0], numbered([5, 4, 6]), parts[2]),
        splits_of(parts[0], parts[2], parts[1]),
        splits_of(parts[0], numbered([4, 5]), numbered([6, 7, 8, 9])),
        splits_of(*parts, numbered([10])),
        splits_of(*([(x.view(torch.int32), y) for x, y in part] for part in parts)),
        splits_of(*([(x[None], y) for x, y in part] for part in parts)),
        splits_of(*([(x, None) for x, _ in part] for part in parts)),
    ]
    prints |= {fingerprint(splits) for splits in others}
    assert len(prints) == 1 + len(others)


def test_files_count_by_name_size_and_time_without_being_read(tmp_path):
    class Files(Counting):
        def __init__(self, files: list[Any]) -> None:
            super().__init__(len(files))
            self.files = files

        def __getitem__(self, i):
            raise AssertionError("read")

    paths = [tmp_path / f"{i}.bin" for i in range(4)]
    for path in paths:
        path.write_bytes(b"12")
        os.utime(path, (1e9, 1e9))

    def current(order: tuple[int, ...] = (0, 1, 2, 3)) -> str:
        return fingerprint(
            splits_of(
                Files([paths[order[0]]]), Files([str(paths[order[1]])]), Subset(Files(paths), [order[2], order[3]])
            )
        )

    prints = [current()]
    assert current() == prints[0]
    prints.append(current((1, 0, 2, 3)))
    prints.append(current((0, 1, 3, 2)))
    os.utime(paths[1], (2e9, 2e9))
    prints.append(current())
    paths[1].write_bytes(b"123")
    os.utime(paths[1], (2e9, 2e9))
    prints.append(current())
    assert len(set(prints)) == len(prints)
    paths[1].unlink()
    with pytest.raises(DataError, match=r"A file of the search split cannot be found.*1\.bin"):
        current()


def test_an_augmented_train_split_counts_by_its_length():
    parts = numbered([1]), numbered([2]), numbered([3])
    assert fingerprint(splits_of(*parts, Noisy(3))) == fingerprint(splits_of(*parts, Noisy(3)))
    assert fingerprint(splits_of(*parts, Noisy(3))) != fingerprint(splits_of(*parts, Noisy(4)))


# Random partition


@settings(deadline=None)
@given(
    n=st.integers(1, 60),
    calibration=st.integers(1, 20),
    search=st.none() | st.integers(1, 20),
    test=st.none() | st.integers(1, 20),
    train=st.integers(0, 20),
    seed=st.integers(0, 9),
)
def test_a_partition_is_disjoint_and_has_the_sizes_asked_for_or_says_that_it_cannot(
    n, calibration, search, test, train, seed
):
    asked = {"calibration": calibration, "search": search, "test": test, "train": train}
    if n < calibration + train + (1 if search is None else search) + (1 if test is None else test):
        with pytest.raises(DataError, match=f"has {n} samples, too few"):
            partition(n, **asked, seed=seed)
        return
    parts = partition(n, **asked, seed=seed)
    everything = np.concatenate(list(parts.values()))
    assert len(set(everything.tolist())) == len(everything) and set(everything.tolist()) <= set(range(n))
    for name, size in asked.items():
        if size is not None:
            assert len(parts.get(name, [])) == size
    if search is None or test is None:
        assert len(everything) == n
    if search is None and test is None:
        assert 0 <= len(parts["search"]) - len(parts["test"]) <= 1
    again = partition(n, **asked, seed=seed)
    assert all(np.array_equal(parts[name], again[name]) for name in parts)


@pytest.mark.parametrize("wrong", [0, -1, 2.5, "10", True])
def test_sizes_are_whole_numbers(wrong):
    with pytest.raises(DataError, match=r"search: .* is no number of samples"):
        partition(100, calibration=1, search=wrong, test=None, seed=0)


# Digits


@settings(deadline=None, max_examples=8)
@given(
    calibration=st.integers(1, 300),
    search=st.integers(1, 400),
    test=st.integers(1, 497),
    train=st.integers(300, 900),
    seed=st.integers(0, 3),
)
def test_digits_measured_on_were_never_trained_on_whatever_the_sizes(calibration, search, test, train, seed):
    data = digits(calibration=calibration, search=search, test=test, train=train, seed=seed)
    rows = {name: {image.numpy().tobytes() for image in dataset.tensors[0]} for name, dataset in data.items()}
    assert {name: len(found) for name, found in rows.items()} == {
        "calibration": calibration,
        "search": search,
        "test": test,
        "train": train,
    }  # all 1797 images differ
    trained_on = {image.numpy().tobytes() for image in digits(seed=seed)["train"].tensors[0]}
    assert rows["train"] <= trained_on and rows["calibration"] <= rows["train"]
    assert not trained_on & (rows["search"] | rows["test"]) and not rows["search"] & rows["test"]


def test_digits_are_scaled_images_with_their_classes():
    data = digits()
    assert [len(data[name]) for name in ("calibration", "search", "test", "train")] == [256, 400, 497, 900]
    image, target = data["train"][0]
    assert image.shape == (1, 8, 8) and image.dtype == torch.float32 and target.dtype == torch.int64
    images = torch.cat([data[name].tensors[0] for name in ("search", "test", "train")])
    assert abs(images.mean()) < 0.05 and abs(images.std() - 1) < 0.05
    assert images.min() == np.float32(DIGITS_BACKGROUND)
    assert set(data["test"].tensors[1].tolist()) == set(range(10))
    _, notes = checked_splits(data)
    assert notes == ()


def test_digits_splits_depend_on_the_seed_alone():
    prints = [fingerprint(splits_from(digits(seed=seed))) for seed in (0, 0, 1)]
    assert prints[0] == prints[1] != prints[2]


@pytest.mark.parametrize(
    "wrong",
    [
        {"train": 901},
        {"calibration": 901},
        {"search": 500},
        {"test": 498},
        {"search": 0},
        {"train": 100},
        {"test": 1.5},
    ],
)
def test_digits_sizes_out_of_range_are_told(wrong):
    with pytest.raises(DataError, match="out of range; digits has"):
        digits(**wrong)


# Arrays


@pytest.fixture
def npz(tmp_path: Path) -> Path:
    x = np.arange(60.0).reshape(20, 3)
    np.savez(tmp_path / "data.npz", x=x, y=x[:, 0].astype(np.int32) // 3, extra=np.ones(2))
    return tmp_path / "data.npz"


def test_arrays_keep_inputs_and_targets_together(npz):
    data = arrays(npz, calibration=5, search=6, train=2, seed=3)
    assert {name: len(part) for name, part in data.items()} == {
        "calibration": 5,
        "search": 6,
        "test": 7,
        "train": 2,
    }
    for part in data.values():
        x, y = part.tensors
        assert (x.dtype, y.dtype) == (torch.float32, torch.int64)
        assert x[:, 0].tolist() == (3 * y).tolist()
    assert sorted(y for part in data.values() for y in part.tensors[1].tolist()) == list(range(20))
    assert checked_splits(data)[1] == ()


def test_relative_paths_start_at_the_base_folder(npz, monkeypatch):
    assert len(arrays("data.npz", calibration=5, base=npz.parent)["calibration"]) == 5
    monkeypatch.chdir(npz.parent)
    assert len(arrays("data.npz", calibration=5)["calibration"]) == 5
    assert len(arrays(npz, calibration=5, base="/nowhere")["calibration"]) == 5


def test_whole_numbers_stay_whole_and_truth_values_true(tmp_path):
    np.savez(tmp_path / "t.npz", x=np.arange(12, dtype=">u2").reshape(4, 3), y=np.array([True, False, True, True]))
    part = arrays(tmp_path / "t.npz", calibration=2)["calibration"]
    assert [tensor.dtype for tensor in part.tensors] == [torch.int64, torch.bool]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"x": np.ones(4)}, "holds x, but no y"),
        ({"inputs": np.ones(4)}, "holds inputs, but no x and no y"),
        ({"x": np.ones(4), "y": np.ones(5)}, "x has 4 samples and y has 5"),
        ({"x": np.array(3.0), "y": np.ones(5)}, "x is a single number"),
        ({"x": np.array(["a"] * 4), "y": np.ones(4)}, "x holds <U1; numbers are needed"),
        ({"x": np.array([[1], [2, 3]] * 2, dtype=object), "y": np.ones(4)}, "Arrays of objects are not loaded"),
        ({"x": np.ones(4), "y": np.ones(4)}, "has 4 samples, too few for calibration=256"),
    ],
)
def test_what_is_wrong_with_arrays_is_told_with_the_file(tmp_path, content, told):
    np.savez(tmp_path / "wrong.npz", **content)
    with pytest.raises(DataError) as raised:
        arrays("wrong.npz", base=tmp_path)
    assert told in str(raised.value) and "wrong.npz" in str(raised.value)


def test_files_that_are_no_arrays_are_told(tmp_path, npz):
    np.save(tmp_path / "single.npy", np.ones(3))
    (tmp_path / "torn.npz").write_bytes(npz.read_bytes()[:200])
    (tmp_path / "text.npz").write_text("x,y")
    (tmp_path / "empty.npz").write_bytes(b"")
    damaged = bytearray(npz.read_bytes())
    damaged[150] ^= 1
    (tmp_path / "damaged.npz").write_bytes(damaged)
    for name in ("single.npy", "torn.npz", "text.npz", "empty.npz", "damaged.npz", "missing.npz", "."):
        with pytest.raises(DataError) as raised:
            arrays(tmp_path / name)
        assert str(tmp_path / name) in str(raised.value)


# Images


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten red and ten blue images that differ in brightness, an empty class between them, and other files."""
    for name, channel in (("apple", 0), ("sky", 2)):
        (tmp_path / "images" / name / "nested").mkdir(parents=True)
        for i in range(10):
            pixels = np.zeros((6, 6, 3), dtype=np.uint8)
            pixels[..., channel] = 100 + i
            below = "nested" if i % 2 else "."
            Image.fromarray(pixels).save(tmp_path / "images" / name / below / f"{i}.png")
    (tmp_path / "images" / "none").mkdir()
    (tmp_path / "images" / ".cache").mkdir()
    (tmp_path / "images" / "apple" / "notes.txt").write_text("no image")
    return tmp_path / "images"


def test_every_image_comes_once_with_the_class_of_its_folder(folder):
    data = image_folder(folder, calibration=4, search=6, train=3, seed=1)
    assert {name: len(part) for name, part in data.items()} == {
        "calibration": 4,
        "search": 6,
        "test": 7,
        "train": 3,
    }
    seen = []
    for part in data.values():
        for image, label in map(part.__getitem__, range(len(part))):
            assert image.shape == (3, 6, 6) and image.dtype == torch.float32
            assert image.count_nonzero(dim=(1, 2)).tolist() == [36 * (label == c) for c in range(3)]
            seen.append((label, round(image[label].max().item() * 255)))
    # Class 1 is the folder without images; 0 is red, 2 is blue.
    assert sorted(seen) == [(label, 100 + i) for label in (0, 2) for i in range(10)]
    splits, notes = checked_splits(data, batch_size=4)
    assert notes == () and len(splits.search.whole()) == 6


@pytest.mark.parametrize(
    "given_settings",
    [{"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.25, 2.0]}, {"mean": 0.5, "std": 0.1}, {"std": 2.0}],
)
def test_images_are_normalized_by_channel_or_all_alike(folder, given_settings):
    raw = Split("test", image_folder(folder, calibration=4, seed=1)["test"]).whole().inputs
    normalized = image_folder(folder, calibration=4, seed=1, **given_settings)["test"]
    mean = torch.tensor(given_settings.get("mean", 0.0)).reshape(-1, 1, 1)
    std = torch.tensor(given_settings["std"]).reshape(-1, 1, 1)
    assert torch.equal(Split("test", normalized).whole().inputs, (raw - mean) / std)


def test_gray_images_have_one_channel(folder):
    image, _ = image_folder(folder, channels=1, mean=0.5, std=[0.5], calibration=4)["search"][0]
    assert image.shape == (1, 6, 6)


def test_resize_and_crop_are_those_of_torchvision(tmp_path):
    ramp = np.tile(np.arange(12, dtype=np.uint8) * 20, (8, 1))  # 8 high, 12 wide
    (tmp_path / "a").mkdir()
    for i in range(4):
        Image.fromarray(ramp).save(tmp_path / "a" / f"{i}.png")

    def read(**settings: Any) -> torch.Tensor:
        part = image_folder(tmp_path, channels=1, calibration=1, **settings)["search"]
        return (part[0][0][0] * 255).round().int()

    expected = torch.from_numpy(ramp.astype(np.int32))
    assert torch.equal(read(), expected)
    assert torch.equal(read(crop=4), expected[2:6, 4:8])
    assert torch.equal(read(crop=[8, 3]), expected[:, 4:7])  # round(4.5) is 4
    assert read(resize=4).shape == (4, 6)
    assert read(resize=[5, 7]).shape == (5, 7)
    assert torch.equal(read(resize=4, crop=2), read(resize=4)[1:3, 2:4])
    small = read(resize=[8, 4])
    assert (np.diff(small[0]) > 0).all() and small[0, 0] > 0  # averaged over source pixels, not picked
    with pytest.raises(DataError, match=r"has 8x12 pixels .*less than the crop of 9x9"):
        read(crop=9)


def test_images_of_different_sizes_are_told_to_be_resized(folder):
    Image.new("RGB", (5, 6)).save(folder / "sky" / "odd.png")
    data = image_folder(folder, calibration=4)
    with pytest.raises(DataError, match="resize, crop or pad them"):
        for split in splits_from(data, batch_size=3).present:
            split.whole()


def test_copies_of_an_image_in_other_files_are_found(folder):
    for file in list(folder.rglob("*.png")):
        (file.parent / f"copy-{file.name}").write_bytes(file.read_bytes())
    with pytest.raises(DataError, match="exact copies"):
        checked_splits(image_folder(folder, calibration=10))


def test_image_files_count_by_name_size_and_time(folder):
    def current() -> str:
        return fingerprint(splits_from(image_folder(folder, calibration=4)))

    before = current()
    assert current() == before
    os.utime(folder / "sky" / "0.png", (1e9, 1e9))
    assert current() != before


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"path": "missing"}, "missing is no folder"),
        ({"path": "images/sky/nested"}, "holds no images in folders of classes (folders: none"),
        ({"calibration": 19}, "has 20 samples, too few for calibration=19"),
        ({"resize": 0}, "resize: 0 is neither a number of pixels nor [height, width]"),
        ({"resize": [3]}, "resize: [3]"),
        ({"resize": "224"}, "resize: '224'"),
        ({"crop": [2, -1]}, "crop: [2, -1]"),
        ({"crop": True}, "crop: True"),
        ({"mean": [1, 2]}, "mean: [1, 2] is neither one number nor one for each of 3 channels"),
        ({"mean": "imagenet"}, "mean: 'imagenet'"),
        ({"std": [1, 0, 1]}, "std: [1, 0, 1] holds a number that is not positive"),
        ({"channels": 4}, "channels: 4 is neither 3 (RGB) nor 1 (gray)"),
    ],
)
def test_what_is_wrong_with_an_image_folder_is_told(folder, changed, told):
    with pytest.raises(DataError) as raised:
        image_folder(**{"path": "images", "calibration": 4, "base": folder.parent} | changed)
    assert told in str(raised.value)


def test_a_file_that_is_no_image_is_told_by_name(folder):
    whole = (folder / "sky" / "0.png").read_bytes()
    for content in (b"no image", b"", whole[: len(whole) // 2]):
        for file in folder.rglob("*.png"):
            file.write_bytes(content)
        with pytest.raises(DataError, match=r"\.png cannot be read as an image"):
            Split("search", image_folder(folder, calibration=4)["search"]).whole()


def test_without_pillow_the_extra_is_named(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(DataError, match=r"evo-mpq\[images\]"):
        image_folder(folder)


def test_the_order_of_images_is_random_by_seed(folder):
    orders = [image_folder(folder, calibration=4, seed=seed)["test"].files for seed in (0, 0, 1, 2)]
    assert orders[0] == orders[1]
    assert all(one != other for one, other in pairwise(orders[1:]))
