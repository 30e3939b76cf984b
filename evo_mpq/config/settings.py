"""The settings of a run: their keys, defaults and legal values (the one file that imports pydantic).

Every value is checked by pydantic; what it finds wrong is said in words of our own, with the path of the key.
A key with nothing behind it (null) is as if it were not there.
"""

from __future__ import annotations

import functools
import inspect
import json
import math
import numbers
import os
import re
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, TypeAlias, TypeVar

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

from evo_mpq.config.document import Key, did_you_mean
from evo_mpq.errors import ConfigError, Mistake, dotted
from evo_mpq.measure.bounds import parse_bound
from evo_mpq.space.building import LEGAL_BITS

DEFAULT_EVALUATIONS = 400
DEFAULT_PERCENTILE = 99.9
SCHEMA_NAME = "evo-mpq.schema.json"
"""The file name under which packaged and generated YAML files look for the schema."""

SectionType = TypeVar("SectionType", bound="Section")

def _only_key(key: str, description: str, **schema: Any) -> dict[str, Any]:
    """The JSON schema of a mapping with one key."""
    return {
        "type": "object",
        "properties": {key: {"description": description, **schema}},
        "required": [key],
        "additionalProperties": False,
    }


RUN_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
DEVICE = r"auto|cpu|(?:cuda|mps|xpu)(?::[0-9]+)?"
_LEGAL_BITS_SCHEMA = {"enum": list(LEGAL_BITS)}

Natural: TypeAlias = Annotated[int, Field(ge=0, le=2**32 - 1), BeforeValidator(_number)]
Positive: TypeAlias = Annotated[int, Field(ge=1), BeforeValidator(_number)]
Bits: TypeAlias = Annotated[
    tuple[int, ...],
    BeforeValidator(_bits),
    WithJsonSchema(
        {
            "anyOf": [
                _LEGAL_BITS_SCHEMA,
                {"type": "array", "items": _LEGAL_BITS_SCHEMA, "minItems": 1, "uniqueItems": True},
            ]
        }
    ),
]
Granularity: TypeAlias = Annotated[
    Literal["channel", "tensor"] | int,
    BeforeValidator(_granularity),
    WithJsonSchema(
        {
            "anyOf": [
                {"enum": ["channel", "tensor"]},
                {"type": "string", "pattern": "^group of [1-9][0-9]*$"},
                _only_key("group", "Input columns that share a scale.", type="integer", minimum=1),
            ]
        }
    ),
]
Clip: TypeAlias = Annotated[
    Literal["mse", "minmax"] | float,
    BeforeValidator(_clip),
    WithJsonSchema(
        {
            "anyOf": [
                {"enum": ["mse", "minmax", "percentile"]},
                _only_key(
                    "percentile",
                    "Percentile at which the range ends.",
                    type="number",
                    exclusiveMinimum=50,
                    maximum=100,
                ),
            ]
        }
    ),
]
Kind: TypeAlias = Annotated[Any, BeforeValidator(_kind), WithJsonSchema({"type": "string", "minLength": 1})]
Direction: TypeAlias = Literal["minimize", "maximize"]
Rounding: TypeAlias = Literal["gptq", "nearest"]
Edges: TypeAlias = Literal[8, "none"]
Correction: TypeAlias = Literal["none", "bias", "scale_bias"]
Algorithm: TypeAlias = Literal["nsga2", "random", "exhaustive"]


class Section(BaseModel):
    """A part of the settings: equal by content, not to be changed, no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

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
        fields = {name: getattr(self, name) for name in type(self).model_fields}
        said = {name: plain(value) for name, value in fields.items() if value is not None}
        return said | {name: plain(value) for name, value in (self.model_extra or {}).items()}


class Component(Section):
    """Something that is called by name, with options for it as further keys.

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
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"anyOf": [{"type": "string", "minLength": 1}, handler(core_schema)]}


