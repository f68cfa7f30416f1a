"""``python -m sparse_sam.tracking.ui``: MLflow's server on this machine, and where its runs are.

MLflow opens an experiment on an overview that is empty for training runs, and its server can take a
minute to answer. So this says that it starts, waits for it, and prints the address of the runs.
"""

import argparse
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from sparse_sam.redaction import redacted
from sparse_sam.tracking.pipelines import repository_root, state_folder

HOST = "127.0.0.1"
EXPERIMENT = "sparse-sam"
_VIEW = "sparse-sam"
RUNS_VIEW = f"mlflow.sharedViewState.{_VIEW}"
"""The tag of an experiment that holds the columns of its list of runs (``experiment_page``)."""
_PATIENCE_SECONDS = 300.0
_STORE = "sqlite:///mlflow.db"


def runs_path(experiment: str, *, viewed: bool) -> str:
    """The page that lists an experiment's runs, after the server's address and ``#``.

    Args:
        experiment: its id.
        viewed: whether it has our columns, as its tag ``RUNS_VIEW``.
    """
    view = f"&viewStateShareKey={_VIEW}" if viewed else ""
    return f"/experiments/{experiment}/runs?workflowType=machine_learning{view}"


def runs_address(base: str, name: str) -> str | None:
    """Where a server lists the runs of the experiment of this name; None if there is none."""
    query = urllib.parse.urlencode({"experiment_name": name})
    found = _answer(f"{base}/api/2.0/mlflow/experiments/get-by-name?{query}")
    try:
        experiment = json.loads(found or "")["experiment"]
        viewed = any(tag["key"] == RUNS_VIEW for tag in experiment.get("tags", ()))
        return f"{base}/#{runs_path(str(experiment['experiment_id']), viewed=viewed)}"
    except (ValueError, KeyError, TypeError):
        return None


def _answer(address: str) -> str | None:
    try:
        with urllib.request.urlopen(address, timeout=10) as response:  # noqa: S310 - http, ours
            return str(response.read().decode())
    except (OSError, ValueError, http.client.HTTPException):
        return None


def _is_taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return True
    return False


def _port(text: str) -> int:
    port = int(text)
    if not 0 < port < 2**16:
        raise ValueError
    return port


def serve(port: int, root: Path) -> int:
    """Run the server until it ends or is interrupted; its exit status, 0 when interrupted."""
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
    uri = os.environ.get("MLFLOW_TRACKING_URI") or _STORE
    if uri.startswith(("http://", "https://")):
        base = redacted(uri).rstrip("/")
        sys.stdout.write(f"The runs are on a server already: {base}\n")
        return 0
    if _is_taken(port):
        sys.stderr.write(
            f"error: port {port} is taken, perhaps by an MLflow that is running already: open "
            f"http://{HOST}:{port}, or choose another with make ui PORT={port + 1}\n"
        )
        return 2
    base, log = f"http://{HOST}:{port}", state_folder(root) / "ui.log"
    sys.stdout.write("Starting MLflow; it can take a minute ...\n")
    sys.stdout.flush()
    # Not as an argument, which everybody on this machine can list: a password may be in it.
    environment = {**os.environ, "MLFLOW_BACKEND_STORE_URI": uri}
    command = [sys.executable, "-m", "mlflow", "server", "--host", HOST, "--port", str(port)]
    with log.open("wb") as output:
        server = subprocess.Popen(
            [*command, "--workers", "1"], env=environment, cwd=root, stdout=output, stderr=output
        )
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            return _attend(server, base, name, log)
        except KeyboardInterrupt:
            return 0
        finally:
            _stop(server)


def _attend(server: "subprocess.Popen[Any]", base: str, name: str, log: Path) -> int:
    until = time.monotonic() + _PATIENCE_SECONDS
    while _answer(f"{base}/health") is None:
        if server.poll() is not None:
            tail = redacted(log.read_text(encoding="utf-8", errors="replace")).splitlines()[-15:]
            sys.stderr.write("\n".join([*tail, "error: MLflow's server ended at once"]) + "\n")
            return server.returncode or 1
        if time.monotonic() > until:
            sys.stderr.write(
                f"error: MLflow has not answered for {_PATIENCE_SECONDS:.0f} seconds; what it "
                f"says is in {log}\n"
            )
            return 1
        time.sleep(0.3)
    found = runs_address(base, name)
    nothing = "" if found else f"\nNo experiment is called {name!r} there yet: make repro makes it."
    sys.stdout.write(f"MLflow: {found or base}{nothing}\nCtrl-C stops it.\n")
    sys.stdout.flush()
    return server.wait()


def _stop(server: "subprocess.Popen[Any]") -> None:
    server.terminate()
    try:
        server.wait(10)
    except subprocess.TimeoutExpired:
        server.kill()


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m sparse_sam.tracking.ui", description=__doc__)
    parser.add_argument("--port", type=_port, default=5000, help="5000 unless you say otherwise")
    return serve(parser.parse_args().port, repository_root())


if __name__ == "__main__":
    sys.exit(main())
