"""What is minimized or maximized: objectives as their authors write them, quantities as the engine sees them.

An objective is any object of one of these forms; the first that it has decides:

1. *of outputs*: ``start()`` returns an `Accumulator` for one candidate, which is fed the candidate's outputs
   batch by batch (`OutputObjective`). All candidates of a generation share one pass, so these cost little.
2. *a metric*: ``update(outputs, targets)``, ``compute()`` and ``reset()``, as torchmetrics' are.
3. *called*: with a `Candidate`, returns a number (`CalledObjective`). Free if it does not ask for
   ``candidate.module()``, else measured.

It says ``name``, ``unit`` and ``direction`` (``"minimize"`` or ``"maximize"``; or ``higher_is_better``, as
torchmetrics do), and may say ``log_scale = True`` (its order of magnitude counts, as for a KL divergence) and
``modelled = True`` (an estimate, shown with that word).
"""

from __future__ import annotations

import copy
import functools
import inspect
import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Protocol, TypeAlias, TypeVar, cast

import numpy as np
import torch

from evo_mpq.errors import ConfigError, Mistake
from evo_mpq.measure.bounds import Comparison
from evo_mpq.measure.candidate import Candidate
from evo_mpq.typing import FloatVector

if TYPE_CHECKING:
    from torch import Tensor

Direction: TypeAlias = Literal["minimize", "maximize"]
Kind: TypeAlias = Literal["measured", "exact", "modelled"]
Form: TypeAlias = Literal["outputs", "free", "called"]

_DIRECTIONS = ("minimize", "maximize")

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Batch:
    """Samples on which all candidates are compared.

    Attributes:
        inputs: what the network is called with, nested tensors of ``n`` samples.
        targets: what the split gives as the truth; often ``(n,)`` class indices, None where there is none.
        indices: ``(n,)`` positions of the samples in their split.
        reference: ``(n, ...)`` outputs of the float network.
    """

    inputs: Any
    targets: Any
    indices: Tensor
    reference: Tensor
    _memo: dict[Hashable, Any] = field(default_factory=dict, init=False, repr=False)

    def memo(self, key: Hashable, compute: Callable[[], T]) -> T:
        """What ``compute()`` returned when it was first asked for under ``key``.

        For what depends on the batch only: it is then computed once, not once per candidate, and stays in
        memory as long as the batch. Do not change what it returns.
        """
        if key not in self._memo:
            self._memo[key] = compute()
        return cast(T, self._memo[key])

    def log_probabilities(self, dim: int = -1) -> Tensor:
        """Logarithm of the float network's class probabilities, shaped like ``reference``, float64."""
        dim %= self.reference.ndim
        return self.memo(
            ("log_probabilities", dim),
            lambda: torch.log_softmax(self.reference, dim, dtype=torch.float64),
        )


class Accumulator(Protocol):
    """Gathers one objective of one candidate over batches; gradients are off.

    It may also have ``values() -> (n,)``, float64: one value per sample, in the order of the batches. Without
    them the value has no standard error and no interval.
    """

    def update(self, outputs: Tensor, batch: Batch) -> None:
        """Adds a batch; ``outputs`` are shaped like ``batch.reference`` and not to be changed."""

    def compute(self) -> float:
        """The value over all batches so far; one that is NaN or infinite fails the candidate."""


class OutputObjective(Protocol):
    """An objective that is a function of the network's outputs; may also have the method of `OwnInputs`."""

    def start(self) -> Accumulator:
        """An empty accumulator for one candidate."""


class Split(Protocol):
    """What an objective's own inputs may be made from."""

    @property
    def name(self) -> str:
        """``"search"`` or ``"test"``."""

    def batches(self) -> Iterator[Any]:
        """The split's own batches in fixed order, each with ``inputs`` and ``targets``."""


class OwnInputs(Protocol):
    """An objective of outputs that measures on inputs of its own: a shifted set, mixed pairs."""

    def inputs(self, split: Split) -> Iterable[tuple[Any, Any]]:
        """``(inputs, targets)`` batches that stand in for those of a split.

        Asked in every process and at every resume, so it must return the same batches every time (draw from
        a seed). Inputs are nested as the split's are; targets are None where the objective needs none. The
        engine runs the float network on them for `Batch.reference` and counts `Batch.indices` from 0. What it
        returns for ``"test"`` must be disjoint from what it returns for ``"search"``.
        """


class CalledObjective(Protocol):
    """An objective that is a function of the candidate; may also have the method of `Prepares`."""

    def __call__(self, candidate: Candidate) -> float:
        """The candidate's value."""


