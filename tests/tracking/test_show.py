"""The command that shows the result, in real git repositories."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import sparse_sam
from sparse_sam.config import REFERENCE
from tests.evaluation.test_table import THREE, summary, tables
from tests.watching import watched


def run(folder: Path, **more: str) -> subprocess.CompletedProcess[str]:
    library = str(Path(sparse_sam.__file__).parent.parent)
    return subprocess.run(
        [sys.executable, "-m", "sparse_sam.tracking.show"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": library, "PYTHONUTF8": "1", **more},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )


def test_the_command_shows_the_table_and_where_everything_is(tmp_path: Path) -> None:
    (tmp_path / "metrics").mkdir()
    (tmp_path / "metrics" / "summary.json").write_text(json.dumps(summary(THREE)))
    done = run(tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert tables(summary(THREE)) in done.stdout
    assert "metrics/summary.json" in done.stdout
    # Git holds the summary alone: a new clone has neither report nor networks.
    assert "\nThe report: not here; run `make repro` to make it\n" in done.stdout
    assert "; checkpoints: not here; run `make repro` to make them\n" in done.stdout
    (tmp_path / "models" / "dense").mkdir(parents=True)
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "report.html").touch()
    done = run(tmp_path)
    assert "\nThe report: reports/report.html, one file that opens" in done.stdout
    assert "; checkpoints: models/\n" in done.stdout


def test_the_command_says_what_was_not_measured(tmp_path: Path) -> None:
    (tmp_path / "metrics").mkdir()
    (tmp_path / "metrics" / "summary.json").write_text(json.dumps(summary(THREE)))
    why = {"not_measured": "it has no second derivative"}
    arms = {"arms": {arm: {"top_eigenvalues": why, "trace": why} for arm in THREE}}
    (tmp_path / "metrics" / "flatness.json").write_text(json.dumps(arms))
    (tmp_path / "metrics" / "cost.json").write_text("{")
    done = run(tmp_path)
    assert done.returncode == 0
    assert tables(summary(THREE)) in done.stdout
    assert done.stdout.count("ot measured") == 1
    assert "\nNot measured: top eigenvalues, trace: it has no second derivative\n" in done.stdout
    assert done.stderr.startswith("warning: metrics/cost.json is damaged")


@pytest.mark.parametrize("content", [None, "", "{", "{}", "[]", '{"seeds": [1]}'])
def test_the_command_says_what_to_do_without_a_summary(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "metrics").mkdir()
        (tmp_path / "metrics" / "summary.json").write_text(content)
    done = run(tmp_path)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("error: metrics/summary.json is ")
    assert done.stderr.endswith("Run `make repro`.\n")
    assert done.stderr.count("\n") == 1


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """With parameters and a result committed."""
    (tmp_path / "params.yaml").write_text(REFERENCE.read_text())
    (tmp_path / "metrics").mkdir()
    write(tmp_path, summary(THREE))
    identity = ("-c", "user.name=test", "-c", "user.email=test@example.com")
    for command in (("init", "-q"), ("add", "-A"), (*identity, "commit", "-q", "-m", "results")):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    return tmp_path


def write(folder: Path, content: Any) -> None:
    (folder / "metrics" / "summary.json").write_text(json.dumps(content))


def change(folder: Path, old: str, new: str) -> None:
    path = folder / "params.yaml"
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


def test_what_is_as_committed_has_no_more_to_say(repository: Path) -> None:
    done = run(repository)
    assert (done.returncode, done.stderr) == (0, "")
    assert "change" not in done.stdout
    assert "Parameters" not in done.stdout
    assert (
        f"\n{summary(THREE)['comparisons']['sam_vs_sgd_2x']['verdict']}\n\nThe report"
        in done.stdout
    )
    (repository / "metrics" / "summary.json").rename(repository / "summary")
    subprocess.run(["rm", "-rf", ".git"], cwd=repository, check=True)
    (repository / "summary").rename(repository / "metrics" / "summary.json")
    assert run(repository).stdout == done.stdout  # outside of git, too


def test_parameters_that_differ_are_named_with_their_values(repository: Path) -> None:
    change(repository, "rho: 0.05 #", "rho: 0.1 #")
    change(repository, "save_every_steps: null", "save_every_steps: 7")  # changes no result
    done = run(repository)
    assert (done.returncode, done.stderr) == (0, "")
    said = "ones:\n  finetune.sam.rho = 0.1 (committed: 0.05)\n\nThe report"
    assert f"\n\nParameters that differ from the committed {said}" in done.stdout


def test_the_change_since_the_committed_result_is_shown(repository: Path) -> None:
    write(repository, summary({**THREE, "sam": [0.95, 0.96, 0.9701]}))
    done = run(repository)
    (line,) = [one for one in done.stdout.splitlines() if one.startswith("SAM ") and "±" in one]
    assert line.split()[4] == "−1.00"
    assert "\nchange: in points, since the committed result" in done.stdout


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("download", {"fingerprint": "another"}),
        ("summary", {"model": "lenet-5"}),
        ("summary", {"dataset": "digits"}),
    ],
)
def test_results_of_something_else_are_not_compared(
    repository: Path, file: str, content: dict[str, str]
) -> None:
    write(repository, summary({**THREE, "sam": [0.95, 0.96, 0.9701]}))
    assert "change" in run(repository).stdout
    path = repository / "metrics" / f"{file}.json"
    known = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps(known | content))
    assert "change" not in run(repository).stdout


def test_parameters_that_cannot_be_read_are_said_to_be_so(repository: Path) -> None:
    (repository / "params.yaml").write_text("seeds: [")
    done = run(repository)
    assert (done.returncode, done.stderr) == (0, "")
    assert "\nparams.yaml cannot be read; `make repro` says why.\n" in done.stdout


def test_results_are_not_said_to_be_of_parameters_that_were_changed_since(repository: Path) -> None:
    lock = """
