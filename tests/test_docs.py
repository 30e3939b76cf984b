import runpy
from pathlib import Path

import pytest

import evo_mpq

ROOT = Path(__file__).parent.parent
DOCUMENTS = runpy.run_path(str(ROOT / "docs" / "write_reference.py"))["documents"]()


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_tables_of_the_docs_say_what_the_schemas_say(path):
    assert path.read_text(encoding="utf-8") == DOCUMENTS[path], "write them anew: python docs/write_reference.py"


def test_the_architecture_names_every_room():
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    package = Path(evo_mpq.__file__).parent
    folders = {path.name + "/" for path in package.iterdir() if (path / "__init__.py").exists()}
    files = {path.name for path in package.glob("*.py")} - {"__init__.py"}
    assert {room for room in folders | files if f"`{room}`" not in text} == set()
