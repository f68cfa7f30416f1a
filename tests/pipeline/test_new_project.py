"""docs/own_project.md, done: a project of one's own with the library as an installed package."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.pipeline.conftest import LATER, SMALL, STAGES, Clone

pytestmark = [pytest.mark.pipeline, pytest.mark.slow]

NETWORK = """from torch import nn


def mine(image_shape, num_classes):
    channels, height, width = image_shape
    inner = nn.Linear(channels * height * width, 16)
    return nn.Sequential(nn.Flatten(), inner, nn.ReLU(), nn.Linear(16, num_classes))
"""


@pytest.fixture(scope="module")
def project(make_clone: Callable[..., Clone], tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A project with a network and parameters of its own; no file of this repository is used."""
    source, folder = make_clone("source"), tmp_path_factory.mktemp("elsewhere")
    site = folder / "site-packages"
    build = ("-c", "from setuptools import setup; setup()", "build_py", "--build-lib", str(site))
    source.run(sys.executable, *build)
    installed = {"PYTHONPATH": str(site)}
    place = Clone(folder)
    place.run(
        *(sys.executable, "-m", "sparse_sam.new", "digits"),
        *("--from", "git+https://example.org/sparse-sam.git"),
        **installed,
    )
    own = Clone(folder / "digits")
    own.env |= installed
    (own.path / "lab").mkdir()
    (own.path / "lab" / "nets.py").write_text(NETWORK)
    changed = {"model.name": "lab.nets:mine", "finetune.sam.rho": 0.1, "prune.sparsity": 0.9}
    own.set_all({**SMALL, **changed})
    own.commit("a new project")
    return own


def ran(project: Clone) -> set[str]:
    said = project.run("dvc", "repro", timeout=500, **LATER).stdout
    return {stage for stage in STAGES if f"Running stage '{stage}'" in said}


def gate(project: Clone, *, fails: bool = False) -> str:
    done = project.run(sys.executable, "-m", "sparse_sam.evaluation.gate", fails=fails)
    return done.stdout + done.stderr


def test_it_runs_is_tested_and_guarded_from_its_first_commit_on(project: Clone) -> None:
    assert ran(project) == set(STAGES)
    assert "20 new, with nothing to compare with" in gate(project)
    assert " passed" in project.run(sys.executable, "-m", "pytest", "-q").stdout
    summary = json.loads((project.path / "metrics/summary.json").read_text())
    assert summary["model"] == "lab.nets:mine"
    assert summary["arms"]["sam"]["sparsity"] == pytest.approx(0.9, abs=1e-3)
    made_by = json.loads((project.path / "inputs/train_dense.json").read_text())["code"]
    assert {"lab.nets", "sparse_sam.training.loop"} <= made_by.keys()
    project.commit("first results")
    listed = project.run("git", "ls-files").stdout.split()
    assert {"metrics/summary.json", "dvc.lock", "inputs/prune.json"} <= set(listed)
    assert not [name for name in listed if name.startswith(("models/", "data/", "runs/"))]
    assert not project.run("git", "status", "--porcelain").stdout
    # Nothing runs again, for a remark either; for code of its own and for the library's it does.
    file = project.path / "lab" / "nets.py"
    file.write_text(f"# a remark\n{NETWORK}")
    assert ran(project) == set()
    file.write_text(NETWORK.replace("ReLU", "Tanh"))
    assert "train_dense" in ran(project)
    file.write_text(NETWORK)
    ran(project)
    library = Path(project.env["PYTHONPATH"]) / "sparse_sam" / "sam" / "optimizer.py"
    text = library.read_text()
    library.write_text(text.replace("rho: float = 0.05", "rho: float = 0.051"))
    assert ran(project) == {"finetune_sam", "evaluate"}
    library.write_text(text)
    ran(project)


def test_another_network_is_refused_until_it_is_accepted(project: Clone) -> None:
    ran(project)  # the tests before may have run in another worker, with another project
    project.commit("the base")
    project.run("git", "checkout", "-q", "-b", "wider")
    file = project.path / "lab" / "nets.py"
    file.write_text(NETWORK.replace("16", "24"))
    assert "train_dense" in ran(project)
    said = gate(project, fails=True)
    assert "of another network: lab.nets:mine (19056 multiply-adds)" in said
    with (project.path / "gate.yaml").open("a") as rules:
        rules.write(f"accept:{said.partition('accept:')[2]}")
    assert "20 new" in gate(project)
    file.write_text(NETWORK)


def test_only_the_projects_own_files_are_used(project: Clone) -> None:
    said = project.run(
        sys.executable, "-c", "import sparse_sam, sparse_sam.stages; print(sparse_sam.__file__)"
    ).stdout
    assert "site-packages" in said
    project.run(sys.executable, "-c", "import stages", fails=True)
