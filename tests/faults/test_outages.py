"""A real MLflow server that goes away and comes back while the pipeline runs."""

import csv
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.pipeline.conftest import Clone, Store

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1200)]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def serve(folder: Path, port: int) -> subprocess.Popen[bytes]:
    """MLflow's server on loopback, answering when this returns."""
    folder.mkdir(exist_ok=True)
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--workers", "1"),
            *("--port", str(port), "--backend-store-uri", f"sqlite:///{folder / 'store.db'}"),
            *("--serve-artifacts", "--artifacts-destination", str(folder / "artifacts")),
        ],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).close()
        except (urllib.error.URLError, OSError):
            assert time.monotonic() < deadline
            time.sleep(0.2)
        else:
            return process


def kill(process: subprocess.Popen[bytes]) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@contextmanager
def running(clone: Clone, uri: str) -> Iterator[subprocess.Popen[str]]:
    """`dvc repro` at work; it must end well."""
    process = subprocess.Popen(
        ["dvc", "repro"],
        cwd=clone.path,
        env=clone.env | {"MLFLOW_TRACKING_URI": uri, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    yield process
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said


def has_ended(clone: Clone, stage: str) -> bool:
    return (clone.path / "runs" / f"{stage}.jsonl").is_file()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 200
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_every_metric_arrives_once_though_the_server_went_away_twice(
    make_clone: Callable[..., Clone], tmp_path: Path
) -> None:
    clone, port = make_clone("outage"), free_port()
    uri = f"http://127.0.0.1:{port}"
    server = serve(tmp_path / "server", port)
    try:
        with running(clone, uri):
            wait_until(lambda: has_ended(clone, "download"))
            time.sleep(0.5)  # somewhere in train_dense
            kill(server)
            wait_until(lambda: has_ended(clone, "prune"))
            server = serve(tmp_path / "server", port)
            wait_until(lambda: has_ended(clone, "finetune_sgd"))
            kill(server)
        assert not clone.run("git", "status", "--porcelain", "models").stdout
        server = serve(tmp_path / "server", port)
        for _ in range(2):  # the second finds nothing to send
            said = clone.run(
                "python", "-m", "sparse_sam.tracking.publish", MLFLOW_TRACKING_URI=uri
            ).stdout
        assert "every run of this workspace is there" in said
        runs = Store(uri).runs()
        assert {run.info.status for run in runs} == {"FINISHED"}
        client = Store(uri).client
        for arm in ("dense", "sgd", "sgd_2x", "sam"):
            table = (clone.path / "plots" / f"{arm}.csv").read_text()
            rows = list(csv.DictReader(table.splitlines()))
            for seed in ("0", "1"):
                (run,) = [r for r in runs if r.info.run_name.endswith(f" {arm} seed {seed}")]
                own = [row for row in rows if row["seed"] == seed]
                for name in ("validation_accuracy", "validation_loss", "gradient_evaluations"):
                    points = client.get_metric_history(run.info.run_id, name)
                    assert Counter(point.step for point in points) == Counter(
                        int(row["epoch"]) for row in own
                    )
                    values = {point.step: point.value for point in points}
                    assert all(
                        values[int(r["epoch"])] == pytest.approx(float(r[name])) for r in own
                    )
                names = [file.path for file in client.list_artifacts(run.info.run_id)]
                assert names == [f"seed-{seed}.safetensors"]
    finally:
        kill(server)


def test_a_locked_store_costs_nothing(make_clone: Callable[..., Clone]) -> None:
    import sqlite3

    clone = make_clone("locked")
    clone.run("dvc", "repro", "download")
    holder = sqlite3.connect(clone.path / "mlflow.db", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    try:
        patience = {"SPARSE_SAM_PUBLISH_PATIENCE": "3"}
        done = clone.run("dvc", "repro", "train_dense", **patience)
        assert "make publish" in done.stderr + done.stdout
        assert has_ended(clone, "train_dense")
    finally:
        holder.execute("ROLLBACK")
        holder.close()
    clone.run("python", "-m", "sparse_sam.tracking.publish")
    store = Store(f"sqlite:///{clone.path / 'mlflow.db'}")
    names = Counter(run.info.run_name for run in store.runs())
    assert names["train_dense"] == 1
    assert names["train_dense dense seed 0"] == 1
