"""What is done to every layer of a network, as plain values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True, slots=True)
class LayerPolicy:
    """What is done to one layer; the defaults leave it as it is.

    Attributes:
        weight_bits: bits of a weight; 32 is float.
        activation_bits: bits of an element of the layer's input; 32 is float.
        prune_ratio: fraction of output channels that are removed.
    """

    weight_bits: int = 32
    activation_bits: int = 32
    prune_ratio: float = 0.0


UNTOUCHED = LayerPolicy()
"""The policy of a layer that is left as it is."""

_LAYER_KEYS = tuple(key.name for key in fields(LayerPolicy))


@dataclass(frozen=True)
class Policy:
    """What is done to a whole network: equal by content, hashable, picklable.

    Attributes:
        layers: for every layer of the network its policy.
        architecture: choices that belong to no layer; JSON scalars by name.

    >>> policy = Policy({"stem": LayerPolicy(weight_bits=8), "head": UNTOUCHED})
    >>> Policy.from_json(policy.to_json()) == policy
    True
    """

    layers: Mapping[str, LayerPolicy]
    architecture: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", MappingProxyType(dict(self.layers)))
        object.__setattr__(self, "architecture", MappingProxyType(dict(self.architecture)))

    def __hash__(self) -> int:
        return hash((frozenset(self.layers.items()), frozenset(self.architecture.items())))

    def __repr__(self) -> str:
        return f"Policy(layers={dict(self.layers)}, architecture={dict(self.architecture)})"

    def __reduce__(self) -> tuple[type[Policy], tuple[dict[str, LayerPolicy], dict[str, Any]]]:
        # Read-only views of dictionaries do not pickle, and candidates travel to worker processes.
        return Policy, (dict(self.layers), dict(self.architecture))

    @classmethod
    def uniform(cls, layer_names: Iterable[str], weight_bits: int = 32, activation_bits: int = 32) -> Policy:
        """The policy that does the same to every layer."""
        same = LayerPolicy(weight_bits, activation_bits)
        return cls(dict.fromkeys(layer_names, same))

    def bits_of(self, name: str) -> int:
        """Activation bits of a layer or product; 32 where nothing is said about it."""
        return self.layers.get(name, UNTOUCHED).activation_bits

    def to_json(self) -> dict[str, Any]:
        """The policy as nested dictionaries that JSON can hold."""
        return {
            "layers": {name: asdict(layer) for name, layer in self.layers.items()},
            "architecture": dict(self.architecture),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Policy:
        """The policy that ``to_json`` turned into ``document``.

        Raises:
            ValueError: the document is not of that form; the message names the layer and the key.
        """
        if not isinstance(document, Mapping) or not isinstance(document.get("layers"), Mapping):
            raise ValueError('a policy is {"layers": {name: {"weight_bits": 4, ...}}, "architecture": {}}')
        layers = {}
        for name, entries in document["layers"].items():
            unknown = sorted(set(entries) - set(_LAYER_KEYS))
            if unknown:
                raise ValueError(
                    f"layer {name!r} of the policy has the unknown key {unknown[0]!r}; "
                    f"the keys of a layer are {', '.join(_LAYER_KEYS)}"
                )
            layers[name] = LayerPolicy(**entries)
        return cls(layers, document.get("architecture", {}))
