"""Evolutionary search of the measured Pareto front of compressed neural networks.

>>> import evo_mpq
>>> run = evo_mpq.search(model, calibration=..., search=..., test=..., evaluations=400)  # doctest: +SKIP
>>> run.export(run.pick("size<=40kB"), out="small.safetensors")  # doctest: +SKIP
>>> module = evo_mpq.load("small.safetensors", model)  # doctest: +SKIP
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evo_mpq.api import Run, load, search

__all__ = ["Run", "load", "search"]


def __getattr__(name: str) -> Any:
    """The public functions, imported with everything that they need when they are first asked for."""
    if name in __all__:
        from evo_mpq import api

        return getattr(api, name)
    raise AttributeError(f"module 'evo_mpq' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    """What can be asked for, whether it was imported yet or not."""
    return sorted({*globals(), *__all__})
