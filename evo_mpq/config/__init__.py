"""How a user says what to do: the YAML's keys, their places in the text, and every mistake at once."""

from evo_mpq.config.document import (
    Document,
    Key,
    LocatedConfigError,
    Override,
    Place,
    dump,
    locate,
)
from evo_mpq.config.first_yaml import commented_yaml
from evo_mpq.config.loading import Check, Config, describe_space, find_space, load, packaged_spaces, run_name
from evo_mpq.config.settings import (
    ActivationSettings,
    ComputeSettings,
    DataSettings,
    LayerRule,
    ModelSettings,
    ObjectiveSettings,
    QuantizerSettings,
    SearchSettings,
    Settings,
    SpaceSettings,
    WeightSettings,
    json_schema,
    resolved,
    validate,
)
from evo_mpq.config.values import object_name
from evo_mpq.config.wording import did_you_mean

__all__ = [
    "ActivationSettings",
    "Check",
    "ComputeSettings",
    "Config",
    "DataSettings",
    "Document",
    "Key",
    "LayerRule",
    "LocatedConfigError",
    "ModelSettings",
    "ObjectiveSettings",
    "Override",
    "Place",
    "QuantizerSettings",
    "SearchSettings",
    "Settings",
    "SpaceSettings",
    "WeightSettings",
    "commented_yaml",
    "describe_space",
    "did_you_mean",
    "dump",
    "find_space",
    "json_schema",
    "load",
    "locate",
    "object_name",
    "packaged_spaces",
    "resolved",
    "run_name",
    "validate",
]
