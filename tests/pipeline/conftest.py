"""Clones of this repository in which the real pipeline runs, small."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from ruamel.yaml import YAML

from sparse_sam.config import REFERENCE
from sparse_sam.tracking.stages import STAGES as TABLE

ROOT = Path(__file__).resolve().parent.parent.parent
STAGES = tuple(TABLE)
SMALL: dict[str, Any] = {
    "seeds": [0, 1],
    "data.fraction": 0.3,
    "model.name": "mlpnet",
    "train_dense.epochs": 2,
    "finetune.training.epochs": 1,
    "finetune.training.momentum": 0.9,
    "finetune.training.weight_decay": 0.001,
    "evaluate.latency_seconds": 0.0,
}
"""A pipeline of seconds: real digits, real stages, few of them."""


FOREIGN = ("MLFLOW_", "DVC_", "PYTEST_", "SPARSE_SAM_", "GIT_", "PYTHONPATH")
"""Variables of whoever runs the tests that must not reach the clones."""

LATER = {"SPARSE_SAM_PUBLISH": "later"}
"""For commands whose runs in MLflow are not what is tested."""


class Clone:
    """A git clone with DVC in it, and a shell there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        clean = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
        self.env = clean | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "DO_NOT_TRACK": "true",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            # Nothing in this project needs a pickle.
            "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
            # Two test processes share two cores.
            "OMP_NUM_THREADS": "1",
            # What an editable install in the clone would do.
            "PYTHONPATH": str(path / "src"),
        }

    def run(
        self, *command: str, fails: bool = False, timeout: float = 240, **env: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the clone; it must end well, or badly if it ``fails``."""
        done = subprocess.run(
            command,
            cwd=self.path,
            env=self.env | env,
            text=True,
            capture_output=True,
            timeout=timeout,
            check=False,
        )
        said = f"{' '.join(command)} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert (done.returncode != 0) == fails, said
        return done

    def start(self, *command: str) -> "subprocess.Popen[bytes]":
        """Start a command whose children may outlive it; what it says is dropped."""
        nowhere = subprocess.DEVNULL
        return subprocess.Popen(
            command, cwd=self.path, env=self.env, stdout=nowhere, stderr=nowhere
        )

    def set(self, **values: Any) -> None:
        """Change parameters; a dot in a name is written as two underscores."""
        self.set_all({key.replace("__", "."): value for key, value in values.items()})

    def set_all(self, values: Mapping[str, Any]) -> None:
        """Change parameters by their dotted names."""
        yaml = YAML(typ="safe", pure=True)
        params = yaml.load(self.path / "params.yaml")
        for key, value in values.items():
            section = params
            *parents, last = key.split(".")
            for parent in parents:
                section = section[parent]
            section[last] = value
        yaml.dump(params, self.path / "params.yaml")

    def commit(self, message: str) -> None:
        self.run("git", "add", "-A")
        identity = ("-c", "user.name=test", "-c", "user.email=test@example.com")
        self.run("git", *identity, "commit", "-q", "--allow-empty", "-m", message)

    def hashes(self, pattern: str = "models/*/*.safetensors") -> dict[str, str]:
        """The MD5 of every checkpoint."""
        from sparse_sam.files.atomic import file_hash

        return {
            path.relative_to(self.path).as_posix(): file_hash(path)
            for path in sorted(self.path.glob(pattern))
        }


def working_tree() -> list[str]:
    """The files of this working tree, committed or not, that git does not ignore."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return [file for file in listed.split("\0") if file and (ROOT / file).is_file()]


@pytest.fixture(scope="session")
def make_clone(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Clone]:
    """Make a clone of the working tree, with a small form of the reference protocol committed.

    What somebody's params.yaml says is not tested.
    """

    def make(name: str = "clone", params: Mapping[str, Any] = SMALL) -> Clone:
        path = tmp_path_factory.mktemp(name) / "sparse-sam"
        path.mkdir()
        results = ("metrics/", "plots/", "inputs/", "dvc.lock")  # the small pipeline has its own
        for file in working_tree():
            if file.startswith(results):
                continue
            (path / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / file, path / file)
        shutil.copy(REFERENCE, path / "params.yaml")
        clone = Clone(path)
        clone.run("git", "init", "-q", "-b", "main")
        clone.set_all(params)
        clone.commit("small parameters")
        return clone

    return make


@pytest.fixture(scope="session")
def finished(make_clone: Callable[..., Clone], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone in which ``dvc repro`` has run, MLflow told later: one for all test processes."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    path = shared / "finished"
    with FileLock(shared / "finished.lock"):
        if not path.exists():
            clone = make_clone("finishing")
            clone.run("dvc", "repro", **LATER)
            clone.commit("results")
            clone.path.rename(path)
    return path


@pytest.fixture(scope="module")
def clone(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """A module's own copy of the clone in which the pipeline has run."""
    path = tmp_path_factory.mktemp("pipeline") / "sparse-sam"
    shutil.copytree(finished, path, symlinks=True)
    return Clone(path)


class Store:
    """An MLflow store, read as a tree."""

    def __init__(self, uri: str, experiment: str = "sparse-sam") -> None:
        from mlflow.tracking import MlflowClient

        self.client = MlflowClient(uri)
        self.name = experiment

    def runs(self) -> list[Any]:
        experiments = [found.experiment_id for found in self.client.search_experiments()]
        return list(self.client.search_runs(experiments, max_results=5000))

    def pipeline_runs(self) -> list[Any]:
        """The runs of whole pipelines, oldest first."""
        runs = sorted(self.runs(), key=lambda run: run.info.start_time)
        return [run for run in runs if run.data.tags.get("sparse_sam.kind") == "pipeline"]

    def pipelines(self) -> list[list[str]]:
        """The stages of every pipeline run, oldest pipeline first; ``*`` marks cached ones."""
        runs = self.runs()
        return [
            sorted(
                run.data.tags["dvc.stage"] + "*" * ("sparse_sam.cached" in run.data.tags)
                for run in runs
                if run.data.tags.get("sparse_sam.kind") == "stage"
                and run.data.tags["mlflow.parentRunId"] == pipeline.info.run_id
            )
            for pipeline in self.pipeline_runs()
        ]


@pytest.fixture
def s3_endpoint() -> Iterator[str]:
    """A real S3-compatible server on loopback, with a bucket."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert time.monotonic() < deadline, "the S3 server did not start"
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()
