"""Files that are handed over: written completely or not at all, and never over another one unasked."""

from __future__ import annotations

import os
from pathlib import Path

from evo_mpq.errors import ConfigError, RunError


def refuse_existing(path: Path, *, force: bool, what: str = "another file by --out") -> None:
    """Goes on only if nothing would be overwritten.

    Raises:
        ConfigError: there is such a file, and no leave to overwrite it.
        RunError: it is a folder.
    """
    if path.is_dir():
        raise RunError(f"{path} cannot be written: it is a folder.")
    if path.exists() and not force:
        raise ConfigError(f"{path} exists; choose {what}, or overwrite it by --force")


def write_file(path: Path, content: bytes) -> None:
    """Writes a file completely or not at all.

    Raises:
        RunError: it cannot be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with partial.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise RunError(f"{path} cannot be written: {error.strerror}.") from error


def aside(path: Path) -> Path:
    """Where a file is kept that must not have the name that was asked for.

    >>> aside(Path("small.onnx")).name
    'small.mismatch.onnx'
    """
    return path.with_name(f"{path.stem}.mismatch{path.suffix}")
