"""Journals arrive in a real MLflow store, whole, once, and by whatever way."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from sparse_sam.config import REFERENCE
from sparse_sam.errors import TrackingError
from sparse_sam.tracking.journal import PIPELINE, Journal
from sparse_sam.tracking.mlflow_runs import Replay
from sparse_sam.tracking.mlflow_store import Tracker, tracking_uri
from sparse_sam.tracking.pipelines import place
from sparse_sam.tracking.publish import publish
from sparse_sam.tracking.stages import STAGES


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_store: Path) -> Path:
    for name in ("MLFLOW_TRACKING_URI", "DVC_ROOT", "DVC_EXP_NAME", "MLFLOW_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "clone with a space"
    folder.mkdir()
    shutil.copy(REFERENCE, folder)
    shutil.copy(empty_store, folder)
    monkeypatch.chdir(folder)
    return folder


def run_stage(
    clone: Path,
    stage: str,
    *,
    seeds: int = 2,
    end: bool = True,
    params: dict[str, Any] | None = None,
    tags: dict[str, str] | None = None,
    launcher: dict[str, str] | None = None,
) -> Path:
    """What a training stage writes, without the training."""
    tags = {"git.dirty": "false", **(tags or {})}
    own = {"finetune.sam.rho": 0.05, "seeds": [0, 1]}
    with place(clone, stage, params or {}, clone, launcher or {}, tags) as path:
        journal = Journal(path, stage=stage, params=own, tags=tags, launcher=launcher or {})
    journal.dataset(name="mnist-sample", fingerprint="f" * 64, context="training")
    weights = Path(f"{stage}.safetensors")
    weights.write_text(stage)
    for seed in range(seeds):
        child = f"sam seed {seed}"
        journal.child(child, {"arm": "sam", "seed": seed})
        for epoch in range(4):
            journal.metrics({"validation_accuracy": epoch / 10 + seed}, step=epoch, child=child)
        journal.artifact(weights, child=child)
        journal.child_end(child)
    journal.metrics({"validation_accuracy": 0.9}, step=3)
    accuracy = {
        "test_accuracy.sam": 0.9427999999999999,
        "sam_vs_sgd.points": -0.0,
        "sam_vs_sgd": -0.002,
    }
    journal.metrics(accuracy, child=PIPELINE)
    journal.note("- SAM − SGD: **+0.10** points\n\n| arm |\n|---|", child=PIPELINE)
    if end:
        journal.end("FINISHED")
        (clone / "runs").mkdir(exist_ok=True)
        shutil.copy(path, clone / "runs" / f"{stage}.jsonl")
    else:
        journal._file.close()
        journal._lock.release()
    return path


def everything(clone: Path) -> dict[str, Run]:
    client = MlflowClient(tracking_uri(clone))
    experiment = client.get_experiment_by_name("sparse-sam")
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    named = {run.info.run_name: run for run in runs}
    assert len(named) == len(runs), sorted(run.info.run_name for run in runs)
    return named


def parent(run: Run) -> str | None:
    return run.data.tags.get("mlflow.parentRunId")


def history(clone: Path, run: Run, metric: str) -> list[tuple[int, float]]:
    points = MlflowClient(tracking_uri(clone)).get_metric_history(run.info.run_id, metric)
    return sorted((point.step, point.value) for point in points)


def test_a_journal_becomes_a_tree_of_runs(clone: Path) -> None:
    path = run_stage(clone, "finetune_sam")
    replay = Replay(Tracker(clone), path)
    replay.send()
    assert replay.ended
    runs = everything(clone)
    pipeline = next(run for name, run in runs.items() if name.startswith("pipeline"))
    stage, seed = runs["finetune_sam"], runs["finetune_sam sam seed 1"]
    assert parent(pipeline) is None
    assert parent(stage) == pipeline.info.run_id
    assert parent(seed) == stage.info.run_id
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    assert stage.data.params == {"finetune.sam.rho": "0.05", "seeds": "[0, 1]"}
    assert stage.data.tags["dvc.stage"] == "finetune_sam"
    (dataset,) = stage.inputs.dataset_inputs
    assert (dataset.dataset.name, dataset.dataset.digest) == ("mnist-sample", "f" * 36)
    shown = {name: str(value) for name, value in pipeline.data.metrics.items()}
    assert shown == {"test_accuracy.sam": "0.9428", "sam_vs_sgd.points": "0.0"}
    assert pipeline.data.tags["mlflow.note.content"].startswith("- SAM − SGD: **+0.10** points\n")
    assert [one.dataset.name for one in pipeline.inputs.dataset_inputs] == ["mnist-sample"]
    assert seed.data.tags["mlflow.runColor"] == "#D55E00"
    assert stage.data.tags["mlflow.source.name"] == "stages/finetune_sam.py"
    assert stage.data.tags["mlflow.user"]
    expected = [(0, 1.0), (1, 1.1), (2, 1.2), (3, 1.3)]
    assert history(clone, seed, "validation_accuracy") == expected
    artifacts = MlflowClient(tracking_uri(clone)).list_artifacts(seed.info.run_id)
    assert [artifact.path for artifact in artifacts] == ["finetune_sam.safetensors"]


def test_sending_again_from_any_point_adds_nothing(clone: Path) -> None:
    path = run_stage(clone, "finetune_sam")
    whole = path.read_text()
    for cut in (1, 3, 6, len(whole.splitlines())):
        # A sender that broke off after `cut` events, and another one that begins anew.
        path.write_text("".join(line + "\n" for line in whole.splitlines()[:cut]))
        Replay(Tracker(clone), path).send()
    runs = everything(clone)
    assert len(runs) == 1 + 1 + 2
    seed = runs["finetune_sam sam seed 1"]
    assert len(history(clone, seed, "validation_accuracy")) == 4
    assert {run.info.status for run in runs.values()} == {"FINISHED"}


def test_a_run_is_called_and_tagged_after_its_own_pipeline(clone: Path) -> None:
    first = {"params.changed": "ρ 0.05", "dvc.experiment": "first"}
    for stage in STAGES:
        run_stage(clone, stage, seeds=1, tags=first, launcher={"experiment": "first"})
    second = {"params.changed": "ρ 0.1", "dvc.experiment": "second"}
    run_stage(
        clone,
        "finetune_sam",
        seeds=1,
        params={"rho": 0.1},
        tags=second,
        launcher={"experiment": "second"},
    )
    publish(clone, clone)
    client = MlflowClient(tracking_uri(clone))
    experiment = client.get_experiment_by_name("sparse-sam")
    found = client.search_runs(
        [experiment.experiment_id],
        "tags.`dvc.experiment` = 'second' and tags.`sparse_sam.kind` = 'pipeline'",
    )
    # Its first stage is a cached one, of the first experiment.
    assert [run.info.run_name for run in found] == ["ρ 0.1 (second)"]


def test_publish_sends_what_waits_and_then_nothing(clone: Path) -> None:
    run_stage(clone, "download", seeds=0)
    run_stage(clone, "train_dense")
    assert "sent 2 runs" in publish(clone, clone).said
    before = {name: run.info.run_id for name, run in everything(clone).items()}
    assert "every run" in publish(clone, clone).said or "nothing" in publish(clone, clone).said
    assert {name: run.info.run_id for name, run in everything(clone).items()} == before
    assert not list(clone.glob(".sparse-sam/pipelines/*/artifacts"))


def test_a_stage_that_died_is_closed_as_killed(clone: Path) -> None:
    run_stage(clone, "download", end=False)
    publish(clone, clone)
    runs = everything(clone)
    assert runs["download"].info.status == "KILLED"
    assert next(r for n, r in runs.items() if n.startswith("pipeline")).info.status == "KILLED"


def test_results_from_elsewhere_are_entered_once_as_cached(
    clone: Path, tmp_path: Path, empty_store: Path
) -> None:
    for stage in STAGES:
        run_stage(clone, stage, seeds=1)
    publish(clone, clone)
    first = everything(clone)
    assert len(first) == 1 + 6 + 6

    pulled = tmp_path / "pulled"
    pulled.mkdir()
    shutil.copy(empty_store, pulled)
    for name in ("params.yaml", "runs"):
        source = clone / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, pulled / name)
    for file in clone.glob("*.safetensors"):
        shutil.copy(file, pulled)
    assert "entered 6 stages" in publish(pulled, pulled).said
    assert "every run" in publish(pulled, pulled).said
    runs = everything(pulled)
    assert len(runs) == 1 + 6 + 6
    cached = runs["prune (cached)"]
    assert cached.data.tags["sparse_sam.cached"] == "true"
    seed = runs["prune sam seed 0"]
    assert len(history(pulled, seed, "validation_accuracy")) == 4
    # The run that made them is not in this store, so their checkpoints are.
    artifacts = MlflowClient(tracking_uri(pulled)).list_artifacts(seed.info.run_id)
    assert [artifact.path for artifact in artifacts] == ["prune.safetensors"]


def test_a_shared_store_is_not_told_twice(
    clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_store: Path
) -> None:
    shutil.copy(empty_store, tmp_path / "shared.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'shared.db'}")
    for stage in STAGES:
        run_stage(clone, stage, seeds=1)
    publish(clone, clone)
    pulled = tmp_path / "pulled"
    shutil.copytree(clone, pulled, ignore=shutil.ignore_patterns(".sparse-sam"))
    assert "every run" in publish(pulled, pulled).said
    assert len(everything(clone)) == 1 + 6 + 6


def test_a_store_that_is_not_there_is_said_in_one_line(
    clone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    path = run_stage(clone, "download")
    with pytest.raises(TrackingError, match=r"^MLflow at http://127.0.0.1:9: ") as caught:
        Replay(Tracker(clone), path).send()
    assert "\n" not in str(caught.value)


def test_several_processes_may_make_the_store_at_once(clone: Path) -> None:
    (clone / "mlflow.db").unlink()
    code = (
        "import sys; from pathlib import Path\n"
        "from sparse_sam.tracking.mlflow_store import Tracker\n"
        "print(Tracker(Path(sys.argv[1])).experiment({}))"
    )
    processes: list[Any] = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(clone)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    said = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0] * 3, said[0][1]
    assert len({out for out, _ in said}) == 1


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, "sqlite:///{root}/mlflow.db"),
        ("sqlite:///shared/runs.db", "sqlite:///{root}/shared/runs.db"),
        ("sqlite:////tmp/runs.db", "sqlite:////tmp/runs.db"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
    ],
)
def test_the_store_lies_in_the_clone_unless_another_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str | None, expected: str
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    if given:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", given)
    assert tracking_uri(tmp_path) == expected.format(root=tmp_path)
