"""From settings to what is searched: the network and its data, the space, the compressor, the quantities."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from evo_mpq import plugins
from evo_mpq.compress.compressor import Compressor
from evo_mpq.compress.quantizers import ActivationQuantizer, UniformAffine
from evo_mpq.config import ObjectiveSettings, Settings, resolved
from evo_mpq.errors import ConfigError, DataError, Mistake, NetworkError
from evo_mpq.measure.bounds import parse_bound
from evo_mpq.measure.candidate import Candidate
from evo_mpq.measure.objectives import Constraint, Quantity, as_quantity, probe, unique_names
from evo_mpq.network.network import Network, trace_network
from evo_mpq.network.split_checks import checked_splits, fingerprint
from evo_mpq.network.splits import Splits
from evo_mpq.network.weights import load_weights
from evo_mpq.space.building import SpaceLayer, build_space
from evo_mpq.space.policy import Policy
from evo_mpq.space.search_space import SearchSpace

ReportProgress = Callable[[int, int, str], None]
"""``progress(done, total, message)`` of a long step before the search."""

_BUDGET_KEYS = ("evaluations", "minutes", "stall")


def _silent(done: int, total: int, message: str) -> None:
    pass


@dataclass(frozen=True, eq=False)
class Problem:
    """Everything that a search is a function of, besides its budget.

    Attributes:
        settings: what the user said.
        network: traced, with its data.
        space: of genomes.
        compressor: what candidates are made with.
        quantities: everything that is measured of a candidate, objectives first.
        objectives: what the front trades off.
        constraints: bounds on some of the quantities.
        test_names: the quantities that are reported on the test split.
        notes: what the user should know about network and data.
        objects: the user's own objects, whose source files are watched.
    """

    settings: Settings
    network: Network
    space: SearchSpace
    compressor: Compressor
    quantities: tuple[Quantity, ...]
    objectives: tuple[Quantity, ...]
    constraints: tuple[Constraint, ...]
    test_names: tuple[str, ...]
    notes: tuple[str, ...] = ()
    objects: tuple[Any, ...] = field(default=(), repr=False)

    @property
    def reference(self) -> Policy:
        """The policy of the uncompressed network."""
        return Policy.uniform(self.space.layers, 32, 32)

    def identity(self) -> dict[str, Any]:
        """What makes a run this run: settings, graph, weights and data; not its budget, workers or name."""
        said = resolved(self.settings)
        said.pop("name", None)
        said["search"] = {key: value for key, value in said["search"].items() if key not in _BUDGET_KEYS}
        said["compute"] = {key: value for key, value in said["compute"].items() if key not in ("workers", "memory")}
        return {
            "settings": said,
            "graph": self.network.graph.hash(),
            "weights": self.network.weights_hash(),
            "data": fingerprint(self.network.splits),
        }


def build_problem(
    settings: Settings, base: Path | None = None, progress: ReportProgress = _silent
) -> Problem:
    """What the settings say, loaded, traced, calibrated and checked.

    Args:
        settings: from a YAML or from Python.
        base: the folder that the user's modules and files are looked for in.
        progress: told about steps that may take long.

    Raises:
        EvoMpqError: whatever is wrong with the settings, the network or the data.
    """
    with fixed_threads(settings.compute.threads):  # calibration is part of what threads can move by a bit
        return _build(settings, base, progress)


def _build(settings: Settings, base: Path | None, progress: ReportProgress) -> Problem:
    if settings.compute.device not in ("auto", "cpu"):
        raise ConfigError(
            [
                Mistake(
                    ("compute", "device"),
                    f"{settings.compute.device} cannot be used: this version measures on the CPU only; say auto or cpu",
                )
            ]
        )
    progress(0, 0, "loading data and network")
    splits, data_notes, data_object = _load_data(settings, base)
    module, model_object = _load_model(settings, base, progress)
    forward = plugins.resolve(settings.model.forward, "models", base, ("model", "forward"))
    forward_name = settings.model.forward if isinstance(settings.model.forward, str) else _name_of(forward)
    progress(0, 0, "tracing the network")
    network = trace_network(
        module,
        splits,
        name=_name_of(settings.model.kind) or type(module).__name__,
        forward=forward,
        forward_name=forward_name,
        output=settings.model.output,
    )
    space = _space(settings, network)
    progress(0, 0, "calibrating")
    compressor = _compressor(settings, network, space)
    sources = _objective_sources(settings, base)
    objectives, metrics, constraints = _quantities(settings, network, space, compressor, sources, base)
    bounded = [constraint.quantity for constraint in constraints]
    quantities = tuple({quantity.name: quantity for quantity in [*objectives, *bounded, *metrics]}.values())
    reported = [quantity.name for quantity in [*objectives, *metrics] if quantity.form == "outputs"]
    return Problem(
        settings,
        network,
        space,
        compressor,
        quantities,
        tuple(objectives),
        tuple(constraints),
        tuple(dict.fromkeys(reported)),
        (*data_notes, *_notes(network)),
        (model_object, data_object, forward, *sources.values()),
    )


@contextmanager
def fixed_threads(threads: int) -> Iterator[None]:
    """Runs torch with a number of threads, which is part of a run's identity, and restores the caller's."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _load_data(settings: Settings, base: Path | None) -> tuple[Splits, tuple[str, ...], Any]:
    kind = plugins.resolve(settings.data.kind, "data", base, ("data", "kind"))
    data = kind
    if callable(kind) and not isinstance(kind, Mapping):
        offered = {"base": base} if _takes(kind, "base") else {}
        data = plugins.call_factory(
            kind,
            settings.data.options,
            kind=settings.data.kind,
            key_path=("data",),
            base=base,
            offered=offered,
            keys=("batch_size",),
        )
    try:
        splits, notes = checked_splits(data, settings.data.batch_size)
    except DataError as error:
        raise ConfigError([Mistake(("data",), str(error))]) from error
    return splits, notes, kind


