"""The house is as docs/architecture.md and the rooms themselves say."""

import ast
import importlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LIBRARY = ROOT / "src" / "sparse_sam"
BELOW_ALL = {"errors", "redaction", "terminal"}
"""The modules that every room may use."""
ROOMS = sorted(path.parent.name for path in LIBRARY.glob("*/__init__.py"))


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    """Of this folder's code, and not of what is installed."""
    return subprocess.run(
        [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder / "src")},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """What the contracts speak of, to be changed."""
    for name in ("src", "studies"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_the_house_has_at_most_twelve_rooms_and_five_modules_beside_them() -> None:
    modules = [path.stem for path in LIBRARY.glob("*.py") if path.stem != "__init__"]
    assert len(ROOMS) <= 12, ROOMS
    assert len(modules) <= 5, modules


def test_the_contracts_hold(copied: Path) -> None:
    done = lint_imports(copied)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("file", "line", "contract"),
    [
        ("src/sparse_sam/pruning/masks.py", "import sparse_sam.training", "Data flows one way"),
        ("src/sparse_sam/data/idx.py", "from sparse_sam import config", "Data flows one way"),
        ("src/sparse_sam/export/channels.py", "import sparse_sam.evaluation", "Data flows one way"),
        (
            "src/sparse_sam/training/loop.py",
            "from sparse_sam.pruning.masks import attach",
            "pruning is entered by its front door",
        ),
        (
            "src/sparse_sam/stages/prune.py",
            "from sparse_sam.sam.gsam import GSAM",
            "sam is entered by its front",
        ),
        ("src/sparse_sam/sweep/store.py", "import studies.recheck", "knows no studies"),
        ("src/sparse_sam/sweep/store.py", "import sparse_sam.stages", "Data flows one way"),
        (
            "src/sparse_sam/files/atomic.py",
            "from sparse_sam import SAM",
            "not the names at its root",
        ),
    ],
)
def test_a_wrong_import_breaks_a_contract(
    copied: Path, file: str, line: str, contract: str
) -> None:
    path = copied / file
    path.write_text(f"{path.read_text()}\n\ndef _wrong() -> None:\n    {line}\n")
    done = lint_imports(copied)
    assert done.returncode == 1
    broken = [said for said in done.stdout.splitlines() if said.endswith(" BROKEN")]
    assert len(broken) == 1
    assert contract in broken[0]


def test_the_picture_is_of_these_contracts() -> None:
    command = [sys.executable, "docs/make_architecture.py", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"run: python docs/make_architecture.py\n{done.stderr}"


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_says_in_three_lines_what_it_is(room: str) -> None:
    """What it is for, what it offers, which rooms it may use: those that it does, and no others."""
    text = ast.get_docstring(ast.parse((LIBRARY / room / "__init__.py").read_text())) or ""
    first, blank, offers, *rest, may_use = text.split("\n")
    assert first.lower().startswith(f"{room}")
    assert (blank, offers.split()[0], len(rest) <= 1) == ("", "Offers", True)
    page = (ROOT / "docs" / "architecture.md").read_text()
    row = re.search(rf"^\| `{room}` \|.*\| (.*) \|$", page, flags=re.MULTILINE)
    assert row
    named = set(re.findall(r"`(\w+)`", row[1])) - BELOW_ALL
    if room == "sweep":
        return  # it may use all others
    said = may_use.removeprefix("May use: ").rstrip(".")
    assert set(said.split(", ")) - BELOW_ALL == named


@pytest.mark.parametrize("room", ROOMS)
def test_everything_at_a_front_door_is_there(room: str) -> None:
    module = importlib.import_module(f"sparse_sam.{room}")
    stub = ast.parse((LIBRARY / room / "__init__.pyi").read_text())
    offered = [one.name for node in stub.body for one in getattr(node, "names", [])]
    assert offered
    assert sorted(offered) == sorted(module.__all__)
    for name in offered:
        assert getattr(module, name) is not None


def test_a_front_door_costs_nothing() -> None:
    code = (
        "import sys\n"
        + "".join(f"import sparse_sam.{room}\n" for room in ROOMS)
        + "print({'torch', 'mlflow', 'numpy', 'pydantic', 'ray'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("folder", ["benchmarks", "docs", "examples"])
def test_scripts_that_no_contract_sees_use_the_front_doors(folder: str) -> None:
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            module = getattr(node, "module", None) or ""
            if module.startswith("sparse_sam."):
                assert module.count(".") == 1, f"{path.name}: from {module} import …"


def test_a_registry_names_code_of_its_own_room() -> None:
    from sparse_sam.files import Registry

    for path in LIBRARY.glob("*/registry.py"):
        room = path.parent.name
        module = importlib.import_module(f"sparse_sam.{room}.registry")
        for registry in vars(module).values():
            for place in registry.places.values() if isinstance(registry, Registry) else ():
                assert place.startswith(f"sparse_sam.{room}.")