class ModelSettings(Component):
    """The network to compress; other keys are options of the function that builds it."""

    kind: Kind = Field(
        description='A built-in network, or "module:function" whose function returns a torch.nn.Module. The module '
        "is looked for in the YAML's folder first.",
        examples=["digits_resnet", "my_nets:build"],
    )
    weights: Annotated[str, BeforeValidator(_path)] | None = Field(
        default=None,
        description="A safetensors file with the trained weights, relative to the YAML's folder.",
    )
    forward: Annotated[Any, BeforeValidator(_function), WithJsonSchema({"type": "string"})] = Field(
        default=None,
        description='How a batch\'s inputs become a call: "module:function", called as function(network, inputs). '
        "By default a mapping becomes keyword arguments and a tuple positional ones.",
    )
    output: Annotated[str | int, BeforeValidator(_output)] | None = Field(
        default=None,
        description="Which output counts if the network returns several: a key, an attribute or a position.",
        examples=["logits"],
    )


class DataSettings(Component):
    """The data; other keys are options of the function that loads them."""

    kind: Kind = Field(
        description='Built-in data, or "module:function" whose function returns a mapping with the splits '
        "calibration, search, test and perhaps train.",
        examples=["digits", "arrays", "image_folder", "my_data:load"],
    )
    batch_size: Positive = Field(default=256, description="Samples per forward pass.")


class ObjectiveSettings(Component):
    """A quantity that is measured or computed; other keys are its options."""

    kind: Kind = Field(
        description='A built-in objective, or "module:attribute": a class, a function or a torchmetrics metric.',
        examples=["kl_divergence", "accuracy", "size", "my_objectives:Energy"],
    )
    name: str | None = Field(
        default=None, description="What it is called in results and constraints; by default its own name."
    )
    unit: str | None = Field(
        default=None, description="The unit of its values, for functions that state none."
    )
    direction: Annotated[Direction, _one_of(Direction)] | None = Field(
        default=None, description="What is better; needed for functions and metrics that do not say it."
    )


class LayerRule(Section):
    """Options for the layers that a pattern matches; one option is applied, several are searched."""

    weight_bits: Bits | None = Field(
        default=None,
        description="Bits of the weights that the search may choose, 2 to 8, or 32 for untouched.",
        examples=[[2, 3, 4, 6, 8]],
    )
    activation_bits: Bits | None = Field(
        default=None,
        description="Bits of the layer's input that the search may choose, 2 to 8, or 32 for untouched.",
        examples=[[4, 8]],
    )


class SpaceSettings(Section):
    """What may be chosen; what is not named here is left untouched."""

    defaults: LayerRule = Field(default_factory=LayerRule, description="Options of every layer.")
    layers: dict[str, LayerRule] = Field(
        default_factory=dict,
        description="Options by shell pattern on layer names (* crosses dots); for each key the last pattern that "
        "matches wins.",
    )
    tie: tuple[str, ...] = Field(
        default=(), description="Patterns; all layers that one of them matches share one choice per kind."
    )


class WeightSettings(Section):
    """How weights are quantized.

    Attributes:
        granularity: ``"channel"``, ``"tensor"``, or the number of columns of a group.
        clip: ``"mse"``, ``"minmax"``, or a percentile of magnitudes.
    """

    symmetric: bool = Field(default=True, description="Whether the zero points of weights are 0.")
    granularity: Granularity = Field(
        default="channel",
        description="What shares a scale: an output channel, the whole tensor, or {group: G}, G input columns of a "
        "channel.",
    )
    clip: Clip = Field(
        default="mse",
        description="Where the range ends: least squared error, the extremes, or {percentile: 99.9} of magnitudes.",
    )
    rounding: Annotated[Rounding, _one_of(Rounding)] = Field(
        default="gptq",
        description="gptq lets later weights of a row correct the rounding of earlier ones; nearest does not.",
    )

    def plain(self) -> dict[str, Any]:
        """The section as YAML can say it."""
        said = super().plain()
        if not isinstance(self.granularity, str):
            said["granularity"] = {"group": self.granularity}
        return said | _plain_clip(self.clip)


