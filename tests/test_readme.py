"""The README says what the published results say: those of the reference protocol.

Somebody who commits results of an experiment of his own does not publish ours: then `make figures`
writes his table, and nothing here looks at it.
"""

import copy
import hashlib
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from sparse_sam.config import REFERENCE
from sparse_sam.evaluation.table import comparison_table
from sparse_sam.tracking.stages import STAGES

ROOT = Path(__file__).resolve().parent.parent
SUMMARY = "metrics/summary.json"


def committed(path: str) -> str | None:
    """A file as it is in the last commit: who runs the experiment has other seconds."""
    command = ["git", "show", f"HEAD:{path}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    return done.stdout.decode("utf-8") if done.returncode == 0 else None


def read_yaml(text: str) -> Any:
    return YAML(typ="safe", pure=True).load(text)


def section(params: Any, name: str) -> Any:
    for key in name.split("."):
        params = params[key]
    return params


def made_by_the_reference(lock: Any) -> bool:
    """Whether every stage in a dvc.lock ran with the reference protocol's parameters."""
    reference = read_yaml(REFERENCE.read_text(encoding="utf-8"))
    return all(
        lock["stages"].get(name, {}).get("params", {}).get("params.yaml")
        == {one: section(reference, one) for one in stage.params}
        for name, stage in STAGES.items()
    )


def test_the_published_table_is_that_of_the_committed_summary() -> None:
    lock, summary, readme = map(committed, ("dvc.lock", SUMMARY, "README.md"))
    if not lock or not summary or not readme or not made_by_the_reference(read_yaml(lock)):
        pytest.skip("no results of the reference protocol are committed here")
    (known,) = (
        out["md5"]
        for out in read_yaml(lock)["stages"]["evaluate"]["outs"]
        if out["path"] == SUMMARY
    )
    assert hashlib.md5(summary.encode(), usedforsecurity=False).hexdigest() == known
    table = comparison_table(json.loads(summary))
    assert f"```\n{table}\n```" in readme, "run: make figures"


def test_results_of_other_parameters_are_not_those_of_the_reference() -> None:
    reference = read_yaml(REFERENCE.read_text(encoding="utf-8"))
    stages = {
        name: {"params": {"params.yaml": {one: section(reference, one) for one in stage.params}}}
        for name, stage in STAGES.items()
    }
    assert made_by_the_reference({"stages": stages})
    for stage, key, value in (
        ("finetune_sam", "finetune.sam", {"variant": "sam", "rho": 0.1}),
        ("train_dense", "seeds", [0, 1]),
        ("prune", "prune", {**reference["prune"], "sparsity": 0.9}),
    ):
        other = copy.deepcopy(stages)
        other[stage]["params"]["params.yaml"][key] = value
        assert not made_by_the_reference({"stages": other})
        assert not made_by_the_reference(
            {"stages": {n: s for n, s in stages.items() if n != stage}}
        )


def test_every_test_that_is_named_exists() -> None:
    for page in [ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")]:
        for name in re.findall(r"tests/[\w/]+\.py", page.read_text(encoding="utf-8")):
            assert (ROOT / name).is_file(), f"{page.name} names {name}"
