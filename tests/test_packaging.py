"""Laws of the package: the wheel has everything, works far from the repository, and its versions are pinned."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PACKAGE = ROOT / "evo_mpq"

SOURCES = ("pyproject.toml", "README.md", "LICENSE", "evo_mpq", "objectives", "search_spaces")
"""What a wheel is made of."""

LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.pyc", ".*")


def run(*command: str | Path, folder: Path, **variables: str) -> str:
    """What a command prints; its error output is the message if it fails."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | variables
    answer = subprocess.run(
        [str(part) for part in command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return answer.stdout


def package_files() -> Iterator[str]:
    """Every file of the package, with the links to other folders followed, as a path like ``evo_mpq/errors.py``."""
    for folder, subfolders, files in os.walk(PACKAGE, followlinks=True):
        ignored = LEFT_OUT(folder, [*subfolders, *files])
        subfolders[:] = [name for name in subfolders if name not in ignored]
        for file in files:
            if file not in ignored:
                yield (Path(folder) / file).relative_to(ROOT).as_posix()


def pins() -> Mapping[str, str]:
    """The version of every package in ``constraints.txt``, by canonical name."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pairs}


def requirements(extras: set[str], texts: list[str]) -> Iterator[Requirement]:
    """The requirements that hold on this machine, with these extras."""
    for requirement in map(Requirement, texts):
        environments = [{"extra": extra} for extra in ("", *sorted(extras))]
        if requirement.marker is None or any(map(requirement.marker.evaluate, environments)):
            yield requirement


LARGE = {"openvino": {"openvino", "openvino-telemetry"}, "torchao": {"torchao"}}
"""Extras that the tests can do without, with everything that only they need."""


def own_requirements(*left_out: str) -> list[str]:
    extras: dict[str, list[str]] = PROJECT["project"]["optional-dependencies"]
    return [
        *PROJECT["project"]["dependencies"],
        *(text for extra, texts in extras.items() if extra not in left_out for text in texts),
    ]


def everything_required(*left_out: str) -> set[str]:
    """Canonical names of all packages that this one and its extras need, directly or not."""
    found: set[tuple[str, str]] = set()
    waiting = [(Requirement(text).name, Requirement(text).extras) for text in own_requirements(*left_out)]
    while waiting:
        name, extras = waiting.pop()
        key = (canonicalize_name(name), ",".join(sorted(extras)))
        if key not in found:
            found.add(key)
            texts = distribution(name).requires or []
            waiting += [(needed.name, needed.extras) for needed in requirements(extras, texts)]
    return {name for name, _ in found}


def is_installed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True


class TestProject:
    def test_the_list_of_packages_is_that_of_the_folders(self):
        folders = {Path(file).parent for file in package_files() if file.endswith(".py")}
        assert {".".join(folder.parts) for folder in folders} == set(PROJECT["tool"]["setuptools"]["packages"])

    def test_folders_beside_the_package_are_also_seen_inside_it(self):
        for package, folder in PROJECT["tool"]["setuptools"]["package-dir"].items():
            link = ROOT / package.replace(".", "/")
            assert link.is_symlink()
            assert link.resolve() == ROOT / folder

    def test_every_entry_point_can_be_imported(self):
        for group in PROJECT["project"]["entry-points"].values():
            for name, value in group.items():
                module, _, attribute = value.partition(":")
                assert hasattr(__import__(module, fromlist=[attribute]), attribute), name

    def test_every_built_in_objective_has_an_entry_point(self):
        offered = {value.split(":")[0] for value in PROJECT["project"]["entry-points"]["evo_mpq.objectives"].values()}
        files = {f"evo_mpq.objectives.{path.stem}" for path in (ROOT / "objectives").glob("*.py")}
        shared_by_others = {f"evo_mpq.objectives.{name}" for name in ("__init__", "classes", "second_order")}
        assert offered == files - shared_by_others


class TestConstraints:
    def test_every_line_is_one_exact_public_version(self):
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
            assert line.startswith("#") or re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.!]*", line), line

    def test_they_lie_within_the_ranges_that_the_package_allows(self):
        for requirement in map(Requirement, own_requirements()):
            assert requirement.specifier.contains(pins()[canonicalize_name(requirement.name)]), requirement

    def test_everything_that_is_needed_is_pinned_and_nothing_else(self):
        absent = [extra for extra in LARGE if not is_installed(extra)]
        wanted = set(pins()) - {name for extra in absent for name in LARGE[extra]}
        if not all(map(is_installed, wanted)):
            pytest.skip("not everything for the tests is installed")
        assert everything_required(*absent) == wanted


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy, since building writes beside the sources."""
    sources = tmp_path_factory.mktemp("sources")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, sources / name, symlinks=True, ignore=LEFT_OUT)
        else:
            shutil.copy(ROOT / name, sources / name)
    built = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    run(*command, "--wheel-dir", built, ".", folder=sources)
    (file,) = built.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new virtual environment with the wheel in it; everything else comes from the one that runs the tests."""
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", folder, folder=folder)
    python = folder / "bin" / "python"
    install = ["install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    run(sys.executable, "-m", "pip", "--python", python, *install, folder=folder)
    (packages,) = (folder / "lib").glob("python*/site-packages")
    # A folder that a .pth file names is searched for modules, but .pth files in it are not read, so that an editable
    # install of the sources stays out of sight.
    (packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return folder


class TestWheel:
    def test_it_has_every_file_of_the_package_and_nothing_else(self, wheel):
        names = zipfile.ZipFile(wheel).namelist()
        assert {name for name in names if ".dist-info/" not in name} == set(package_files())

    def test_it_has_the_kinds_of_files_that_are_easily_forgotten(self, wheel):
        names = zipfile.ZipFile(wheel).namelist()
        assert {".py", ".yaml", ".json", ".html", ".js", ".css"} <= {Path(name).suffix for name in names}
        assert {"evo_mpq/py.typed", "evo_mpq/results/front.schema.json"} <= set(names)

    def test_it_brings_the_license_and_the_command(self, wheel):
        read: Any = zipfile.ZipFile(wheel).read
        (license_name,) = [name for name in zipfile.ZipFile(wheel).namelist() if name.endswith("/LICENSE")]
        assert read(license_name) == (ROOT / "LICENSE").read_bytes()
        info = license_name.split("/")[0]
        assert b"evo-mpq = evo_mpq.cli:main" in read(f"{info}/entry_points.txt")
        assert b"License-Expression: Apache-2.0" in read(f"{info}/METADATA")

    def test_it_searches_from_another_folder(self, installed, tmp_path):
        command, python = installed / "bin" / "evo-mpq", installed / "bin" / "python"
        where = run(python, "-c", "import evo_mpq.objectives; print(evo_mpq.objectives.__file__)", folder=tmp_path)
        assert Path(where.strip()).is_relative_to(installed)
        listed = run(command, "list", "search-spaces", folder=tmp_path)
        assert {line.split()[0] for line in listed.splitlines()} == {
            path.stem for path in ROOT.glob("search_spaces/*.yaml")
        }
        quick = ["--set", "model.steps=20", "--set", "search.evaluations=12", "--workers", "1", "--quiet"]
        run(command, "run", "digits_mlp", *quick, folder=tmp_path)
        files = {path.name for path in (tmp_path / "runs" / "digits_mlp").iterdir()}
        assert {"front.json", "report.html", "journal"} <= files
        exported = ["--format", "safetensors", "--out", "small.safetensors"]
        run(command, "export", "runs/digits_mlp", *exported, folder=tmp_path)
        assert (tmp_path / "small.safetensors").is_file()