def _load_model(settings: Settings, base: Path | None, progress: ReportProgress) -> tuple[nn.Module, Any]:
    kind = plugins.resolve(settings.model.kind, "models", base, ("model", "kind"))
    module = kind
    if not isinstance(kind, nn.Module):
        offered = {"progress": progress} if _takes(kind, "progress") else {}
        module = plugins.call_factory(
            kind,
            settings.model.options,
            kind=settings.model.kind,
            key_path=("model",),
            base=base,
            offered=offered,
            returns=nn.Module,
            keys=("weights", "forward", "output"),
        )
    if settings.model.weights is not None:
        if kind is module:
            raise ConfigError([Mistake(("model", "weights"), "goes with a function that builds the network; load them")])
        try:
            load_weights(module, (base or Path()) / settings.model.weights)
        except NetworkError as error:
            raise ConfigError([Mistake(("model", "weights"), str(error))]) from error
    return module, kind


def _takes(function: Any, parameter: str) -> bool:
    try:
        return parameter in inspect.signature(function).parameters
    except (TypeError, ValueError):
        return False


def _name_of(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return getattr(value, "__name__", None) or type(value).__name__


def _space(settings: Settings, network: Network) -> SearchSpace:
    said = settings.space
    return build_space(
        [SpaceLayer(layer.name, layer.quantizes_input) for layer in network.layers],
        defaults=said.defaults.plain(),
        layer_rules={pattern: rule.plain() for pattern, rule in said.layers.items()},
        tie=said.tie,
        edges=settings.quantizer.activations.edges,
    )


def _compressor(settings: Settings, network: Network, space: SearchSpace) -> Compressor:
    weights = settings.quantizer.weights
    return Compressor(
        network,
        quantizer=UniformAffine(weights.symmetric, weights.granularity, weights.clip, weights.rounding),
        activations=ActivationQuantizer(settings.quantizer.activations.clip),
        correction=settings.correction,
        edges=space.edges,
        memory=settings.compute.memory_bytes,
    )


def _objective_sources(settings: Settings, base: Path | None) -> dict[tuple[str, int], Any]:
    """The object behind every objective and metric; every unknown name at once."""
    sources: dict[tuple[str, int], Any] = {}
    mistakes: list[Mistake] = []
    for key, entries in (("objectives", settings.objectives), ("metrics", settings.metrics or ())):
        for i, entry in enumerate(entries):
            try:
                sources[key, i] = plugins.resolve(entry.kind, "objectives", base, (key, i, "kind"))
            except ConfigError as error:
                mistakes += error.mistakes
    if mistakes:
        raise ConfigError(mistakes)
    return sources


def _quantities(
    settings: Settings,
    network: Network,
    space: SearchSpace,
    compressor: Compressor,
    sources: Mapping[tuple[str, int], Any],
    base: Path | None,
) -> tuple[list[Quantity], list[Quantity], list[Constraint]]:
    candidate = Candidate(middle_policy(space), compressor)

    def quantities(key: str, entries: Sequence[ObjectiveSettings]) -> list[Quantity]:
        return [
            probe(_quantity(entry, sources[key, i], (key, i)), candidate) for i, entry in enumerate(entries)
        ]

    objectives = quantities("objectives", settings.objectives)
    try:
        unique_names(objectives)
    except ConfigError as error:
        raise _below(error, ("objectives",)) from error
    if settings.metrics is None:
        named = ["accuracy"] if _class_labels(network) else []
        metrics = [
            as_quantity(plugins.resolve(name, "objectives", base))
            for name in named
            if name not in {quantity.name for quantity in objectives}
        ]
    else:
        metrics = quantities("metrics", settings.metrics)
        # a metric that is an objective too is measured once; two different ones must have two names
        new = [metric for metric in metrics if metric not in objectives]
        try:
            unique_names([*objectives, *new])
        except ConfigError as error:
            raise _below(error, ("metrics",)) from error
    known = {quantity.name: quantity for quantity in [*metrics, *objectives]}
    constraints: list[Constraint] = []
    mistakes: list[Mistake] = []
    for i, text in enumerate(settings.constraints):
        try:
            constraints.append(_constraint(text, known, candidate, base))
        except ConfigError as error:
            mistakes += [Mistake(("constraints", i), mistake.message) for mistake in error.mistakes]
    if mistakes:
        raise ConfigError(mistakes)
    return objectives, metrics, constraints


def _quantity(entry: ObjectiveSettings, source: Any, path: tuple[str, int]) -> Quantity:
    try:
        return as_quantity(
            source, name=entry.name, unit=entry.unit, direction=entry.direction, options=entry.options
        )
    except ConfigError as error:
        raise _below(error, path) from error


def _constraint(
    text: str, known: Mapping[str, Quantity], candidate: Candidate, base: Path | None
) -> Constraint:
    name = re.split("<=|>=", text)[0].strip()
    quantity = known.get(name)
    if quantity is None:
        quantity = probe(as_quantity(plugins.resolve(name, "objectives", base)), candidate)
    bound = parse_bound(text, {quantity.name: quantity.unit})
    return Constraint(quantity, bound.comparison, bound.value)


def _below(error: ConfigError, path: tuple[str | int, ...]) -> ConfigError:
    return ConfigError([Mistake((*path, *mistake.path), mistake.message) for mistake in error.mistakes])


def middle_policy(space: SearchSpace) -> Policy:
    """The policy whose genes all stand at their middle value."""
    return space.decode((space.cardinalities // 2)[None])[0]


def _class_labels(network: Network) -> bool:
    """Whether the targets are class indices for the network's outputs."""
    batch = next(iter(network.splits.search.batches()))
    outputs = network.float_outputs(batch.inputs)
    targets = batch.targets
    if not isinstance(targets, torch.Tensor) or targets.is_floating_point() or targets.dtype == torch.bool:
        return False
    per_position = outputs.shape[:-1] if outputs.dim() != 4 else (outputs.shape[0], *outputs.shape[2:])
    n_classes = outputs.shape[1] if outputs.dim() == 4 else outputs.shape[-1]
    return outputs.dim() > 1 and targets.shape == per_position and int(targets.max()) < n_classes


def _notes(network: Network) -> list[str]:
    n = len(network.splits.calibration)
    if n > 1024:
        return [f"the calibration split has {n} samples; every candidate is calibrated on all, about 256 are enough"]
    return []
