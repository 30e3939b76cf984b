"""Training of the built-in networks, once per machine: the weights are cached by content."""

from __future__ import annotations

import hashlib
import inspect
import json
import math
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeAlias

import platformdirs
import safetensors
import torch
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn import functional

from evo_mpq.errors import NetworkError
from evo_mpq.network.builtin.recipes import BUILT_IN, Augmentation, BuiltIn, Recipe

Progress: TypeAlias = Callable[[int, int, str], None]
"""``progress(done, total, message)``, told about steps of training."""

CACHE_VARIABLE = "EVO_MPQ_CACHE"
"""Environment variable that names another folder for the cache."""


def trained(
    name: str, *, seed: int = 0, steps: int | None = None, progress: Progress | None = None, **options: Any
) -> nn.Module:
    """A built-in network with trained weights, in eval mode.

    Trained on the train split of its data with the same seed; to measure it on samples that it never saw, load the
    data with that seed. The first call trains, on one thread, for seconds (``canvas_resnet`` and ``tiny_gpt``: for
    minutes); later ones read the weights from the cache. The same arguments give the same weights to the bit on one
    machine. No random generator and no thread setting of the caller is changed.

    Args:
        name: of ``recipes.BUILT_IN``.
        seed: of the data's split, the initial weights and the order of the samples.
        steps: train for so many batches instead of the recipe's; few give quick weights for tests.
        progress: told about training.
        options: for the network's function, e.g. ``widths``.

    Raises:
        NetworkError: there is no such network, or it has no such option.
        ValueError: ``steps`` is not positive.
    """
    if steps is not None and steps < 1:
        raise ValueError(f"steps is a number of batches, at least 1, not {steps}")
    entry = _entry(name)
    recipe = entry.recipe if steps is None else entry.recipe.shortened(steps)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = _build(name, options)
    file = cache_folder() / f"{name}-{_content_hash(name, module, options, recipe, seed)}.safetensors"
    report = progress or _ignore
    state = _read_cached(file)
    if state is None:
        inputs, targets = entry.data(seed=seed, train=recipe.samples, calibration=1)["train"].tensors
        train(
            module,
            inputs,
            targets,
            recipe,
            augment=entry.augment,
            seed=seed,
            progress=progress,
            message=f"training {name}",
        )
        _write_cached(file, save(module.state_dict()))
    else:
        module.load_state_dict(state)
        report(recipe.steps, recipe.steps, f"{name} was trained before")
    return module.eval()


def train(
    module: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    recipe: Recipe,
    *,
    augment: Augmentation | None = None,
    seed: int,
    progress: Progress | None = None,
    message: str = "training",
) -> None:
    """Trains ``module`` in place to classify, deterministically and on one thread.

    Args:
        module: returns ``(n, ..., n_classes)`` logits; ends in train mode.
        inputs: ``(n, ...)`` what it is called with.
        targets: ``(n, ...)`` classes, one for each of its predictions.
        recipe: how.
        augment: what happens to the inputs of a batch.
        seed: of the order of samples and of the augmentation.
        progress: told about it every few steps, and at the end.
        message: what to tell.
    """
    report = progress or _ignore
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(module.parameters(), weight_decay=recipe.weight_decay)
    batches = _shuffled(len(inputs), min(recipe.batch_size, len(inputs)), generator)
    module.train()
    with _one_thread(), torch.enable_grad():
        for step in range(recipe.steps):
            _set_rates(optimizer, recipe, step)
            chosen = next(batches)
            seen = inputs[chosen] if augment is None else augment(inputs[chosen], generator)
            loss = functional.cross_entropy(module(seen).flatten(0, -2), targets[chosen].flatten())
            optimizer.zero_grad()
            loss.backward()
            if recipe.clip is not None:
                nn.utils.clip_grad_norm_(module.parameters(), recipe.clip)
            optimizer.step()
            if step % 10 == 9 or step + 1 == recipe.steps:
                report(step + 1, recipe.steps, message)


