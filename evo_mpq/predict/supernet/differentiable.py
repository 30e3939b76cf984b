"""The mixture of a supernet trained by gradient: what SMPQ argues against.

As in DNAS (Wu et al. 2018, arXiv 1812.00090) and EdMIPS (Cai & Vasconcelos 2020, arXiv 2004.05795): shares are the
softmax of parameters that are trained together with the weights, under a penalty on size.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from evo_mpq.predict.supernet.mixture import Shares, Supernet
from evo_mpq.predict.supernet.training import (
    BATCH_SIZE,
    LEARNING_RATE,
    ReportSteps,
    minibatches,
    train,
)
from evo_mpq.typing import FloatVector


def trained_log_shares(
    supernet: Supernet,
    *,
    steps: int = 200,
    learning_rate: float = 0.02,
    size_weight: float = 0.01,
    seed: int = 0,
    progress: ReportSteps | None = None,
) -> dict[int, FloatVector]:
    """Per gene that is mixed ``(cardinality,)`` the logarithm of each option's share after training.

    Args:
        supernet: trained with even shares; it is not changed.
        steps: of Adam.
        learning_rate: of the parameters of the mixture.
        size_weight: nats that are added to the loss for all bits; without it most options would only lose to the
            highest one.
        seed: of the order of the samples.
        progress: told about every step.
    """
    own = supernet.copy()
    alphas = [alpha.requires_grad_() for alpha in own.even_logits()]
    mixed = [alphas[gene] for gene in own.genes]
    optimizer = torch.optim.Adam(
        [{"params": list(own.parameters.values()), "lr": LEARNING_RATE}, {"params": mixed, "lr": learning_rate}]
    )
    size = expected_bits(own)
    train(
        own,
        lambda: [alpha.softmax(0) for alpha in alphas],
        optimizer,
        minibatches(own.compressor.network, BATCH_SIZE, np.random.default_rng(seed)),
        steps,
        penalty=lambda shares: size_weight * size(shares),
        progress=progress,
    )
    return {gene: alphas[gene].detach().log_softmax(0).double().numpy() for gene in own.genes}


def expected_bits(supernet: Supernet) -> Callable[[Shares], Tensor]:
    """What a mixture takes on average of what the most expensive options take, from 0 to 1.

    The bits of a weight count once per parameter, those of an activation once per multiplication; where both are
    mixed, each kind is half of it.
    """
    space, sites = supernet.space, {site.name: site for site in supernet.compressor.network.sites()}
    bits = {gene: torch.tensor([float(value) for value in space.genes[gene].values]) for gene in supernet.genes}
    units: dict[str, dict[int, float]] = {}
    for gene in supernet.genes:
        kind = space.genes[gene].kind
        members = [sites[name] for name in space.genes[gene].layers]
        counts = [getattr(site, "n_parameters", 0) if kind == "weight_bits" else site.macs for site in members]
        units.setdefault(kind, {})[gene] = float(sum(counts))
    most = {kind: sum(n * float(bits[gene][-1]) for gene, n in of.items()) for kind, of in units.items()}

    def expected(shares: Shares) -> Tensor:
        return torch.stack(
            [
                n * (shares[gene] @ bits[gene]) / max(most[kind], 1.0) / len(units)
                for kind, of in units.items()
                for gene, n in of.items()
            ]
        ).sum()

    return expected
