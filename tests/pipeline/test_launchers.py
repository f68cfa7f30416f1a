"""Every way to start the pipeline leaves the runs that are expected, in one store."""

import time
from collections.abc import Callable

import pytest

from tests.pipeline.conftest import Clone, Store

pytestmark = [pytest.mark.pipeline, pytest.mark.slow]

ALL = ["download", "evaluate", "finetune_sam", "finetune_sgd", "prune", "train_dense"]
ONLY_SAM = ["download*", "evaluate", "finetune_sam", "finetune_sgd*", "prune*", "train_dense*"]


def wait_for(there: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 180
    while not there():
        assert time.monotonic() < deadline
        time.sleep(1)


def test_all_six_launchers_fill_one_store(clone: Clone) -> None:
    store = Store(f"sqlite:///{clone.path / 'mlflow.db'}")
    expected: list[list[str]] = []

    def seen(*pipelines: list[str]) -> None:
        expected.extend(sorted(pipeline) for pipeline in pipelines)
        assert store.pipelines() == expected
        statuses = {run.info.run_name: run.info.status for run in store.runs()}
        assert set(statuses.values()) == {"FINISHED"}, statuses

    clone.run("python", "-m", "sparse_sam.tracking.publish")  # what `dvc repro` did
    seen(ALL)
    (pipeline,) = store.pipeline_runs()
    files = [file.path for file in store.client.list_artifacts(pipeline.info.run_id)]
    assert files == ["report.html"]
    runs_of_one_repro = len(store.runs())
    assert runs_of_one_repro == 1 + 6 + 2 * (1 + 1 + 2 + 1 + 1)  # pipeline, stages, arms x seeds

    clone.run("dvc", "exp", "run", "-S", "finetune.sam.rho=0.1")
    seen(ONLY_SAM)

    for rho in (0.3, 0.4):
        clone.run("dvc", "exp", "run", "--queue", "-S", f"finetune.sam.rho={rho}")
    # Its workers hold its output open: to wait for the end of that is to wait for theirs.
    assert clone.start("dvc", "queue", "start", "--jobs", "2").wait(60) == 0
    clone.run("dvc", "exp", "run", "--temp", "-S", "finetune.sam.rho=0.2")  # beside the queue's two
    wait_for(lambda: [run.info.status for run in store.pipeline_runs()] == ["FINISHED"] * 5)
    wait_for(lambda: clone.run("dvc", "queue", "status").stdout.count("Success") == 2)
    seen(ONLY_SAM, ONLY_SAM, ONLY_SAM)

    local = ("--env-manager", "local", "--experiment-name", "sparse-sam")
    clone.set(finetune__sam__rho=0.5)
    clone.run("mlflow", "run", ".", *local)
    seen(ONLY_SAM)
    clone.run("mlflow", "run", ".", "-e", "prune", *local)
    seen(["download*", "train_dense*", "prune"])

    clone.run("python", "-m", "stages.prune")
    seen(["download*", "train_dense*", "prune"])

    assert not (clone.path / ".dvc" / "tmp" / "exps" / "mlflow.db").exists()
    rhos = {
        run.data.params["finetune.sam.rho"]
        for run in store.runs()
        if run.info.run_name == "finetune_sam"
    }
    assert rhos == {"0.05", "0.1", "0.2", "0.3", "0.4", "0.5"}
    # `mlflow run` made a run of its own, above the pipeline's.
    above = {run.data.tags.get("mlflow.parentRunId") for run in store.pipeline_runs()}
    assert len(above - {None}) == 2
