"""The wheel, installed where nothing else is: the core, every example, every page's code.

One environment grows: first torch alone, then extra after extra, and whatever says that it needs no
more than what is there is run there, outside the source tree.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.pipeline.conftest import FOREIGN, SMALL, Clone, working_tree

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
EXTRAS = ("", "statistics", "frameworks", "training", "pipeline", "export", "huggingface")
"""In the order in which they are installed; the first is the library alone. (Frameworks import any
torchvision that there is, and not every build fits every torch.)"""
PAGES = [
    page
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
    if "```python\n" in page.read_text(encoding="utf-8")
]
TUTORIAL = ROOT / "docs" / "tutorial.ipynb"
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
SAID = re.compile(
    r"\b(?:[Nn]eeds|[Ii]nstall|[Rr]un) `(?:pip install ')?sparse-sam(?:\[([\w,]+)\])?[`']"
)


def needed(path: Path) -> set[str]:
    """The extras that a page or an example says it needs, in its first lines."""
    if path.name == "README.md":
        return set()
    top = "\n".join(path.read_text(encoding="utf-8").splitlines()[:16])
    said = SAID.search(top)
    assert said, f"{path.name} does not say at its top what it needs: `sparse-sam[…]`"
    return set(filter(None, (said[1] or "").split(",")))


class Environment:
    """A clean virtual environment, and an empty folder to run things in."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.work = folder, folder / "work"
        self.work.mkdir(parents=True)
        subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
        self.python = folder / "venv" / "bin" / "python"
        clean = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
        self.env = clean | {
            "PATH": f"{self.python.parent}{os.pathsep}{os.environ['PATH']}",
            "DO_NOT_TRACK": "true",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
        }

    def run(self, *command: str | Path, cwd: Path | None = None) -> str:
        """Run it with the environment's own Python first; it must end well."""
        done = subprocess.run(
            list(map(str, command)),
            cwd=cwd or self.work,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        return done.stdout

    def install(self, *what: str) -> None:
        """With the versions that the library is tested with."""
        pip = (
            self.python,
            "-m",
            "pip",
            "install",
            "-q",
            "--no-compile",
            "--disable-pip-version-check",
        )
        self.run(*pip, "--constraint", ROOT / "constraints.txt", *what)

    def packages(self) -> set[str]:
        """What is installed."""
        listed = self.run(self.python, "-m", "pip", "list", "--format", "freeze")
        return {line.partition("==")[0].lower() for line in listed.splitlines()}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of the working tree by what ``make wheel`` runs."""
    source = tmp_path_factory.mktemp("source")
    for file in working_tree():
        if file.startswith(("src/", "pyproject.toml", "README.md", "LICENSE", "Makefile")):
            (source / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / file, source / file)
    (made,) = re.findall(r"^wheel:.*\n(?:\t.*\n)*?\t@(.+pip wheel.*)$", makefile(), re.MULTILINE)
    subprocess.run(made, cwd=source, shell=True, check=True)  # noqa: S602
    (path,) = (source / "dist").glob("sparse_sam-*.whl")
    return path


def makefile() -> str:
    return (ROOT / "Makefile").read_text(encoding="utf-8").replace("\\\n", "")


@pytest.fixture(scope="module")
def environment(
    wheel: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Environment]:
    """The environment, with every extra up to the one asked for."""
    made = Environment(tmp_path_factory.mktemp("clean"))
    left = list(EXTRAS)

    def upto(extra: str) -> Environment:
        while extra in left:
            one = left.pop(0)
            made.install(f"{wheel}[{one}]" if one else str(wheel))
        assert not left or extra == EXTRAS[-len(left) - 1], "tests run in the order of the extras"
        return made

    return upto


def test_the_wheel_holds_what_the_library_needs_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    inside = {
        f"{path.relative_to(ROOT / 'src')}"
        for path in map(ROOT.joinpath, working_tree())
        if path.is_relative_to(ROOT / "src") and path.suffix != ".pyc"
    }
    assert {name for name in names if not name.startswith("sparse_sam-")} == inside
    assert any(name.endswith("licenses/LICENSE") for name in names)


def in_order(paths: list[Path]) -> list[tuple[str, Path]]:
    """By the last extra that each needs."""
    return [
        (extra, path)
        for extra in EXTRAS
        for path in paths
        if max((EXTRAS.index(one) for one in needed(path)), default=0) == EXTRAS.index(extra)
    ]


def test_torch_and_nothing_more(environment: Callable[[str], Environment]) -> None:
    clean = environment("")
    assert not clean.packages() & {"numpy", "pydantic", "scipy", "lazy_loader"}
    shutil.copy(ROOT / "tests" / "core_alone.py", clean.work)
    assert_installed(clean.run(clean.python, "core_alone.py"), clean)


def assert_installed(said: str, clean: Environment) -> None:
    """The library that was used is the installed one."""
    used = Path(said.rsplit(maxsplit=1)[-1])
    assert used.is_relative_to(clean.folder / "venv"), used


@pytest.mark.parametrize(
    ("extra", "path"),
    in_order([*PAGES, *EXAMPLES, TUTORIAL]),
    ids=lambda one: getattr(one, "name", None),
)
def test_what_a_page_or_an_example_shows_runs(
    environment: Callable[[str], Environment], extra: str, path: Path
) -> None:
    clean = environment(extra)
    if path == TUTORIAL:
        tutorial(clean)
        return
    if path.suffix == ".py":
        shutil.copy(path, clean.work)
        assert path.name in EXAMPLE_RUNS, f"say here how {path.name} is run"
        EXAMPLE_RUNS[path.name](clean)
        return
    shutil.copy(Path(__file__).parent / "documented.py", clean.folder)
    place = clean.work / path.stem
    place.mkdir()
    if path.stem in PLACES:  # its code reads what was written there
        place = PLACES[path.stem](clean)
    if path.stem == "sam":
        assert "NumPy" in path.read_text(encoding="utf-8")[:300]
        clean.install("numpy")
    said = clean.run(clean.python, clean.folder / "documented.py", path, cwd=place)
    assert_installed(said, clean)
    assert int(said.split()[-2]) == path.read_text(encoding="utf-8").count("```python\n")
    if check := CHECKS.get(path.stem):
        clean.run(clean.python, "-c", check, cwd=place)


def tutorial(clean: Environment) -> None:
    """With the packages that it names at its top; it says what is committed."""
    clean.install("scikit-learn", "matplotlib", "ipykernel", "nbclient", "nbformat")
    for file in (TUTORIAL, TUTORIAL.with_name("make_tutorial.py")):
        shutil.copy(file, clean.work)
    clean.run(clean.python, "make_tutorial.py")
    made, committed = clean.work / TUTORIAL.name, TUTORIAL
    assert sources(made) == sources(committed)
    pairs = list(zip(numbers(made), numbers(committed), strict=True))
    assert len(pairs) > 40
    # Another processor rounds otherwise: a few images more or less.
    assert all(abs(one - other) < 2.0 for one, other in pairs), pairs


def cells(notebook: Path) -> list[dict[str, Any]]:
    """Its cells."""
    found: list[dict[str, Any]] = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return found


def sources(notebook: Path) -> list[str]:
    """What stands in its cells."""
    return ["".join(cell["source"]) for cell in cells(notebook)]


def numbers(notebook: Path) -> list[float]:
    """The percentages that it prints."""
    said = [
        "".join(output.get("text", ""))
        for cell in cells(notebook)
        for output in cell.get("outputs", [])
    ]
    return [float(one) for one in re.findall(r"([\d.]+)%", "".join(said))]


def torchrun(clean: Environment) -> None:
    """Two processes."""
    command = [clean.python, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    said = clean.run(*command, "torchrun_finetune.py", "pruned.safetensors", "--epochs", "1")
    assert "90.0" in said
    assert (clean.work / "pruned.safetensors").is_file()


EXAMPLE_RUNS: dict[str, Callable[[Environment], None]] = {"torchrun_finetune.py": torchrun}


def project(clean: Environment) -> Path:
    """A project of one's own as docs/own_project.md begins it, whose pipeline has run."""
    place = clean.work / "digits"
    if place.exists():
        return place
    clean.run(clean.python, "-m", "sparse_sam.new", place)
    assert "sparse_sam-" in (place / "requirements.txt").read_text(encoding="utf-8")
    own = Clone(place)
    own.env = clean.env
    own.set_all({**SMALL, "model.name": "classifier", "registry.name": "sparse-sam"})
    own.commit("a new project")
    own.run("dvc", "repro", timeout=500)
    own.commit("first results")
    return place


def released(clean: Environment) -> Path:
    """The same project, after an export and its registration."""
    place = project(clean)
    release = ("sparse_sam.tracking.release", "--arm", "sam", "--seed", "0", "--register")
    clean.run(clean.python, "-m", *release, cwd=place)
    return place


PLACES = {"export": released, "outputs": project}
CHECKS = {
    "extending": """
import torch
from sparse_sam.data import SOURCES
from sparse_sam.networks import build_model
from sparse_sam.pruning import Pruner
from sparse_sam.sam import build_sam
model = build_model("lab.networks:small", (1, 4, 4), 3)
masks = Pruner("lab.criteria:Largest").prune(model, 0.5)
assert masks.kept == 24
build_sam("lab.variants:ShrinkingSAM", model, torch.optim.SGD, 0.1, settings={"decay": 0.9}, lr=1.0)
SOURCES.load("lab.sources:stripes")
""",
    "data": """
import numpy as np
from pathlib import Path
from PIL import Image
from sparse_sam.data import DataParams, load_raw
noise = np.random.default_rng(0)
for part in ("train", "test"):
    for kind in ("daisy", "rose"):
        folder = Path("flowers") / part / kind
        folder.mkdir(parents=True)
        for i in range(4):
            pixels = noise.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{i}.png")
for module in ("with_torchvision", "with_hugging_face"):
    raw = load_raw(DataParams(
        source=f"lab.{module}:flowers", fraction=1.0, validation_fraction=0.0, test_fraction=0.5,
        split_seed=0, folder="flowers", mirror=None, channels=None, image_size=None,
    ))
    assert raw.train_images.shape == (8, 3, 8, 8) and raw.classes == ("daisy", "rose"), module
raw = load_raw(DataParams(
    source="npz", fraction=1.0, validation_fraction=0.0, test_fraction=0.5, split_seed=0,
    folder="flowers.npz", mirror=None, channels=None, image_size=None,
))
""",
}
"""What else must be true after a page's code has run."""


def test_every_extra_is_installed_by_some_page_or_example() -> None:
    used = {extra for path in [*PAGES, *EXAMPLES] for extra in needed(path)}
    assert used == set(EXTRAS) - {""}
