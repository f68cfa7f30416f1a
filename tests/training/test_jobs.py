"""Jobs side by side: the same results on every machine, news on the way, and an end always."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest
import torch

from sparse_sam.errors import ConfigError, DivergenceError, SparseSamError, StalledError
from sparse_sam.training.jobs import run_jobs
from tests import jobs_for_workers as do

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def two_cores(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("SPARSE_SAM_CORES", "2")
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("side_by_side", [True, False])
def test_every_job_is_done_once_and_every_report_arrives_in_order(side_by_side: bool) -> None:
    heard: dict[int, list[int]] = {}
    results = run_jobs(
        do.square,
        [3, 1, 2, 0],
        on_report=lambda job, news: heard.setdefault(job, []).append(news),
        side_by_side=side_by_side,
    )
    assert {job: value for job, (value, _) in results.items()} == {3: 9, 1: 1, 2: 4, 0: 0}
    assert heard == {3: [0, 1, 2], 1: [0], 2: [0, 1]}
    assert {process == os.getpid() for _, process in results.values()} == {not side_by_side}


@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_no_worker_is_forked_from_this_process(
    monkeypatch: pytest.MonkeyPatch, platform: str
) -> None:
    """Also as on systems where a fork is missing, or is not safe."""
    monkeypatch.setattr(sys, "platform", platform)
    results = run_jobs(do.parent, [1, 2], on_report=lambda *_: None)
    is_child = {parent == os.getpid() for parent in results.values()}
    assert is_child == {platform != "linux"}  # there they come from a server that was never used
    assert set(run_jobs(do.threads, [1, 2], on_report=lambda *_: None).values()) == {1}


def test_jobs_that_take_turns_report_everything_once_and_end_together(tmp_path: Path) -> None:
    heard: dict[int, list[int]] = {}
    order: list[int] = []

    def hear(job: int, news: int) -> None:
        heard.setdefault(job, []).append(news)
        order.append(job)

    work = partial(do.count_to_four, tmp_path)
    results = run_jobs(work, [5, 3, 1, 2, 4], on_report=hear, turn=2)
    assert list(results.items()) == [(5, 25), (3, 9), (1, 1), (2, 4), (4, 16)]
    assert heard == {job: [0, 1, 2, 3] for job in (1, 2, 3, 4, 5)}
    assert set(order[:10]) == {1, 2, 3, 4, 5}  # all had their first turn before any had a third
    assert all((tmp_path / str(job)).stat().st_size == 3 for job in heard)


def test_a_turn_is_not_taken_for_an_error_by_the_work() -> None:
    heard: list[Any] = []
    found = run_jobs(do.careful, [0, 1, 2], on_report=lambda *news: heard.append(news), turn=1)
    assert set(found.values()) == {"whole"}
    assert len(heard) == 6


# A parent that has used OpenMP and children with several threads: what used to wait for ever.
# Each machine is a process of its own, so that nothing but its own past decides, and a time limit
# says what a hang is.
EMULATION = """
import json, sys, torch
from sparse_sam.training.jobs import run_jobs
from tests.jobs_for_workers import trained

if __name__ == "__main__":
    cores = int(sys.argv[1])
    torch.set_num_threads(cores)
    trained(0, print)
    for threads, jobs in json.loads(sys.argv[2]):
        found = run_jobs(trained, range(jobs), on_report=print, threads=threads)
        assert {used for used, _ in found.values()} == {threads}
        sums = [sum(t.double().sum().item() for t in state.values()) for _, state in found.values()]
        print(json.dumps(sums))
    assert torch.get_num_threads() == cores
