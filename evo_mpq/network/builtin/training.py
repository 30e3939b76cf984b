"""Training of the built-in networks on digits, once per machine: the weights are cached by content."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias

import platformdirs
import safetensors
import torch
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn import functional

from evo_mpq.errors import NetworkError
from evo_mpq.network.builtin import digits_models
from evo_mpq.network.builtin.digits_models import BUILDERS, IMAGE_SIDE
from evo_mpq.network.data.kinds import DIGITS_BACKGROUND, digits

Progress: TypeAlias = Callable[[int, int, str], None]
"""``progress(done, total, message)``, told about steps of training."""

CACHE_VARIABLE = "EVO_MPQ_CACHE"
"""Environment variable that names another folder for the cache."""


@dataclass(frozen=True)
class Recipe:
    """How a network is trained: AdamW, one cycle of the learning rate, images shifted at random.

    Attributes:
        steps: batches.
        learning_rate: the highest of the cycle.
        weight_decay: decoupled, as a factor of the learning rate.
        batch_size: images per batch.
        shifted: fraction of the images that are moved by up to one pixel each way.
    """

    steps: int
    learning_rate: float
    weight_decay: float = 0.05
    batch_size: int = 64
    # Half of the images stay where they are: with all of them moved, the networks learn the original
    # positions worse (digits_vit: 90 % on test images instead of 97 %).
    shifted: float = 0.5


RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        "digits_resnet": Recipe(steps=300, learning_rate=4e-3),
        "digits_mobilenet": Recipe(steps=400, learning_rate=5e-3),
        "digits_mlp": Recipe(steps=1200, learning_rate=3e-3, weight_decay=0.1),
        "digits_vit": Recipe(steps=900, learning_rate=3e-3, weight_decay=0.1),
    }
)
"""By the network's name."""


def trained(
    name: str, *, seed: int = 0, steps: int | None = None, progress: Progress | None = None, **options: Any
) -> nn.Module:
    """A built-in network with trained weights, in eval mode.

    Trained on the train split of ``digits(seed=seed)``; to measure it on images that it never saw, load the data
    with the same seed. The first call trains, on one thread, for seconds; later ones read the weights from the
    cache. The same arguments give the same weights to the bit on one machine. No random generator and no thread
    setting of the caller is changed.

    Args:
        name: of ``digits_models.BUILDERS``.
        seed: of the data's split, the initial weights and the order of the images.
        steps: train for so many batches instead of the recipe's; few give quick weights for tests.
        progress: told about training.
        options: for the network's function, e.g. ``widths``.

    Raises:
        NetworkError: there is no such network, or it has no such option.
        ValueError: ``steps`` is not positive.
    """
    if steps is not None and steps < 1:
        raise ValueError(f"steps is a number of batches, at least 1, not {steps}")
    recipe = _recipe(name)
    recipe = recipe if steps is None else replace(recipe, steps=steps)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = _build(name, options)
    images, targets = digits(seed=seed)["train"].tensors
    file = cache_folder() / f"{name}-{_content_hash(name, options, recipe, seed, images, targets)}.safetensors"
    report = progress or _ignore
    state = _read_cached(file)
    if state is None:
        train(module, images, targets, recipe, seed=seed, progress=progress, message=f"training {name}")
        _write_cached(file, save(module.state_dict()))
    else:
        module.load_state_dict(state)
        report(recipe.steps, recipe.steps, f"{name} was trained before")
    return module.eval()


def train(
    module: nn.Module,
    images: Tensor,
    targets: Tensor,
    recipe: Recipe,
    *,
    seed: int,
    progress: Progress | None = None,
    message: str = "training",
) -> None:
    """Trains ``module`` in place to classify images, deterministically and on one thread.

    Args:
        module: ends in train mode.
        images: ``(n, 1, 8, 8)`` float32.
        targets: ``(n,)`` classes.
        recipe: how.
        seed: of the order and the shifts of images.
        progress: told about it every few steps, and at the end.
        message: what to tell.
    """
    report = progress or _ignore
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(module.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, total_steps=recipe.steps)
    batches = _shuffled(len(images), min(recipe.batch_size, len(images)), generator)
    module.train()
    with _one_thread(), torch.enable_grad():
        for step in range(recipe.steps):
            chosen = next(batches)
            inputs = _shifted_at_random(images[chosen], recipe.shifted, generator)
            loss = functional.cross_entropy(module(inputs), targets[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            if step % 10 == 9 or step + 1 == recipe.steps:
                report(step + 1, recipe.steps, message)


def cache_folder() -> Path:
    """Where trained weights are kept: ``$EVO_MPQ_CACHE``, or the user's cache folder."""
    return Path(os.environ.get(CACHE_VARIABLE) or platformdirs.user_cache_dir("evo-mpq"))


def _recipe(name: str) -> Recipe:
    if name not in RECIPES:
        close = get_close_matches(name, RECIPES, 1)
        raise NetworkError(
            f"No built-in network is called {name!r}"
            + (f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(RECIPES)}.")
        )
    return RECIPES[name]


def _build(name: str, options: Mapping[str, Any]) -> nn.Module:
    try:
        return BUILDERS[name](**options)
    except (TypeError, ValueError, AssertionError) as error:
        raise NetworkError(f"{name} cannot be built with the options {dict(options)}: {error}.") from error


def _shuffled(n: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Positions of endless batches; every pass has a new order and leaves its rest out."""
    while True:
        yield from torch.randperm(n, generator=generator)[: n - n % size].split(size)


def _shifted_at_random(images: Tensor, fraction: float, generator: torch.Generator) -> Tensor:
    """``(n, 1, 8, 8)`` images of which a fraction is moved by -1, 0 or 1 pixels each way."""
    n = len(images)
    offsets = torch.randint(0, 3, (2, n, 1), generator=generator)
    moved = torch.rand(n, generator=generator) < fraction
    # A padded image read from offset 1 is the image itself.
    rows, columns = torch.where(moved[:, None], offsets, 1) + torch.arange(IMAGE_SIDE)
    padded = functional.pad(images, (1, 1, 1, 1), value=DIGITS_BACKGROUND)
    return padded[torch.arange(n)[:, None, None], 0, rows[:, :, None], columns[:, None, :]][:, None]


@contextmanager
def _one_thread() -> Iterator[None]:
    """One thread inside: sums are split by threads, so that bits depend on their number."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _content_hash(
    name: str, options: Mapping[str, Any], recipe: Recipe, seed: int, images: Tensor, targets: Tensor
) -> str:
    """12 hexadecimal digits over everything that trained weights depend on: code, settings and data."""
    settings = {"name": name, "options": dict(options), "recipe": asdict(recipe), "seed": seed}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=repr).encode())
    for source in (digits_models.__file__, __file__):
        digest.update(Path(source).read_bytes())
    for tensor in (images, targets):
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]


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
