"""Pruned channels: which ones are removed first, and what removing them leaves of each layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch

from evo_mpq.network.layers import Layer
from evo_mpq.network.pruning import PruneGroup
from evo_mpq.space.genes import n_kept
from evo_mpq.space.policy import Policy

Criterion = Literal["l1", "l2", "taylor"]
CRITERIA: tuple[Criterion, ...] = ("l1", "l2", "taylor")


class WeightForm(NamedTuple):
    """Everything that a layer's weight depends on.

    Attributes:
        bits: of a weight.
        row_ratio: fraction of its output channels that are removed.
        column_ratios: of each group that feeds it, the fraction of channels that are removed.
    """

    bits: int
    row_ratio: float = 0.0
    column_ratios: tuple[float, ...] = ()

    @property
    def pruned(self) -> bool:
        """Whether a channel is removed at one of its sides."""
        return self.row_ratio > 0 or any(self.column_ratios)


class Channels:
    """What the ratios of prune groups leave of each layer.

    Removed channels are masked, not cut out, wherever networks run: all rows and columns of a weight stay, and those
    of removed channels are zero. Only files are smaller.

    Args:
        layers: of the network.
        groups: whose channels may be removed.
        scores: per group ``(n_channels,)`` importance; the lowest are removed first.
    """

    def __init__(
        self, layers: Sequence[Layer], groups: Sequence[PruneGroup], scores: Mapping[str, torch.Tensor]
    ) -> None:
        self._groups = {group.name: group for group in groups}
        # Equal scores are kept in the order of the channels.
        self._ascending = {name: scores[name].argsort(stable=True).numpy() for name in self._groups}
        self._row_group = {layer: group for group in groups for layer in group.rows}
        self._column_groups = {
            layer.name: tuple(group for group in groups if layer.name in group.columns) for layer in layers
        }
        self._found: dict[tuple[str, WeightForm], tuple[torch.Tensor | None, torch.Tensor | None]] = {}

    def form(self, policy: Policy, layer: Layer) -> WeightForm:
        """What a policy makes of a layer's weight."""
        own = policy.layers[layer.name]
        columns = tuple(policy.layers[group.name].prune_ratio for group in self._column_groups[layer.name])
        return WeightForm(own.weight_bits, own.prune_ratio, columns if any(columns) else ())

    def rows(self, layer: Layer, form: WeightForm) -> torch.Tensor | None:
        """Ascending positions of the output channels that remain; None for all."""
        return self._kept(layer, form)[0]

    def columns(self, layer: Layer, form: WeightForm) -> torch.Tensor | None:
        """Ascending positions of the columns that remain of the weight as a matrix; None for all."""
        return self._kept(layer, form)[1]

    def _kept(self, layer: Layer, form: WeightForm) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        if not form.pruned:
            return None, None
        key = (layer.name, form._replace(bits=0))
        if key not in self._found:
            rows = columns = None
            if form.row_ratio > 0:
                if layer.name not in self._row_group:
                    raise ValueError(f"{layer.name} cannot be pruned: its channels are in no group that was looked for")
                group = self._row_group[layer.name]
                rows = self._without(layer.n_rows, [group.rows[layer.name][self._removed(group.name, form.row_ratio)]])
            if any(form.column_ratios):
                pairs = zip(self._column_groups[layer.name], form.column_ratios, strict=True)
                gone = [group.columns[layer.name][self._removed(group.name, ratio)] for group, ratio in pairs]
                columns = self._without(layer.n_parameters // layer.n_rows, gone)
            self._found[key] = rows, columns
        return self._found[key]

    def _removed(self, group: str, ratio: float) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        n = self._groups[group].n_channels
        return self._ascending[group][: n - n_kept(n, ratio)]

    @staticmethod
    def _without(n: int, gone: Sequence[np.ndarray[tuple[int, ...], np.dtype[np.int64]]]) -> torch.Tensor | None:
        kept = np.ones(n, dtype=bool)
        for positions in gone:
            kept[positions.reshape(-1)] = False
        return None if kept.all() else torch.from_numpy(np.flatnonzero(kept))


def magnitude_scores(group: PruneGroup, matrices: Mapping[str, torch.Tensor], power: int) -> torch.Tensor:
    """``(n_channels,)`` importance of a group's channels by the norms of their weights.

    Per layer the norm of each channel's rows, or columns, relative to the mean over channels; then the mean over
    layers (Fang et al. 2023, DepGraph, Sec. 3.4). Consumers count as well as producers, since behind a ReLU any factor
    can move from one to the other.

    Args:
        group: of channels.
        matrices: per layer its weight as ``(output channels, everything else)``.
        power: 1 for sums of magnitudes, 2 for Euclidean norms.
    """
    return _mean_over_members(
        [slices.abs().pow(power).sum(1).pow(1 / power) for slices in _member_slices(group, matrices)]
    )


def taylor_scores(
    group: PruneGroup, matrices: Mapping[str, torch.Tensor], gradients: Mapping[str, torch.Tensor]
) -> torch.Tensor:
    """``(n_channels,)`` first-order change of the loss without each channel (Molchanov et al. 2019, eq. 8).

    Args:
        group: of channels.
        matrices: per layer its weight as ``(output channels, everything else)``.
        gradients: of a loss, in the same shapes.
    """
    products = {name: matrices[name] * gradients[name] for name in (*group.rows, *group.columns)}
    # Summed before the magnitude is taken: weights of one channel leave together.
    return _mean_over_members([slices.sum(1).abs() for slices in _member_slices(group, products)])


def _member_slices(group: PruneGroup, matrices: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
    """Per member ``(n_channels, n)`` its entries that belong to each channel."""
    rows = [matrices[name][torch.from_numpy(index)] for name, index in group.rows.items()]  # (n_channels, k, columns)
    columns = [matrices[name].T[torch.from_numpy(index)] for name, index in group.columns.items()]
    return [slices.flatten(1) for slices in (*rows, *columns)]


def _mean_over_members(scores: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.stack([score / score.mean().clamp(min=torch.finfo(score.dtype).tiny) for score in scores]).mean(0)
