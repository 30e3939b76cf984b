"""The settings of a run: their keys, defaults and legal values (the one file that imports pydantic).

What pydantic finds wrong is said in words of our own, with the path of the key. The text under a key is its
description in the JSON schema. A key with nothing behind it (null) is as if it were not there.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import CoreSchema, ErrorDetails

from evo_mpq.config import values as check
from evo_mpq.config.document import Key
from evo_mpq.config.wording import did_you_mean, shown
from evo_mpq.errors import ConfigError, Mistake, dotted
from evo_mpq.space.building import LEGAL_BITS

DEFAULT_EVALUATIONS = 400
SMALL_POPULATION, LARGE_POPULATION = 10, 20
"""Candidates per generation with up to two objectives, and with more: a few hundred measurements are spent best in
many small generations (`benchmarks/search_quality.py`), but a front of more dimensions needs more parents."""

SCHEMA_NAME = "evo-mpq.schema.json"
"""The file name under which YAML files look for their schema."""

# The types of single values. Checks of our own stand in front of pydantic's, whose words are for programmers.


def _any_of(*schemas: Mapping[str, Any]) -> WithJsonSchema:
    return WithJsonSchema({"anyOf": [dict(schema) for schema in schemas]})


def _only_key(key: str, description: str, **schema: Any) -> dict[str, Any]:
    """The JSON schema of a mapping with one key."""
    return {
        "type": "object",
        "properties": {key: {"description": description, **schema}},
        "required": [key],
        "additionalProperties": False,
    }


def _choice(*choices: str | int) -> BeforeValidator:
    return BeforeValidator(partial(check.one_of, choices=choices))


_TEXT = {"type": "string", "minLength": 1}
_BITS = {"enum": list(LEGAL_BITS)}

Natural: TypeAlias = Annotated[int, Field(ge=0, le=2**32 - 1), BeforeValidator(check.number)]
Positive: TypeAlias = Annotated[int, Field(ge=1), BeforeValidator(check.number)]
AtLeastTwo: TypeAlias = Annotated[int, Field(ge=2), BeforeValidator(check.number)]
Minutes: TypeAlias = Annotated[float, Field(gt=0), AfterValidator(check.finite), BeforeValidator(check.number)]
Path: TypeAlias = Annotated[str, BeforeValidator(check.path_text)]
Kind: TypeAlias = Annotated[Any, BeforeValidator(check.kind), WithJsonSchema(_TEXT)]
Function: TypeAlias = Annotated[Any, BeforeValidator(check.function), WithJsonSchema(_TEXT)]
Output: TypeAlias = Annotated[str | int, BeforeValidator(check.output)]
Bits: TypeAlias = Annotated[
    tuple[int, ...],
    BeforeValidator(check.bits),
    _any_of(_BITS, {"type": "array", "items": _BITS, "minItems": 1, "uniqueItems": True}),
]
_RATIO = {"type": "number", "minimum": 0, "exclusiveMaximum": 1}
Ratios: TypeAlias = Annotated[
    tuple[float, ...],
    BeforeValidator(check.ratios),
    _any_of(_RATIO, {"type": "array", "items": _RATIO, "minItems": 1, "uniqueItems": True}),
]
Criterion: TypeAlias = Annotated[Literal["l1", "l2", "taylor"], _choice("l1", "l2", "taylor")]
Granularity: TypeAlias = Annotated[
    Literal["channel", "tensor"] | int,
    BeforeValidator(check.granularity),
    _any_of(
        {"enum": ["channel", "tensor"]},
        {"type": "string", "pattern": "^group of [1-9][0-9]*$"},
        _only_key("group", "Input columns that share a scale.", type="integer", minimum=1),
    ),
]
Clip: TypeAlias = Annotated[
    Literal["mse", "minmax"] | float,
    BeforeValidator(check.clip),
    _any_of(
        {"enum": ["mse", "minmax", "percentile"]},
        _only_key("percentile", "Where the range ends.", type="number", exclusiveMinimum=50, maximum=100),
    ),
]
Rounding: TypeAlias = Annotated[Literal["descent", "gptq", "nearest"], _choice("descent", "gptq", "nearest")]
Edges: TypeAlias = Annotated[Literal[8, "none"], _choice(8, "none")]
Correction: TypeAlias = Annotated[Literal["none", "bias", "scale_bias"], _choice("none", "bias", "scale_bias")]
Algorithm: TypeAlias = Annotated[Literal["nsga2", "random", "exhaustive"], _choice("nsga2", "random", "exhaustive")]
SurrogateName: TypeAlias = Annotated[
    Literal["auto", "none", "additive", "gp", "pairwise", "forest", "shapley"],
    _choice("auto", "none", "additive", "gp", "pairwise", "forest", "shapley"),
]
Contributions: TypeAlias = Annotated[Literal["shapley", "none"], _choice("shapley", "none")]
TableShare: TypeAlias = Annotated[
    Literal["auto"] | float,
    BeforeValidator(check.share),
    _any_of({"const": "auto"}, {"type": "number", "exclusiveMinimum": 0, "maximum": 1}),
]
Interactions: TypeAlias = Annotated[Literal["auto", "none"], _choice("auto", "none")]
Direction: TypeAlias = Annotated[Literal["minimize", "maximize"], _choice("minimize", "maximize")]
RunName: TypeAlias = Annotated[
    str, AfterValidator(check.run_name), WithJsonSchema({"type": "string", "pattern": f"^{check.RUN_NAME}$"})
]
Device: TypeAlias = Annotated[
    str, BeforeValidator(check.device), WithJsonSchema({"type": "string", "pattern": f"^(?:{check.DEVICE})$"})
]
Workers: TypeAlias = Annotated[
    Literal["auto"] | int,
    BeforeValidator(check.workers),
    _any_of({"const": "auto"}, {"type": "integer", "minimum": 1}),
]
Memory: TypeAlias = Annotated[
    str,
    BeforeValidator(check.memory),
    _any_of({"type": "string", "pattern": f"^{check.MEMORY}$"}, {"type": "integer", "minimum": check.LEAST_MEMORY}),
]
BoundText: TypeAlias = Annotated[str, AfterValidator(check.bound)]
BoundsText: TypeAlias = Annotated[str, AfterValidator(check.bounds)]


class Section(BaseModel):
    """A part of the settings: equal by content, not to be changed, without unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True, use_attribute_docstrings=True)

    null_is_wrong: ClassVar[frozenset[str]] = frozenset()
    """Keys for which null is a mistake, because it could be taken for their value ``none``."""

    @model_validator(mode="before")
    @classmethod
    def _prepare(cls, values: Any) -> Any:
        values = cls.completed(values)
        if not isinstance(values, Mapping):
            return values
        silent = set(cls.model_fields) - cls.null_is_wrong
        return {key: value for key, value in values.items() if value is not None or key not in silent}

    @classmethod
    def completed(cls, values: Any) -> Any:
        """What stands for ``values``: short forms written out, defaults that depend on other keys."""
        return values

    def plain(self) -> dict[str, Any]:
        """The section as YAML can say it; keys without a value are left out."""
        said = {name: getattr(self, name) for name in type(self).model_fields}
        said = {name: _plain(value) for name, value in said.items() if value is not None}
        return said | {name: _plain(value) for name, value in (self.model_extra or {}).items()}


