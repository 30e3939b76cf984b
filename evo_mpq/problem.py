"""From settings to what is searched: the network and its data, the space, the compressor, the quantities."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from evo_mpq import plugins
from evo_mpq.compress.compressor import Compressor, Pruning
from evo_mpq.compress.packing import FORMAT
from evo_mpq.compress.quantizers import ActivationQuantizer, UniformAffine
from evo_mpq.compress.sample_axes import find_sample_axes
from evo_mpq.config import Key, Settings, object_name, resolved, validate
from evo_mpq.errors import ConfigError, Mistake, Mistakes
from evo_mpq.measure.candidate import Candidate
from evo_mpq.measure.devices import CPU, device_name, why_unavailable
from evo_mpq.measure.objectives import Constraint, Quantity
from evo_mpq.network.blocks import Block, matching_blocks
from evo_mpq.network.builtin import networks as builtin
from evo_mpq.network.calling import Forward
from evo_mpq.network.data.checks import checked_splits, fingerprint
from evo_mpq.network.data.splits import Splits
from evo_mpq.network.network import Network, trace_network
from evo_mpq.network.products import Product
from evo_mpq.network.weights import load_weights
from evo_mpq.optimize.seeders.seeder import Seeder
from evo_mpq.predict.supernet.training import are_classes
from evo_mpq.quantities import Quantities, read_quantities
from evo_mpq.space.building import SpaceGroup, SpaceLayer, build_space
from evo_mpq.space.genes import BIT_KINDS
from evo_mpq.space.policy import Policy
from evo_mpq.space.search_space import SearchSpace

ReportProgress = Callable[[int, int, str], None]
"""``progress(done, total, message)`` of a long step before the search."""

BUDGET_KEYS = ("evaluations", "minutes", "stall")
"""Keys of ``search:`` that say how far a run goes, not which run it is."""

_MOST_CALIBRATION_SAMPLES = 1024

_NAMING = ("objectives", "metrics")
"""Keys of the settings that name what constraints may bound."""


def _silent(done: int, total: int, message: str) -> None:
    """Progress for nobody."""


@dataclass(frozen=True, eq=False)
class Problem:
    """Everything that a search is a function of, besides its budget.

    Attributes:
        settings: what the user said.
        network: traced, with its data.
        space: of genomes.
        compressor: what candidates are made with.
        measured: what is measured of candidates.
        notes: what the user should know about network and data.
        objects: the user's own objects, whose source files are watched.
        seeders: the allocation methods that the settings name.
    """

    settings: Settings
    network: Network
    space: SearchSpace
    compressor: Compressor
    measured: Quantities
    notes: tuple[str, ...] = ()
    objects: tuple[Any, ...] = field(default=(), repr=False)
    seeders: Mapping[str, Seeder] = field(default_factory=dict, repr=False)

    @property
    def quantities(self) -> tuple[Quantity, ...]:
        """Everything that is measured of a candidate, objectives first."""
        return self.measured.all

    @property
    def objectives(self) -> tuple[Quantity, ...]:
        """What the front trades off."""
        return self.measured.objectives

    @property
    def constraints(self) -> tuple[Constraint, ...]:
        """Bounds on some of the quantities."""
        return self.measured.constraints

    @property
    def picks(self) -> tuple[tuple[Constraint, ...], ...]:
        """Bounds on objectives that points will be picked within."""
        return self.measured.picks

    @property
    def device(self) -> str:
        """Where candidates are measured."""
        return device_name(self.settings.compute.device)

    @property
    def log_scale(self) -> tuple[bool, ...]:
        """Of each objective, whether its order of magnitude counts."""
        return tuple(quantity.log_scale for quantity in self.objectives)

    @property
    def reference(self) -> Policy:
        """The policy of the uncompressed network."""
        return Policy.uniform(self.space.layers, 32, 32)

    def identity(self) -> dict[str, Any]:
        """What makes a run this run: settings, graph, weights and data; not its budget, workers or name."""
        said = resolved(self.settings)
        said.pop("name", None)
        return {
            **said,
            "search": {key: value for key, value in said["search"].items() if key not in BUDGET_KEYS},
            "compute": {"device": self.device, "threads": self.settings.compute.threads},
            "packed_format": FORMAT,  # what a number of bits stands for
            # what the patterns came to: their order counts, and mappings are compared without it
            "genes": {gene.name: [*gene.values] for gene in self.space.genes},
            "fixed": {name: list(astuple(policy)) for name, policy in self.space.fixed.items()},
            "fingerprints": {
                "graph": self.network.graph.hash(),
                "weights": self.network.weights_hash(),
                "data": fingerprint(self.network.splits),
            },
        }


def build_problem(
    settings: Settings, base: Path | None = None, progress: ReportProgress = _silent, *, any_device: bool = False
) -> Problem:
    """What the settings say, loaded, traced, calibrated and checked.

    Mistakes are collected as far as one does not follow from another, and have the paths of their keys.

    Args:
        settings: from a YAML or from Python.
        base: the folder that the user's modules and files are looked for in.
        progress: told about steps that may take long.
        any_device: whether the device may be one that is not here: to look at what was measured elsewhere.

    Raises:
        ConfigError: whatever is wrong with the settings, the network or the data.
    """
    with fixed_threads(settings.compute.threads):  # calibration is part of what threads can move by a bit
        return _build(settings, base, progress, any_device)


def mistakes_behind(values: Mapping[str, Any], base: Path, progress: ReportProgress = _silent) -> list[Mistake]:
    """What is wrong behind the mistakes of a YAML: what `build_problem` would find once these are put right.

    Args:
        values: what the YAML says. Of what is wrong by itself the defaults are taken; without a model and data that
            are right nothing can be said.
        base: the folder that the user's modules and files are looked for in.
        progress: told about steps that may take long.
    """
    right = dict(values)
    while True:
        try:
            settings = validate(right)
            break
        except ConfigError as error:
            rest = _without(right, error.mistakes)
        if rest == right or not {"model", "data"} <= rest.keys():
            return []
        right = rest
    mistakes = Mistakes()
    with mistakes.about():
        _check_device(settings)
    with mistakes.about():
        build_problem(validate(_without(right, mistakes.found)), base, progress)
    # "nothing to search" may be a consequence of options that were left out
    return [mistake for mistake in mistakes.found if mistake.path != ("space",) or right == values]


def _without(values: Mapping[str, Any], mistakes: Iterable[Mistake]) -> dict[str, Any]:
    """The values without what mistakes are about: single rules of the space, otherwise whole sections."""
    right = dict(values)
    for mistake in mistakes:
        match mistake.path:
            case ("space", "layers", str(pattern), *_) if isinstance(right.get("space"), Mapping):
                space = right["space"]
                # layers whose options are left out may be tied to others that have theirs
                right["space"] = {**space, "layers": {**space["layers"], pattern: {}}, "tie": []}
            case ("space", ("defaults" | "tie") as key, *_) if isinstance(right.get("space"), Mapping):
                right["space"] = {name: rule for name, rule in right["space"].items() if name not in (key, "tie")}
            case ("objectives" | "metrics", *_):
                right = {key: section for key, section in right.items() if key not in (*_NAMING, "constraints")}
            case ("search" | "compute" as key, str(inner), *_) if isinstance(right.get(key), Mapping):
                right[key] = {name: value for name, value in right[key].items() if name != inner}
            case (key, *_):
                right.pop(str(key), None)
    return right


@contextmanager
def fixed_threads(threads: int) -> Iterator[None]:
    """Runs torch with a number of threads, which is part of a run's identity, and restores the caller's."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def middle_policy(space: SearchSpace) -> Policy:
    """The uniform policy of middle bits, or what the space has nearest to it."""
    steps = [space.steps(kind) or [32] for kind in BIT_KINDS]
    weight_bits, activation_bits = (int(values[len(values) // 2]) for values in steps)
    return space.decode(space.nearest(weight_bits, activation_bits)[None])[0]


def _build(settings: Settings, base: Path | None, progress: ReportProgress, any_device: bool) -> Problem:
    mistakes = Mistakes()
    with mistakes.about():
        if not any_device:
            _check_device(settings)
    with mistakes.about():
        _refuse_trained_samples(settings, base)
    mistakes.check()  # nothing needs to be loaded to tell these
    with mistakes.about("objectives"):
        quantities = read_quantities(settings, base)
    with mistakes.about("search"):
        seeders = _seeders(settings, base)
    loaded = _load(settings, base, progress, mistakes)
    if loaded is not None:
        with mistakes.about("space"):
            space = _space(settings, loaded.network)
    mistakes.check()
    assert loaded is not None, "something that was not loaded is a mistake"
    network = loaded.network
    progress(0, 0, "calibrating")
    with mistakes.about("model"):
        compressor = _compressor(settings, network, space)
    mistakes.check()
    if settings.metrics is None:
        quantities = quantities.with_default_metrics(class_labels=_has_class_labels(network))
    return Problem(
        settings,
        network,
        space,
        compressor,
        quantities.probed(Candidate(middle_policy(space), compressor)),
        (
            *loaded.notes,
            *_notes(network),
            *_kept_blocks(settings, network),
            *_notes_on_device(device_name(settings.compute.device), compressor),
        ),
        (*loaded.objects, *quantities.sources, *seeders.values()),
        seeders,
    )


def _seeders(settings: Settings, base: Path | None) -> dict[str, Seeder]:
    """The allocation methods that the settings name, by their names."""
    path = ("search", "fitness", "seeds")
    seeders: dict[str, Seeder] = {}
    mistakes = Mistakes()
    for place, kind in enumerate(settings.search.fitness.seeds):
        with mistakes.about(*path, place):
            seeder = plugins.resolve(kind, "seeders", base, (*path, place))
            if not callable(seeder):
                raise ConfigError(
                    [Mistake((*path, place), f"{_name_of(kind)} is no function of space, tables, budgets")]
                )
            seeders[_name_of(kind)] = seeder
    mistakes.check()
    return seeders


@dataclass(frozen=True, eq=False)
class _Loaded:
    """The network on its data, what is to be told about them, and the user's objects behind them."""

    network: Network
    notes: tuple[str, ...]
    objects: tuple[Any, ...]


def _load(settings: Settings, base: Path | None, progress: ReportProgress, mistakes: Mistakes) -> _Loaded | None:
    """The traced network with its data; None, and mistakes, where one of them is wrong."""
    before = len(mistakes.found)
    progress(0, 0, "loading data and network")
    with mistakes.about("data"):
        splits, notes, data_objects = _load_data(settings, base)
    with mistakes.about("model", "forward"):
        forward = plugins.resolve(settings.model.forward, "models", base, ("model", "forward"))
    with mistakes.about("model"):
        module, model_object = _load_model(settings, base, progress)
    if len(mistakes.found) == before:
        progress(0, 0, "tracing the network")
        with mistakes.about("model"):
            network = _trace(settings, module, splits, forward)
            return _Loaded(network, notes, (model_object, forward, *data_objects))
    return None


def _check_device(settings: Settings) -> None:
    """Refuses a device that is not here, and several processes on one accelerator."""
    compute, mistakes = settings.compute, Mistakes()
    device = device_name(compute.device)
    why = why_unavailable(device)
    if why is not None:
        mistakes.add(("compute", "device"), why)
    if device != CPU and compute.workers not in ("auto", 1):
        message = f"one process measures on {device}, all candidates together; say 1 or auto, not {compute.workers}"
        mistakes.add(("compute", "workers"), message)
    mistakes.check()


def _refuse_trained_samples(settings: Settings, base: Path | None) -> None:
    """Refuses a built-in network that was trained on samples which another seed of its data searches or tests on."""
    model, data = settings.model, settings.data
    try:
        kinds = (plugins.resolve(model.kind, "models", base), plugins.resolve(data.kind, "data", base))
    except ConfigError:
        return  # told where it is loaded
    trained_on = builtin.trained_on(kinds[0])
    if trained_on is None or kinds[1] is not trained_on:
        return
    seeds = (model.options.get("seed", 0), data.options.get("seed", 0))
    if seeds[0] != seeds[1]:
        message = (
            f"the network is trained on the {trained_on.__name__} of seed {seeds[0]}, among which are search and test "
            f"samples of seed {seeds[1]}; give model and data the same seed"
        )
        raise ConfigError([Mistake(("data", "seed") if "seed" in data.options else ("model", "seed"), message)])


def _load_data(settings: Settings, base: Path | None) -> tuple[Splits, tuple[str, ...], tuple[Any, ...]]:
    """The splits, what is to be told about them, and the user's objects behind them."""
    kind = plugins.resolve(settings.data.kind, "data", base, ("data", "kind"))
    if isinstance(kind, Mapping):
        _refuse_options(settings.data.options, settings.data.kind, "data")
        given: Any = kind
    else:
        given = plugins.call_factory(
            kind,
            settings.data.options,
            kind=settings.data.kind,
            key_path=("data",),
            base=base,
            offered={"base": base},
            keys=("batch_size",),
        )
    splits, notes = checked_splits(given, settings.data.batch_size)
    return splits, notes, (kind, *(split.dataset for split in splits.present))


def _load_model(settings: Settings, base: Path | None, progress: ReportProgress) -> tuple[nn.Module, Any]:
    """The network, its weights loaded, and the object that the settings name."""
    said = settings.model
    kind = plugins.resolve(said.kind, "models", base, ("model", "kind"))
    if isinstance(kind, nn.Module):
        _refuse_options({**said.options, **({} if said.weights is None else {"weights": 0})}, said.kind, "model")
        return kind, kind
    module = plugins.call_factory(
        kind,
        said.options,
        kind=said.kind,
        key_path=("model",),
        base=base,
        offered={"progress": progress},
        returns=nn.Module,
        keys=("weights", "forward", "output"),
    )
    if said.weights is not None:
        mistakes = Mistakes()
        with mistakes.about("model", "weights"):
            load_weights(module, (base or Path()) / said.weights)
        mistakes.check()
    return module, kind


def _refuse_options(options: Mapping[str, Any], kind: Any, section: str) -> None:
    """Refuses options for what is made already."""
    name = kind if isinstance(kind, str) else object_name(kind)
    mistakes = Mistakes()
    for option in options:
        message = f"goes with a function that makes the {section}, but {name} is made already; remove the key"
        mistakes.add((section, Key(option)), message)
    mistakes.check()


def _trace(settings: Settings, module: nn.Module, splits: Splits, forward: Forward | None) -> Network:
    said = settings.model
    return trace_network(
        module,
        splits,
        name=_name_of(said.kind),
        forward=forward,
        forward_name=None if said.forward is None else _name_of(said.forward),
        output=said.output,
        prunable=settings.space.prune is not None,
    )


def _name_of(value: Any) -> str:
    """What to call something that a text or an object names."""
    if isinstance(value, str):
        return value
    return str(getattr(value, "__name__", None) or type(value).__name__)


def _space(settings: Settings, network: Network) -> SearchSpace:
    said = settings.space
    drop = said.architecture.drop
    return build_space(
        [
            SpaceLayer(site.name, has_weight=False)
            if isinstance(site, Product)
            else SpaceLayer(site.name, site.quantizes_input)
            for site in network.sites()
        ],
        defaults=said.defaults.plain(),
        layer_rules={pattern: rule.plain() for pattern, rule in said.layers.items()},
        tie=said.tie,
        groups=[
            SpaceGroup(group.n_channels, tuple(group.rows), tuple(group.columns)) for group in network.prune_groups
        ],
        prune=None if said.prune is None else said.prune.plain(),
        blocks={name: _inside(network, found) for name, found in network.blocks.items()} if drop else {},
        drop=drop,
        edges=settings.quantizer.activations.edges,
    )


def _inside(network: Network, found: Block | str) -> tuple[str, ...] | str:
    """What lies in a block, or why a module is none."""
    return found if isinstance(found, str) else tuple(site.name for site in network.sites(found))


def _compressor(settings: Settings, network: Network, space: SearchSpace) -> Compressor:
    weights, prune = settings.quantizer.weights, settings.space.prune
    return Compressor(
        network,
        quantizer=UniformAffine(weights.symmetric, weights.granularity, weights.clip, weights.rounding),
        activations=ActivationQuantizer(settings.quantizer.activations.clip),
        correction=settings.correction,
        edges=space.edges,
        pruning=None if prune is None else Pruning(prune.criterion, prune.compensate),
        blocks=space.blocks,
        memory=settings.compute.memory_bytes,
    )


def _has_class_labels(network: Network) -> bool:
    """Whether the targets are class indices for the network's outputs."""
    batch = next(iter(network.splits.search.batches()))
    return are_classes(batch.targets, network.float_outputs(batch.inputs))


def _notes_on_device(device: str, compressor: Compressor) -> list[str]:
    why = None if device == CPU else find_sample_axes(compressor.network, compressor.blocks.values())
    return [f"candidates are measured one by one on {device}, which is slow: {why}"] if isinstance(why, str) else []


def _notes(network: Network) -> list[str]:
    n = len(network.splits.calibration)
    if n > _MOST_CALIBRATION_SAMPLES:
        return [f"the calibration split has {n} samples; every candidate is calibrated on all, about 256 are enough"]
    return []


def _kept_blocks(settings: Settings, network: Network) -> list[str]:
    """What patterns under ``drop`` match and cannot be left out, where they also match blocks that can."""
    patterns = settings.space.architecture.drop
    matched = matching_blocks(patterns, network.blocks) if patterns else []
    kept = [name for name in matched if isinstance(network.blocks[name], str)]
    return [f"matched by drop but not left out: {', '.join(kept)}; evo-mpq check tells why"] if kept else []
