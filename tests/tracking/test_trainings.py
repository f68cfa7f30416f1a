"""How many trainings the last `dvc repro` did, counted from the journals of stages."""

import subprocess
import sys
from pathlib import Path

import pytest

from sparse_sam.errors import DataError
from sparse_sam.tracking.journal import Journal, read_events
from sparse_sam.tracking.stages import STAGES
from sparse_sam.tracking.trainings import RUN, TAKEN, counted, keys_in

KEYS = ["a" * 64, "b" * 64]


def write(workspace: Path, stage: str, run: int | None = None, taken: int = 0) -> None:
    """The journal of a stage that ran now, with counts if it trains."""
    path = workspace / STAGES[stage].journal
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    journal = Journal(path, stage=stage, params={}, tags={}, launcher={})
    for seed, key in enumerate(KEYS):
        name, params = f"dense seed {seed}", {"arm": "dense", "seed": seed, "training": key}
        journal.child(name, params)
        journal.metrics({RUN: 100.0, TAKEN: 100.0}, child=name)  # which is no count of the stage's
        journal.child_end(name)
    if run is not None:
        journal.metrics({RUN: float(run), TAKEN: float(taken)})
    journal.end("FINISHED")


def begun(workspace: Path, stage: str) -> float:
    """When a stage began, in seconds."""
    return float(read_events(workspace / STAGES[stage].journal)[0]["time"]) / 1000


def test_of_stages_that_did_not_run_nothing_was_trained(tmp_path: Path) -> None:
    assert counted(tmp_path, since=0) == {"run": 0, "taken": 0, "kept": 0}
    write(tmp_path, "download")
    write(tmp_path, "train_dense", run=3, taken=2)
    write(tmp_path, "finetune_sam", run=0, taken=5)
    assert counted(tmp_path, since=0) == {"run": 3, "taken": 7, "kept": 0}
    later = begun(tmp_path, "finetune_sam") + 1
    assert counted(tmp_path, since=later) == {"run": 0, "taken": 0, "kept": 10}
    exactly = begun(tmp_path, "train_dense")
    assert counted(tmp_path, since=exactly)["run"] == 3


def test_the_keys_of_a_journal(tmp_path: Path) -> None:
    write(tmp_path, "train_dense", run=2)
    events = read_events(tmp_path / STAGES["train_dense"].journal)
    assert list(keys_in(events)) == KEYS
    for event in events:
        if event["event"] == "child":
            event["params"]["training"] = 3
    assert list(keys_in(events)) == []


def test_a_damaged_journal_is_named(tmp_path: Path) -> None:
    write(tmp_path, "train_dense", run=2)
    (tmp_path / STAGES["train_dense"].journal).write_text("{}\n")
    with pytest.raises(DataError, match=r"train_dense\.jsonl"):
        counted(tmp_path, since=0)
    done = said(tmp_path, 0.0)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr


def said(workspace: Path, since: float) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sparse_sam.tracking.trainings", "--since", str(since)]
    return subprocess.run(command, cwd=workspace, capture_output=True, text=True, check=False)


def test_it_is_said_in_a_line(tmp_path: Path) -> None:
    write(tmp_path, "train_dense", run=4, taken=1)
    line = "4 of 5 trainings run, 1 taken from the store, 0 of stages that did not change"
    assert said(tmp_path, 0.0).stdout.strip() == line
    line = "0 of 5 trainings run, 0 taken from the store, 5 of stages that did not change"
    assert said(tmp_path, begun(tmp_path, "train_dense") + 1).stdout.strip() == line
