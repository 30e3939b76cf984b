"""What the processor has for sums of 8-bit products."""

from __future__ import annotations

import platform
from pathlib import Path

_INSTRUCTIONS = {
    "amx_int8": "AMX",
    "avx512_vnni": "AVX512-VNNI",
    "avx_vnni": "AVX-VNNI",
    "asimddp": "NEON dot products",
    "avx512bw": "AVX512 without VNNI",
    "avx2": "AVX2 without VNNI",
}
"""By the flag that the system gives, the best first."""


def integer_instructions(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The best instructions for products of bytes that the processor has, as the system says.

    >>> integer_instructions(Path("/no/such/file")).startswith("unknown")
    True
    """
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            found = set(value.split())
            return next((name for flag, name in _INSTRUCTIONS.items() if flag in found), "none for products of bytes")
    return f"unknown ({platform.machine() or 'no information'})"