class Component(Section):
    """What is called by a name, with options for it as further keys.

    Attributes:
        kind: a built-in or installed name, ``"module:attribute"``, or (from Python) the object itself.
    """

    model_config = ConfigDict(extra="allow")

    kind: Kind

    @property
    def options(self) -> dict[str, Any]:
        """The keys that are not this section's own."""
        return dict(self.model_extra or {})

    @classmethod
    def completed(cls, values: Any) -> Any:
        """A name or an object alone stands for ``{kind: …}``."""
        return values if isinstance(values, Mapping | cls) else {"kind": values}

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"anyOf": [_TEXT, handler(core_schema)]}


class ModelSettings(Component):
    """The network to compress; other keys are options of the function that builds it."""

    kind: Kind = Field(examples=["digits_resnet", "my_nets:build"])
    """A built-in network, or "module:function" whose function returns a torch.nn.Module; the module may be a
    file in the YAML's folder."""

    weights: Path | None = None
    """A safetensors file with the trained weights; its path starts at the YAML's folder."""

    forward: Function = None
    """How the inputs of a batch become a call: "module:function", called as function(network, inputs). By
    default a mapping becomes keyword arguments and a tuple positional ones."""

    output: Output | None = Field(default=None, examples=["logits"])
    """Which output counts if the network returns several: a key, an attribute or a position."""


