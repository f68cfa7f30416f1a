"""Jobs side by side: the same results, news on the way, and an end whatever happens."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from sparse_sam.errors import DivergenceError, SparseSamError
from sparse_sam.parallel import one_core_would_wait, run_jobs

linux_only = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="it forks")


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def square(job: int, report: Callable[[Any], None]) -> tuple[int, int]:
    for news in range(job):
        report(news)
    return job * job, os.getpid()


@pytest.mark.parametrize("side_by_side", [True, False])
def test_every_job_is_done_once_and_every_report_arrives_in_order(side_by_side: bool) -> None:
    heard: dict[int, list[int]] = {}
    results = run_jobs(
        square,
        [3, 1, 2, 0],
        on_report=lambda job, news: heard.setdefault(job, []).append(news),
        side_by_side=side_by_side,
    )
    assert {job: value for job, (value, _) in results.items()} == {3: 9, 1: 1, 2: 4, 0: 0}
    assert heard == {3: [0, 1, 2], 1: [0], 2: [0, 1]}
    here = {process == os.getpid() for _, process in results.values()}
    assert here == {not (side_by_side and sys.platform.startswith("linux"))}


@linux_only
def test_jobs_that_take_turns_report_everything_once_and_end_together(tmp_path: Path) -> None:
    heard: dict[int, list[int]] = {}
    order: list[int] = []

    def hear(job: int, news: int) -> None:
        heard.setdefault(job, []).append(news)
        order.append(job)

    def count_to_four(job: int, report: Callable[[Any], None]) -> int:
        with (tmp_path / str(job)).open("a") as begun:
            begun.write(".")
        for news in range(4):
            time.sleep(0.05)
            report(news)
        return job * job

    results = run_jobs(count_to_four, [5, 3, 1, 2, 4], on_report=hear, turn=2)
    assert list(results.items()) == [(5, 25), (3, 9), (1, 1), (2, 4), (4, 16)]
    assert heard == {job: [0, 1, 2, 3] for job in (1, 2, 3, 4, 5)}
    assert set(order[:10]) == {1, 2, 3, 4, 5}  # all had their first turn before any had a third
    assert all((tmp_path / str(job)).stat().st_size == 3 for job in heard)


@pytest.mark.parametrize(
    ("threads", "lengths", "waits"),
    [
        (2, [6, 3], True),  # 6 side by side; 4.5 and a little more one after the other
        (2, [6, 6], False),
        (2, [6, 5], False),
        (2, [6, 3, 6, 3], False),
        (2, [6], True),
        (1, [6, 3], False),
        (4, [6, 3], False),
    ],
)
def test_two_cores_go_to_one_job_after_the_other_where_one_is_much_longer(
    threads: int, lengths: list[float], waits: bool
) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert one_core_would_wait(lengths) == waits
    finally:
        torch.set_num_threads(before)


@linux_only
def test_a_turn_is_not_taken_for_an_error_by_the_work() -> None:
    def careful(job: int, report: Callable[[Any], None]) -> str:
        try:
            report("one")
            report("two")
        except Exception:  # noqa: BLE001 - the point of the test
            return "stopped by an exception"
        return "whole"

    heard: list[Any] = []
    found = run_jobs(careful, [0, 1, 2], on_report=lambda *news: heard.append(news), turn=1)
    assert set(found.values()) == {"whole"}
    assert len(heard) == 6


@linux_only
def test_the_threads_are_shared_out() -> None:
    def threads(_: int, __: Callable[[Any], None]) -> int:
        return torch.get_num_threads()

    torch.set_num_threads(4)
    assert set(run_jobs(threads, [1, 2], on_report=lambda *_: None).values()) == {2}
    torch.set_num_threads(2)
    assert set(run_jobs(threads, [1, 2, 3], on_report=lambda *_: None).values()) == {1}
    assert set(run_jobs(threads, [1], on_report=lambda *_: None).values()) == {2}


@linux_only
def test_what_a_job_raises_arrives_and_the_others_are_stopped() -> None:
    def diverge(job: int, _: Callable[[Any], None]) -> None:
        if job == 1:
            raise DivergenceError("the loss in epoch 2 became infinite")
        time.sleep(60)

    began = time.monotonic()
    with pytest.raises(DivergenceError, match="epoch 2"):
        run_jobs(diverge, [0, 1, 2], on_report=lambda *_: None)
    assert time.monotonic() - began < 20
    assert not multiprocessing.active_children()


@linux_only
def test_a_killed_process_is_an_error_and_not_a_hang() -> None:
    def die(job: int, _: Callable[[Any], None]) -> None:
        if job == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)

    with pytest.raises(SparseSamError, match="killed from outside"):
        run_jobs(die, [0, 1, 2], on_report=lambda *_: None)


@linux_only
def test_workers_do_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    code = (
        "import os, sys, time, torch\n"
        "from pathlib import Path\n"
        "from sparse_sam.parallel import one_core_would_wait, run_jobs\n"
        "torch.set_num_threads(2)\n"
        "def wait(job, report):\n"
        "    (Path(sys.argv[1]) / str(os.getpid())).touch()\n"
        "    time.sleep(60)\n"
        "run_jobs(wait, [0, 1], on_report=print)\n"
    )
    source = str(Path(__file__).resolve().parent.parent / "src")
    parent = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], env={**os.environ, "PYTHONPATH": source}
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
