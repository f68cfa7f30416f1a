"""What a stage's process does around its work: real processes, real signals, real exit codes."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sparse_sam.config import REFERENCE

ROOT = Path(__file__).resolve().parents[2]
STAGE = """
import os, shutil, signal, sys
from pathlib import Path
from sparse_sam.stages import runner
from sparse_sam.tracking import STAGES, stage_run

moment, number, times = sys.argv.pop(), *map(int, os.environ["SIGNAL"].split())

def strike(*_):
    for _ in range(times):
        os.kill(os.getpid(), number)

def struck(function):
    left = [strike]
    def strike_first(*given):
        while left:
            left.pop()()
        return function(*given)
    return strike_first

def work(stage):
    for path in map(Path, STAGES[stage.name].outputs):
        path.parent.mkdir(exist_ok=True)
        path.write_text("digits")
    resume = Path("resume point")
    resume.touch()
    if moment == "work":
        strike()
    if moment == "fault":
        raise OSError(28, "No space left on device", "data")
    stage.afterwards.append(struck(resume.unlink) if moment == "tidying" else resume.unlink)

if moment == "hashes":
    stage_run.dvc_hash = struck(stage_run.dvc_hash)
if moment == "journal":
    shutil.copyfile = struck(shutil.copyfile)
if moment == "last lines":
    import atexit
    atexit.register(strike)
runner.main("download", "", work)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copy(REFERENCE, tmp_path)
    (tmp_path / ".dvc").mkdir()
    return tmp_path


def start(
    folder: Path, moment: str, number: int = signal.SIGTERM, times: int = 1, **env: str
) -> subprocess.Popen[str]:
    foreign = ("MLFLOW_", "DVC_", "SPARSE_SAM_")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return subprocess.Popen(
        [sys.executable, "-c", STAGE, moment],
        cwd=folder,
        env=clean | {"PYTHONPATH": str(ROOT / "src"), "SIGNAL": f"{int(number)} {times}"} | env,
        stderr=subprocess.PIPE,
        text=True,
    )


def last_status(folder: Path) -> str:
    (journal,) = folder.glob(".sparse-sam/pipelines/*/download.*.jsonl")
    return str(json.loads(journal.read_text().splitlines()[-1])["status"])


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_the_work_and_what_it_goes_on_from_stays(
    folder: Path, number: signal.Signals, code: int
) -> None:
    stage = start(folder, "work", number, SPARSE_SAM_PUBLISH="later")
    _, said = stage.communicate(timeout=60)
    assert (stage.returncode, said.count("was stopped")) == (code, 1)
    assert last_status(folder) == "KILLED"
    assert (folder / "resume point").exists()
    assert not (folder / "runs").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment", ["hashes", "journal", "tidying", "last lines"])
@pytest.mark.parametrize("times", [1, 2])
def test_a_stage_whose_work_has_ended_ends_well_whatever_is_sent_to_it(
    folder: Path, moment: str, number: signal.Signals, times: int
) -> None:
    stage = start(folder, moment, number, times, SPARSE_SAM_PUBLISH="later")
    _, said = stage.communicate(timeout=60)
    assert (stage.returncode, said) == (0, "")
    assert last_status(folder) == "FINISHED"
    (journal,) = folder.glob(".sparse-sam/pipelines/*/download.*.jsonl")
    assert (folder / "runs" / "download.jsonl").read_bytes() == journal.read_bytes()
    assert not (folder / "resume point").exists()


@pytest.mark.parametrize("times", [1, 2])
def test_a_signal_ends_the_wait_for_mlflow_at_once_and_well(folder: Path, times: int) -> None:
    with socket.socket() as silent:  # takes connections and says nothing
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        env = {"MLFLOW_TRACKING_URI": uri, "SPARSE_SAM_PUBLISH_PATIENCE": "300"}
        stage = start(folder, "nothing", **env)
        deadline = time.monotonic() + 60
        while not (folder / "runs" / "download.jsonl").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(0.5)
        assert stage.poll() is None
        began = time.monotonic()
        for _ in range(times):
            stage.send_signal(signal.SIGTERM)
        _, said = stage.communicate(timeout=60)
        assert time.monotonic() - began < 5
    assert stage.returncode == 0
    assert "make publish" in said
    assert "was stopped" not in said
    assert last_status(folder) == "FINISHED"
    # The sender, which may get through yet, still knows what it was asked for.
    assert list(folder.glob(".sparse-sam/senders/*/*.request"))


def test_what_a_stage_goes_on_from_stays_when_its_journal_cannot_be_kept(folder: Path) -> None:
    (folder / "runs").write_text("in the way of a folder")
    stage = start(folder, "nothing", SPARSE_SAM_PUBLISH="later")
    _, said = stage.communicate(timeout=60)
    assert stage.returncode == 1
    assert said.startswith("error: runs")
    assert (folder / "resume point").exists()


def test_a_signal_while_a_stage_that_failed_waits_does_not_hide_why(folder: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        env = {"MLFLOW_TRACKING_URI": uri, "SPARSE_SAM_PUBLISH_PATIENCE": "300"}
        stage = start(folder, "fault", **env)
        deadline = time.monotonic() + 60
        while not list(folder.glob(".sparse-sam/pipelines/*/*.jsonl")) or (
            last_event(folder) != "end"
        ):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(0.5)
        stage.send_signal(signal.SIGTERM)
        _, said = stage.communicate(timeout=60)
    assert stage.returncode == 1
    assert "error: data: No space left on device" in said


def last_event(folder: Path) -> str:
    (journal,) = folder.glob(".sparse-sam/pipelines/*/download.*.jsonl")
    lines = journal.read_text().splitlines()
    return str(json.loads(lines[-1])["event"]) if lines else ""