class DataSettings(Component):
    """The data to calibrate, search and test with; other keys are options of the function that loads them."""

    kind: Kind = Field(examples=["digits", "arrays", "image_folder", "my_data:load"])
    """Built-in data, or "module:function" whose function returns a mapping with the splits calibration,
    search, test and perhaps train."""

    batch_size: Positive = 256
    """Samples per forward pass."""


class ObjectiveSettings(Component):
    """A quantity that is measured or computed; other keys are its options."""

    kind: Kind = Field(examples=["kl_divergence", "accuracy", "size", "my_objectives:Energy"])
    """A built-in objective, or "module:attribute": a class, a function or a torchmetrics metric."""

    name: str | None = None
    """What results and constraints call it; without it, its own name."""

    unit: str | None = None
    """The unit of its values, for functions, which state none."""

    direction: Direction | None = None
    """What is better; needed for functions and for metrics that do not say it."""


class LayerRule(Section):
    """Options for layers: one is applied to every candidate, several are searched."""

    weight_bits: Bits | None = Field(default=None, examples=[[2, 3, 4, 6, 8]])
    """Bits of the weights that may be chosen, 2 to 8, or 32 for untouched."""

    activation_bits: Bits | None = Field(default=None, examples=[[4, 8]])
    """Bits of the layer's input that may be chosen, 2 to 8, or 32 for untouched."""


class PruneSettings(Section):
    """Which fractions of channels may be removed, and how."""

    ratios: Ratios = Field(default=(0.0,), examples=[[0.0, 0.25, 0.5]])
    """Fractions of the channels of every group that may be removed, from 0 up to, but not including, 1. Channels
    that can only be removed together are one group, with one choice."""

    criterion: Criterion = "l1"
    """Which channels are removed first: those with the smallest l1 or l2 norms of their weights, or those without
    which the loss changes least to first order (taylor)."""

    compensate: bool = True
    """Whether the weights that read removed channels make up for them, by least squares on the calibration split."""

    layers: dict[str, Ratios] = Field(default_factory=dict, examples=[{"stem": [0.0]}])
    """Other ratios by shell pattern on layer names (* crosses dots), for groups that a matched layer gives
    channels to; the last pattern that matches wins."""


class ArchitectureSettings(Section):
    """What may be changed about the network besides its layers."""

    drop: tuple[str, ...] = Field(default=(), examples=[["stage*.[12]"]])
    """Patterns on the paths of modules (* stays within a dot): the outermost modules that match may be left out,
    if the network works without them: evo-mpq check tells which do."""


class SpaceSettings(Section):
    """What may be chosen; what is not named here is left untouched."""

    defaults: LayerRule = Field(default_factory=LayerRule)
    """Options of every layer."""

    layers: dict[str, LayerRule] = Field(default_factory=dict)
    """Options by shell pattern on layer names (* crosses dots); for each kind the last pattern that matches
    wins."""

    prune: PruneSettings | None = None
    """Channels that may be removed. Without it, none."""

    tie: tuple[str, ...] = ()
    """Patterns; all layers that one of them matches share one choice per kind."""

    architecture: ArchitectureSettings = Field(default_factory=ArchitectureSettings)
    """Blocks that may be left out."""


class WeightSettings(Section):
    """How weights are quantized.

    Attributes:
        granularity: ``"channel"``, ``"tensor"``, or the number of columns of a group.
        clip: ``"mse"``, ``"minmax"``, or a percentile of magnitudes.
    """

    symmetric: bool = True
    """Whether the zero points of weights are 0. At 2 bits they are then -3, -1, 1 or 3 times their scale."""

    granularity: Granularity = "channel"
    """What shares a scale: an output channel, the whole tensor, or, as {group: G}, G input columns of a
    channel."""

    clip: Clip = "mse"
    """Where the range ends: at the least squared error, the extremes, or {percentile: 99.9} of magnitudes."""

    rounding: Rounding = "descent"
    """With gptq, later weights of a row correct the rounding of earlier ones; descent begins there, with several
    ranges, and moves single weights as long as the layer's outputs come closer to the float ones; nearest rounds each
    alone."""

    def plain(self) -> dict[str, Any]:
        """The section as YAML can say it."""
        size = self.granularity
        grouped = {} if isinstance(size, str) else {"granularity": {"group": size}}
        return super().plain() | grouped | _plain_clip(self.clip)


