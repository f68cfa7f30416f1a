"""Somebody's experiment is not our test: whatever he changes, runs and commits, ours pass.

A clone is changed as its user would, and the tests that read parameters, pipeline, metrics and
README run in it, and so do the linters.
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.pipeline.conftest import ROOT, Clone, working_tree

pytestmark = pytest.mark.slow

OURS = [
    *("tests/test_config.py", "tests/test_readme.py", "tests/test_dvc_yaml.py"),
    *("tests/test_architecture.py", "tests/test_promises.py", "tests/test_new.py"),
    *("tests/evaluation/test_gate.py", "tests/evaluation/test_report.py"),
    *("tests/data/test_tensors.py", "tests/tracking/test_pipelines.py"),
    *("tests/tracking/test_stage_run.py", "tests/sweep/test_cells.py", "tests/test_benchmarks.py"),
]
"""All that read what somebody may change; the rest takes the reference protocol from them."""

CHANGED = {
    "seeds": [7, 8, 9],
    "finetune.sam.rho": 0.2,
    "prune.sparsity": 0.93,
    "train_dense.epochs": 3,
    "finetune.training.epochs": 2,
    "model.name": "mine:net",
    "model.files": ["weights.bin"],
    "data.fraction": 0.5,
    "registry.name": "mine",
}
MINE = """from torch import *
import os,sys
def net( s,n ):
    '''no style whatever'''
    from torch import nn
    return nn.Sequential(nn.Flatten(),nn.Linear(s[0]*s[1]*s[2],n))
"""


@pytest.fixture
def theirs(tmp_path: Path) -> Clone:
    """A clone with parameters, a network, a file, a stage and results of one's own, committed."""
    path = tmp_path / "clone"
    for file in working_tree():
        (path / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, path / file, follow_symlinks=False)
    clone = Clone(path)
    clone.set_all(CHANGED)
    (path / "mine.py").write_text(MINE)
    (path / "weights.bin").write_bytes(b"\x00\x01")
    change_results(path)
    add_stage(path / "dvc.yaml")
    clone.run("git", "init", "-q", "-b", "main")
    clone.commit("my own experiment")
    return clone


def change_results(path: Path) -> None:
    """Other numbers, by another network, made with those parameters."""
    yaml = YAML(typ="safe", pure=True)
    params = yaml.load(path / "params.yaml")
    lock = yaml.load(path / "dvc.lock")
    for stage in lock["stages"].values():
        for name in stage.get("params", {}).get("params.yaml", {}):
            value: Any = params
            for key in name.split("."):
                value = value[key]
            stage["params"]["params.yaml"][name] = value
    yaml.dump(lock, path / "dvc.lock")
    file = path / "metrics" / "summary.json"
    summary = json.loads(file.read_text()) | {"model": "mine:net", "seeds": [7, 8, 9]}
    del summary["arms"]["sgd_2x"]
    file.write_text(json.dumps(summary))
    (path / "metrics" / "evaluate.json").unlink()
    shutil.rmtree(path / "inputs")


def add_stage(path: Path) -> None:
    own = "  look:\n    cmd: python mine.py\n    deps: [models/sam]\n\nplots:\n"
    text = path.read_text()
    assert text.count("\nplots:\n") == 1
    path.write_text(text.replace("\nplots:\n", own, 1))


def test_our_tests_pass_beside_somebodys_experiment(theirs: Clone) -> None:
    theirs.run(sys.executable, "-m", "sparse_sam.config")  # what was changed is allowed
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", *OURS]
    done = theirs.run(*command, timeout=590)
    assert " passed" in done.stdout
    assert "no results of the reference protocol are committed here" in done.stdout


def test_the_linters_do_not_judge_somebodys_code(theirs: Clone) -> None:
    ready = theirs.path / "ready"
    ready.touch()
    theirs.run("make", "lint", "READY=ready", timeout=590)
    # They would, were it ours.
    shutil.copy(theirs.path / "mine.py", theirs.path / "src" / "sparse_sam" / "networks")
    theirs.run("make", "lint", "READY=ready", fails=True)
