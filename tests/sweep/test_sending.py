"""A sweep in MLflow: a run, nested runs, axes as params; sent once, whatever happens."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sparse_sam.errors import TrackingError
from sparse_sam.sweep import sending
from sparse_sam.sweep.__main__ import main
from sparse_sam.sweep.declaration import Sweep
from sparse_sam.sweep.sending import Sender
from sparse_sam.sweep.store import Store
from sparse_sam.sweep.sweeping import run_sweep
from sparse_sam.tracking.mlflow_store import Tracker
from sparse_sam.training.engines import Sequential


@pytest.fixture(scope="module")
def store(small: Sweep, tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(tmp_path_factory.mktemp("store"))
    run_sweep(small, store, Sequential())
    return store


@pytest.fixture
def tracker(empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tracker:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return Tracker(tmp_path)


def runs(tracker: Tracker) -> list[Any]:
    experiment = tracker.experiment({})
    return list(tracker.client.search_runs([experiment], max_results=1000))


def test_a_sweep_is_a_run_and_its_cells_are_nested(store: Store, tracker: Tracker) -> None:
    sender = Sender(store, tracker)
    sender.send()
    assert sender.sent == 48
    found = runs(tracker)
    (parent,) = [run for run in found if "mlflow.parentRunId" not in run.data.tags]
    assert (parent.info.run_name, parent.info.status) == ("sweep small", "FINISHED")
    cells = [run for run in found if run is not parent]
    assert {run.data.tags["mlflow.parentRunId"] for run in cells} == {parent.info.run_id}
    assert len({run.data.tags["sparse_sam.cell"] for run in cells}) == len(cells) == 48
    reported = [
        run
        for run in cells
        if run.data.params
        == {
            "purpose": "report",
            "train_dense.optimizer": "sam",
            "prune.sparsity": "0.8",
            "arm": "momentum",
            "seed": "1",
        }
    ]
    (one,) = reported
    result, cost = store.record(one.data.tags["sparse_sam.cell"])
    assert one.data.metrics["test_accuracy"] == result.test_accuracy
    assert one.data.metrics["sharpness"] == pytest.approx(result.sharpness)
    assert one.info.status == "FINISHED"
    assert one.info.end_time - one.info.start_time == pytest.approx(1000 * cost.seconds, abs=2)
    choosing = [run for run in cells if run.data.params["purpose"] == "choose"]
    assert all("test_accuracy" not in run.data.metrics for run in choosing)
    assert {run.data.params.get("finetune.sam.rho") for run in choosing} == {"0.02", "0.1", None}


def test_sending_again_sends_nothing(store: Store, tracker: Tracker) -> None:
    Sender(store, tracker).send()
    before = {run.info.run_id for run in runs(tracker)}
    again = Sender(store, tracker)
    again.send()
    assert again.sent == 0
    assert {run.info.run_id for run in runs(tracker)} == before


def test_a_run_of_ones_own_below_a_sweep_is_passed_over(store: Store, tracker: Tracker) -> None:
    Sender(store, tracker).send()
    (parent,) = [run for run in runs(tracker) if "mlflow.parentRunId" not in run.data.tags]
    tags = {"mlflow.parentRunId": parent.info.run_id}
    tracker.client.create_run(parent.info.experiment_id, tags=tags, run_name="a note")
    again = Sender(store, tracker)
    again.send()
    assert again.sent == 0


def test_sending_that_breaks_off_is_gone_on_with(
    store: Store, tracker: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = tracker.client.log_batch, 0

    def breaks(*given: Any, **named: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise OSError("the server is gone")
        real(*given, **named)

    monkeypatch.setattr(tracker.client, "log_batch", breaks)
    with pytest.raises(TrackingError, match="the server is gone"):
        Sender(store, tracker).send()
    assert len(runs(tracker)) == 1 + 5
    sender = Sender(store, tracker)
    sender.send()
    assert sender.sent == 48 - 4
    found = runs(tracker)
    assert len(found) == 1 + 48
    assert {run.info.status for run in found} == {"FINISHED"}


def test_a_sweep_that_is_not_complete_stays_open(
    store: Store, small: Sweep, tracker: Tracker, tmp_path: Path
) -> None:
    part = Store(tmp_path / "part")
    plan = json.loads((store.folder / "sweeps" / f"{small.identity}.json").read_text())
    part.plan(small.identity, plan)
    part.cell_path("0" * 64).parent.mkdir(parents=True)
    for cell in plan["cells"][:3]:
        shutil.copy(store.cell_path(cell["key"]), part.cell_path(cell["key"]))
    sender = Sender(part, tracker)
    sender.send()
    assert sender.sent == 3
    assert sorted(run.info.status for run in runs(tracker)) == ["FINISHED"] * 3 + ["RUNNING"]


def test_the_command_tells_mlflow_beside_the_work(
    declared: Callable[..., dict[str, Any]],
    empty_store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("SPARSE_SAM_PUBLISH", raising=False)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    (tmp_path / "sweep.yaml").write_text(json.dumps(declared()))
    assert main([str(tmp_path / "sweep.yaml"), "--engine", "sequential"]) == 0
    assert capsys.readouterr().err == ""
    assert len(runs(Tracker(tmp_path))) == 1 + 48


def test_a_server_that_is_not_there_stops_nothing(
    declared: Callable[..., dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("SPARSE_SAM_PUBLISH", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    (tmp_path / "sweep.yaml").write_text(json.dumps(declared()))
    assert main([str(tmp_path / "sweep.yaml"), "--engine", "sequential"]) == 0
    said = capsys.readouterr()
    assert "48 of 48 cells" in said.out
    assert "MLflow does not have all of this sweep yet" in said.err
    assert "To send what is missing, run" in said.err


def test_what_is_no_store_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["sending", str(tmp_path)])
    assert sending.main() == 2
    assert "is not the folder of a sweep" in capsys.readouterr().err