class ActivationSettings(Section):
    """How activations are quantized.

    Attributes:
        clip: ``"mse"``, ``"minmax"`` or a percentile.
    """

    null_is_wrong = frozenset({"edges"})

    clip: Clip = "mse"
    """Where the range of an activation ends, over the calibration split: at the least squared error, the
    extremes, or {percentile: 99.9}."""

    edges: Edges = 8
    """Bits of the tensors between quantized layers that no choice governs (inputs of additions, pooling).
    With none they stay in float, and integer runtimes then run the layers around them in float, too."""

    def plain(self) -> dict[str, Any]:
        """The section as YAML can say it."""
        return super().plain() | _plain_clip(self.clip)


class QuantizerSettings(Section):
    """How numbers become integers."""

    weights: WeightSettings = Field(default_factory=WeightSettings)
    """How weights are quantized."""

    activations: ActivationSettings = Field(default_factory=ActivationSettings)
    """How activations are quantized."""


class FitnessSettings(Section):
    """What a search knows of candidates that it did not measure; for nsga2."""

    null_is_wrong = frozenset({"surrogate", "contributions", "interactions", "table_share"})

    surrogate: SurrogateName = "auto"
    """The model that chooses what to measure, fitted to all that was measured: additive, the sum of what options cost;
    gp, pairwise or forest, a Gaussian process, pairs of genes or a random forest on what that sum leaves; auto, gp or
    pairwise, whichever predicts better. With none, NSGA-II breeds from what was measured alone; with shapley it runs on
    Shapley contributions alone, and its final front is measured."""

    contributions: Contributions = "shapley"
    """What the model expects before it has data: Shapley contributions where the method shapley is among the seeds,
    which measures them, or (none) what each option costs alone."""

    interactions: Interactions = "none"
    """Whether pairs of options are measured together before the search (auto), as the method clado does, which the
    model learns from; the search itself mostly chooses better what to measure."""

    table_share: TableShare = "auto"
    """Part of the search split that tables of options, contributions and pairs are measured on; each such measurement
    counts as that part of one, and none is of the front. auto: an eighth, but at least 250 predictions (images, or
    tokens); all of the split where that is more than a quarter of it."""

    seeds: Annotated[tuple[Kind, ...], AfterValidator(check.distinct)] = Field(
        default=("uniform", "sensitivity", "shapley"), examples=[["uniform", "sensitivity", "clado"]]
    )
    """Allocation methods whose choices are measured first, so that the front is never worse than they are: uniform
    measures the uniform recipes, see evo-mpq list seeders. Tables of sensitivities that others need are measured, too.
    At most a quarter of what such a table leaves of the budget goes to them; shapley takes part where that reaches for
    four measurements per gene. An empty list begins at random; algorithms other than nsga2 know uniform alone."""


class SearchSettings(Section):
    """How the space is searched, and for how long; the first limit that is reached ends the search."""

    algorithm: Algorithm = "nsga2"
    """Either nsga2, which evolves a population, random, the baseline, or exhaustive, which measures all."""

    population: AtLeastTwo = SMALL_POPULATION
    """Candidates per generation. Without it, 10, and 20 for three or more objectives; 20, too, where candidates are
    predicted and minutes or stall end the search, not evaluations."""

    fitness: FitnessSettings = Field(default_factory=FitnessSettings)
    """What the search knows of candidates that it did not measure; for nsga2."""

    picks: tuple[BoundsText, ...] = Field(default=(), examples=[["size <= 20 kB", "size <= 40 kB"]])
    """Bounds on objectives that you will pick points within, such as the memory of your devices. The recipes are asked
    for these sizes, too, and a part of what the surrogate chooses is for the best candidate within each, by the first
    measured objective. The front still covers the whole space; constraints narrow it."""

    evaluations: Positive | None = None
    """Measurements in all, reference and seeds included. Without it, and without minutes and stall, 400; an
    exhaustive search has no limit then."""

    minutes: Minutes | None = None
    """Wall-clock minutes, summed over interruptions."""

    stall: Positive | None = None
    """Generations in a row without a larger hypervolume after which to stop."""

    @classmethod
    def completed(cls, values: Any) -> Any:
        """The default number of evaluations holds only if nothing else ends the search."""
        if not isinstance(values, Mapping):
            return values
        limited = any(values.get(key) is not None for key in ("evaluations", "minutes", "stall"))
        if limited or values.get("algorithm") == "exhaustive":
            return values
        return {**values, "evaluations": DEFAULT_EVALUATIONS}


