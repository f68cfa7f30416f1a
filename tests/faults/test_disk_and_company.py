"""A disk that is full, a folder that is read-only, and several runs at once."""

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.pipeline.conftest import LATER, ROOT, Clone, Store

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def clone(make_clone: Callable[..., Clone]) -> Clone:
    clone = make_clone("company")
    clone.run("dvc", "repro", **LATER)
    clone.commit("results")
    return clone


@contextmanager
def mounted(path: Path, options: str) -> Iterator[None]:
    """Put a file system of its own over a folder; for root only."""
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        yield
    finally:
        subprocess.run(["umount", str(path)], check=True)


@pytest.mark.parametrize("options", ["size=64k", "ro"])
@pytest.mark.parametrize(("folder", "stage"), [("models", "train_dense"), ("data", "download")])
def test_where_nothing_can_be_written_is_said(
    clone: Clone, folder: str, stage: str, options: str
) -> None:
    before = {path: path.read_bytes() for path in clone.path.glob("m*/**/*") if path.is_file()}
    assert before
    with mounted(clone.path / folder, options):
        done = clone.run("python", "-m", f"stages.{stage}", fails=True, **LATER)
        assert not list((clone.path / folder).iterdir())
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert "No space left" in done.stderr or "Read-only" in done.stderr
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize("options", ["size=200k", "ro"])
def test_a_store_that_is_full_or_read_only_costs_a_warning(
    make_clone: Callable[..., Clone], clone: Clone, tmp_path: Path, options: str
) -> None:
    other, store = make_clone("full"), tmp_path / "store"
    store.mkdir()
    with mounted(store, options):
        done = other.run("dvc", "repro", **LATER, SPARSE_SAM_STORE=str(store))
        assert "the store could not keep train_dense: dense seed" in done.stderr
        assert "No space left" in done.stderr or "Read-only" in done.stderr
        assert "Traceback" not in done.stderr
        assert other.hashes() == clone.hashes()
        # What is there of a result that did not fit is taken for none.
        other.run("dvc", "repro", "--force", **LATER, SPARSE_SAM_STORE=str(store))
        assert other.hashes() == clone.hashes()


def test_two_runs_in_one_clone(clone: Clone) -> None:
    """The second says that the first is at work, and spoils nothing."""
    before = clone.hashes()
    first = subprocess.Popen(
        ["dvc", "repro", "--force"],
        cwd=clone.path,
        env=clone.env | LATER,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    journals = len(list(clone.path.glob(".sparse-sam/pipelines/*/train_dense.*.jsonl")))
    deadline = time.monotonic() + 60
    while len(list(clone.path.glob(".sparse-sam/pipelines/*/train_dense.*.jsonl"))) == journals:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    second = clone.run("dvc", "repro", "--force", fails=True, **LATER)
    assert "lock" in second.stderr or "another" in second.stderr
    assert first.wait(timeout=120) == 0
    assert clone.hashes() == before


def test_four_queued_experiments_at_once(make_clone: Callable[..., Clone]) -> None:
    clone = make_clone("queue")
    clone.run("dvc", "repro")
    clone.commit("results")
    for rho in ("0.1", "0.2", "0.3", "0.4"):
        clone.run("dvc", "exp", "run", "--queue", "-S", f"finetune.sam.rho={rho}")
    clone.run("dvc", "queue", "start", "--jobs", "4")
    deadline = time.monotonic() + 400
    while (said := clone.run("dvc", "queue", "status").stdout).count("Success") < 4:
        assert "Failed" not in said, said
        assert time.monotonic() < deadline, said
        time.sleep(1)
    time.sleep(1)
    runs = Store(f"sqlite:///{clone.path / 'mlflow.db'}").runs()
    rhos = Counter(
        run.data.params["finetune.sam.rho"] for run in runs if run.info.run_name == "finetune_sam"
    )
    assert rhos == Counter({"0.05": 1, "0.1": 1, "0.2": 1, "0.3": 1, "0.4": 1})
    assert {run.info.status for run in runs} == {"FINISHED"}


def test_eight_processes_make_the_store_at_once(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from sparse_sam.tracking.mlflow_store import Tracker\n"
        "print(Tracker(Path(sys.argv[1])).experiment({}))"
    )
    clone = Clone(tmp_path)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)],
            env=clone.env | {"PYTHONPATH": str(ROOT / "src")},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(8)
    ]
    said = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0] * 8, said
    assert len({out for out, _ in said}) == 1


def test_threads_are_part_of_what_gives_the_bits(make_clone: Callable[..., Clone]) -> None:
    """One thread twice, and two threads twice, give the same files each."""
    if (os.cpu_count() or 1) < 2:
        pytest.skip("needs two cores")
    hashes = {}
    for threads in ("1", "2"):
        for turn in ("first", "second"):
            clone = make_clone(f"threads {threads} {turn}")
            clone.run("dvc", "repro", OMP_NUM_THREADS=threads, **LATER)
            hashes[threads, turn] = clone.hashes()
    assert hashes["1", "first"] == hashes["1", "second"]
    assert hashes["2", "first"] == hashes["2", "second"]
    # Seeds are trained side by side, one thread each, so that here the number does not matter.
    assert hashes["1", "first"] == hashes["2", "first"]
