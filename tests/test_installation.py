"""What is needed for what: torch for the core, an extra for the rest, named where it is missing."""

import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from sparse_sam.files import needed_by
from sparse_sam.files.front_door import EXTRAS

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def brought_by(extra: str) -> set[str]:
    """The distributions that an extra brings, those of other extras of this library included."""
    found = set()
    for line in PROJECT["optional-dependencies"][extra]:
        if inner := re.fullmatch(r"sparse-sam\[([\w,]+)\]", line):
            found |= {one for name in inner[1].split(",") for one in brought_by(name)}
        else:
            found.add(re.split(r"[<>=!\[]", line)[0].lower())
    return found


def test_the_library_alone_needs_torch_alone() -> None:
    assert PROJECT["dependencies"] == ["torch>=2.6"]


def test_the_core_works_where_no_other_package_can_be_imported() -> None:
    command = [sys.executable, str(ROOT / "tests" / "core_alone.py"), "--hide"]
    outer = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(command, env=outer, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(ROOT / "src" / "sparse_sam" / "__init__.py")


def test_errors_name_an_extra_that_brings_the_package() -> None:
    of = packages_distributions()
    for extra, packages in EXTRAS.items():
        for package in packages:
            if package not in of and extra in {"sweep", "huggingface", "frameworks"}:
                continue  # (tests do without these)
            names = {name.lower() for name in of[package]}
            if package != "pydantic_core":  # which pydantic brings along
                assert names & brought_by(extra), (extra, package)


def test_the_pipeline_brings_what_its_parts_do() -> None:
    for extra in ("statistics", "training"):
        assert brought_by(extra) <= brought_by("pipeline")
    assert brought_by("training") <= brought_by("export")


def test_every_import_of_the_library_is_brought_by_something() -> None:
    """None is left to chance: a package that another one brings along may be gone one day."""
    known = {"torch", "sparse_sam", *(one for packages in EXTRAS.values() for one in packages)}
    known |= {"google", "sqlalchemy"}  # protobuf, SQLAlchemy: what MLflow speaks in
    for path in (ROOT / "src" / "sparse_sam").rglob("*.py"):
        if "template" in path.parts:
            continue
        for line in path.read_text().splitlines():
            found = re.match(r"\s*(?:from|import) ([a-zA-Z_]\w*)[\w.]*(?: import |$| as )", line)
            if found and found[1] not in sys.stdlib_module_names:
                assert found[1] in known, f"{path.name}: {line}"


def test_what_is_missing_is_named_with_its_extra() -> None:
    with (
        pytest.raises(ModuleNotFoundError) as raised,
        needed_by("the figure"),
    ):
        raise ModuleNotFoundError("No module named 'matplotlib'", name="matplotlib.figure")
    assert str(raised.value) == (
        "the figure needs matplotlib, which is not installed: pip install 'sparse-sam[pipeline]'"
    )
    assert raised.value.name == "matplotlib.figure"


def test_a_module_of_nobody_is_missing_as_python_says_it() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"^No module named 'lab'$"), needed_by("it"):
        raise ModuleNotFoundError("No module named 'lab'", name="lab")


def test_no_name_at_a_front_door_is_that_of_its_module() -> None:
    """Importing the module would put it in the place of what it holds."""
    for path in (ROOT / "src" / "sparse_sam").rglob("__init__.pyi"):
        for module, name in re.findall(r"from \.(\w+)\S* import (\w+)", path.read_text()):
            assert module != name, path
