"""Secrets in every variable that may hold one: nothing that the project leaves behind has any."""

import base64
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.pipeline.conftest import Clone

pytestmark = pytest.mark.pipeline

VARIABLES = (
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "PGPASSWORD",
    "RAY_AUTH_TOKEN",
    "HF_TOKEN",
    "DVC_STUDIO_TOKEN",
)
URIS = ("MLFLOW_TRACKING_URI", "MLFLOW_BACKEND_STORE_URI", "MLFLOW_ARTIFACTS_DESTINATION")
STORES = (
    "http://ann:{}@127.0.0.1:9",
    "postgresql://ann:{}@127.0.0.1:1/x",
    "mysql+pymysql://ann:{}@127.0.0.1:1/x",
    "nonsense://ann:{}@127.0.0.1:1/x",
    "sqlite:///{}",  # no login, but a store that opens
)
RARE = ("mysql+pymysql", "nonsense")


def secret(name: str) -> str:
    """One of its own for every name, with what URLs must encode."""
    return f"s3cr3t/{name.lower().replace('_', '-')}@#"


def planted(store: str) -> dict[str, str]:
    """An environment full of secrets."""
    found = {name: secret(name) for name in VARIABLES}
    for name in URIS:
        found[name] = f"postgresql://ann:{quote(secret(name), safe='')}@127.0.0.1:1/x"
    inside = quote(secret("MLFLOW_TRACKING_URI"), safe="")
    found["MLFLOW_TRACKING_URI"] = (
        "sqlite:///mlflow.db" if store.startswith("sqlite") else store.format(inside)
    )
    if found["MLFLOW_TRACKING_URI"].startswith("http"):
        del found["MLFLOW_TRACKING_TOKEN"]  # MLflow takes one or the other
        found["MLFLOW_TRACKING_USERNAME"] = "ann"
    return found | {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "SPARSE_SAM_PUBLISH_PATIENCE": "40"}


def forms() -> Iterator[bytes]:
    for name in (*VARIABLES, *URIS):
        plain = secret(name)
        yield from (one.encode() for one in (plain, quote(plain), quote(plain, safe="")))
        yield base64.b64encode(f"ann:{plain}".encode())
        yield name.lower().replace("_", "-").encode()  # its middle, however it was cut


def everything(clone: Clone) -> Iterator[Path]:
    """All that lies in the clone and is not of git."""
    for path in clone.path.rglob("*"):
        if path.is_file() and ".git" not in path.relative_to(clone.path).parts:
            yield path


def assert_clean(clone: Clone, said: str) -> None:
    found = [form.decode() for form in forms() if form in said.encode()]
    assert not found, f"{found} in:\n{said}"
    for path in everything(clone):
        content = path.read_bytes()
        found = [form.decode() for form in forms() if form in content]
        assert not found, f"{found} in {path}:\n{content[:3000]!r}"


def settled(clone: Clone) -> None:
    """Wait until the senders that stages started have ended, with the last lines of their logs."""
    deadline = time.monotonic() + 60
    while any(
        str(clone.path / ".sparse-sam" / "senders") in line
        for line in (
            process.read_bytes().decode(errors="replace")
            for process in Path("/proc").glob("[0-9]*/cmdline")
            if process.parent.is_dir()
        )
    ):
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.fixture
def fresh(finished: Path, tmp_path: Path) -> Clone:
    """Results, and nothing of how they were made known."""
    shutil.copytree(finished, tmp_path / "sparse-sam", symlinks=True)
    clone = Clone(tmp_path / "sparse-sam")
    shutil.rmtree(clone.path / ".sparse-sam")
    return clone


def kind(store: str) -> str:
    return store.partition(":")[0]


@pytest.mark.parametrize(
    "store",
    [
        pytest.param(store, id=kind(store), marks=[pytest.mark.slow] * (kind(store) in RARE))
        for store in STORES
    ],
)
def test_a_run_leaves_no_secret_behind(fresh: Clone, store: str) -> None:
    env, said = planted(store), ""
    opens = store.startswith("sqlite")
    assert_clean(fresh, "")
    for fails, command in (
        (False, ("python", "-m", "stages.download")),
        (not opens, ("python", "-m", "sparse_sam.tracking.publish")),
        (
            not opens,
            ("python", "-m", "sparse_sam.tracking.release", "--register", "--base", "HEAD"),
        ),
        (False, ("dvc", "repro", "--force", "--single-item", "prune")),
    ):
        done = fresh.run(*command, fails=fails, **env)
        said += done.stdout + done.stderr
    settled(fresh)
    if not opens:
        assert f"{kind(store)}://***@127.0.0.1" in said
    assert_clean(fresh, said)


SWEEP = {
    "name": "secrets",
    "seeds": {"choosing": [], "reporting": [0]},
    "search": {"samples": None, "seed": 0},
    "flatness": {"images": None, "rho": 0.05, "steps": 1},
    "equivalence_margin": 0.005,
    "axes": {"prune.sparsity": [0.5]},
    "arms": {"sgd": {"arm": "sgd", "choose": {}, "fixed": {}}},
}


def write_sweep(clone: Clone, **data: object) -> None:
    from ruamel.yaml import YAML

    yaml = YAML(typ="safe", pure=True)
    params = yaml.load(clone.path / "params.yaml")
    base = {name: params[name] for name in ("data", "model", "train_dense", "prune", "finetune")}
    base["data"] = {**base["data"], **data}
    (clone.path / "sweep.yaml").write_text(json.dumps({**SWEEP, "base": base}))


def test_a_sweep_leaves_no_secret_behind(fresh: Clone) -> None:
    env = planted(STORES[0])
    write_sweep(fresh)
    command = ("python", "-m", "sparse_sam.sweep", "sweep.yaml", "--engine", "sequential")
    done = fresh.run(*command, **env)
    assert "MLflow at http://***@127.0.0.1:9" in done.stderr
    said = done.stdout + done.stderr
    again = ("python", "-m", "sparse_sam.sweep.sending", ".sparse-sam/sweeps/secrets")
    for uri in STORES:
        done = fresh.run(*again, fails=not uri.startswith("sqlite"), **planted(uri))
        said += done.stdout + done.stderr
    address = f"ray://ann:{secret('RAY_AUTH_TOKEN')}@127.0.0.1:1"
    done = fresh.run(*command[:-2], "--address", address, fails=True, **env)
    assert_clean(fresh, said + done.stdout + done.stderr)


def test_a_parameter_with_a_secret_is_refused_before_anything_is_written(fresh: Clone) -> None:
    mirror = f"https://ann:{quote(secret('HF_TOKEN'), safe='')}@127.0.0.1:1/mnist"
    before = (fresh.path / "dvc.lock").read_bytes()
    write_sweep(fresh, source="mnist", mirror=mirror)
    done = fresh.run("python", "-m", "sparse_sam.sweep", "sweep.yaml", fails=True)
    said = done.stdout + done.stderr
    (fresh.path / "sweep.yaml").unlink()
    fresh.set(data__source="mnist", data__mirror=mirror)
    for command in (
        ("python", "-m", "sparse_sam.config"),
        ("dvc", "repro", "download"),
        ("python", "-m", "stages.download"),
        ("python", "-m", "sparse_sam.tracking.publish"),
    ):
        done = fresh.run(*command, fails=True)
        assert "data.mirror holds a login" in done.stdout + done.stderr
        said += done.stdout + done.stderr
    (fresh.path / "params.yaml").unlink()
    assert (fresh.path / "dvc.lock").read_bytes() == before
    assert_clean(fresh, said)
