"""What the options of genes do to weights: the forms that layers take, and how far these are from the float weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from evo_mpq.compress.channels import WeightForm
from evo_mpq.compress.compressor import Compressor
from evo_mpq.compress.quantizers import UNTOUCHED_BITS
from evo_mpq.network.layers import Layer
from evo_mpq.predict.tables.options import one_at_a_time_genomes
from evo_mpq.space.genes import PRUNE_KIND
from evo_mpq.space.policy import Policy
from evo_mpq.space.search_space import SearchSpace
from evo_mpq.typing import FloatVector

WEIGHT_KINDS = ("weight_bits", PRUNE_KIND)
"""Kinds of genes that change weights."""

REMOVED = WeightForm(0)
"""The form of a layer that is not computed: no bits, as if its weight were zero."""


@dataclass(frozen=True, eq=False)
class OptionForms:
    """The forms that layers' weights take under every option of every gene alone, around the most expensive genome.

    A ratio of a prune group changes the layers that compute its channels, whose rows are removed, and those that read
    them, whose columns are.

    Attributes:
        base: of every layer, under the most expensive genome.
        changed: per gene that changes weights, by its position, for each option the layers whose form is not that of
            ``base``; nothing for the last one.
    """

    base: Mapping[str, WeightForm]
    changed: Mapping[int, tuple[Mapping[str, WeightForm], ...]]

    def by_layer(self) -> dict[str, list[WeightForm]]:
        """Every form that each layer takes, once."""
        found = {name: {form: None} for name, form in self.base.items()}
        for options in self.changed.values():
            for forms in options:
                for name, form in forms.items():
                    found[name][form] = None
        return {name: [*forms] for name, forms in found.items()}

    def losses(self, scores: Mapping[tuple[str, WeightForm], float]) -> dict[int, FloatVector]:
        """Per gene ``(cardinality,)`` what its options add to the sum of layers' scores; 0 for the last one.

        Args:
            scores: of every layer in every form of `by_layer`.
        """
        return {
            gene: np.array(
                [
                    sum(scores[name, form] - scores[name, self.base[name]] for name, form in forms.items())
                    for forms in options
                ],
                dtype=np.float64,
            )
            for gene, options in self.changed.items()
        }


def option_forms(space: SearchSpace, compressor: Compressor) -> OptionForms:
    """The forms that a space's options stand for."""
    policies = space.decode(one_at_a_time_genomes(space))
    forms = [
        {layer.name: compressor.channels.form(policy, layer) for layer in compressor.network.layers}
        for policy in policies
    ]
    base, *others = forms
    changed: dict[int, tuple[Mapping[str, WeightForm], ...]] = {}
    for position, gene in enumerate(space.genes):
        own, others = others[: gene.cardinality - 1], others[gene.cardinality - 1 :]
        if gene.kind in WEIGHT_KINDS:
            options = [{name: form for name, form in option.items() if form != base[name]} for option in [*own, base]]
            changed[position] = tuple(options)
    return OptionForms(base, changed)


def is_float(form: WeightForm) -> bool:
    """Whether the form is the float weight as it is."""
    return form.bits == UNTOUCHED_BITS and not form.pruned


def forms_of(compressor: Compressor, policy: Policy) -> dict[str, WeightForm]:
    """The form of every layer's weight under a policy; `REMOVED` where all that reads it lies in dropped blocks."""
    computed = compressor.computed_nodes(policy)
    return {
        layer.name: compressor.channels.form(policy, layer)
        if any(use.node in computed for use in layer.uses)
        else REMOVED
        for layer in compressor.network.layers
    }


def weight_in(compressor: Compressor, layer: Layer, form: WeightForm) -> Tensor:
    """A layer's weight in a form, in the shape of the network's parameter."""
    weight = compressor.network.tensors[layer.parameter]
    if form == REMOVED:
        return torch.zeros_like(weight)
    return weight if is_float(form) else compressor.bank(layer, form).values


def perturbation(compressor: Compressor, layer: Layer, form: WeightForm) -> Tensor:
    """``ΔW``: a layer's weight in a form minus the float weight, in the weight's shape."""
    return weight_in(compressor, layer, form) - compressor.network.tensors[layer.parameter]


def weighted_squares(
    compressor: Compressor, forms: Mapping[str, Iterable[WeightForm]], weights: Mapping[str, Tensor | float]
) -> dict[tuple[str, WeightForm], float]:
    """Per layer and form the sum of ``ΔW²``, times a weight per layer or per element.

    Args:
        compressor: of the network, with the weights' forms.
        forms: per layer.
        weights: per layer a number, or a tensor in the shape of its weight.
    """
    layers = {layer.name: layer for layer in compressor.network.layers}
    return {
        (name, form): float((perturbation(compressor, layers[name], form).double().square() * weights[name]).sum())
        for name, rows in forms.items()
        for form in rows
    }