def _set_rates(optimizer: torch.optim.Optimizer, recipe: Recipe, step: int) -> None:
    """Learning rate and first beta of a step.

    They are those of ``torch.optim.lr_scheduler.OneCycleLR``, to the bit, which divides by zero where the warm-up lasts
    for exactly one step.
    """
    highest, first = recipe.learning_rate, recipe.learning_rate / 25
    low, high = recipe.momentum
    peak, end = recipe.warm_up * recipe.steps - 1, recipe.steps - 1
    if peak > 0 and step <= peak:
        rate, momentum = _cosine(first, highest, step / peak), _cosine(high, low, step / peak)
    else:
        done = (step - peak) / (end - peak)
        rate, momentum = _cosine(highest, first / 1e4, done), _cosine(low, high, done)
    for group in optimizer.param_groups:
        group["lr"], group["betas"] = rate, (momentum, recipe.averaging)


def _cosine(start: float, end: float, done: float) -> float:
    """Between two numbers, along half a cosine."""
    return end + (start - end) / 2.0 * (math.cos(math.pi * done) + 1)


def cache_folder() -> Path:
    """Where trained weights are kept: ``$EVO_MPQ_CACHE``, or the user's cache folder."""
    return Path(os.environ.get(CACHE_VARIABLE) or platformdirs.user_cache_dir("evo-mpq"))


def _entry(name: str) -> BuiltIn:
    if name not in BUILT_IN:
        close = get_close_matches(name, BUILT_IN, 1)
        raise NetworkError(
            f"No built-in network is called {name!r}"
            + (f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(BUILT_IN)}.")
        )
    return BUILT_IN[name]


def _build(name: str, options: Mapping[str, Any]) -> nn.Module:
    try:
        return BUILT_IN[name].build(**options)
    except (TypeError, ValueError, AssertionError) as error:
        raise NetworkError(f"{name} cannot be built with the options {dict(options)}: {error}.") from error


def _shuffled(n: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Positions of endless batches; every pass has a new order and leaves its rest out."""
    while True:
        yield from torch.randperm(n, generator=generator)[: n - n % size].split(size)


@contextmanager
def _one_thread() -> Iterator[None]:
    """One thread inside: sums are split by threads, so that bits depend on their number."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _content_hash(name: str, module: nn.Module, options: Mapping[str, Any], recipe: Recipe, seed: int) -> str:
    """12 hexadecimal digits over everything that trained weights depend on: code, settings and data."""
    settings = {"name": name, "options": dict(options), "recipe": asdict(recipe), "seed": seed}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=repr).encode())
    for source in _sources(module, BUILT_IN[name]):
        digest.update(source.read_bytes())
    digest.update(BUILT_IN[name].content(seed))
    return digest.hexdigest()[:12]


def _sources(module: nn.Module, entry: BuiltIn) -> list[Path]:
    """The files of this package that a network's weights depend on, apart from those of its data."""
    code: set[Any] = {type(part) for part in module.modules()} | {entry.build, entry.augment}
    own = [thing for thing in code if getattr(thing, "__module__", "").startswith("evo_mpq.")]
    return sorted({Path(__file__), *(Path(inspect.getfile(thing)) for thing in own)})


def _read_cached(file: Path) -> dict[str, Tensor] | None:
    """The weights in the cache; None if there are none, or the file is damaged (it is then written again)."""
    try:
        return load(file.read_bytes())
    except (OSError, safetensors.SafetensorError):
        return None


def _write_cached(file: Path, content: bytes) -> None:
    """Writes a file of the cache in one step, so that no other process reads half of it."""
    partial = None
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=file.parent, suffix=".partial", delete=False) as stream:
            partial = Path(stream.name)
            stream.write(content)
        partial.replace(file)
    except OSError as error:
        if partial is not None:
            partial.unlink(missing_ok=True)
        warnings.warn(
            f"Trained weights could not be kept ({error}); they are trained again next time. {CACHE_VARIABLE} can "
            "name a folder that is writable.",
            stacklevel=3,
        )


def _ignore(done: int, total: int, message: str) -> None:
    """Progress for nobody."""