class Prepares(Protocol):
    """A called objective that computes what several candidates need at less than their single costs."""

    def prepare_all(self, candidates: Sequence[Candidate]) -> None:
        """Told of candidates that it is about to be called with; not always, so that it must not need it."""


class Metric(Protocol):
    """What torchmetrics' metrics have in common."""

    def update(self, outputs: Tensor, targets: Any, /) -> None:
        """Adds a batch."""

    def compute(self) -> Any:
        """The value over all batches since the last reset."""

    def reset(self) -> None:
        """Forgets all batches."""


class SampleMean:
    """The accumulator of everything that is a mean over samples.

    Args:
        per_sample: ``per_sample(outputs, batch)`` returns ``(n,)`` values, one per sample of the batch.

    >>> sum_of_outputs = SampleMean(lambda outputs, batch: outputs.sum(dim=1))
    >>> outputs = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    >>> sum_of_outputs.update(outputs, Batch(None, None, torch.arange(2), outputs))
    >>> sum_of_outputs.compute(), sum_of_outputs.values()
    (5.0, array([3., 7.]))
    """

    def __init__(self, per_sample: Callable[[Tensor, Batch], Tensor]) -> None:
        self._per_sample = per_sample
        self._parts: list[Tensor] = []

    def update(self, outputs: Tensor, batch: Batch) -> None:
        """Adds the values of a batch.

        Raises:
            ValueError: ``per_sample`` did not return one value per sample.
        """
        values = self._per_sample(outputs, batch)
        if values.shape != outputs.shape[:1]:
            raise ValueError(
                f"expected one value for each of {len(outputs)} samples, got the shape {tuple(values.shape)}"
            )
        self._parts.append(values)

    def compute(self) -> float:
        """Mean over all samples, in float64."""
        return float(np.mean(self.values()))

    def values(self) -> FloatVector:
        """``(n,)`` values of all samples, in the order of the batches.

        Raises:
            RuntimeError: no batch was added.
        """
        if not self._parts:
            raise RuntimeError("no batch was measured yet")
        # moved to the CPU only here: a copy per batch would make an accelerator wait
        return cast(FloatVector, torch.cat(self._parts).detach().double().cpu().numpy())


def sample_values(accumulator: Accumulator, n_samples: int) -> FloatVector | None:
    """``(n_samples,)`` float64 values per sample, or None where the accumulator has none.

    Raises:
        ValueError: there is not one value per sample.
    """
    method = getattr(accumulator, "values", None)
    if not callable(method):
        return None
    values = np.asarray(method(), dtype=np.float64)
    if values.shape != (n_samples,):
        raise ValueError(
            f"values() returned an array of shape {values.shape}; expected one value for each of {n_samples} samples"
        )
    return values


@dataclass(frozen=True, eq=False)
class MetricObjective:
    """A torchmetrics metric, or what looks like one, as an objective of outputs: one clone per candidate.

    Attributes:
        metric: the template; it is never updated.
    """

    metric: Metric

    def start(self) -> Accumulator:
        """An accumulator around an empty clone."""
        clone = getattr(self.metric, "clone", None)
        metric: Metric = clone() if callable(clone) else copy.deepcopy(self.metric)
        metric.reset()  # the user may have tried the template before
        return _MetricAccumulator(metric)


class _MetricAccumulator:
    def __init__(self, metric: Metric) -> None:
        self._metric = metric

    def update(self, outputs: Tensor, batch: Batch) -> None:
        self._metric.update(outputs, batch.targets)

    def compute(self) -> float:
        return as_number(self._metric.compute(), type(self._metric).__name__)


def as_number(value: Any, source: str) -> float:
    """A number, or an array or tensor of one element, as a float.

    Raises:
        ValueError: it is none of these; the message names ``source``.
    """
    shape = getattr(value, "shape", None)
    if shape is not None and math.prod(shape) != 1:
        raise ValueError(
            f"{source} returned an array of shape {tuple(shape)}; an objective is one number, so choose how "
            "the elements are averaged"
        )
    number = value if shape is None else value.item()
    if isinstance(number, int | float):
        return float(number)
    raise ValueError(f"{source} returned {value!r}; an objective is one number")


