"""The surrogates that can be named.

``auto`` chooses between the Gaussian process and the pairwise model. Shares at 60 / 100 / 200 measurements of the exact
fronts of `digits_resnet`, medians of three seeds; hypervolume at 200 / 300 / 400 of a pairwise problem with 60 layers
of six options; CPU seconds of the whole search, 400 measurements in each:

============  =====================  ======  =====================  ======  =====================  ======
surrogate     bits                   CPU s   joint                  CPU s   60 layers              CPU s
============  =====================  ======  =====================  ======  =====================  ======
additive      .9705 / .9881 / .9986  0.3     .9912 / .9955 / .9969  0.4     .4689 / .4719 / .4729  1.6
gp            .9861 / .9982 / .9997  0.7     .9941 / .9984 / .9994  0.9     .4694 / .4739 / .4763  2.8
pairwise      .9786 / .9903 / .9996  1.4     .9945 / .9974 / .9988  1.5     .4700 / .4742 / .4760  2.9
forest        .9826 / .9925 / .9999  2.8     .9911 / .9971 / .9988  2.2     .4698 / .4733 / .4747  4.8
============  =====================  ======  =====================  ======  =====================  ======

The pairwise model is ahead of the process where genes are many and measurements few, and behind it later; the forest is
ahead of both nowhere at 100 measurements, and as a third candidate made ``auto`` worse at 60 measurements and slower by
half.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches

from evo_mpq.predict.surrogates.surrogate import ResidualModel

KINDS: Mapping[str, str] = {
    "auto": "whichever of the others ranks best what it was not fitted to",
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
