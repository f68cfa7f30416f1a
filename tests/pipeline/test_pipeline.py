"""The pipeline, as a person runs it: results, caching, exactness."""

import json
import os
import re
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import sparse_sam
from sparse_sam.evaluation.gate import Subject, compare_metrics, load_rules
from sparse_sam.networks.build import build_model
from sparse_sam.pruning.prunable import prunable_parameters
from sparse_sam.pruning.ranking import pruned_count
from sparse_sam.training.checkpoint import load_checkpoint
from tests.pipeline.conftest import LATER, STAGES, Clone, Store

pytestmark = pytest.mark.pipeline


def executed(output: str) -> set[str]:
    return {stage for stage in STAGES if f"Running stage '{stage}'" in output}


def test_the_summary_has_its_documented_schema(clone: Clone) -> None:
    summary = json.loads((clone.path / "metrics/summary.json").read_text())
    assert list(summary) == [
        "answer",
        "primary",
        "dataset",
        "model",
        "base_optimizer",
        "seeds",
        "dense_networks",
        "arms",
        "comparisons",
    ]
    assert summary["dense_networks"] == "trained"
    assert (summary["dataset"], summary["model"]) == ("mnist-sample", "mlpnet")
    assert summary["base_optimizer"] == "SGD"
    assert list(summary["arms"]) == ["dense", "pruned", "sgd", "sgd_2x", "sam"]
    for arm in summary["arms"].values():
        assert list(arm) == ["accuracy", "sparsity", "gradient_evaluations", "seconds"]
        assert list(arm["accuracy"]) == ["mean", "std", "ci95", "values"]
        assert len(arm["accuracy"]["values"]) == 2
    assert list(summary["comparisons"]) == ["sam_vs_sgd", "sam_vs_sgd_2x"]
    evaluations = {name: arm["gradient_evaluations"] for name, arm in summary["arms"].items()}
    assert evaluations["sam"] == evaluations["sgd_2x"] == 2 * evaluations["sgd"]
    assert evaluations["pruned"] == 0
    dense = summary["arms"]["dense"]["accuracy"]["mean"]
    assert dense > 0.3, "two epochs on 1,050 digits learn more than chance"


def test_the_gates_rules_find_their_metrics_and_what_results_are_of(clone: Clone) -> None:
    template = Path(sparse_sam.__file__).parent / "template" / "gate.yaml"
    rules = load_rules(template)
    contents = {
        path.relative_to(clone.path).as_posix(): json.loads(path.read_text())
        for path in clone.path.glob("metrics/*.json")
    }
    rows = compare_metrics(rules, contents, contents)
    assert len(rows) == 4 * 5
    assert {found.outcome for found in rows} == {"unchanged"}
    subject = Subject.of(contents)
    assert len(subject.data) == 64
    assert subject.source == "mnist-sample"
    assert re.fullmatch(r"mlpnet \(\d+ multiply-adds\)", subject.sized_network)


def test_every_saved_sparse_model_has_exactly_the_asked_zeros(clone: Clone) -> None:
    fingerprint = json.loads((clone.path / "metrics/download.json").read_text())["fingerprint"]
    parameters = prunable_parameters(build_model("mlpnet", (1, 28, 28), 10))
    for arm in ("pruned", "sgd", "sgd_2x", "sam"):
        for seed in (0, 1):
            path = clone.path / "models" / arm / f"seed-{seed}.safetensors"
            found = load_checkpoint(path, arm=arm, seed=seed, dataset=fingerprint, stage="prune")
            for name, parameter in parameters.items():
                zeros = int((found.state[name] == 0).sum())
                assert zeros == pruned_count(0.5, parameter.numel()), (arm, seed, name)


