"""Wrong parameters and damaged files are named, with what to do, by every stage."""

import time
from pathlib import Path

import pytest

from tests.pipeline.conftest import LATER, STAGES, Clone

pytestmark = pytest.mark.pipeline


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("prune.sparsity", 1.0, "at least 0 and less than 1"),
        ("finetune.sam.rho", -0.1, "at least 0"),
        ("seeds", [], "a list of one or more"),
        ("model.name", "resnet-9000", "lenet-5"),
        ("data.source", "imagenet", "mnist-sample"),
        ("train_dense.epochs", "ten", "a whole number"),
        ("prune.sparsitty", 0.5, "sparsity"),
    ],
)
def test_a_bad_parameter_ends_every_stage_at_once(
    clone: Clone, key: str, value: object, said: str
) -> None:
    clone.set_all({key: value})
    began = time.monotonic()
    error = clone.run("python", "-m", "stages.train_dense", fails=True).stderr
    seconds = time.monotonic() - began
    clone.run("git", "checkout", "-q", "params.yaml")
    assert error.startswith("error: params.yaml: ")
    assert error.count("\n") == 1
    assert key in error
    assert said in error
    assert seconds < 3


def damage(path: Path) -> None:
    content = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize(
    ("how", "stage", "victim", "cure"),
    [
        ("missing", "train_dense", "data/dataset.safetensors", "dvc repro download"),
        ("damaged", "train_dense", "data/dataset.safetensors", "dvc repro download"),
        ("damaged", "prune", "models/dense/seed-1.safetensors", "dvc repro train_dense"),
        ("damaged", "finetune_sam", "models/pruned/seed-1.safetensors", "dvc repro prune"),
        ("missing", "evaluate", "models/sam/seed-0.safetensors", "dvc repro finetune_sam"),
    ],
)
def test_a_lost_or_damaged_input_is_named_with_its_cure(
    clone: Clone, stage: str, victim: str, cure: str, how: str
) -> None:
    path = clone.path / victim
    outputs = {file: file.read_bytes() for file in clone.path.glob("models/*/*") if file != path}
    content = path.read_bytes()
    if how == "missing":
        path.unlink()
    else:
        damage(path)
    error = clone.run("python", "-m", f"stages.{stage}", fails=True, **LATER).stderr
    path.unlink(missing_ok=True)
    path.write_bytes(content)
    assert error.splitlines()[-1].startswith(f"error: {victim} is {how}")
    assert cure in error
    assert "Traceback" not in error
    assert {file: file.read_bytes() for file in outputs} == outputs
    assert not [*clone.path.glob("**/*.tmp")]


def test_help_is_instant_and_says_what_a_stage_does(clone: Clone) -> None:
    for stage in STAGES:
        said = clone.run("python", "-m", f"stages.{stage}", "--help").stdout
        assert f"python -m stages.{stage}" in said
        assert len(said.splitlines()) > 3
