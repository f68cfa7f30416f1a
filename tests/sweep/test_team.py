"""A team's set-up from real parts: PostgreSQL, MLflow's server, and eight clones at once."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from sparse_sam.sweep.declaration import parse_sweep
from sparse_sam.sweep.store import Store
from sparse_sam.sweep.sweeping import run_sweep
from sparse_sam.sweep.table import write_table
from sparse_sam.training.engines import Sequential

pytestmark = [pytest.mark.sweep, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parents[2]
CLONES = 8


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def binary(name: str) -> str:
    """A program of PostgreSQL's; Debian keeps them off the path."""
    places = [Path(shutil.which(name) or ""), *Path("/usr/lib/postgresql").glob(f"*/bin/{name}")]
    found = [place for place in places if place.is_file()]
    if not found:
        pytest.skip(f"PostgreSQL's {name} is not there: apt-get install postgresql")
    return str(found[-1])


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    """A PostgreSQL server on loopback, as the URI of its database."""
    initdb, postgres = binary("initdb"), binary("postgres")
    folder, password = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp")), secrets.token_hex(16)
    # It refuses to run as root.
    as_user = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
    (folder / "password").write_text(password)
    if as_user:
        shutil.chown(folder, "postgres")
        shutil.chown(folder / "password", "postgres")
    at, secret = ["-D", str(folder / "data")], ["--pwfile", str(folder / "password")]
    subprocess.run(
        [*as_user, initdb, *at, "-U", "mlflow", "--no-sync", "--auth=scram-sha-256", *secret],
        cwd=folder,
        check=True,
        capture_output=True,
    )
    port = free_port()
    where = ["-p", str(port), "-c", "listen_addresses=127.0.0.1"]
    server = subprocess.Popen(
        [*as_user, postgres, *at, *where, "-k", str(folder)],
        cwd=folder,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_until(lambda: reaches(port), server)
        yield f"postgresql://mlflow:{password}@127.0.0.1:{port}/postgres"
    finally:
        end(server)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def server(database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """What `make server` starts, as what clients set MLFLOW_TRACKING_URI to."""
    folder, port = tmp_path_factory.mktemp("server"), free_port()
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["make", "--old-file=setup-sweep", "server", f"PORT={port}"],
            cwd=ROOT,
            env={
                **os.environ,
                "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
                "PYTHONPATH": str(ROOT / "src"),
                "MLFLOW_BACKEND_STORE_URI": database,
                "MLFLOW_ARTIFACTS_DESTINATION": str(folder / "artifacts"),
            },
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    uri = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: healthy(uri), process, log)
        yield uri
    finally:
        end(process)


def reaches(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def healthy(uri: str) -> bool:
    try:
        with urlopen(f"{uri}/health", timeout=5) as answer:  # noqa: S310
            return bool(answer.status == 200)
    except OSError:
        return False


def wait_until(
    what: Callable[[], bool], process: "subprocess.Popen[bytes]", log: Path | None = None
) -> None:
    deadline = time.monotonic() + 120
    while not what():
        said = log.read_text()[-3000:] if log else ""
        assert process.poll() is None, said
        assert time.monotonic() < deadline, said
        time.sleep(0.2)


def end(process: "subprocess.Popen[bytes]") -> None:
    """End a server and all that it started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def clone(folder: Path) -> Path:
    """As much of a clone as sending looks at."""
    (folder / ".dvc").mkdir(parents=True)
    return folder


def send(folder: Path, uri: str, store: Path) -> "subprocess.Popen[str]":
    """What a client does: it sets one variable."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    return subprocess.Popen(
        [sys.executable, "-m", "sparse_sam.sweep.sending", str(store)],
        cwd=folder,
        env={**env, "PYTHONPATH": str(ROOT / "src"), "MLFLOW_TRACKING_URI": uri},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_eight_clones_write_at_once_and_see_each_other(
    declared: Callable[..., dict[str, Any]],
    server: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from mlflow.tracking import MlflowClient

    stores = []
    for number in range(CLONES):
        sweep = parse_sweep(declared(name=f"of-clone-{number}"))
        store = Store(tmp_path / f"store-{number}")
        for kept in ("entries", "blobs") if number else ():
            shutil.copytree(tmp_path / "store-0" / kept, store.folder / kept, dirs_exist_ok=True)
        swept = run_sweep(sweep, store, Sequential())
        assert swept.computed == (0 if number else 48)
        write_table(store.table(sweep.name), sweep, swept.table)
        stores.append(store)
    clones = [clone(tmp_path / f"clone-{number}") for number in range(CLONES)]
    writers = [send(c, server, store.folder) for c, store in zip(clones, stores, strict=True)]
    for writer in writers:
        said, _ = writer.communicate(timeout=400)
        assert writer.returncode == 0, said
        assert "sent 48 cells" in said
    client = MlflowClient(server)
    (experiment,) = [one for one in client.search_experiments() if one.name == "sparse-sam"]
    assert experiment.artifact_location.startswith("mlflow-artifacts:/")
    ids = [experiment.experiment_id]
    parents = client.search_runs(ids, "tags.`sparse_sam.kind` = 'sweep'")
    names = sorted(run.info.run_name for run in parents)
    assert names == [f"sweep of-clone-{number}" for number in range(CLONES)]
    for parent in parents:
        query = f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
        cells = client.search_runs(ids, query, max_results=1000)
        assert len({run.data.tags["sparse_sam.cell"] for run in cells}) == len(cells) == 48
        assert {run.info.status for run in (parent, *cells)} == {"FINISHED"}
        for run in cells:
            result, _ = stores[0].record(run.data.tags["sparse_sam.cell"])
            assert run.data.metrics["validation_accuracy"] == result.validation_accuracy
        # What one clone has put there another takes, through the server alone.
        number = int(parent.info.run_name.rpartition("-")[2])
        name = f"of-clone-{number}.csv"
        taken = client.download_artifacts(parent.info.run_id, name, str(tmp_path))
        assert Path(taken).read_bytes() == stores[number].table(f"of-clone-{number}").read_bytes()
    # Another clone with the same results finds that all of it is there.
    said, _ = send(clone(tmp_path / "ninth"), server, stores[3].folder).communicate(timeout=200)
    assert "sent 0 cells" in said
