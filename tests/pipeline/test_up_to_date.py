"""Committed results that are not those of the committed code are found, without any training."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    subprocess.run(["git", "clone", "-q", str(ROOT), str(tmp_path / "clone")], check=True)
    return tmp_path / "clone"


def check(clone: Path) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "stages.up_to_date"],
        cwd=clone,
        env={**os.environ, "PYTHONPATH": f"{clone / 'src'}{os.pathsep}{clone}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
def test_a_clean_clone_has_the_results_of_its_code(clone: Path) -> None:
    assert check(clone) == (
        0,
        "The committed results are those of this code and these parameters.\n",
    )


@pytest.mark.slow
def test_changed_code_is_named_and_a_comment_is_not(clone: Path) -> None:
    page = clone / "src/sparse_sam/sam/gradients.py"
    page.write_text(page.read_text() + "\n# A remark.\n")
    assert check(clone)[0] == 0
    page.write_text(page.read_text() + "\nUNUSED = 1\n")
    code, said = check(clone)
    assert code == 1
    assert "finetune_sam: changed since its results: sparse_sam.sam.gradients\n" in said
    assert "finetune_sgd" not in said
    assert "make repro" in said


@pytest.mark.slow
def test_changed_parameters_and_edited_metrics_are_named(clone: Path) -> None:
    page = clone / "params.yaml"
    text = page.read_text()
    page.write_text(re.sub(r"^    rho: 0\.05\b", "    rho: 0.1", text, flags=re.MULTILINE))
    assert page.read_text() != text
    code, said = check(clone)
    assert code == 1
    assert "finetune_sam: params.yaml: finetune.sam" in said
    subprocess.run(["git", "checkout", "-q", "params.yaml"], cwd=clone, check=True)
    page = clone / "metrics/summary.json"
    summary = json.loads(page.read_text())
    summary["arms"]["sam"]["accuracy"]["mean"] += 0.01
    page.write_text(json.dumps(summary, indent=2))
    code, said = check(clone)
    assert code == 1
    assert "evaluate: metrics/summary.json is modified (edited by hand?)" in said


@pytest.mark.slow
def test_a_changed_command_and_a_deleted_result_are_named(clone: Path) -> None:
    page = clone / "dvc.yaml"
    page.write_text(page.read_text().replace("stages.prune", "stages.prune --other", 1))
    (clone / "plots/sam.csv").unlink()
    code, said = check(clone)
    assert code == 1
    assert "prune: changed command in dvc.yaml\n" in said
    assert "finetune_sam: plots/sam.csv is deleted\n" in said
    assert "models/" not in said  # in DVC's cache, which a clone does not have


@pytest.mark.slow
def test_what_dvc_yaml_no_longer_lists_is_named(clone: Path) -> None:
    page, metric = clone / "dvc.yaml", clone / "metrics/summary.json"
    text = page.read_text()
    for listed in ("      - metrics/summary.json: *kept\n", "      - models/pruned\n", "seeds, "):
        assert listed in text
        text = text.replace(listed, "")
    page.write_text(text)
    metric.write_text(metric.read_text().replace("0.9", "0.8"))
    code, said = check(clone)
    assert code == 1
    assert "evaluate: metrics/summary.json is in dvc.lock (outs) and not in dvc.yaml\n" in said
    assert "finetune_sgd: models/pruned is in dvc.lock (deps) and not in dvc.yaml\n" in said
    assert "train_dense: seeds is in dvc.lock (params) and not in dvc.yaml\n" in said


@pytest.mark.slow
def test_results_that_were_removed_from_git_are_named(clone: Path) -> None:
    subprocess.run(["git", "rm", "-q", "metrics/summary.json"], cwd=clone, check=True)
    code, said = check(clone)
    assert (code, "evaluate: metrics/summary.json is deleted\n" in said) == (1, True)
    subprocess.run(["git", "rm", "-q", "dvc.lock"], cwd=clone, check=True)
    code, said = check(clone)
    assert code == 1
    assert "dvc.lock is missing, and inputs/download.json is there" in said


def test_without_results_there_is_nothing_to_find(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "sparse_sam.stages.up_to_date"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "no results yet" in done.stdout