"""


def emulated(cores: int, cases: Sequence[tuple[int, int]]) -> list[list[float]]:
    """What a machine of so many cores gives, with real training in every child.

    Args:
        cores: of the machine; its parent process uses them all.
        cases: threads of each job, and how many jobs.
    """
    own = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-c", EMULATION, str(cores), json.dumps(cases)],
        env={**own, "SPARSE_SAM_CORES": str(cores), "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize(("cores", "threads", "jobs"), [(3, 2, 2), (8, 4, 2), (16, 3, 5)])
def test_workers_train_on_machines_of_any_size(cores: int, threads: int, jobs: int) -> None:
    assert len(emulated(cores, [(threads, jobs)])[0]) == jobs


@pytest.mark.slow
@pytest.mark.parametrize("cores", [1, 2, 3, 8, 16, 64])
def test_workers_train_on_machines_of_every_size(cores: int) -> None:
    cases = [
        (threads, jobs)
        for jobs in (1, 2, 3, 5, 12)
        for threads in sorted({1, max(1, cores // jobs), min(cores, 8)})
    ]
    assert [len(sums) for sums in emulated(cores, cases)] == [jobs for _, jobs in cases]


def test_bits_do_not_depend_on_the_number_of_cores_or_jobs() -> None:
    (alone,), (many,) = emulated(1, [(1, 2)]), emulated(16, [(1, 5)])
    assert alone == many[:2]


@pytest.mark.parametrize("side_by_side", [True, False])
def test_every_job_has_the_threads_that_were_asked_for(side_by_side: bool) -> None:
    torch.set_num_threads(2)
    for threads, jobs in ((1, [1, 2, 3]), (1, [1]), (2, [1, 2])):
        found = run_jobs(
            do.threads,
            jobs,
            on_report=lambda *_: None,
            threads=threads,
            side_by_side=side_by_side,
        )
        assert set(found.values()) == {threads}
    assert torch.get_num_threads() == 2


def test_what_a_job_raises_arrives_and_the_others_are_stopped() -> None:
    began = time.monotonic()
    with pytest.raises(DivergenceError, match="epoch 2"):
        run_jobs(do.diverge, [0, 1, 2], on_report=lambda *_: None)
    assert time.monotonic() - began < 30


def test_work_that_a_worker_cannot_read_says_why() -> None:
    with pytest.raises(ModuleNotFoundError, match="a_network_of_mine"):
        run_jobs(do.Unreadable(), [0, 1, 2], on_report=lambda *_: None)


def test_a_killed_process_is_an_error_and_not_a_hang() -> None:
    with pytest.raises(SparseSamError, match="killed from outside"):
        run_jobs(do.die, [0, 1, 2], on_report=lambda *_: None)


def test_a_job_that_stands_still_is_named_shown_and_stopped(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SPARSE_SAM_STALL_SECONDS", "8")
    forkserver._forkserver._stop()  # type: ignore[attr-defined] # one that has this stderr begins
    with pytest.raises(StalledError, match=r"sam seed 1 has not finished a step for 8 s"):
        run_jobs(
            do.stand_still,
            [0, 1, 2],
            on_report=lambda *_: None,
            name_of=lambda job: f"sam seed {job}",
        )
    said = capfd.readouterr().err
    assert "warning: sam seed 1 has not finished a step" in said
    assert "in stand_still" in said  # where it stands
    assert "seed 0" not in said


@pytest.mark.parametrize("seconds", ["soon", "0", "-1", "nan"])
def test_a_time_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, seconds: str) -> None:
    monkeypatch.setenv("SPARSE_SAM_STALL_SECONDS", seconds)
    with pytest.raises(ConfigError, match="SPARSE_SAM_STALL_SECONDS"):
        run_jobs(do.square, [1, 2], on_report=lambda *_: None)


def test_workers_do_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from functools import partial\n"
        "from pathlib import Path\n"
        "from sparse_sam.training.jobs import run_jobs\n"
        "from tests.jobs_for_workers import wait_beside_a_file\n"
        "if __name__ == '__main__':\n"
        "    run_jobs(partial(wait_beside_a_file, Path(sys.argv[1])), [0, 1], on_report=print)\n"
    )
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    parent = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], env={**os.environ, "PYTHONPATH": path}
    )
    deadline = time.monotonic() + 60
    while len(list(tmp_path.iterdir())) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    workers = [int(path.name) for path in tmp_path.iterdir()]
    while not all(map(_is_gone, workers)):
        assert time.monotonic() < deadline, "a worker outlived its parent"
        time.sleep(0.1)


def _is_gone(process: int) -> bool:
    try:
        return ") Z " in Path(f"/proc/{process}/stat").read_text()
    except FileNotFoundError:
        return True


def test_a_worker_that_is_suspended_is_named_and_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes no signal but SIGKILL."""
    monkeypatch.setenv("SPARSE_SAM_STALL_SECONDS", "4")
    began = time.monotonic()
    with pytest.raises(StalledError, match="job 1 has not finished"):
        run_jobs(do.suspend, [0, 1], on_report=lambda *_: None, name_of=lambda job: f"job {job}")
    assert time.monotonic() - began < 60
