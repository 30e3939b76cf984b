"""The house's rules on imports: upward only, each foreign library in one file, nothing heavy before it is needed."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import evo_mpq

PACKAGE = Path(evo_mpq.__file__).parent

ORDER = (
    ("errors", "typing"),
    ("space",),
    ("network",),
    ("compress",),
    ("measure",),
    ("predict",),
    ("optimize",),
    ("results",),
    ("config",),
    ("plugins",),
    ("quantities",),
    ("problem",),
    ("reporters",),
    ("enumeration", "feasibility", "reporting", "costs", "session"),
    ("searching",),
    ("seeding",),
    ("running",),
    ("allocating", "contributing"),
    ("console",),
    ("api",),
    ("checking",),
    ("cli",),
    ("__init__",),
)
"""The rooms from top to bottom. A room may import from those above it, and from itself."""

LEVEL = {room: level for level, rooms in enumerate(ORDER) for room in rooms}

LEAVES = {"objectives": "predict", "search_spaces": "errors"}
"""Rooms that nothing imports, since they come by entry point or as files, and the lowest room each may import from."""

FOREIGN = {
    "torch_pruning": "network/pruning.py",
    "pymoo": "optimize/nsga2.py",
    "moocore": "optimize/pareto.py",
    "optuna": "optimize/tuning.py",
    "plotly": "results/report/page.py",
    "pydantic": "config/settings.py",
    "pydantic_core": "config/settings.py",
    "yaml": "config/document.py",
    "typer": "cli.py",
    "onnx": "results/export/onnx/model.py",
    "onnxruntime": "results/export/onnx/onnx_runtime.py",
    "openvino": "results/export/onnx/openvino_runtime.py",
    "torchao": "results/export/torchao_policy.py",
}
"""The one file that may import a library, so that its manners stop there."""

HANDED_OVER = {"results/export/predict.py"}
"""Scripts that are written beside an export; nothing imports them."""

NUMPY_ONLY = ("errors", "typing", "space")
"""Rooms that need nothing but numpy, so that a space can be reasoned about without a network."""


def modules() -> Iterator[tuple[str, ast.Module]]:
    """Path within the package, and syntax tree, of every module; the links to leaves are followed."""
    folders = [PACKAGE, *(PACKAGE / leaf for leaf in LEAVES)]
    files = {path for folder in folders for path in folder.rglob("*.py")}
    for path in sorted(files):
        yield path.relative_to(PACKAGE).as_posix(), ast.parse(path.read_text(encoding="utf-8"), str(path))


MODULES = dict(modules())


def room_of(path: str) -> str:
    """The folder or the module of the package that a file is, or lies in."""
    return path.split("/")[0].removesuffix(".py")


def imports(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and full name of everything that a module imports, wherever it does so, for types only included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: say evo_mpq.…, not a path relative to the module"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def own_rooms(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and room of what a module imports from this package; ``__init__`` is what the package itself offers."""
    for line, name in imports(tree):
        package, _, rest = name.partition(".")
        if package == "evo_mpq":
            room = rest.split(".")[0]
            yield line, room if room in LEVEL or room in LEAVES else "__init__"


def loaded_by(code: str) -> set[str]:
    """Top-level modules in a new Python after it ran the code."""
    code = f"{code}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(answer.stdout.split())


def test_every_room_has_its_place_in_the_order():
    assert {room_of(path) for path in MODULES} <= LEVEL.keys() | LEAVES.keys(), (
        "a new room needs a place in ORDER, and in docs/architecture.md"
    )


def may_import(room: str, other: str) -> bool:
    """Whether the order allows a room to import from another one."""
    if other in LEAVES:
        return False
    return LEVEL[other] <= LEVEL[LEAVES[room]] if room in LEAVES else LEVEL[other] < LEVEL[room]


@pytest.mark.parametrize("module", MODULES)
def test_imports_run_upward_only(module):
    room = room_of(module)
    against = [
        f"line {line} imports {other}"
        for line, other in own_rooms(MODULES[module])
        if other != room and not may_import(room, other)
    ]
    assert not against


@pytest.mark.parametrize("library", FOREIGN)
def test_a_foreign_library_is_imported_in_one_file(library):
    importing = {path for path, tree in MODULES.items() if library in {name.split(".")[0] for _, name in imports(tree)}}
    assert importing <= {FOREIGN[library]} | HANDED_OVER


@pytest.mark.parametrize("module", [path for path in MODULES if room_of(path) in NUMPY_ONLY])
def test_the_rooms_of_plain_values_need_nothing_but_numpy(module):
    foreign = {name.split(".")[0] for _, name in imports(MODULES[module])} - sys.stdlib_module_names
    assert foreign <= {"evo_mpq", "numpy"}


@pytest.mark.parametrize("code", ["import evo_mpq", "import evo_mpq.cli", "import evo_mpq.config"])
def test_nothing_heavy_is_imported_before_it_is_needed(code):
    heavy = {"torch", "pymoo", "moocore", "optuna", "plotly", "sklearn", "networkx", "onnx", "onnxruntime", "openvino"}
    assert not loaded_by(code) & (heavy if code.endswith("config") else heavy | {"pydantic"})


def test_what_the_package_offers_is_listed_before_it_is_imported():
    code = "import evo_mpq\nassert {*evo_mpq.__all__} <= {*dir(evo_mpq)}, 'a __dir__ is missing'"
    assert "torch" not in loaded_by(code)
