"""The tutorial as it is committed: with its outputs, and nothing of the machine that made them.

It is executed in ``tests/wheel``, where the library is installed from its wheel.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest

DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGE = DOCS / "tutorial.ipynb"
TEXT = PAGE.read_text(encoding="utf-8")


def outputs() -> list[dict[str, Any]]:
    return [one for cell in json.loads(TEXT)["cells"] for one in cell.get("outputs", [])]


def test_it_is_a_sound_notebook_with_all_its_outputs() -> None:
    notebook = nbformat.reads(TEXT, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    said = "".join("".join(one.get("text", "")) for one in outputs())
    assert len(re.findall(r"^sam − sgd", said, re.MULTILINE)) == 2
    assert [one for one in outputs() if "image/png" in one.get("data", {})]
    assert not [one for one in outputs() if one["output_type"] == "error"]
    assert not [one for one in outputs() if one.get("name") == "stderr"]


def test_it_holds_nothing_of_the_machine_that_made_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(DOCS)
    monkeypatch.delitem(sys.modules, "make_tutorial", raising=False)
    from make_tutorial import plain

    notebook = nbformat.reads(TEXT, as_version=4)
    assert nbformat.writes(plain(notebook), indent=1) + "\n" == TEXT, "run: make tutorial"
    assert not re.search(r"/(?:home|root|tmp|Users|work)/|iopub|\"version\"", TEXT)
    assert len(TEXT) < 150_000
