"""Laws of training: the same seed gives the same bytes, the cache never lies, the caller's torch is left alone."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from evo_mpq.errors import NetworkError
from evo_mpq.network.builtin import networks, training
from evo_mpq.network.builtin.digits_models import BUILDERS, shifted_at_random
from evo_mpq.network.builtin.recipes import BUILT_IN, Recipe
from evo_mpq.network.builtin.training import cache_folder, trained
from evo_mpq.network.data.kinds import DIGITS_BACKGROUND, digits

every_network = pytest.mark.parametrize("name", sorted(BUILT_IN))

SMALL: dict[str, dict[str, Any]] = {"tiny_gpt": {"width": 16, "depth": 1, "heads": 2}}
"""Options that make training quick, where a network is slow without."""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of its own."""
    monkeypatch.setenv("EVO_MPQ_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def use_new_cache(tmp_path, monkeypatch):
    """Starts another empty cache at each call."""

    def use(name: str) -> None:
        monkeypatch.setenv("EVO_MPQ_CACHE", str(tmp_path / name))

    return use


def content(module: torch.nn.Module) -> bytes:
    return save(module.state_dict())


def accuracy(module: torch.nn.Module, seed: int) -> float:
    images, targets = digits(seed=seed)["test"].tensors
    with torch.no_grad():
        return float((module(images).argmax(1) == targets).double().mean())


def test_every_network_has_a_function_that_trains_it_on_its_data():
    for name, entry in BUILT_IN.items():
        assert networks.trained_on(getattr(networks, name)) is entry.data
    assert networks.trained_on(BUILT_IN["digits_mlp"].build) is None  # it trains nothing


@every_network
def test_the_samples_it_is_trained_on_are_found_by_its_content_and_shared_with_no_other_split(name):
    entry = BUILT_IN[name]
    assert entry.content(0) == entry.content(0) != entry.content(1)
    data = entry.data(seed=1, train=300, search=30, test=40)
    assert len(data["train"]) == 300
    inputs = {split: {sample.numpy().tobytes() for sample in data[split].tensors[0]} for split in data}
    assert inputs["calibration"] <= inputs["train"]
    assert not inputs["train"] & (inputs["search"] | inputs["test"])


@every_network
def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(name, use_new_cache):
    weights = []
    for i, seed in enumerate((0, 0, 1)):
        use_new_cache(str(i))
        torch.rand(i)  # whatever the caller's generator went through
        # of digits more than one pass over the images
        weights.append(content(trained(name, seed=seed, steps=16, **SMALL.get(name, {}))))
    assert weights[0] == weights[1] != weights[2]


def test_a_hundred_steps_teach_something(cache):
    assert accuracy(trained("digits_mlp", steps=100), seed=0) > 0.7  # guessing gives 10 %


def test_the_first_network_is_accurate_on_images_it_never_saw():
    assert accuracy(trained("digits_resnet"), seed=0) >= 0.975


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_networks_are_accurate_for_every_seed(name):
    least = 0.975 if name == "digits_resnet" else 0.95
    assert min(accuracy(trained(name, seed=seed), seed) for seed in range(5)) >= least


def test_the_callers_threads_generator_and_gradient_mode_are_left_alone(use_new_cache):
    before = torch.get_num_threads()
    weights = []
    try:
        for threads in (1, 2):
            use_new_cache(str(threads))
            torch.set_num_threads(threads)
            state = torch.get_rng_state()
            with torch.no_grad():
                weights.append(content(trained("digits_mlp", steps=3)))
                assert not torch.is_grad_enabled()
            assert torch.get_num_threads() == threads
            assert torch.equal(torch.get_rng_state(), state)
    finally:
        torch.set_num_threads(before)
    assert weights[0] == weights[1]


def test_threads_are_restored_after_an_exception(cache):
    before = torch.get_num_threads()

    def stop(done, total, message):
        raise KeyboardInterrupt

    try:
        torch.set_num_threads(2)
        with pytest.raises(KeyboardInterrupt):
            trained("digits_mlp", steps=3, progress=stop)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert not list(cache.glob("*"))  # half-trained weights are not kept


def test_the_network_comes_ready_to_be_measured(cache):
    for _ in ("trained", "from the cache"):
        network = trained("digits_resnet", steps=1)
        assert not any(part.training for part in network.modules())


# The cache


def test_the_second_call_reads_what_the_first_one_learned(cache, monkeypatch):
    first = content(trained("digits_mlp", steps=2))
    monkeypatch.setattr(training, "train", lambda *_, **__: pytest.fail("trained again"))
    assert content(trained("digits_mlp", steps=2)) == first


def test_weights_are_kept_apart_by_everything_they_depend_on(cache):
    arguments: list[dict[str, Any]] = [{}, {"seed": 1}, {"steps": 3}, {"widths": [16]}, {"widths": [17]}]
    for i, changed in enumerate(arguments, start=1):
        trained("digits_mlp", **{"steps": 2} | changed)
        assert len(list(cache.iterdir())) == i
    trained("digits_vit", steps=2)
    assert len(list(cache.iterdir())) == len(arguments) + 1
    assert all(file.suffix == ".safetensors" for file in cache.iterdir())


def test_weights_depend_on_their_own_code_only():
    files = {
        name: {file.name for file in training._sources(entry.build(**SMALL.get(name, {})), entry)}
        for name, entry in BUILT_IN.items()
    }
    assert files == {
        **{name: {"digits_models.py", "training.py"} for name in BUILDERS},
        "canvas_resnet": {"canvas_resnet.py", "digits_models.py", "training.py"},
        "tiny_gpt": {"tiny_gpt.py", "training.py"},
    }


@pytest.mark.parametrize("damage", [b"", b"not weights", "cut"])
def test_a_damaged_file_of_the_cache_is_written_again(cache, damage):
    first = content(trained("digits_mlp", steps=2))
    (file,) = cache.iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[:-10] if damage == "cut" else damage)
    assert content(trained("digits_mlp", steps=2)) == first
    assert file.read_bytes() == whole


