"""SIGKILL at random moments, over all stages of the real pipeline: nothing is lost.

`make test-faults` runs this; it takes minutes. tests/training/test_resume.py has the short form.
"""

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from itertools import compress

import pytest

from sparse_sam.tracking.journal import read_events
from sparse_sam.tracking.stages import STAGES
from tests.pipeline.conftest import LATER, Clone

pytestmark = [pytest.mark.faults, pytest.mark.timeout(3600)]

KILLS = 24
TRAINING = ("train_dense", "finetune_sgd", "finetune_sam")
SLOWER = {
    "seeds": [0, 1],
    "data.fraction": 0.3,
    "model.name": "lenet-5",
    "train_dense.epochs": 4,
    "finetune.training.epochs": 4,
    "finetune.training.momentum": 0.9,
    "finetune.training.weight_decay": 0.001,
}


@pytest.fixture(scope="module")
def reference(make_clone: Callable[..., Clone]) -> Clone:
    clone = make_clone("killed", SLOWER)
    clone.run("dvc", "repro", **LATER)
    clone.commit("results")
    return clone


def outputs(clone: Clone) -> dict[str, str]:
    return clone.hashes("models/*/*.safetensors") | clone.hashes("data/*.safetensors")


def without_times(clone: Clone) -> dict[str, list[list[str]]]:
    """The tables, without the column of seconds that curves have."""
    tables = {}
    for path in sorted(clone.path.glob("plots/*.csv")):
        rows = [line.split(",") for line in path.read_text().splitlines()]
        keep = [name != "seconds" for name in rows[0]]
        tables[path.name] = [list(compress(row, keep)) for row in rows]
    return tables


def start(clone: Clone, stage: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        ["python", "-m", f"stages.{stage}"],
        cwd=clone.path,
        env=clone.env | LATER,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def forget(clone: Clone, stage: str) -> None:
    """Take away what the stage made, and DVC's memory of having made it."""
    for path in (*STAGES[stage].outputs, STAGES[stage].journal):
        target = clone.path / path
        if target.is_dir():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)
    shutil.rmtree(clone.path / ".dvc" / "cache" / "runs", ignore_errors=True)


def epochs_told(clone: Clone, stage: str) -> list[dict[tuple[str, int], int]]:
    """For every journal of a stage, the last epoch that each seed told of."""
    found = []
    pattern = f".sparse-sam/pipelines/*/{stage}.*.jsonl"
    for path in sorted(clone.path.glob(pattern), key=lambda path: path.stat().st_mtime_ns):
        last: dict[tuple[str, int], int] = {}
        for event in read_events(path):
            if event["event"] == "metrics" and event["child"]:
                last[event["child"]] = max(last.get(event["child"], 0), event["step"])
        found.append(last)
    return found


def test_kills_at_random_moments_change_nothing(
    reference: Clone, capsys: pytest.CaptureFixture[str]
) -> None:
    clone, moments = reference, random.Random(20261123)
    expected, curves = outputs(clone), without_times(clone)
    injected = survived = left = 0
    seconds: dict[str, float] = {}
    for stage in STAGES:  # how long each takes alone
        began = time.monotonic()
        assert start(clone, stage).wait() == 0
        seconds[stage] = time.monotonic() - began
    assert outputs(clone) == expected
    while injected < KILLS:
        # Most time is spent in training, and most kills hit it.
        stage = moments.choice([*STAGES, *TRAINING, *TRAINING])
        forget(clone, stage)
        process = start(clone, stage)
        try:
            process.wait(moments.uniform(0.1, 0.95) * seconds[stage])
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            injected += 1
        process.wait()
        told = epochs_told(clone, stage)
        clone.run("dvc", "repro", **LATER)
        again = epochs_told(clone, stage)
        assert outputs(clone) == expected, f"after {injected} kills, the last in {stage}"
        assert without_times(clone) == curves
        if stage in TRAINING and len(again) > len(told):
            assert all(again[-1][child] >= epoch for child, epoch in told[-1].items())
        strays = [p for p in clone.path.rglob("*.tmp") if ".dvc" not in p.parts]
        left += sum(p.stat().st_size for p in strays if p.is_file())
        survived += 1
    # Who is killed after writing the last output keeps the resume points; the next run takes them.
    for stage in TRAINING:
        forget(clone, stage)
        assert start(clone, stage).wait() == 0
    assert outputs(clone) == expected
    assert not list((clone.path / ".sparse-sam" / "resume").glob("*"))
    with capsys.disabled():
        print(f"\nkills injected {injected}, runs that ended right {survived}, bytes left {left}")  # noqa: T201
    assert left == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_closes_the_run_and_the_next_goes_on(
    reference: Clone, number: signal.Signals, code: int
) -> None:
    clone = reference
    expected = outputs(clone)
    forget(clone, "train_dense")
    before = len(epochs_told(clone, "train_dense"))
    process = start(clone, "train_dense")
    deadline = time.monotonic() + 60
    while not any(epochs_told(clone, "train_dense")[before:]):  # until the first seed has begun
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, number)
    assert process.wait(timeout=20) == code
    journal = max(
        clone.path.glob(".sparse-sam/pipelines/*/train_dense.*.jsonl"),
        key=lambda path: path.stat().st_mtime_ns,
    )
    assert read_events(journal)[-1]["status"] == "KILLED"
    assert not (clone.path / "models" / "dense").exists()
    clone.run("dvc", "repro", **LATER)
    assert outputs(clone) == expected
