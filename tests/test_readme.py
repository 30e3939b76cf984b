"""What README and docs show is run: files are written and used, commands given, with budgets of a few measurements."""

import importlib
import os
import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest
import typer.main

from evo_mpq import plugins
from evo_mpq.cli import app
from evo_mpq.config import Document, find_space, load, packaged_spaces, validate

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
DOCUMENTS = [README, *sorted((ROOT / "docs").glob("*.md"))]

BUDGET = 14
"""Measurements of a search; the uniform recipes are made first, so every front has members."""

FEWER = ["--set", f"search.evaluations={BUDGET}"]


class Block(NamedTuple):
    language: str
    text: str

    @property
    def file(self):
        """The name in its first line, if it is a whole file."""
        match = re.match(r"# (\w[\w-]*\.(?:py|yaml))\n", self.text)
        return match and match[1]

    @property
    def commands(self):
        """Its commands, as lists of words; of a console those behind a dollar sign."""
        lines = self.text.splitlines()
        if self.language == "console":
            lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        return [words for line in lines if (words := shlex.split(line, comments=True))]


def blocks(document):
    found = re.findall(r"^```(\w*)\n(.*?)^```$", document.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return [Block(language, text) for language, text in found]


def follow(document):
    """Do in the working folder what a document says."""
    for block in blocks(document):
        if block.file:
            Path(block.file).write_text(block.text, encoding="utf-8")
        elif block.language == "python":
            code = re.sub(r"\bevaluations=\d+", f"evaluations={BUDGET}", block.text)
            exec(compile(code, f"{document.name}: {block.text[:40]!r}", "exec"), {"__name__": "__main__"})
        elif block.language in ("sh", "console"):
            for command in block.commands:
                give(command)
        elif block.language == "yaml":
            assert not Document.parse(block.text).mistakes
            validate(Document.parse(block.text).values)
        else:
            assert block.language, f"{document.name} has a block that nobody checks:\n{block.text}"


def give(command):
    """Run a command; one that would take long, on a packaged search space or its run, is only parsed."""
    program, *words = command
    if program == "make":
        assert re.search(rf"^{words[0]}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    elif program == "python":
        runpy.run_path(words[0], run_name="__main__")
    elif words[1].removeprefix("runs/") in packaged_spaces():
        name, *arguments = words
        group = typer.main.get_group(app)
        group.commands[name].make_context(name, arguments)
    else:
        assert program == "evo-mpq"
        app([*words, *(FEWER if words[0] == "run" else [])], standalone_mode=False)


@pytest.fixture(scope="module")
def readmes_folder(tmp_path_factory) -> Iterator[Path]:
    """The folder of a user who did what the README says."""
    before, path, folder = Path.cwd(), list(sys.path), tmp_path_factory.mktemp("readme")
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    for name in [name for name in sys.modules if name.startswith("my_")]:
        del sys.modules[name]  # other tests have files of these names, too
    try:
        follow(README)
        yield folder
    finally:
        os.chdir(before)
        sys.path[:] = path
        for name, module in list(sys.modules.items()):
            if str(getattr(module, "__file__", None)).startswith(str(folder)):
                del sys.modules[name]
        importlib.invalidate_caches()


def test_what_the_readme_says_can_be_done_and_ends_with_a_file_that_is_as_long_as_its_size(readmes_folder):
    found = re.search(r"size': (\d+)", (readmes_folder / "runs/from-python/front.json").read_text().replace('"', "'"))
    assert found
    assert {"front.json", "report.html", "journal"} <= {p.name for p in (readmes_folder / "runs/my-net").iterdir()}
    assert (readmes_folder / "small.safetensors").stat().st_size <= 12_000


@pytest.mark.parametrize("name", ["objectives.md", "front-json.md", "yaml.md"])
def test_what_the_docs_show_works_in_the_folder_of_the_readme(readmes_folder, name):
    follow(ROOT / "docs" / name)


def test_outputs_in_the_readme_are_those_of_the_packaged_search_spaces():
    consoles = [block for block in blocks(README) if block.language == "console"]
    ran = [(words, block.text) for block in consoles for words in block.commands if words[1] == "run"]
    assert ran
    for (_, _, space, *options), text in ran:
        overrides = [value for option, value in pairwise(options) if option == "--set"]
        settings = load(find_space(space), overrides, checks=[plugins.name_mistakes]).settings
        for objective in settings.objectives:
            assert f" {objective.kind}" in text
        assert f"runs/{settings.name}/report.html" in text


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_to_files_and_headings(document):
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", document.read_text(encoding="utf-8")):
        name, _, heading = target.partition("#")
        file = document.parent / name if name else document
        assert file.exists(), f"{document.name} links to {target}"
        if heading:
            titles = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            assert heading in {re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-") for title in titles}


def test_the_picture_is_small_enough_to_load_at_once():
    assert 20_000 < (ROOT / "docs/images/report.png").stat().st_size < 400_000
