"""From a YAML file, packaged or the user's, to settings."""

from __future__ import annotations

import importlib.resources
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from evo_mpq.config.document import Document, Key, Located, LocatedConfigError
from evo_mpq.config.settings import Settings, validate
from evo_mpq.config.wording import did_you_mean
from evo_mpq.errors import ConfigError, Mistake

Check: TypeAlias = Callable[[Mapping[str, Any], Path], Iterable[Mistake]]
"""``check(values, base) -> mistakes``: looks at what a YAML says, which may be wrong in other ways, too."""

_SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True)
class Config:
    """A YAML file that was read and found right.

    Attributes:
        settings: what it says, defaults filled in.
        document: its text, for telling where later mistakes are: see `locate`.
        base: the folder that the user's modules and files are looked for in.
    """

    settings: Settings
    document: Document
    base: Path


def load(
    path: str | Path,
    overrides: Sequence[str] = (),
    *,
    base: str | Path | None = None,
    checks: Sequence[Check] = (),
    deeper: Check | None = None,
) -> Config:
    """Read and validate a YAML file.

    Args:
        path: of the file; `find_space` gives it for the name of a packaged one.
        overrides: ``"key.sub=value"`` texts that change what the file says.
        base: the folder that modules and files are looked for in; by default what the file says under
            ``base``, else the file's own.
        checks: looks further, such as for names that nobody offers, so that their mistakes are told together
            with the others.
        deeper: looks for what would be found next, where there are mistakes already; may take longer.

    Raises:
        ConfigError: every mistake, each with its line and column, the source line and a caret, or with the
            override that made it.
    """
    path = Path(path)
    document = Document.read(path).with_overrides(overrides)
    folder = _base(document.values, path, base)
    mistakes: list[Located | Mistake] = list(document.mistakes)
    settings = None
    try:
        settings = validate(document.values, run_name(path))
    except ConfigError as error:
        mistakes += error.mistakes
    for check in (_missing_files, *checks):
        mistakes += check(document.values, folder)
    if mistakes and deeper is not None:
        mistakes += [mistake for mistake in deeper(document.values, folder) if mistake not in mistakes]
    if mistakes or settings is None:
        raise document.error(_without_echoes(mistakes))
    return Config(settings, document, folder)


def run_name(path: Path) -> str:
    """The legal name of a run that is nearest to a file's.

    >>> run_name(Path("my net.yaml"))
    'my-net'
    """
    return re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).lstrip("._-") or "run"


def find_space(name_or_path: str | Path) -> Path:
    """The YAML file of that path, or the packaged one of that name.

    Raises:
        ConfigError: there is neither; the message has the nearest names.
    """
    path = Path(name_or_path)
    packaged = packaged_spaces()
    if path.is_file():
        return path
    if str(name_or_path) in packaged:
        return packaged[str(name_or_path)]
    if path.is_dir():
        raise LocatedConfigError(f"{path}: is a folder; give a YAML file or one of {', '.join(packaged)}")
    folder = path.parent
    files = [entry.name for entry in folder.iterdir() if entry.suffix in _SUFFIXES] if folder.is_dir() else []
    if path.suffix in _SUFFIXES or len(path.parts) > 1:
        where = f"no such file in {folder.absolute()}" if folder.is_dir() else f"there is no folder {folder}"
        near = did_you_mean(path.name, files) or did_you_mean(path.stem, packaged)
        raise LocatedConfigError(f"{path}: {where}{near}")
    known = ", ".join(packaged) or "none"
    near = did_you_mean(path.name, [*packaged, *files])
    raise LocatedConfigError(f"{path}: is neither a YAML file nor a packaged search space; packaged are {known}{near}")


def packaged_spaces() -> dict[str, Path]:
    """The search spaces that come with evo-mpq: name and file, sorted by name."""
    folder = importlib.resources.files("evo_mpq.search_spaces")
    files = [Path(str(entry)) for entry in folder.iterdir() if entry.name.endswith(".yaml")]
    return {path.stem: path for path in sorted(files)}


def describe_space(path: Path) -> str:
    """The first line of a YAML's opening comment, the editor's line aside."""
    for line in path.read_text(encoding="utf-8").splitlines():
        text = line.strip()
        if text and not text.startswith("#"):
            break
        if text.strip("# ") and "yaml-language-server" not in text:
            return text.strip("# ")
    return ""


def _base(values: Mapping[str, Any], path: Path, base: str | Path | None) -> Path:
    said = values.get("base")
    own = path.parent / said if isinstance(said, str) else path.parent
    return Path(own if base is None else base).resolve()


def _missing_files(values: Mapping[str, Any], base: Path) -> list[Mistake]:
    """Files named by the settings' own keys that are not there."""
    mistakes = []
    if not base.is_dir():
        mistakes.append(Mistake(("base",), f"there is no folder {base}"))
    model = values.get("model")
    weights = model.get("weights") if isinstance(model, Mapping) else None
    if isinstance(weights, str) and not (base / weights).is_file():
        folder = (base / weights).parent
        names = [entry.name for entry in folder.iterdir() if entry.is_file()] if folder.is_dir() else []
        near = did_you_mean(Path(weights).name, names)
        mistakes.append(Mistake(("model", "weights"), f"there is no file {weights} in {base}{near}"))
    return mistakes


def _without_echoes(mistakes: Sequence[Located | Mistake]) -> list[Located | Mistake]:
    """Without mistakes that are there only because a value within could not be read."""
    read_around = [found.mistake.path for found in mistakes if isinstance(found, Located)]
    # a duplicate key has a value, the first one; only what became null echoes
    unread = [path for path in read_around if path and not isinstance(path[-1], Key)]
    return [
        found
        for found in mistakes
        if isinstance(found, Located) or not any(found.path[: len(path)] == path for path in unread)
    ]