stages:
  download: {params: {params.yaml: {}}}
  train_dense: {params: {params.yaml: {seeds: [0, 1, 2, 3, 4]}}}
  prune: {params: {params.yaml: {}}}
  finetune_sgd: {params: {params.yaml: {}}}
  finetune_sam: {params: {params.yaml: {finetune.sam: {variant: sam, rho: 0.2}}}}
  evaluate: {params: {params.yaml: {}}}
"""
    (repository / "dvc.lock").write_text(lock)
    change(repository, "rho: 0.05 #", "rho: 0.3 #")
    said = run(repository).stdout
    assert "the committed ones:\n  finetune.sam.rho = 0.2 (committed: 0.05)\n" in said
    assert "up to date:\n  finetune.sam.rho = 0.3 (these results: 0.2)\n" in said


@pytest.mark.parametrize("broken", ["", "[", "[]", "{}", '{"arms": {"sam": 1}}'])
def test_a_committed_result_that_cannot_be_read_is_not_compared(
    repository: Path, broken: str
) -> None:
    (repository / "metrics" / "summary.json").write_text(broken)
    identity = ("-c", "user.name=test", "-c", "user.email=test@example.com")
    subprocess.run(["git", *identity, "commit", "-qam", "broken"], cwd=repository, check=True)
    write(repository, summary(THREE))
    done = run(repository)
    assert (done.returncode, done.stderr) == (0, "")
    assert "change" not in done.stdout


def test_only_the_answer_is_in_colour(repository: Path) -> None:
    plain, coloured = run(repository).stdout, run(repository, FORCE_COLOR="1", NO_COLOR="").stdout
    answer = summary(THREE)["answer"]
    assert coloured == plain.replace(answer, f"\x1b[1m{answer}\x1b[0m", 1)


def test_a_terminal_breaks_its_sentences_between_words(repository: Path) -> None:
    _, said = watched(
        [sys.executable, "-m", "sparse_sam.tracking.show"], repository, {"NO_COLOR": "1"}, 80
    )
    plain = run(repository).stdout
    assert max(map(len, plain.splitlines())) > 100
    prose = said.split("\n\n")[-2].splitlines()
    assert max(map(len, prose)) <= 80
    assert said.split() == plain.split()
