"""How the software is cited: as the format says, and as the project says of itself."""

import json
import tomllib
from datetime import date
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from ruamel.yaml import YAML

import sparse_sam

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = json.loads((Path(__file__).parent / "schema.json").read_text())
CITATION: dict[str, Any] = YAML(typ="safe").load(ROOT / "CITATION.cff")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def check(citation: dict[str, Any]) -> None:
    """Dates as the schema wants them, text; YAML reads them as dates."""
    text = {
        key: value.isoformat() if isinstance(value, date) else value
        for key, value in citation.items()
    }
    jsonschema.Draft7Validator(SCHEMA).validate(text)


def test_it_is_as_its_format_says() -> None:
    check(CITATION)


@pytest.mark.parametrize("change", [{"authors": []}, {"licence": "MIT"}, {"license": "mine"}])
def test_the_schema_refuses_what_it_should(change: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        check({**CITATION, **change})


def test_it_says_what_the_project_says_of_itself() -> None:
    assert CITATION["title"] == PROJECT["name"]
    assert CITATION["version"] == sparse_sam.__version__
    assert PROJECT["dynamic"] == ["version"]  # the wheel's is that of the code, too
    assert CITATION["license"] == PROJECT["license"]
    assert PROJECT["description"] in " ".join(CITATION["abstract"].split())
    (author,) = CITATION["authors"]
    assert author["name"] in (ROOT / "LICENSE").read_text()
