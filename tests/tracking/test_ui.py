"""``make ui`` starts MLflow and says where the runs are, on this machine only."""

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from sparse_sam.tracking.mlflow_store import Tracker
from sparse_sam.tracking.ui import HOST, RUNS_VIEW, runs_address

COMMAND = [sys.executable, "-m", "sparse_sam.tracking.ui"]


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


def environment(**more: str) -> dict[str, str]:
    hidden = ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "DVC_ROOT")
    return {**{k: v for k, v in os.environ.items() if k not in hidden}, **more}


def test_a_port_that_is_taken_is_said_at_once(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = subprocess.run(
            [*COMMAND, "--port", str(port)],
            cwd=tmp_path,
            env=environment(),
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 2
    assert f"port {port} is taken" in done.stderr
    assert f"make ui PORT={port + 1}" in done.stderr


@pytest.mark.parametrize("port", ["0", "65536", "-1", "five"])
def test_a_port_that_is_none_is_refused(tmp_path: Path, port: str) -> None:
    done = subprocess.run(
        [*COMMAND, f"--port={port}"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "--port" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_server_elsewhere_is_named_without_its_password(tmp_path: Path) -> None:
    done = subprocess.run(
        COMMAND,
        cwd=tmp_path,
        env=environment(MLFLOW_TRACKING_URI="https://me:secret@runs.example.com/"),
        capture_output=True,
        text=True,
        check=True,
    )
    assert "runs.example.com" in done.stdout
    assert "secret" not in done.stdout + done.stderr


@pytest.mark.slow
def test_the_address_that_is_printed_lists_the_runs(
    tmp_path: Path, empty_store: Path, port: int
) -> None:
    shutil.copy(empty_store, tmp_path)
    tracker = Tracker(tmp_path)
    experiment = tracker.experiment({})
    run = tracker.client.create_run(experiment, run_name="ρ 0.1")
    server = subprocess.Popen(
        [*COMMAND, "--port", str(port)],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert server.stdout is not None
        assert "Starting MLflow" in server.stdout.readline()
        base = f"http://{HOST}:{port}"
        address = f"{base}/#/experiments/{experiment}/runs?workflowType=machine_learning"
        assert server.stdout.readline() == f"MLflow: {address}\n"
        tracker.client.set_experiment_tag(experiment, RUNS_VIEW, "{}")
        assert runs_address(base, "sparse-sam") == f"{address}&viewStateShareKey=sparse-sam"
        assert runs_address(base, "no such") is None
        request = urllib.request.Request(  # noqa: S310 - http, ours
            f"{base}/api/2.0/mlflow/runs/search",
            data=json.dumps({"experiment_ids": [experiment]}).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310
            found = json.load(response)
        assert [one["info"]["run_id"] for one in found["runs"]] == [run.info.run_id]
        addresses = {line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines()[1:]}
        assert f"0100007F:{port:04X}" in addresses  # loopback ...
        assert f"00000000:{port:04X}" not in addresses  # ... and nowhere else
    finally:
        os.killpg(server.pid, signal.SIGINT)
        assert server.wait(120) == 0
        if server.stdout:
            server.stdout.close()
    for _ in range(50):
        connection = http.client.HTTPConnection(HOST, port, timeout=1)
        try:
            connection.request("GET", "/health")
            connection.getresponse()
        except OSError:
            return
        time.sleep(0.2)
    pytest.fail("the server goes on after Ctrl-C")