@dataclass(frozen=True)
class Quantity:
    """Something that every candidate has a value of: an objective, a constraint's left side or a metric.

    Attributes:
        name: unique in a run.
        unit: of the values, ``""`` for plain numbers.
        direction: what is better.
        kind: ``"measured"``, ``"exact"`` (follows from the policy) or ``"modelled"`` (an estimate).
        log_scale: whether values are compared by their logarithms where the run's hypervolume is computed.
        object: what computes it.
        form: ``"outputs"`` (it has `start`), ``"free"`` or ``"called"`` (it has `value`; see `probe`).
    """

    name: str
    unit: str
    direction: Direction
    kind: Kind
    log_scale: bool
    object: Any
    form: Form

    def loss(self, values: FloatVector) -> FloatVector:
        """The values as something to minimize: negated where more is better."""
        return -values if self.direction == "maximize" else values

    def start(self) -> Accumulator:
        """An empty accumulator for one candidate; only of form ``"outputs"``."""
        assert self.form == "outputs", self
        return cast(OutputObjective, self.object).start()

    def value(self, candidate: Candidate) -> float:
        """The value of a candidate; not of form ``"outputs"``.

        Raises:
            ValueError: the objective did not return a number.
            Exception: whatever the user's objective raises.
        """
        assert self.form != "outputs", self
        return as_number(self.object(candidate), self.name)

    def prepare_all(self, candidates: Sequence[Candidate]) -> None:
        """Tells an objective that wants to know (see `Prepares`) of candidates whose values are asked for next."""
        prepare = getattr(self.object, "prepare_all", None)
        if callable(prepare):
            prepare(candidates)

    def inputs(self, split: Split) -> Iterable[tuple[Any, Any]] | None:
        """The objective's own batches for a split (see `OwnInputs`); None: it takes the split's."""
        own = getattr(self.object, "inputs", None)
        return own(split) if callable(own) else None


@dataclass(frozen=True)
class Constraint:
    """A bound that a candidate must keep to be feasible.

    Attributes:
        quantity: what is bounded.
        comparison: ``"<="`` or ``">="``; the bound itself is allowed.
        bound: in the quantity's unit.
    """

    quantity: Quantity
    comparison: Comparison
    bound: float

    def violation(self, values: FloatVector) -> FloatVector:
        """``(n,)`` by how much each value breaks the bound, relative to it; positive where it does.

        NaN where the value is NaN.
        """
        excess = values - self.bound if self.comparison == "<=" else self.bound - values
        return excess / max(abs(self.bound), 1e-12)

    @property
    def leaves_better(self) -> bool:
        """Whether values that are better than one within the bound are, too."""
        return (self.comparison == "<=") == (self.quantity.direction == "minimize")

    def __str__(self) -> str:
        return f"{self.quantity.name} {self.comparison} {self.bound:.12g} {self.quantity.unit}".rstrip()


