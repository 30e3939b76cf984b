"""The devices that candidates can be measured on, as torch finds them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

CPU = "cpu"
_ACCELERATORS = ("cuda", "mps", "xpu")


def device_name(said: str) -> str:
    """The one name of a device: ``auto`` is the CPU, and the first of several needs no number.

    >>> device_name("auto"), device_name("cuda:0"), device_name("cuda:1")
    ('cpu', 'cuda', 'cuda:1')
    """
    return CPU if said == "auto" else said.removesuffix(":0")


def devices() -> list[str]:
    """Names of all devices here, the CPU first."""
    found = [CPU]
    for kind in _ACCELERATORS:
        found += [device_name(f"{kind}:{i}") for i in range(_count(kind))]
    return found


def why_unavailable(device: str) -> str | None:
    """Why nothing can be measured on a device of this name; None if it can."""
    found = devices()
    if device in found:
        return None
    others = ", ".join(found[1:])
    if others:
        return f"{device} cannot be used: torch {torch.__version__} finds {others} here; say one of these, or cpu"
    return f"{device} cannot be used: torch {torch.__version__} finds no accelerator here; say auto or cpu"


def full_name(device: str) -> str:
    """A device's name, and what it is."""
    kind, _, index = device.partition(":")
    if kind in ("cuda", "xpu"):
        return f"{device} ({torch.get_device_module(kind).get_device_name(int(index or 0))})"
    return device


@contextmanager
def full_precision(device: str) -> Iterator[None]:
    """Inside, an accelerator multiplies in float32, not in shorter formats, and the same way every time."""
    if device == CPU:
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def _count(kind: str) -> int:
    module = torch.get_device_module(kind)
    return int(module.device_count()) if module.is_available() else 0
