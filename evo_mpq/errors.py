"""What evo-mpq raises when its user can do something about it.

The command line prints the message of an ``EvoMpqError`` and exits with 2; any other exception is a defect and
shows its traceback.
"""

from __future__ import annotations

import sysconfig
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple


class EvoMpqError(Exception):
    """Base of every error whose message is written for the user.

    Attributes:
        exit_code: of the command line.
    """

    exit_code = 2


class Mistake(NamedTuple):
    """One thing that is wrong in the settings.

    Attributes:
        path: keys and list positions that lead to it, e.g. ``("space", "layers", "stem", "weight_bits", 1)``.
        message: what is wrong and what to do, without the path.
    """

    path: tuple[str | int, ...]
    message: str

    def __str__(self) -> str:
        return f"{dotted(self.path)}: {self.message}" if self.path else self.message


def dotted(path: Sequence[str | int]) -> str:
    """A key path as text.

    >>> dotted(("space", "layers", "stage1.*", "weight_bits", 1))
    'space.layers."stage1.*".weight_bits[1]'
    """
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            quoted = f'"{part}"' if "." in part or "*" in part else part
            text += f".{quoted}" if text else quoted
    return text


class ConfigError(EvoMpqError, ValueError):
    """Mistakes in a YAML file, or in the settings that say the same in Python.

    Args:
        mistakes: all that were found, or one message that belongs to no key.
        text: the whole message, when it says more than the mistakes (lines of the file, carets).
    """

    def __init__(self, mistakes: Sequence[Mistake] | str, text: str | None = None) -> None:
        self.mistakes: tuple[Mistake, ...] = (Mistake((), mistakes),) if isinstance(mistakes, str) else tuple(mistakes)
        super().__init__(text if text is not None else "\n".join(map(str, self.mistakes)))


class NetworkError(EvoMpqError):
    """The user's network could not be built, loaded, traced or run on its data."""


class DataError(EvoMpqError):
    """The data splits are missing, empty, of the wrong type, or share samples."""


class MeasurementError(EvoMpqError):
    """Nothing could be measured: every candidate failed, or an objective is not usable."""


class RunError(EvoMpqError):
    """A run directory or its journal is damaged, in use, or belongs to another run."""


class PackedFileError(EvoMpqError):
    """A packed file is damaged, or does not belong to the network it is loaded into."""


class ExportError(EvoMpqError):
    """A point of a front cannot be written in the format that was asked for; nothing was written."""


class MismatchError(EvoMpqError):
    """A file was written that does not compute what the front shows; it was kept aside."""

    exit_code = 1


def user_frame(error: BaseException) -> str:
    """`` (file, line n)`` of the innermost frame in a user's own file; nothing where there is none.

    Own is what belongs neither to Python, nor to an installed package, nor to evo-mpq.
    """
    foreign = [sysconfig.get_path(key) for key in ("stdlib", "purelib", "platlib")]
    foreign += [str(folder) for folder in (Path(__file__).parent, (Path(__file__).parent / "objectives").resolve())]
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).is_file() and not frame.filename.startswith(tuple(foreign))
    ]
    return f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""


class Mistakes:
    """Mistakes that are collected, so that their user hears of all at once.

    >>> mistakes = Mistakes()
    >>> with mistakes.about("data"):
    ...     raise DataError("The test split is empty.")
    >>> [str(mistake) for mistake in mistakes.found]
    ['data: The test split is empty.']
    """

    def __init__(self) -> None:
        self.found: list[Mistake] = []
        self._causes: list[EvoMpqError] = []

    def add(self, path: Sequence[str | int], message: str) -> None:
        """One more mistake, at a key path."""
        self.found.append(Mistake(tuple(path), message))

    @contextmanager
    def about(self, *path: str | int) -> Iterator[None]:
        """Keeps what the block raises for the user; what it says of no key is about the key at ``path``."""
        try:
            yield
        except ConfigError as error:
            self._causes.append(error)
            self.found += [mistake if mistake.path else Mistake(path, mistake.message) for mistake in error.mistakes]
        except EvoMpqError as error:
            self._causes.append(error)
            self.add(path, str(error))

    def check(self) -> None:
        """Goes on only if there are none.

        Raises:
            ConfigError: with all mistakes so far.
        """
        if not self.found:
            return
        if len(self._causes) > 1:
            raise ConfigError(self.found) from ExceptionGroup("several mistakes", self._causes)
        raise ConfigError(self.found) from next(iter(self._causes), None)
