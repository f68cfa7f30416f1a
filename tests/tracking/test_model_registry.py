"""``make register`` in a clone of its own, a real MLflow store, a real server on loopback."""

import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mlflow.tracking import MlflowClient

from sparse_sam.config import REFERENCE
from sparse_sam.data.params import DataParams
from sparse_sam.data.raw import RawData
from sparse_sam.data.stratify import build_dataset
from sparse_sam.errors import ExportError
from sparse_sam.export.network_files import pixels_of
from sparse_sam.tracking import release
from sparse_sam.tracking.mlflow_store import Tracker
from sparse_sam.tracking.model_registry import champion, register_export
from sparse_sam.training.checkpoint import Checkpoint, save_checkpoint
from tests.trained_networks import trained, write_data

NAME = "our-digits"
OURS = ("MLFLOW_TRACKING_URI", "DVC_ROOT", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID")
GATE = """
metrics: [{file: metrics/evaluate.json, metric: "*.test_accuracy", better: higher, absolute: 0}]
"""


class Clone:
    """A repository with two finetuned networks, as the pipeline leaves them."""

    def __init__(self, path: Path, networks: dict[str, Checkpoint], data: Any) -> None:
        self.path, self.data, self.networks = path, data, networks
        (path / ".dvc").mkdir()
        (path / "gate.yaml").write_text(GATE)
        params = REFERENCE.read_text().replace("seeds: [0, 1, 2, 3, 4]", "seeds: [0]")
        params = params.replace("  name: classifier", "  name: lenet-300-100")
        params = params.replace("  name: sparse-sam", f"  name: {NAME}")
        (path / "params.yaml").write_text(params)
        self.accuracy = {}
        for arm, network in networks.items():
            save_checkpoint(path / "models" / arm / "seed-0.safetensors", network)
            right = self.predictions(arm) == data.test.labels.numpy()
            self.accuracy[arm] = float(right.mean())
        self.write("finetune_sgd", {"sgd": self.validation(0.8), "sgd_2x": self.validation(0.7)})
        self.write("finetune_sam", {"sam": self.validation(0.9)})
        self.write("summary", {"seeds": [0]})
        self.write_tested()
        self.git("init", "-q", "-b", "main")
        self.git("add", "gate.yaml", "metrics")
        self.git("commit", "-qm", "before")
        self.git("commit", "-qm", "now", "--allow-empty")

    def predictions(self, arm: str) -> Any:
        with torch.no_grad():
            return (
                self.networks[arm]
                .build()
                .eval()(self.data.test.taken(slice(None)))
                .argmax(1)
                .numpy()
            )

    @staticmethod
    def validation(value: float) -> dict[str, Any]:
        both = {"mean": value, "values": [value]}
        return {"validation_accuracy": both, "validation_loss": both}

    def write(self, name: str, content: Any) -> None:
        path = self.path / "metrics" / f"{name}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content))

    def write_tested(self, **changes: float) -> None:
        tested = {**self.accuracy, **changes}
        self.write(
            "evaluate",
            {a: {"test_accuracy": {"values": [v], "mean": v}} for a, v in tested.items()},
        )

    def git(self, *arguments: str) -> None:
        identity = ["-c", "user.name=test", "-c", "user.email=test@example.com"]
        subprocess.run(["git", *identity, *arguments], cwd=self.path, check=True)

    def champion(self) -> str | None:
        return champion(Tracker(self.path), NAME)


@pytest.fixture(scope="module")
def networks(
    digits: RawData,
    data_params: Callable[..., DataParams],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, Any, dict[str, Checkpoint]]:
    dataset = build_dataset(digits, data_params())
    path = tmp_path_factory.mktemp("data") / "dataset.safetensors"
    data = write_data(path, dataset)
    found = {
        "sam": trained("lenet-300-100", dataset, 0.95),
        "sgd": trained("lenet-300-100", dataset, 0.5, arm="sgd"),
    }
    return path, data, found


@pytest.fixture(scope="module")
def clone(
    networks: tuple[Path, Any, dict[str, Checkpoint]],
    empty_store: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Clone:
    path, data, found = networks
    folder = tmp_path_factory.mktemp("a clone")
    (folder / "data").mkdir()
    shutil.copy(path, folder / "data")
    shutil.copy(empty_store, folder)
    return Clone(folder, found, data)


@contextmanager
def inside(clone: Clone) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in OURS:
            patch.delenv(name, raising=False)
        patch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
        patch.chdir(clone.path)
        yield


@pytest.fixture(autouse=True)
def _inside(clone: Clone) -> Iterator[None]:
    with inside(clone):
        yield


def command(*arguments: str) -> tuple[int, str]:
    said = io.StringIO()
    with redirect_stdout(said), redirect_stderr(said):
        code = release.main(list(arguments))
    return code, said.getvalue()


@pytest.fixture(scope="module")
def registered(clone: Clone) -> Clone:
    """The clone when both networks are registered and the second is the champion."""
    with inside(clone):
        champion_moves_only_when_the_gate_passes(clone)
    return clone


def test_a_missing_network_is_named_with_its_cure(clone: Clone) -> None:
    code, said = command("--arm", "sgd_2x")
    assert code == 2
    assert "models/sgd_2x/seed-0.safetensors is missing. Run `dvc repro finetune_sgd`" in said
    assert not Path("exports/sgd_2x-seed-0").exists()
    assert command("--seed", "7")[1].startswith("error: SEED=7 was not trained; allowed: 0")


def test_an_arm_that_only_metrics_name_is_not_chosen(clone: Clone) -> None:
    metrics = json.loads(Path("metrics/finetune_sam.json").read_text())
    clone.write("finetune_sam", {**metrics, "../../x": clone.validation(0.99)})
    try:
        code, said = command()
    finally:
        clone.write("finetune_sam", metrics)
    assert code == 0, said
    assert said.startswith("exports/sam-seed-0/: lenet-300-100, sam, seed 0")


def test_nothing_is_registered_when_the_gate_cannot_tell(clone: Clone) -> None:
    before = clone.champion()
    code, said = command("--register", "--base", "nowhere")
    assert (code, said) == (2, "error: --base nowhere: git does not know this revision\n")
    assert clone.champion() == before


def test_metrics_of_other_networks_open_no_gate(clone: Clone) -> None:
    before = clone.champion()
    clone.write_tested(sam=clone.accuracy["sam"] + 0.01)
    code, said = command("--register")
    assert code == 2
    assert "metrics/evaluate.json says" in said
    assert "Run `make repro`" in said
    assert clone.champion() == before
    clone.write_tested()


def test_results_of_other_data_open_no_gate(clone: Clone) -> None:
    before = clone.champion()
    clone.write("download", {"source": "digits", "fingerprint": "f" * 64})
    code, said = command("--register")
    (clone.path / "metrics" / "download.json").unlink()
    assert code == 2
    assert "of other data: " in said
    assert clone.champion() == before


def test_champion_moves_only_when_the_gate_passes(registered: Clone) -> None:
    assert registered.champion() == "2"


def champion_moves_only_when_the_gate_passes(clone: Clone) -> None:
    code, said = command("--register")
    assert code == 0, said
    assert "exports/sam-seed-0/: lenet-300-100, sam, seed 0, 95.00% sparse" in said
    assert f"{NAME} version 1\nThe gate passes: champion is version 1, was nobody." in said

    clone.write_tested(sgd_2x=0.5)  # a metric that the base does not have
    code, said = command("--register", "--arm", "sgd")
    assert code == 1
    assert f"{NAME} version 2" in said
    assert "evaluate.json: sgd_2x.test_accuracy" in said
    assert "The gate fails: champion stays version 1." in said
    assert clone.champion() == "1"

    clone.write_tested()
    code, said = command("--register", "--arm", "sgd")
    assert code == 0
    assert f"{NAME} version 2, which was there already" in said
    assert "champion is version 2, was version 1." in said
    assert clone.champion() == "2"
    client = MlflowClient(Tracker(clone.path).uri)
    versions = client.search_model_versions(f"name = '{NAME}'")
    assert sorted(version.version for version in versions) == [1, 2]
    tags = client.get_model_version(NAME, "1").tags
    assert tags["model"] == "lenet-300-100"
    assert (tags["arm"], tags["seed"], tags["sparse_sam.gate"]) == ("sam", "0", "passed")
    says_what_it_is(clone, client)


def says_what_it_is(clone: Clone, client: MlflowClient) -> None:
    version = client.get_model_version(NAME, "1")
    share, images = clone.accuracy["sam"], len(clone.data.test)
    assert version.description.startswith(f"{100 * share:.2f} % of {images:,} test images (")
    assert "95.00 % sparse" in version.description
    assert f"run on all {images:,} test images" in version.description
    size = Path("exports/sam-seed-0/model.onnx").stat().st_size
    assert f"`model.onnx` {size:,}" in version.description
    assert version.tags["bytes"] == str(size)
    assert version.tags["test_accuracy"] == f"{share:.6g}"
    low, high = map(float, version.tags["test_accuracy.interval"].split(" to "))
    assert low < share < high
    model = client.get_registered_model(NAME)
    assert "champion" in model.description
    assert model.tags["champion"].startswith("version 2: ")
    files = [file.path for file in client.list_artifacts(version.run_id, "export")]
    assert "export/model_card.md" in files
    card = Path("exports/sam-seed-0/model_card.md").read_text()
    assert "Not stated by the project that made it." in card
    assert "Not recorded: no run of these networks was found." in card


def test_the_command_that_serves_it_shows_no_secret(
    registered: Clone, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = Tracker(registered.path).uri
    code, said = command("--register", "--arm", "sgd")
    assert f"Serve it: MLFLOW_TRACKING_URI={uri} mlflow models serve" in said
    # A URI that holds a password and works without a server: the folder's name is one.
    monkeypatch.setenv("PGPASSWORD", registered.path.name)
    code, said = command("--register", "--arm", "sgd")
    assert code == 0, said
    assert f"Serve it: mlflow models serve -m models:/{NAME}@champion" in said
    assert registered.path.name not in said
    assert "MLflow at sqlite:///" in said


def test_an_export_that_changed_is_not_registered(registered: Clone, tmp_path: Path) -> None:
    clone = registered
    shutil.copytree("exports/sam-seed-0", tmp_path / "export")
    file = tmp_path / "export" / "model.onnx"
    file.write_bytes(file.read_bytes()[:-1])
    from sparse_sam.evaluation.gate import check_gate

    with pytest.raises(ExportError, match=r"model\.onnx has changed since it was verified"):
        register_export(
            Tracker(clone.path),
            tmp_path / "export",
            pixels_of(clone.data)[:2],
            check_gate()[0],
            NAME,
        )
    with pytest.raises(ExportError, match="the gate compared no metric"):
        register_export(
            Tracker(clone.path), Path("exports/sam-seed-0"), pixels_of(clone.data)[:2], [], NAME
        )


def test_the_champion_loads_without_pickle(
    registered: Clone, monkeypatch: pytest.MonkeyPatch
) -> None:
    clone = registered
    monkeypatch.setenv("MLFLOW_TRACKING_URI", Tracker(clone.path).uri)
    monkeypatch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    import mlflow.pyfunc

    mlflow.set_tracking_uri(Tracker(clone.path).uri)
    try:
        model = mlflow.pyfunc.load_model(f"models:/{NAME}@champion")
    finally:
        mlflow.set_tracking_uri(None)
    pixels = pixels_of(clone.data)
    assert np.array_equal(model.predict(pixels)["label"], clone.predictions("sgd"))
    assert [tuple(one.shape) for one in model.metadata.signature.inputs] == [(-1, 1, 28, 28)]
    assert model.metadata.signature.outputs.input_names() == ["label", "logits", "class"]
    assert np.array_equal(model.input_example, pixels[:2])
    assert model.metadata.metadata["export"]["origin"]["arm"] == "sgd"


def test_the_served_champion_answers_with_the_networks_predictions(
    registered: Clone, tmp_path: Path
) -> None:
    clone = registered
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path / "server.log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "mlflow",
                "models",
                "serve",
                "-m",
                f"models:/{NAME}@champion",
                "--env-manager",
                "local",
                "--host",
                "127.0.0.1",
                "--port",
                str(port),
            ],
            env=os.environ
            | {
                "MLFLOW_TRACKING_URI": Tracker(clone.path).uri,
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            },
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        wait_for(f"http://127.0.0.1:{port}/ping", server, log)
        answers: list[int] = []
        for batch in np.array_split(pixels_of(clone.data), 4):
            request = urllib.request.Request(
                f"http://127.0.0.1:{port}/invocations",
                json.dumps({"inputs": batch.tolist()}).encode(),
                {"Content-Type": "application/json"},
            )
            with urllib.request.urlopen(request, timeout=30) as response:  # noqa: S310
                found = json.load(response)["predictions"]
            answers += found["label"]
            assert found["class"] == [str(label) for label in found["label"]]
        assert answers == clone.predictions("sgd").tolist()
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(20)


def wait_for(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    ends = time.monotonic() + 60
    while time.monotonic() < ends and server.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):  # noqa: S310
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    pytest.fail(f"the server does not answer: {log.read_text()[-2000:]}")