def as_quantity(
    obj: Any,
    *,
    name: str | None = None,
    unit: str | None = None,
    direction: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Quantity:
    """An objective as the engine sees it.

    Args:
        obj: an objective of any form (see the module's docstring), or its class.
        name: how it is called in the run; default: its own name, else that of its function or class.
        unit: of its values, if it does not say.
        direction: ``"minimize"`` or ``"maximize"``, if it does not say.
        options: keyword arguments, for the constructor of a class or bound to a function.

    Returns:
        The quantity; a called objective has the form ``"called"`` until `probe` has found it to be free.

    Raises:
        ConfigError: with all mistakes, their paths beginning at the keys of the objective's mapping.

    >>> def weights(candidate):
    ...     return sum(layer.n_parameters for layer in candidate.layers)
    >>> as_quantity(weights, direction="minimize").name
    'weights'
    """
    source, options = _instantiate(obj, dict(options or {}))
    form, computed_by = _recognize(source, options)
    mistakes: list[Mistake] = []
    found_name = _name(source) if name is None else name
    mistakes += _name_mistakes(found_name)
    found_unit = _declared_or_given("unit", _says(source, "unit"), unit, found_name, mistakes)
    found_direction = _declared_or_given("direction", _declared_direction(source), direction, found_name, mistakes)
    if found_direction not in _DIRECTIONS:
        mistakes.append(Mistake(("direction",), _direction_message(found_name, found_direction)))
    if mistakes:
        raise ConfigError(mistakes)
    return Quantity(
        name=found_name,
        unit=found_unit or "",
        direction=cast(Direction, found_direction),
        kind="modelled" if _says(source, "modelled") is True else "measured",
        log_scale=_says(source, "log_scale") is True,
        object=computed_by,
        form=form,
    )


def probe(quantity: Quantity, candidate: Candidate) -> Quantity:
    """The quantity with its final form: ``"free"`` if calling it for a candidate builds nothing.

    What asks for ``candidate.module()`` is stopped there, because going on would be a measurement that no
    journal knows and no budget counts, made again at every resume. What raises for this candidate before it
    asks cannot be told, and counts as measured: that is right for both, only slower.
    """
    if quantity.form != "called":
        return quantity
    watched = _WatchedCandidate(candidate)
    try:
        quantity.object(watched)
    except (_ModuleWanted, Exception):
        return quantity
    if watched.module_wanted:
        return quantity
    return replace(quantity, form="free", kind="exact" if quantity.kind == "measured" else quantity.kind)


class _ModuleWanted(BaseException):
    """Ends the probe of an objective; no Exception, so that the objective's own handlers let it pass."""


class _WatchedCandidate(Candidate):
    def __init__(self, candidate: Candidate) -> None:
        super().__init__(candidate.policy, candidate._compressor)
        self.module_wanted = False

    def module(self) -> NoReturn:
        self.module_wanted = True
        raise _ModuleWanted


def unique_names(quantities: Sequence[Quantity]) -> None:
    """Checks that no two quantities have one name.

    Raises:
        ConfigError: two have; the message says how to rename one.
    """
    positions: dict[str, list[int]] = {}
    for position, quantity in enumerate(quantities):
        positions.setdefault(quantity.name, []).append(position)
    mistakes = [
        Mistake(
            (again[1],),
            f'{len(again)} objectives are named "{name}"; give one a name of its own, '
            f'e.g. {{kind: ..., name: "{name}-2"}}',
        )
        for name, again in positions.items()
        if len(again) > 1
    ]
    if mistakes:
        raise ConfigError(mistakes)


def _instantiate(obj: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The objective itself, and the options that it was not constructed with."""
    if not isinstance(obj, type):
        return obj, options
    _check_arguments(obj, (), options, f"the class {obj.__name__}")
    return obj(**options), {}


def _recognize(source: Any, options: Mapping[str, Any]) -> tuple[Form, Any]:
    """An objective's form, and what computes it."""
    is_function = inspect.isroutine(source) or isinstance(source, functools.partial)
    if options and not is_function:
        keys = ", ".join(options)
        raise ConfigError(
            [Mistake((next(iter(options)),), f"{_name(source)} is made already and takes no options ({keys})")]
        )
    if _has(source, "start"):
        return "outputs", source
    if _has(source, "update", "compute", "reset"):
        return "outputs", MetricObjective(source)
    if not callable(source) or isinstance(source, torch.nn.Module):
        raise ConfigError(
            f"{source!r} is not an objective. One has start() (of the network's outputs), or update(), "
            "compute() and reset() (a torchmetrics metric), or is a function of a candidate"
        )
    _check_arguments(source, (None,), options, f"{_name(source)}, called with a candidate")
    return "called", functools.partial(source, **options) if options else source


def _has(obj: Any, *methods: str) -> bool:
    return all(callable(getattr(obj, method, None)) for method in methods)


def _check_arguments(
    function: Callable[..., Any], arguments: Sequence[Any], options: Mapping[str, Any], what: str
) -> None:
    """Mistyped options are told before anything runs, apart from what goes wrong inside the function."""
    try:
        signature = inspect.signature(function)
    except (ValueError, TypeError):  # written in C, without a signature
        return
    try:
        signature.bind(*arguments, **options)
    except TypeError as error:
        raise ConfigError(f"{what}: {error}; its parameters are {signature}") from None


def _says(source: Any, attribute: str) -> Any:
    """An attribute of the objective, or of the function that it binds arguments to; else None."""
    if isinstance(source, functools.partial):
        return _says(source.func, attribute)
    return getattr(source, attribute, None)


def _name(source: Any) -> str:
    if isinstance(source, functools.partial):
        return _name(source.func)
    own = _says(source, "name")
    if isinstance(own, str):
        return own
    return source.__name__ if inspect.isroutine(source) else type(source).__name__


def _name_mistakes(name: Any) -> list[Mistake]:
    if isinstance(name, str) and name and name.strip() == name and not set(name) & set("<>=,\n"):
        return []
    message = f'{name!r} cannot be a name: constraints like "name <= 1" use it; give another with name:'
    return [Mistake(("name",), message)]


def _declared_direction(source: Any) -> Any:
    own = _says(source, "direction")
    higher_is_better = _says(source, "higher_is_better")
    if own is not None or higher_is_better is None:
        return own
    return "maximize" if higher_is_better else "minimize"


def _declared_or_given(key: str, declared: Any, given: Any, name: str, mistakes: list[Mistake]) -> Any:
    """What the settings say where the objective does not; a contradiction would change its meaning."""
    if given is not None and not isinstance(given, str):
        mistakes.append(Mistake((key,), f"expected text, got {given!r}"))
    elif None not in (declared, given) and declared != given:
        mistakes.append(Mistake((key,), f'the {key} of {name} is "{declared}", not "{given}"; leave {key}: out'))
    return declared if given is None else given


def _direction_message(name: str, found: Any) -> str:
    if found is None:
        return f"required, because {name} does not say what is better: minimize or maximize"
    return f"expected minimize or maximize, got {found!r}"
