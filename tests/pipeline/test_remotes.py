"""Results travel by a DVC remote: what one clone pushed, another pulls, and need not run."""

import re
from pathlib import Path

import pytest

from tests.pipeline.conftest import Clone, Store

pytestmark = [pytest.mark.pipeline, pytest.mark.slow]

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
}
"""For the S3 server."""


def push_pull_and_look(first: Clone, second: Clone) -> None:
    first.run("dvc", "push")
    second.run("git", "clone", "-q", str(first.path), ".")
    for name in ("config", "config.local"):
        source = first.path / ".dvc" / name
        if source.exists():
            (second.path / ".dvc" / name).write_bytes(source.read_bytes())
    second.run("dvc", "pull")
    assert second.hashes() == first.hashes() != {}
    # What each stage is made by is always found anew; nothing else is to be done.
    said = second.run("dvc", "status", "dvc.yaml").stdout
    assert said.split() == ["inputs:", "always", "changed"]


def test_a_folder_as_remote(clone: Clone, tmp_path: Path) -> None:
    clone.run("git", "checkout", "-q", ".")
    clone.run("dvc", "checkout", "--force")
    clone.run("dvc", "remote", "add", "--local", "-d", "-f", "shared", str(tmp_path / "remote"))
    (tmp_path / "other").mkdir()
    second = Clone(tmp_path / "other")
    push_pull_and_look(clone, second)
    said = second.run("dvc", "repro").stdout
    assert re.findall("Running stage '(.*)'", said) == ["inputs"]
    assert "entered 6 stages" in second.run("python", "-m", "sparse_sam.tracking.publish").stdout
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
