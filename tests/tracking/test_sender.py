"""One process tells MLflow what all stages write, and a stage is told when it cannot."""

import os
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sparse_sam.tracking import sender
from sparse_sam.tracking.journal import Journal
from sparse_sam.tracking.mlflow_store import Tracker
from sparse_sam.tracking.pipelines import is_sent, place
from sparse_sam.tracking.sender import Request, serve, settle

PATIENCE = 60.0


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_store: Path) -> Iterator[Path]:
    for name in [name for name in os.environ if name.startswith(("MLFLOW_", "DVC_", "SPARSE_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    shutil.copy(empty_store, tmp_path)
    yield tmp_path
    for process in sender._STARTED:
        process.kill()
        process.wait()
    sender._STARTED.clear()


def begin(clone: Path, stage: str) -> Journal:
    with place(clone, stage, {}, clone, {}, {}) as path:
        return Journal(path, stage=stage, params={}, tags={}, launcher={})


def statuses(clone: Path) -> dict[str, str]:
    client = Tracker(clone).client  # which does not disturb the store's making
    runs = client.search_runs([one.experiment_id for one in client.search_experiments()])
    return {run.info.run_name: run.info.status for run in runs}


def test_stages_share_a_sender_that_follows_them(clone: Path) -> None:
    first = begin(clone, "download")
    one = Request(first.path, clone)
    assert one._started is not None
    deadline = time.monotonic() + PATIENCE
    while "download" not in statuses(clone):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert statuses(clone)["download"] == "RUNNING"
    first.metrics({"test_accuracy": 0.5})
    first.end("FINISHED")
    assert one.wait(PATIENCE) is None
    second = begin(clone, "train_dense")
    two = Request(second.path, clone)
    assert two._started is None
    second.end("FAILED")
    assert two.wait(PATIENCE) is None
    found = statuses(clone)
    assert (found["download"], found["train_dense"]) == ("FINISHED", "FAILED")
    assert not list(one.folder.glob("*.request"))


def test_stages_that_do_not_wait_are_sent_in_order_and_once(clone: Path) -> None:
    folders = set()
    for stage in ("download", "train_dense", "prune"):
        journal = begin(clone, stage)
        request = Request(journal.path, clone)
        folders.add(request.folder)
        journal.metrics({"test_accuracy": 0.5})
        journal.end("FINISHED")
        assert request.leave()
    settle(clone, PATIENCE)
    (folder,) = folders
    assert not list(folder.glob("*.request"))
    client = Tracker(clone).client
    runs = client.search_runs([one.experiment_id for one in client.search_experiments()])
    stages = [run for run in runs if run.info.run_name in {"download", "train_dense", "prune"}]
    assert len(stages) == 3
    for run in stages:
        assert run.info.status == "FINISHED"
        assert len(client.get_metric_history(run.info.run_id, "test_accuracy")) == 1


def test_a_stage_does_not_leave_what_no_sender_sends(clone: Path) -> None:
    journal = begin(clone, "download")
    request = Request(journal.path, clone)
    assert request._started is not None
    request._started.kill()
    request._started.wait()
    journal.end("FINISHED")
    assert not request.leave()
    assert request.wait(PATIENCE) is None  # as it does then
    assert request.leave()


def test_a_stage_does_not_leave_what_hangs(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender, "_STARTING_SECONDS", 0.0)
    with socket.socket() as silent:  # takes connections and says nothing
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        journal = begin(clone, "download")
        request = Request(journal.path, clone)
        journal.end("FINISHED")
        time.sleep(1)
        assert request._is_served()
        assert not request.leave()


def test_a_stage_leaves_what_a_sender_that_gets_through_sends(
    clone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sender, "_STARTING_SECONDS", 0.0)
    journal = begin(clone, "download")
    request = Request(journal.path, clone)
    deadline = time.monotonic() + PATIENCE
    while not request.leave():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert not is_sent(journal.path)
    journal.end("FINISHED")
    assert request.wait(PATIENCE) is None


def test_nobody_waits_for_a_sender_that_died(clone: Path) -> None:
    journal = begin(clone, "download")
    request = Request(journal.path, clone)
    assert request._started is not None
    request._started.kill()
    request._started.wait()
    journal.end("FINISHED")
    started = time.monotonic()
    settle(clone, PATIENCE)
    assert time.monotonic() - started < PATIENCE / 4
    assert not is_sent(journal.path)


def test_a_killed_sender_is_replaced(clone: Path) -> None:
    journal = begin(clone, "download")
    request = Request(journal.path, clone)
    assert request._started is not None
    first = request._started
    first.kill()
    first.wait()
    journal.end("FINISHED")
    assert request.wait(PATIENCE) is None
    assert statuses(clone)["download"] == "FINISHED"
    assert request._started is not first


def test_a_stage_learns_that_mlflow_cannot_be_reached(
    clone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    journal = begin(clone, "download")
    request = Request(journal.path, clone)
    journal.end("FINISHED")
    reason = request.wait(PATIENCE)
    assert reason is not None
    assert uri in reason
    assert not is_sent(journal.path)
    assert not list(request.folder.glob("*.request"))


def test_patience_ends(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as silent:  # takes connections and says nothing
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        journal = begin(clone, "download")
        request = Request(journal.path, clone)
        journal.end("FINISHED")
        assert request.wait(0.5) == "MLflow did not answer in time"


def test_what_a_dead_stage_asked_for_is_sent_by_the_next_sender(clone: Path) -> None:
    journal = begin(clone, "download")
    folder = Request(journal.path, clone).folder
    journal.metrics({"test_accuracy": 0.5})
    journal._file.close()  # as a kill would leave it: no last line
    journal._lock.release()
    serve(clone, folder, linger=0)
    deadline = time.monotonic() + PATIENCE  # whichever of the two senders had it
    while not is_sent(journal.path):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert statuses(clone)["download"] == "KILLED"


def test_a_sender_serves_one_mlflow_only(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = begin(clone, "download")
    journal.end("FINISHED")
    here = Request(journal.path, clone)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///other.db")
    elsewhere = Request(journal.path, clone)
    assert here.folder != elsewhere.folder
    # What is about the run, and not about the store, is in the journals.
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    assert Request(journal.path, clone).folder == elsewhere.folder
    for request in (here, elsewhere):
        assert request.wait(PATIENCE) is None
