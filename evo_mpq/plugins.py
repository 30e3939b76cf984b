"""Names in the settings and the objects behind them: installed ones by entry point, the user's by module.

Built-in networks, data, objectives and quantizers are entry points of evo-mpq itself, so that a plug-in comes in
by the same door. ``"module:attribute"`` names anything that can be imported, from the YAML's folder first.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import importlib.machinery
import importlib.metadata
import inspect
import re
import site
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

from evo_mpq.config import Key, did_you_mean, object_name
from evo_mpq.errors import ConfigError, EvoMpqError, Mistake

GROUPS: Mapping[str, str] = {
    "models": "network",
    "data": "data set",
    "objectives": "objective",
    "quantizers": "quantizer",
    "seeders": "allocation method",
}
"""What can be named, and what one of it is called; the entry-point groups are ``evo_mpq.models`` and so on."""

KeyPath: TypeAlias = Sequence[str | int]

_MODULE = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*")
_LONGEST = 160


def resolve(kind: Any, group: str, base: Path | None, key_path: KeyPath = ()) -> Any:
    """The object that a name stands for; what is no text is returned as it is.

    Args:
        kind: an entry point's name, ``"module:attribute"``, or an object.
        group: a key of `GROUPS`.
        base: the folder that modules are looked for in first.
        key_path: of the setting that has the name, for messages.

    Raises:
        ConfigError: nobody offers the name, two packages do, the module or the attribute does not exist, or
            importing raises.
    """
    if not isinstance(kind, str):
        return kind
    if ":" in kind:
        return import_object(kind, base, key_path)
    offers = _offers(group)
    if kind not in offers:
        raise _mistake(key_path, _unknown_name(kind, group, offers, base))
    first, *others = offers[kind]
    if others:
        ways = " or ".join(f'"{offer.value}"' for offer in offers[kind])
        raise _mistake(key_path, f'several packages offer "{kind}"; say which one by {ways}')
    try:
        return first.load()
    except Exception as error:
        raise _mistake(key_path, f'"{kind}" ({first.value}) cannot be loaded: {_told(error, None)}') from error


def import_object(name: str, base: Path | None, key_path: KeyPath = ()) -> Any:
    """The object that ``"module:attribute"`` stands for.

    A module is looked for in ``base`` first, where it replaces one of the same name that came from another
    folder of a user. It may not have the name of an installed one, which others would then get in its place.

    Raises:
        ConfigError: the module or the attribute does not exist, the module raises, or its name is taken.
    """
    module_name, _, attribute = name.partition(":")
    if not _MODULE.fullmatch(module_name) or not _MODULE.fullmatch(attribute):
        raise _mistake(key_path, f'"{name}" is not of the form "module:attribute", such as "my_nets:build"')
    found: Any = _import_module(module_name, base, key_path)
    where = getattr(found, "__file__", None) or module_name
    for part in attribute.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            near = did_you_mean(part, [known for known in dir(found) if not known.startswith("_")])
            raise _mistake(key_path, f'{where} has no "{attribute}"{near}') from None
        except Exception as error:  # of a module that imports its attributes when they are asked for
            raise _mistake(key_path, f"{name} raised {_told(error, base)}") from error
    return found


@contextlib.contextmanager
def importable(base: Path | None) -> Iterator[None]:
    """Make the modules in a folder importable, and in the block those of no other YAML's folder.

    The folder comes first on ``sys.path``, as a script's does, and stays there: objects are pickled by the
    names of their modules, and worker processes start with a copy of ``sys.path``.
    """
    if base is None:
        yield
        return
    here = _UserFolder(base.resolve())
    others = [entry for entry in sys.path if isinstance(entry, _UserFolder) and entry != here]
    sys.path[:] = [here, *(entry for entry in sys.path if not isinstance(entry, _UserFolder))]
    importlib.invalidate_caches()
    try:
        yield
    finally:
        position = sys.path.index(here) + 1 if here in sys.path else 0
        sys.path[position:position] = others


def call_factory(
    function: Any,
    options: Mapping[str, Any],
    *,
    kind: Any = None,
    key_path: KeyPath = (),
    base: Path | None = None,
    offered: Mapping[str, Any] | None = None,
    returns: type | None = None,
    keys: Iterable[str] = (),
) -> Any:
    """What a user's or a built-in function makes of its options; everything that goes wrong is told to the user.

    Args:
        function: the function or class.
        options: its keyword arguments, keys of the section at ``key_path``.
        kind: how the settings name the function; by default ``module:qualname``.
        key_path: of the section that the function and its options stand in.
        base: the YAML's folder, importable during the call.
        offered: further arguments, for parameters that have these names and are not set by an option: such as
            the folder that relative paths start at.
        returns: the type that is expected.
        keys: other keys of the section, for suggestions.

    Raises:
        ConfigError: options that the function does not take or that it lacks, an exception of the function with
            its line in the user's file, or another type. Mistakes of a ``ConfigError`` that the function raises
            count from the section.
    """
    name = kind if isinstance(kind, str) else object_name(function if kind is None else kind)
    if not callable(function):
        message = f"{name} is {_a(type(function).__name__)}, which cannot be called"
        raise _mistake(key_path, message)
    arguments = {**_wanted(function, offered or {}), **options}
    mistakes = _argument_mistakes(function, arguments, name, tuple(key_path), keys)
    if mistakes:
        raise ConfigError(mistakes)
    try:
        with importable(base):
            result = function(**arguments)
    except ConfigError as error:
        inner = [Mistake((*key_path, *mistake.path), mistake.message) for mistake in error.mistakes]
        raise ConfigError(inner) from error
    except EvoMpqError as error:
        raise _mistake(key_path, str(error)) from error
    except (Exception, SystemExit) as error:
        raise _mistake(key_path, f"{name} raised {_told(error, base)}") from error
    if returns is not None and not isinstance(result, returns):
        got = "nothing (None)" if result is None else _a(type(result).__qualname__)
        raise _mistake(key_path, f"{name} returned {got}; it must return {_a(returns.__qualname__)}")
    return result


def available(group: str) -> dict[str, str]:
    """The names of a group, sorted, each with the first line of its docstring.

    Loads every one of them; for what cannot be loaded, the line says why.
    """
    lines = {}
    for name, offers in sorted(_offers(group).items()):
        try:
            lines[name] = (inspect.getdoc(offers[0].load()) or "").partition("\n")[0]
        except Exception as error:
            lines[name] = f"cannot be loaded: {_told(error, None)}"
    return lines


def name_mistakes(values: Mapping[str, Any], base: Path) -> list[Mistake]:
    """The names in a YAML's values that stand for nothing; imports the user's modules.

    For ``evo_mpq.config.load(…, checks=[name_mistakes])``: whatever else is wrong in the values is not its matter.
    """
    mistakes: list[Mistake] = []
    for path, group, kind in _names(values):
        try:
            resolve(kind, group, base, path)
        except ConfigError as error:
            mistakes += error.mistakes
    return mistakes


def source_files(objects: Iterable[Any]) -> dict[str, str]:
    """The users' own source files behind some objects: path and SHA-256.

    Followed are the modules that define the objects and what these have imported, as far as it is neither
    installed nor part of Python or evo-mpq.
    """
    waiting = [sys.modules.get(_module_of(thing)) for thing in objects]
    seen: set[str] = set()
    files: dict[str, str] = {}
    while waiting:
        module = waiting.pop()
        path = _file(module)
        if module is None or module.__name__ in seen or path is None or is_installed(path):
            continue
        seen.add(module.__name__)
        if path.is_file():
            files[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
        waiting += [sys.modules.get(_module_of(thing)) for thing in list(vars(module).values())]
    return dict(sorted(files.items()))


def is_installed(path: Path) -> bool:
    """Whether a file belongs to Python, an installed package or evo-mpq, and not to a user."""
    # Not resolved: the folders are as Python itself spells them, and so are the paths of modules.
    return any(path.is_relative_to(folder) for folder in _installed_folders())


class _UserFolder(str):
    """An entry of ``sys.path`` that `importable` made; in worker processes it is a plain one."""

    def __new__(cls, path: str | Path) -> _UserFolder:
        return super().__new__(cls, path)

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        return str, (str(self),)


def _offers(group: str) -> dict[str, list[importlib.metadata.EntryPoint]]:
    """Entry points by name; several only if they lead to different objects."""
    if group not in GROUPS:
        raise ValueError(f"unknown group {group!r}; known are {', '.join(GROUPS)}")
    offers: dict[str, list[importlib.metadata.EntryPoint]] = {}
    for entry in importlib.metadata.entry_points(group=f"evo_mpq.{group}"):
        same_name = offers.setdefault(entry.name, [])
        # an editable install beside a build of it is found twice
        if all(entry.value != other.value for other in same_name):
            same_name.append(entry)
    return offers


def _unknown_name(kind: str, group: str, offers: Iterable[str], base: Path | None) -> str:
    known = sorted(offers)
    message = f'there is no {GROUPS[group]} "{kind}"{did_you_mean(kind, known)}; known are {", ".join(known)}'
    module = kind.partition(".")[0]
    own = module if base is not None and module in _modules_in(base) else "my_module"
    return f'{message}; one of your own is written "{own}:name"'


def _import_module(name: str, base: Path | None, key_path: KeyPath) -> ModuleType:
    top = name.partition(".")[0]
    if base is not None:
        _refuse_taken_name(top, base, key_path)
        _forget_namesakes(top, base)
    try:
        with importable(base):
            return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and f"{name}.".startswith(f"{error.name}."):
            modules = [] if base is None else sorted(_modules_in(base))
            where = "installed" if base is None else f"in {base}, nor is one installed"
            near = did_you_mean(top, modules)
            raise _mistake(key_path, f"there is no module {error.name} {where}{near}") from None
        raise _mistake(key_path, f"importing {name} raised {_told(error, base)}") from error


def _modules_in(folder: Path) -> set[str]:
    """Names of the modules and packages that lie in a folder."""
    if not folder.is_dir():
        return set()
    files = {entry.stem for entry in folder.iterdir() if entry.suffix == ".py" and entry.stem != "__init__"}
    return files | {entry.name for entry in folder.iterdir() if (entry / "__init__.py").is_file()}


def _refuse_taken_name(top: str, base: Path, key_path: KeyPath) -> None:
    """Refuse a module in ``base`` that hides an installed one, or is hidden by it if that was imported before."""
    if top not in _modules_in(base):
        return
    elsewhere = [entry for entry in sys.path if not isinstance(entry, _UserFolder)]
    spec = importlib.machinery.PathFinder.find_spec(top, elsewhere)
    places = [] if spec is None else [spec.origin, *(spec.submodule_search_locations or ())]
    installed = [
        place
        for place in places
        if place is not None and is_installed(Path(place)) and not _lies_in(Path(place), base, top)
    ]
    if top in sys.stdlib_module_names or installed:
        owner = "of Python" if top in sys.stdlib_module_names else f"that is installed ({installed[0]})"
        raise _mistake(key_path, f"{top} in {base} has the name of a module {owner}; rename yours")


def _forget_namesakes(top: str, base: Path) -> None:
    """Forget users' modules that came from elsewhere under names that this folder's modules have.

    The module that is asked for is forgotten, too, if it came from the folder of an earlier YAML: from this one
    it may not be found.
    """
    own = _modules_in(base)
    for name in own | {top}:
        loaded = [known for known in sys.modules if known.partition(".")[0] == name]
        files = [path for known in loaded if (path := _file(sys.modules[known])) is not None]
        ours = name == "__main__" or any(map(is_installed, files))
        if ours or all(_lies_in(path, base, name) for path in files):
            continue
        if name in own or (base / name).is_dir() or any(map(_is_in_user_folder, files)):
            for known in loaded:
                del sys.modules[known]


def _lies_in(path: Path, folder: Path, top: str) -> bool:
    """Whether a file belongs to the module ``top`` of a folder."""
    module = folder / f"{top}.py"
    if module.is_file() and path.is_file() and module.samefile(path):
        return True
    return path.parent.resolve().is_relative_to((folder / top).resolve())


def _is_in_user_folder(path: Path) -> bool:
    """Whether a file lies in a folder that was made importable."""
    return any(path.is_relative_to(entry) for entry in sys.path if isinstance(entry, _UserFolder))


def _file(module: ModuleType | None) -> Path | None:
    file = getattr(module, "__file__", None)
    return Path(file) if isinstance(file, str) else None


def _module_of(thing: Any) -> str:
    """The name of the module that a thing is, or that defines it or its class."""
    if isinstance(thing, ModuleType):
        return thing.__name__
    if isinstance(thing, functools.partial):
        return _module_of(thing.func)
    own = thing if inspect.isclass(thing) or inspect.isroutine(thing) else type(thing)
    return str(getattr(own, "__module__", None))


@functools.cache
def _installed_folders() -> tuple[Path, ...]:
    paths = [sysconfig.get_path(key) for key in ("stdlib", "platstdlib", "purelib", "platlib")]
    user = site.getusersitepackages() if site.ENABLE_USER_SITE else None
    own = Path(__file__).parent
    # the built-in objectives and search spaces are links beside this file
    linked = [(own / name).resolve() for name in ("objectives", "search_spaces")]
    known = [*paths, *site.getsitepackages(), *([user] if user else [])]
    return (*map(Path, known), own, *linked)


def _names(values: Mapping[str, Any]) -> Iterator[tuple[tuple[str | int, ...], str, str]]:
    """Key path, group and name of everything that is named, in values of any shape."""
    sections: list[tuple[tuple[str | int, ...], str, Any]]
    sections = [(("model",), "models", values.get("model")), (("data",), "data", values.get("data"))]
    for key in ("objectives", "metrics"):
        listed = values.get(key)
        entries = listed if isinstance(listed, list) else []
        sections += [((key, place), "objectives", entry) for place, entry in enumerate(entries)]
    search = values.get("search")
    fitness = search.get("fitness") if isinstance(search, Mapping) else None
    listed = fitness.get("seeds") if isinstance(fitness, Mapping) else None
    for place, name in enumerate(listed if isinstance(listed, list) else []):
        if isinstance(name, str) and name.strip():
            yield ("search", "fitness", "seeds", place), "seeders", name
    for path, group, section in sections:
        kind = section.get("kind") if isinstance(section, Mapping) else section
        if isinstance(kind, str) and kind.strip():
            yield (*path, "kind"), group, kind
        forward = section.get("forward") if isinstance(section, Mapping) and group == "models" else None
        if isinstance(forward, str) and ":" in forward:
            yield (*path, "forward"), group, forward


def _signature(function: Callable[..., Any]) -> inspect.Signature | None:
    try:
        return inspect.signature(function)
    except (TypeError, ValueError):  # some functions written in C have none
        return None


def _wanted(function: Callable[..., Any], offered: Mapping[str, Any]) -> dict[str, Any]:
    """What of the offered arguments the function has parameters for."""
    signature = _signature(function)
    return {} if signature is None else {k: v for k, v in offered.items() if k in signature.parameters}


def _argument_mistakes(
    function: Callable[..., Any],
    arguments: Mapping[str, Any],
    name: str,
    key_path: tuple[str | int, ...],
    keys: Iterable[str],
) -> list[Mistake]:
    """Arguments that a function does not take, and those that it lacks; none if it does not tell."""
    signature = _signature(function)
    if signature is None:
        return []
    parameters = signature.parameters.values()
    named = {p.name: p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    text = _shortened(f"{name.rpartition(':')[2]}{signature}")
    mistakes = []
    if all(p.kind is not p.VAR_KEYWORD for p in parameters):
        for option in arguments:
            if option not in named:
                near = did_you_mean(option, [*named, *keys])
                message = f"{name} takes no such option{near}; it is {text}"
                mistakes.append(Mistake((*key_path, Key(option)), message))
    missing = [p.name for p in named.values() if p.default is p.empty and p.name not in arguments]
    if missing:
        mistakes.append(Mistake(key_path, f"{name} needs {' and '.join(missing)}; it is {text}"))
    return mistakes


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def _told(error: BaseException, base: Path | None) -> str:
    """An exception's type and message, with the line of the user's file that it comes from."""
    message = error.msg if isinstance(error, SyntaxError) else str(error)
    told = f"{type(error).__name__}: {message}" if message else type(error).__name__
    where = _frame(error, base)
    return f"{told} ({where})" if where else told


def _frame(error: BaseException, base: Path | None) -> str | None:
    """``file:line, in function`` of the innermost frame in a user's file; relative to ``base`` within it."""
    if isinstance(error, SyntaxError) and error.filename and Path(error.filename).is_file():
        return f"{_relative(Path(error.filename), base)}:{error.lineno}"
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if path.is_file() and not is_installed(path):
            function = "" if frame.name == "<module>" else f", in {frame.name}"
            return f"{_relative(path, base)}:{frame.lineno}{function}"
    return None


def _relative(path: Path, base: Path | None) -> Path:
    folder = None if base is None else base.resolve()
    return path.relative_to(folder) if folder is not None and path.is_relative_to(folder) else path


def _a(noun: str) -> str:
    """The noun with its article."""
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"


def _mistake(key_path: KeyPath, message: str) -> ConfigError:
    return ConfigError([Mistake(tuple(key_path), message)])
