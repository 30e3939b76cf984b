"""The surrogates that can be named.

``auto`` chooses between the Gaussian process and the pairwise model. Shares of the exact fronts of `digits_resnet` at
60 / 100 / 200 measurements, tables included; hypervolume at 200 / 300 / 400 of a pairwise problem with 60 layers of six
options (best known: .4808), of which the first 121 measurements are a coarse table; CPU seconds of the whole search of
400 measurements in each. Medians of five seeds:

=========  =====================  =====  =====================  =====  =====================  =====
surrogate  bits                   CPU s  joint                  CPU s  60 layers              CPU s
=========  =====================  =====  =====================  =====  =====================  =====
additive   .9705 / .9881 / .9985  0.4    .9912 / .9955 / .9969  0.4    .4690 / .4719 / .4729  1.6
gp         .9861 / .9983 / .9997  0.7    .9939 / .9984 / .9991  1.0    .4694 / .4738 / .4763  2.8
pairwise   .9786 / .9900 / .9996  1.4    .9945 / .9971 / .9987  1.6    .4698 / .4741 / .4758  3.1
forest     .9826 / .9925 / .9999  3.1    .9925 / .9972 / .9991  2.3    .4697 / .4731 / .4746  5.0
auto       .9855 / .9983 / .9998  2.0    .9919 / .9978 / .9991  2.4    .4702 / .4742 / .4763  4.0
=========  =====================  =====  =====================  =====  =====================  =====

The pairwise model is ahead of the process where genes are many and measurements few, and behind it elsewhere. The
forest as a third candidate made ``auto`` no better at 60 and 100 measurements (bits .9793 / .9955, joint .9911 / .9979)
and a choice take half as long again: 0.33 s instead of 0.23 s for 400 measurements of 17 genes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches

from evo_mpq.predict.surrogates.surrogate import ResidualModel

KINDS: Mapping[str, str] = {
    "auto": "gp or pairwise, whichever ranks best what it was not fitted to, or neither",
    "additive": "the sum of what options cost alone, fitted to everything measured",
    "gp": "a Gaussian process on what that sum leaves",
    "pairwise": "pairs of genes on what that sum leaves, by a few factors per gene",
    "forest": "a random forest on what that sum leaves",
}
"""Names, with what each is in a line."""

Factory = Callable[[], ResidualModel]


def residual_model(kind: str) -> Factory | None:
    """What makes the model of residuals that a name stands for; None for the additive model alone.

    Raises:
        ValueError: no kind has the name.
    """
    if kind not in KINDS:
        close = get_close_matches(kind.lower(), KINDS, 1)
        near = f" (did you mean {close[0]}?)" if close else ""
        known = "; ".join(f"{name}: {line}" for name, line in KINDS.items())
        raise ValueError(f'there is no surrogate "{kind}"{near}. Known are {known}')
    return None if kind == "additive" else _makers()[kind]


def _makers() -> dict[str, Factory]:
    return {"auto": _auto, "gp": _gp, "pairwise": _pairwise, "forest": _forest}


def _gp() -> ResidualModel:
    from evo_mpq.predict.surrogates.gaussian_process import GaussianProcess

    return GaussianProcess()


def _pairwise() -> ResidualModel:
    from evo_mpq.predict.surrogates.pairwise import Pairwise

    return Pairwise()


def _forest() -> ResidualModel:
    from evo_mpq.predict.surrogates.forest import Forest

    return Forest()


def _auto() -> ResidualModel:
    from evo_mpq.predict.surrogates.choosing import CrossValidated

    return CrossValidated({"gp": _gp, "pairwise": _pairwise})
