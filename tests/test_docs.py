import runpy
from pathlib import Path

import pytest

REFERENCE = runpy.run_path(str(Path(__file__).parent.parent / "docs" / "write_reference.py"))
DOCUMENTS = REFERENCE["documents"]()


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_tables_of_the_docs_say_what_the_schemas_say(path):
    assert path.read_text(encoding="utf-8") == DOCUMENTS[path], "write them anew: python docs/write_reference.py"