class ComputeSettings(Section):
    """What the run may use of the machine."""

    device: Device = "auto"
    """Where the network runs: auto, cpu, or an accelerator such as cuda or cuda:1."""

    workers: Workers = "auto"
    """Processes that measure. Results are the same for every number; auto starts several if that pays."""

    threads: Positive = 1
    """Threads of each process. Results depend on it, in their last bits."""

    memory: Memory = Field(default="2 GiB", examples=["2 GiB", "500 MB"])
    """Memory for tensors, all workers together."""

    @property
    def memory_bytes(self) -> int:
        """The limit in bytes."""
        return check.memory_bytes(self.memory)


class Settings(Section):
    """Everything that a YAML file says, defaults filled in.

    Where settings come from Python, ``kind``, ``forward`` and options may be objects.
    """

    null_is_wrong = frozenset({"correction"})

    @classmethod
    def completed(cls, values: Any) -> Any:
        """The default population depends on the number of objectives."""
        if not isinstance(values, Mapping):
            return values
        objectives, search = values.get("objectives"), values.get("search")
        search = {} if search is None else search
        many = isinstance(objectives, Sequence) and not isinstance(objectives, str) and len(objectives) > 2
        if not isinstance(search, Mapping) or search.get("population") is not None or not many:
            return values
        return {**values, "search": {**search, "population": LARGE_POPULATION}}

    name: RunName = "run"
    """Names the run and its folder, runs/<name>; without it, the file's name."""

    seed: Natural = 0
    """Every random choice of the search follows from it."""

    model: ModelSettings
    """The network to compress."""

    data: DataSettings
    """The data to calibrate, search and test with."""

    space: SpaceSettings = Field(
        default_factory=lambda: SpaceSettings(defaults=LayerRule(weight_bits=(2, 3, 4, 6, 8), activation_bits=(4, 8)))
    )
    """What may be chosen. Without it every layer has weight_bits [2, 3, 4, 6, 8] and activation_bits [4, 8];
    with it, what it does not name is left untouched."""

    quantizer: QuantizerSettings = Field(default_factory=QuantizerSettings)
    """How numbers become integers."""

    correction: Correction = "scale_bias"
    """Matches each channel's mean (bias), and its spread, too (scale_bias), with the float network's on the
    calibration split, for every candidate; or none."""

    # not by pydantic's min_length, which calls a list empty if its entries are wrong
    objectives: Annotated[tuple[ObjectiveSettings, ...], AfterValidator(check.not_empty)] = Field(
        default_factory=lambda: (ObjectiveSettings(kind="soft_kl_divergence"), ObjectiveSettings(kind="size")),
        json_schema_extra={"minItems": 1},
    )
    """What the front trades off: names, or mappings with options."""

    constraints: tuple[BoundText, ...] = Field(default=(), examples=[["size <= 40 kB", "accuracy >= 0.95"]])
    """Bounds that a candidate must keep."""

    metrics: tuple[ObjectiveSettings, ...] | None = None
    """What is reported on the test split besides objectives that are measured on outputs; without it, accuracy for
    class labels, and kl_divergence beside a softened one."""

    search: SearchSettings = Field(default_factory=lambda: SearchSettings.model_validate({}))
    """How the space is searched, and for how long."""

    compute: ComputeSettings = Field(default_factory=ComputeSettings)
    """What the run may use of the machine."""

    base: Path | None = None
    """The folder that your modules and files are looked for in; without it, the YAML's own."""


def validate(values: Mapping[str, Any], default_name: str = "run") -> Settings:
    """The settings that a mapping says, whether it comes from a YAML or from Python.

    Raises:
        ConfigError: every mistake, with the path of its key.

    >>> settings = validate({"model": "digits_mlp", "data": "digits", "search": {"minutes": 2}})
    >>> settings.model.kind, settings.search.minutes, settings.search.evaluations
    ('digits_mlp', 2.0, None)
    """
    if values.get("name") is None:
        values = {**values, "name": default_name}
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise ConfigError(list(_mistakes(error))) from None