class ActivationSettings(Section):
    """How activations are quantized.

    Attributes:
        clip: ``"mse"``, ``"minmax"`` or a percentile.
        edges: 8 or ``"none"``.
    """

    null_is_wrong = frozenset({"edges"})

    clip: Clip = Field(
        default="mse",
        description="Where the range of the calibration split's activations is cut: least squared error, the "
        "extremes, or {percentile: 99.9}.",
    )
    edges: Annotated[Edges, _one_of(Edges)] = Field(
        default=8,
        description="Bits of the tensors between quantized layers that no choice governs (inputs of additions, "
        "pooling); none leaves them in float, which integer runtimes then do, too, to the layers around them.",
    )

    def plain(self) -> dict[str, Any]:
        """The section as YAML can say it."""
        return super().plain() | _plain_clip(self.clip)


def _plain_clip(clip: str | float) -> dict[str, Any]:
    return {"clip": clip if isinstance(clip, str) else {"percentile": clip}}


class QuantizerSettings(Section):
    """How numbers become integers."""

    weights: WeightSettings = Field(default_factory=WeightSettings, description="How weights are quantized.")
    activations: ActivationSettings = Field(
        default_factory=ActivationSettings, description="How activations are quantized."
    )


class SearchSettings(Section):
    """How the space is searched, and for how long; the first limit that is reached ends it."""

    algorithm: Annotated[Algorithm, _one_of(Algorithm)] = Field(
        default="nsga2",
        description="nsga2 evolves a population; random is the baseline; exhaustive measures the whole space.",
    )
    population: Annotated[int, Field(ge=2), BeforeValidator(_number)] = Field(
        default=40, description="Candidates per generation."
    )
    evaluations: Positive | None = Field(
        default=None,
        description=f"Measurements in all, reference and seeds included; {DEFAULT_EVALUATIONS} if neither minutes "
        "nor stall is given and the search is not exhaustive.",
    )
    minutes: Annotated[float, Field(gt=0), AfterValidator(_finite), BeforeValidator(_number)] | None = Field(
        default=None, description="Wall-clock minutes of the search."
    )
    stall: Positive | None = Field(
        default=None, description="Generations in a row without a larger hypervolume after which to stop."
    )

    @classmethod
    def completed(cls, values: Any) -> Any:
        """Evaluations get their default only if nothing else ends the search."""
        if not isinstance(values, Mapping):
            return values
        limited = any(values.get(key) is not None for key in ("evaluations", "minutes", "stall"))
        if limited or values.get("algorithm") == "exhaustive":
            return values
        return {**values, "evaluations": DEFAULT_EVALUATIONS}


class ComputeSettings(Section):
    """What the run may use of the machine."""

    device: Annotated[
        str, BeforeValidator(_device), WithJsonSchema({"type": "string", "pattern": f"^(?:{DEVICE})$"})
    ] = Field(
        default="auto", description="Where the network runs: auto, cpu, or an accelerator such as cuda."
    )
    workers: Annotated[
        Literal["auto"] | int,
        BeforeValidator(_workers),
        WithJsonSchema({"anyOf": [{"const": "auto"}, {"type": "integer", "minimum": 1}]}),
    ] = Field(
        default="auto",
        description="Processes that measure; results are the same for every number. auto starts them if the work "
        "pays for it.",
    )
    threads: Positive = Field(
        default=1, description="Threads of one process. Part of what the results depend on, bit for bit."
    )
    memory: Annotated[
        str,
        BeforeValidator(_memory),
        WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "integer", "minimum": _LEAST_MEMORY}]}),
    ] = Field(
        default="2 GiB", description="Memory for tensors, all workers together.", examples=["2 GiB", "500 MB"]
    )

    @property
    def memory_bytes(self) -> int:
        """The limit in bytes."""
        return _memory_bytes(self.memory)


