"""The pipeline, as a person runs it: results, caching, exactness, bad input."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sparse_sam.checkpoint import load_checkpoint
from sparse_sam.models import build_model
from sparse_sam.pruning import prunable_parameters, pruned_count
from tests.pipeline.conftest import LATER, Clone, Store

pytestmark = pytest.mark.pipeline

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
}
"""For the S3 server."""

STAGES = ("download", "train_dense", "prune", "finetune_sgd", "finetune_sam", "evaluate")


def executed(output: str) -> set[str]:
    return {stage for stage in STAGES if f"Running stage '{stage}'" in output}


def test_the_summary_has_its_documented_schema(clone: Clone) -> None:
    summary = json.loads((clone.path / "metrics/summary.json").read_text())
    assert list(summary) == ["dataset", "model", "seeds", "arms", "comparisons"]
    assert (summary["dataset"], summary["model"]) == ("mnist-sample", "mlpnet")
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


def test_a_second_repro_runs_nothing_and_params_run_what_they_change(clone: Clone) -> None:
    assert executed(clone.run("dvc", "repro", **LATER).stdout) == set()
    clone.set(finetune__sam__rho=0.1)
    output = clone.run("dvc", "repro", **LATER).stdout
    assert executed(output) == {"finetune_sam", "evaluate"}
    with (clone.path / "src/sparse_sam/statistics.py").open("a") as file:
        file.write("# a better comment\n")
    assert executed(clone.run("dvc", "repro", **LATER).stdout) == {"evaluate"}
    clone.run("git", "checkout", "-q", ".")
    output = clone.run("dvc", "repro", **LATER).stdout
    assert executed(output) == set()
    assert "'finetune_sam' is cached" in output
    assert not clone.run("git", "status", "--porcelain").stdout


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
    published = clone.run("python", "-m", "sparse_sam.publish").stdout
    assert "sent" in published
    pipelines = Store(f"sqlite:///{clone.path / 'mlflow.db'}").pipelines()
    assert ["download*", "prune", "train_dense*"] in pipelines
    assert sorted(STAGES) in pipelines
    runs = len(Store(f"sqlite:///{clone.path / 'mlflow.db'}").runs())
    clone.run("python", "-m", "sparse_sam.publish")
    assert len(Store(f"sqlite:///{clone.path / 'mlflow.db'}").runs()) == runs


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("prune.sparsity", 1.0, "at least 0 and less than 1"),
        ("finetune.sam.rho", -0.1, "at least 0"),
        ("seeds", [], "a list of one or more"),
        ("model.name", "resnet-9000", "lenet-5"),
        ("data.source", "imagenet", "mnist-sample"),
        ("train_dense.epochs", "ten", "a whole number"),
        ("prune.sparsitty", 0.5, "sparsity"),
    ],
)
def test_a_bad_parameter_ends_every_stage_at_once(
    clone: Clone, key: str, value: object, said: str
) -> None:
    clone.set_all({key: value})
    began = time.monotonic()
    error = clone.run("python", "-m", "stages.train_dense", fails=True).stderr
    seconds = time.monotonic() - began
    clone.run("git", "checkout", "-q", "params.yaml")
    assert error.startswith("error: params.yaml: ")
    assert error.count("\n") == 1
    assert key in error
    assert said in error
    assert seconds < 3


def damage(path: Path) -> None:
    content = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize(
    ("how", "stage", "victim", "cure"),
    [
        ("missing", "train_dense", "data/dataset.safetensors", "dvc repro download"),
        ("damaged", "train_dense", "data/dataset.safetensors", "dvc repro download"),
        ("damaged", "prune", "models/dense/seed-1.safetensors", "dvc repro train_dense"),
        ("damaged", "finetune_sam", "models/pruned/seed-1.safetensors", "dvc repro prune"),
        ("missing", "evaluate", "models/sam/seed-0.safetensors", "dvc repro finetune_sam"),
    ],
)
def test_a_lost_or_damaged_input_is_named_with_its_cure(
    clone: Clone, stage: str, victim: str, cure: str, how: str
) -> None:
    path = clone.path / victim
    outputs = {file: file.read_bytes() for file in clone.path.glob("models/*/*") if file != path}
    content = path.read_bytes()
    if how == "missing":
        path.unlink()
    else:
        damage(path)
    error = clone.run("python", "-m", f"stages.{stage}", fails=True, **LATER).stderr
    path.unlink(missing_ok=True)
    path.write_bytes(content)
    assert error.splitlines()[-1].startswith(f"error: {victim} is {how}")
    assert cure in error
    assert "Traceback" not in error
    assert {file: file.read_bytes() for file in outputs} == outputs
    assert not [*clone.path.glob("**/*.tmp")]


def test_help_is_instant_and_says_what_a_stage_does(clone: Clone) -> None:
    for stage in STAGES:
        said = clone.run("python", "-m", f"stages.{stage}", "--help").stdout
        assert f"python -m stages.{stage}" in said
        assert len(said.splitlines()) > 3


# Results travel by a DVC remote: what one clone pushed, another pulls, and need not run.
# (Here because a file's tests share a process, and with it the clone, which takes long to make.)


def push_pull_and_look(first: Clone, second: Clone) -> None:
    first.run("dvc", "push")
    second.run("git", "clone", "-q", str(first.path), ".")
    for name in ("config", "config.local"):
        source = first.path / ".dvc" / name
        if source.exists():
            (second.path / ".dvc" / name).write_bytes(source.read_bytes())
    second.run("dvc", "pull")
    assert second.hashes() == first.hashes() != {}
    assert "Data and pipelines are up to date" in second.run("dvc", "status", "dvc.yaml").stdout


def test_a_folder_as_remote(clone: Clone, tmp_path: Path) -> None:
    clone.run("git", "checkout", "-q", ".")
    clone.run("dvc", "checkout", "--force")
    clone.run("dvc", "remote", "add", "--local", "-d", "-f", "shared", str(tmp_path / "remote"))
    (tmp_path / "other").mkdir()
    second = Clone(tmp_path / "other")
    push_pull_and_look(clone, second)
    assert "Running stage" not in second.run("dvc", "repro").stdout
    assert "entered 6 stages" in second.run("python", "-m", "sparse_sam.publish").stdout
    store = Store(f"sqlite:///{second.path / 'mlflow.db'}")
    cached = ["download", "evaluate", "finetune_sam", "finetune_sgd", "prune", "train_dense"]
    assert store.pipelines() == [[f"{stage}*" for stage in cached]]
    runs = {run.info.run_name: run for run in store.runs()}
    seed = runs["finetune_sam sam seed 1"]
    assert len(store.client.get_metric_history(seed.info.run_id, "validation_accuracy")) == 2
    (checkpoint,) = store.client.list_artifacts(seed.info.run_id)
    assert checkpoint.path == "seed-1.safetensors"


def test_s3_as_remote(clone: Clone, tmp_path: Path, s3_endpoint: str) -> None:
    import boto3

    boto3.client(
        "s3",
        endpoint_url=s3_endpoint,
        region_name=CREDENTIALS["AWS_DEFAULT_REGION"],
        aws_access_key_id=CREDENTIALS["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
    ).create_bucket(Bucket="results")
    clone.run("git", "checkout", "-q", ".")
    clone.run("dvc", "checkout", "--force")
    clone.run("dvc", "remote", "add", "--local", "-d", "-f", "s3", "s3://results/cache")
    clone.run("dvc", "remote", "modify", "--local", "s3", "endpointurl", s3_endpoint)
    folder = tmp_path / "other"
    folder.mkdir()
    other = Clone(folder)
    clone.env |= CREDENTIALS
    other.env |= CREDENTIALS
    push_pull_and_look(clone, other)