@pytest.mark.slow
def test_a_second_repro_runs_nothing_and_params_run_what_they_change(clone: Clone) -> None:
    assert executed(clone.run("dvc", "repro", **LATER).stdout) == set()
    clone.set(finetune__sam__rho=0.1)
    output = clone.run("dvc", "repro", **LATER).stdout
    assert executed(output) == {"finetune_sam", "evaluate"}
    with (clone.path / "src/sparse_sam/evaluation/statistics.py").open("a") as file:
        file.write("# a better comment\n")
    assert executed(clone.run("dvc", "repro", **LATER).stdout) == set()
    with (clone.path / "src/sparse_sam/evaluation/statistics.py").open("a") as file:
        file.write("ANOTHER = 1\n")
    assert executed(clone.run("dvc", "repro", **LATER).stdout) == {"evaluate"}
    clone.run("git", "checkout", "-q", ".")
    output = clone.run("dvc", "repro", **LATER).stdout
    assert executed(output) == set()
    assert "'finetune_sam' is cached" in output
    assert not clone.run("git", "status", "--porcelain").stdout


@pytest.mark.slow
def test_two_clones_give_the_same_checkpoints(
    clone: Clone, make_clone: Callable[..., Clone]
) -> None:
    clone.run("git", "checkout", "-q", ".")
    clone.run("dvc", "checkout")
    other = make_clone("other")
    # One process instead of six: what makes the checkpoints is the same.
    stages = "; ".join(
        f"runpy.run_module('stages.{stage}', run_name='__main__')" for stage in STAGES
    )
    other.run("python", "-c", f"import runpy; {stages}", **LATER)
    assert len(clone.hashes()) == 2 * 5
    assert other.hashes() == clone.hashes()


def test_a_stage_works_without_dvc_and_without_mlflow(clone: Clone) -> None:
    before = clone.hashes("models/pruned/*")
    nowhere = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
    done = clone.run("python", "-m", "stages.prune", **nowhere)
    assert clone.hashes("models/pruned/*") == before
    assert "MLflow does not have this run yet" in done.stderr
    assert "make publish" in done.stderr
    assert "Traceback" not in done.stderr
    clone.run("dvc", "checkout", "--force")
    published = clone.run("python", "-m", "sparse_sam.tracking.publish").stdout
    assert "sent" in published
    pipelines = Store(f"sqlite:///{clone.path / 'mlflow.db'}").pipelines()
    assert ["download*", "prune", "train_dense*"] in pipelines
    assert sorted(STAGES) in pipelines
    runs = len(Store(f"sqlite:///{clone.path / 'mlflow.db'}").runs())
    clone.run("python", "-m", "sparse_sam.tracking.publish")
    assert len(Store(f"sqlite:///{clone.path / 'mlflow.db'}").runs()) == runs


def process_of(stage: str, folder: Path) -> int:
    """The process of a stage that runs in a clone; 0 if there is none."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
            if f"stages.{stage}".encode() in words and (process / "cwd").readlink() == folder:
                return int(process.name)
        except OSError:
            continue
    return 0


def test_dvc_takes_a_stage_that_was_told_to_end_while_it_waited_for_mlflow(clone: Clone) -> None:
    clone.set(evaluate__equivalence_margin=0.01)
    journal = clone.path / "runs" / "evaluate.jsonl"
    before = journal.stat().st_mtime_ns
    with socket.socket() as silent:  # takes connections and says nothing
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        clone.env |= {
            "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{silent.getsockname()[1]}",
            "SPARSE_SAM_PUBLISH_PATIENCE": "300",
        }
        try:
            dvc = clone.start("dvc", "repro")
            deadline = time.monotonic() + 200
            while not journal.exists() or journal.stat().st_mtime_ns == before:
                assert time.monotonic() < deadline
                assert dvc.poll() is None
                time.sleep(0.1)
            time.sleep(1)
            os.kill(process_of("evaluate", clone.path), signal.SIGTERM)
            assert dvc.wait(60) == 0
        finally:
            for name in ("MLFLOW_TRACKING_URI", "SPARSE_SAM_PUBLISH_PATIENCE"):
                del clone.env[name]
    assert executed(clone.run("dvc", "repro", **LATER).stdout) == set()
    clone.run("git", "checkout", "-q", ".")
    clone.run("dvc", "checkout")