def _default_space() -> SpaceSettings:
    return SpaceSettings(defaults=LayerRule(weight_bits=(2, 3, 4, 6, 8), activation_bits=(4, 8)))


def _default_objectives() -> tuple[ObjectiveSettings, ...]:
    return ObjectiveSettings(kind="kl_divergence"), ObjectiveSettings(kind="size")


class Settings(Section):
    """Everything that a YAML file says, defaults filled in.

    Where the settings come from Python, ``kind``, ``forward`` and options may be objects.
    """

    null_is_wrong = frozenset({"correction"})

    name: Annotated[
        str,
        AfterValidator(_run_name),
        WithJsonSchema({"type": "string", "pattern": f"^{RUN_NAME}$"}),
    ] = Field(
        default="run", description="Names the run and its folder, runs/<name>; by default the file's name."
    )
    seed: Natural = Field(default=0, description="Every random choice of the search follows from it.")
    model: ModelSettings = Field(description="The network to compress.")
    data: DataSettings = Field(description="The data to calibrate, search and test with.")
    space: SpaceSettings = Field(
        default_factory=_default_space,
        description="What may be chosen. Without it, every layer gets weight_bits [2, 3, 4, 6, 8] and "
        "activation_bits [4, 8]; with it, what it does not name is left untouched.",
    )
    quantizer: QuantizerSettings = Field(
        default_factory=QuantizerSettings, description="How numbers become integers."
    )
    correction: Annotated[Correction, _one_of(Correction)] = Field(
        default="scale_bias",
        description="Matches each channel's mean (bias) and spread (scale_bias) with the float network's on the "
        "calibration split, for every candidate.",
    )
    objectives: Annotated[tuple[ObjectiveSettings, ...], Field(min_length=1)] = Field(
        default_factory=_default_objectives,
        description="What the front trades off; names, or mappings with options.",
    )
    constraints: tuple[Annotated[str, AfterValidator(_bound)], ...] = Field(
        default=(),
        description="Bounds that a candidate must keep.",
        examples=[["size <= 40 kB", "accuracy >= 0.95"]],
    )
    metrics: tuple[ObjectiveSettings, ...] | None = Field(
        default=None,
        description="What is reported on the test split, beside the objectives; by default accuracy for class labels.",
    )
    search: SearchSettings = Field(
        default_factory=lambda: SearchSettings.model_validate({}),
        description="How the space is searched, and for how long.",
    )
    compute: ComputeSettings = Field(
        default_factory=ComputeSettings, description="What the run may use of the machine."
    )
    base: Annotated[str, BeforeValidator(_path)] | None = Field(
        default=None,
        description="The folder that modules and files of yours are looked for in; by default the YAML's own.",
    )


def validate(values: Mapping[str, Any], default_name: str = "run") -> Settings:
    """The settings that a mapping says, whether it comes from a YAML or from Python.

    Raises:
        ConfigError: with every mistake and the path of its key.

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

    Python objects stand as ``module:qualname``. Neither the folder of the YAML nor keys without a value are in it.
    `validate` gives equal plain values back.
    """
    said = settings.plain()
    said.pop("base", None)
    return said


def plain(value: Any) -> Any:
    """A value as JSON and YAML can hold it; objects become ``"module:qualname"`` of them or their class.

    >>> plain({"widths": (8, 16), "loss": dict})
    {'widths': [8, 16], 'loss': 'builtins:dict'}
    """
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, Section):
        return value.plain()
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return float(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return object_name(value)


def object_name(value: object) -> str:
    """``"module:qualname"`` of a function or class, of what a partial binds, or of an object's class.

    >>> object_name(functools.partial(json.dumps, indent=2))
    'json:dumps'
    """
    if isinstance(value, functools.partial):
        return object_name(value.func)
    named = value if hasattr(value, "__qualname__") and hasattr(value, "__module__") else type(value)
    return f"{named.__module__}:{named.__qualname__}"


def json_schema() -> dict[str, Any]:
    """The JSON schema of a YAML file, for editors: completion, descriptions, and red lines under mistakes."""
    schema = Settings.model_json_schema()
    schema["properties"]["search"].pop("default", None)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "title": "evo-mpq",
        "description": "A search for the Pareto front of a compressed network.",
    }