def test_without_a_place_for_the_cache_the_network_is_trained_and_the_reason_told(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("EVO_MPQ_CACHE", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match=r"could not be kept .*EVO_MPQ_CACHE"):
        network = trained("digits_mlp", steps=2)
    monkeypatch.setenv("EVO_MPQ_CACHE", str(tmp_path / "cache"))
    assert content(trained("digits_mlp", steps=2)) == content(network)


def test_trainings_at_the_same_time_leave_one_whole_file(cache):
    threads = [threading.Thread(target=training._write_cached, args=(cache / "w", b"x" * 10_000)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [file.name for file in cache.iterdir()] == ["w"]
    assert (cache / "w").read_bytes() == b"x" * 10_000


def test_the_cache_is_the_users_cache_folder_unless_named(monkeypatch):
    monkeypatch.delenv("EVO_MPQ_CACHE", raising=False)
    assert cache_folder().name == "evo-mpq"
    monkeypatch.setenv("EVO_MPQ_CACHE", "elsewhere")
    assert cache_folder() == Path("elsewhere")


# What is told


def test_progress_rises_to_the_total(cache):
    told = []
    for _ in range(2):
        trained("digits_mlp", steps=25, progress=lambda *news: told.append(news))
    assert [news[:2] for news in told] == [(10, 25), (20, 25), (25, 25), (25, 25)]
    assert told[0][2] == "training digits_mlp" and "before" in told[-1][2]


def test_unknown_names_and_steps_are_told():
    with pytest.raises(NetworkError, match="did you mean 'digits_resnet'"):
        trained("digits_resnt")
    with pytest.raises(NetworkError, match="there are digits_resnet, "):
        trained("yolo")
    with pytest.raises(ValueError, match="steps"):
        trained("digits_mlp", steps=0)


# The cycle


def rates(recipe: Recipe) -> list[tuple[float, tuple[float, float]]]:
    """Learning rate and betas of every step."""
    optimizer = torch.optim.AdamW([torch.zeros(1)])
    found = []
    for step in range(recipe.steps):
        training._set_rates(optimizer, recipe, step)
        found.append((optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["betas"]))
    return found


@every_network
@pytest.mark.parametrize("steps", [None, 1, 2, 7, 30])
def test_rates_are_those_of_one_cycle_to_the_bit(name, steps):
    recipe = BUILT_IN[name].recipe
    recipe = recipe if steps is None else recipe.shortened(steps)
    optimizer = torch.optim.AdamW([torch.zeros(1)], betas=(0.9, recipe.averaging))
    low, high = recipe.momentum
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        recipe.learning_rate,
        total_steps=recipe.steps,
        pct_start=recipe.warm_up,
        base_momentum=low,
        max_momentum=high,
    )
    expected = []
    for _ in range(recipe.steps):
        expected.append((optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["betas"]))
        optimizer.step()
        schedule.step()
    assert rates(recipe) == expected


def test_a_warm_up_of_one_step_is_none():
    recipe = Recipe(steps=5, learning_rate=1.0, warm_up=0.2)
    found = [rate for rate, _ in rates(recipe)]
    assert found[0] == 1.0 and found == sorted(found, reverse=True)


# Shifts


def shifts_of(image: torch.Tensor) -> list[torch.Tensor]:
    """All nine shifts of an ``(8, 8)`` image by at most one pixel, pixel by pixel."""
    result = []
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            shifted = torch.full((8, 8), DIGITS_BACKGROUND)
            for row in range(8):
                for column in range(8):
                    if 0 <= row + down < 8 and 0 <= column + right < 8:
                        shifted[row, column] = image[row + down, column + right]
            result.append(shifted)
    return result


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000))
def test_shifted_images_are_the_images_moved_by_at_most_a_pixel(seed):
    images = digits_like(6, seed)
    moved = shifted_at_random(images, torch.Generator().manual_seed(seed), 1.0)
    for before, after in zip(images[:, 0], moved[:, 0], strict=True):
        assert any(torch.equal(after, shift) for shift in shifts_of(before))
    unmoved = shifted_at_random(images, torch.Generator().manual_seed(seed), 0.0)
    assert torch.equal(unmoved, images)


def test_all_shifts_occur_and_a_fraction_of_images_is_drawn():
    image = digits_like(1, 0)
    many = image.expand(4000, 1, 8, 8)
    moved = shifted_at_random(many, torch.Generator().manual_seed(0))[:, 0]
    counts = [int((moved == shift).all(dim=(1, 2)).sum()) for shift in shifts_of(image[0, 0])]
    assert sum(counts) == 4000
    expected = [4000 * 0.5 / 9 + (2000 if i == 4 else 0) for i in range(9)]  # 4 is the unmoved one
    assert all(abs(count - mean) < 5 * mean**0.5 for count, mean in zip(counts, expected, strict=True))


def digits_like(n: int, seed: int) -> torch.Tensor:
    return torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