def resolved(settings: Settings) -> dict[str, Any]:
    """The settings as plain, JSON-able values, defaults written out: what a run is identified by.

    Python objects stand as ``"module:qualname"``. The folder of the YAML is not in it, nor are keys without a
    value. `validate` makes settings of it that resolve to the same.
    """
    said = settings.plain()
    said.pop("base", None)
    return said


def json_schema() -> dict[str, Any]:
    """The JSON schema of a YAML file, for editors: completion, descriptions, and red lines under mistakes."""
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Settings.model_json_schema(),
        "title": "evo-mpq",
        "description": "A search for the Pareto front of a compressed network.",
    }
    one_line: dict[str, Any] = _with_descriptions_in_one_line(schema)
    return one_line


def _with_descriptions_in_one_line(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_with_descriptions_in_one_line(entry) for entry in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: " ".join(value.split())
        if key == "description" and isinstance(value, str)
        else _with_descriptions_in_one_line(value)
        for key, value in schema.items()
    }


def _plain(value: Any) -> Any:
    if isinstance(value, Section):
        return value.plain()
    if isinstance(value, tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    return check.plain(value)


def _plain_clip(clip: str | float) -> dict[str, Any]:
    return {} if isinstance(clip, str) else {"clip": {"percentile": clip}}


# What pydantic finds, in our words

_EXPECTED = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a smaller whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "text",
    "tuple_type": "a list",
    "dict_type": "a mapping of keys to values",
    "model_type": "a mapping of keys to values",
    "greater_than": "more than {gt:g}",
    "greater_than_equal": "at least {ge}",
    "less_than_equal": "at most {le}",
}


def _mistakes(error: ValidationError) -> Iterator[Mistake]:
    for details in error.errors(include_url=False):
        path = tuple(details["loc"])
        cause = details.get("ctx", {}).get("error")
        if isinstance(cause, ConfigError):
            yield from (Mistake((*path, *inner.path), inner.message) for inner in cause.mistakes)
        elif details["type"] == "extra_forbidden":
            yield Mistake((*path[:-1], Key(path[-1])), _unknown_key(path))
        else:
            yield Mistake(path, str(cause) if cause is not None else _in_plain_words(details))


def _in_plain_words(details: ErrorDetails) -> str:
    kind, value = details["type"], details["input"]
    got = shown(value)
    if kind == "missing":
        return f"is missing. {_description(details['loc'])}".strip()
    if kind == "string_type" and isinstance(value, int | float):
        return f'must be text, got {got}; it is text in quotes: "{got}"'
    if kind in _EXPECTED:
        return f"must be {_EXPECTED[kind].format(**details.get('ctx', {}))}, got {got}"
    return f"{details['msg'][:1].lower()}{details['msg'][1:]}, got {got}"


def _unknown_key(path: Sequence[str | int]) -> str:
    """What to say of a key that does not exist: the nearest that does, where it belongs, or what there is."""
    key = str(path[-1])
    known = [name for name in _section_at(path[:-1]).model_fields if name != "base"]
    elsewhere = [dotted(place) for place in _places_of(key)]
    if near := did_you_mean(key, known):
        return f"unknown key{near}"
    if elsewhere:
        return f"unknown key here (did you mean {' or '.join(elsewhere)}?)"
    return f"unknown key; known are {', '.join(known)}"


def _section_at(path: Sequence[str | int]) -> type[Section]:
    """The section that a key path leads to; patterns and list positions stay within theirs."""
    section: type[Section] = Settings
    for part in path:
        field = section.model_fields.get(str(part))
        section = (field and _section_in(field.annotation)) or section
    return section


def _section_in(annotation: Any) -> type[Section] | None:
    if inspect.isclass(annotation) and issubclass(annotation, Section):
        return annotation
    return next(filter(None, map(_section_in, typing.get_args(annotation))), None)


def _places_of(key: str, section: type[Section] = Settings) -> list[tuple[str, ...]]:
    """Paths of a key, not looking into lists and patterns."""
    places: list[tuple[str, ...]] = [(key,)] if key in section.model_fields else []
    for name, field in section.model_fields.items():
        inner = field.annotation
        if inspect.isclass(inner) and issubclass(inner, Section):
            places += [(name, *place) for place in _places_of(key, inner)]
    return places


def _description(path: Sequence[str | int]) -> str:
    field = _section_at(path[:-1]).model_fields.get(str(path[-1]))
    return "" if field is None else " ".join((field.description or "").split())