# What pydantic finds, in our words


def _mistakes(error: ValidationError) -> Iterator[Mistake]:
    for details in error.errors(include_url=False):
        path = tuple(details["loc"])
        inner = details.get("ctx", {}).get("error")
        if isinstance(inner, ConfigError):
            yield from (Mistake((*path, *mistake.path), mistake.message) for mistake in inner.mistakes)
        elif details["type"] == "extra_forbidden":
            yield Mistake((*path[:-1], Key(path[-1])), _unknown_key(path))
        elif details["type"] == "value_error":
            yield Mistake(path, str(inner))
        else:
            yield Mistake(path, _in_plain_words(details))


def _in_plain_words(details: ErrorDetails) -> str:
    kind, got = details["type"], _shown(details["input"])
    limits = details.get("ctx", {})
    if kind == "missing":
        return f"is missing. {_description(tuple(details['loc']))}".rstrip()
    if kind == "string_type" and isinstance(details["input"], int | float):
        return f'must be text, got {got}; in quotes it is: "{got}"'
    expected = {
        "int_type": "a whole number",
        "int_parsing": "a whole number",
        "int_parsing_size": "a smaller whole number",
        "int_from_float": "a whole number",
        "float_type": "a number",
        "float_parsing": "a number",
        "bool_type": "true or false",
        "bool_parsing": "true or false",
        "string_type": "text",
        "tuple_type": "a list, such as [a, b]",
        "dict_type": "a mapping of keys to values",
        "model_type": "a mapping of keys to values",
        "greater_than": f"more than {limits.get('gt')}",
        "greater_than_equal": f"at least {limits.get('ge')}",
        "less_than_equal": f"at most {limits.get('le')}",
    }.get(kind)
    if expected is not None:
        return f"must be {expected}, got {got}"
    if kind == "too_short":
        return "must not be empty"
    return f"{details['msg'][:1].lower()}{details['msg'][1:]}, got {got}"


def _unknown_key(path: Sequence[str | int]) -> str:
    """What to say of a key that does not exist: the nearest one here, or where it belongs, or all of them."""
    key = str(path[-1])
    here = _section_at(path[:-1])
    known = [name for name in here.model_fields if name != "base"]
    hint = did_you_mean(key, known)
    elsewhere = [] if hint else [where for where in _places_of(key) if where[:-1] != tuple(path[:-1])]
    if elsewhere:
        hint = f" (did you mean {' or '.join(map(dotted, elsewhere))}?)"
    return f"unknown key; known are {', '.join(known)}{hint}"


def _section_at(path: Sequence[str | int]) -> type[Section]:
    """The section that a key path leads to; patterns and list positions stay within theirs."""
    section: type[Section] = Settings
    for part in path:
        if part in section.model_fields:
            inner = _section_in(section.model_fields[str(part)].annotation)
            section = inner if inner is not None else section
    return section


def _section_in(annotation: Any) -> type[Section] | None:
    if inspect.isclass(annotation) and issubclass(annotation, Section):
        return annotation
    return next(filter(None, map(_section_in, typing.get_args(annotation))), None)


def _places_of(
    key: str, section: type[Section] = Settings, path: tuple[str, ...] = ()
) -> list[tuple[str, ...]]:
    """Where a key exists, not looking into lists and patterns."""
    found = [(*path, key)] if key in section.model_fields else []
    for name, described in section.model_fields.items():
        inner = described.annotation
        if inspect.isclass(inner) and issubclass(inner, Section):
            found += _places_of(key, inner, (*path, name))
    return found


def _description(path: Sequence[str | int]) -> str:
    described = _section_at(path[:-1]).model_fields.get(str(path[-1]))
    return "" if described is None else described.description or ""
