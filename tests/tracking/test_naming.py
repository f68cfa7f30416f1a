"""Pipeline runs are called by the parameters that differ from the committed ones."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from sparse_sam.config import REFERENCE, Params, load_params
from sparse_sam.tracking.naming import changed_parameters, differences, in_short


@pytest.fixture
def committed() -> Params:
    return load_params(REFERENCE)


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({}, ""),
        ({"prune.sparsity": 0.75}, "75 % sparse"),
        ({"prune.sparsity": 0.955, "finetune.sam.rho": 0.1}, "ρ 0.1 · 95.5 % sparse"),
        ({"seeds": [1]}, "seeds 1"),
        ({"data.source": "a\x1b[2J:b"}, "a [2J:b"),
        ({"seeds": [3, 4, 5]}, "seeds 3–5"),
        ({"seeds": [0, 2, 5]}, "seeds 0, 2, 5"),
        ({"prune.sparsity": 0.99999}, "99.999 % sparse"),
        ({"finetune.training.lr": 0.05000001}, "lr 0.05000001"),
        ({"finetune.training.lr": 0.001}, "lr 0.001"),
        ({"prune.ignore": ["head.*"]}, "prune.ignore ['head.*']"),
        ({"engine.name": "ray"}, ""),
        ({"train_dense.sam.rho": 0.2}, ""),  # where SGD trains, nothing asks for it
        (
            {"train_dense.optimizer": "sam", "train_dense.sam.rho": 0.2},
            "train_dense.optimizer sam · train_dense.sam.rho 0.2 · train_dense.sam.variant sam",
        ),
        ({"finetune.distillation.temperature": 9.0}, ""),
        (
            {"a.b": 1, "c": "{}", "d": 3, "e": 4, "finetune.sam.rho": 1e-05},
            "ρ 1e-05 · a.b 1 · c {} · 2 more",
        ),
    ],
)
def test_a_change_is_said_in_short(committed: Params, changed: dict[str, Any], name: str) -> None:
    class Flat:
        def __init__(self, values: dict[str, Any]) -> None:
            self.values = values

        def flat(self) -> dict[str, Any]:
            return self.values

    values = committed.flat()
    now: Any = Flat({**values, **changed})
    assert in_short(differences(now, committed)) == name


def test_what_is_gone_is_a_change(committed: Params) -> None:
    class Flat:
        def flat(self) -> dict[str, Any]:
            return {key: value for key, value in committed.flat().items() if key != "prune.scope"}

    now: Any = Flat()
    assert in_short(differences(now, committed)) == "None scope"


def test_a_clone_knows_what_it_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=test", "-c", "user.email=test@example.com"]
        done = subprocess.run(
            ["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    for name in ("GIT_DIR", "GIT_WORK_TREE", "DVC_EXP_BASELINE_REV"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    shutil.copy(REFERENCE, "params.yaml")
    assert changed_parameters() is None  # no repository, nothing to compare with
    git("init", "-q")
    assert changed_parameters() is None
    git("add", "-A")
    git("commit", "-q", "-m", "all")
    assert changed_parameters() == "committed parameters"
    yaml = YAML()
    values = yaml.load(REFERENCE)
    values["finetune"]["sam"]["rho"] = 0.2
    yaml.dump(values, tmp_path / "params.yaml")
    assert changed_parameters() == "ρ 0.2"
    before = git("rev-parse", "HEAD")
    git("commit", "-q", "-am", "ρ")
    assert changed_parameters() == "committed parameters"
    monkeypatch.setenv("DVC_EXP_BASELINE_REV", before)  # an experiment is a commit of its own
    assert changed_parameters() == "ρ 0.2"
    git("commit", "-q", "--allow-empty", "-m", "next")
    (tmp_path / "params.yaml").write_text("{")
    assert changed_parameters() is None
