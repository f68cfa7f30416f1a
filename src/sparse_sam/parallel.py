"""Independent jobs side by side, one process a core: how the seeds of a stage are trained.

A small network leaves the threads of one job waiting for each other, the more so when anything
else runs on the machine. Jobs that share nothing do not wait. Each gets an equal share of the
threads that torch would use; with as many jobs as threads that is one, and then the results do not
depend on how many cores there are.
"""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from typing import Any, TypeVar

import torch

from sparse_sam.errors import SparseSamError

Job = TypeVar("Job")
Result = TypeVar("Result")
Report = Callable[[Any], None]

_POLL_SECONDS = 0.1
_assigned: dict[str, Any] = {}


def one_core_would_wait(lengths: Sequence[float]) -> bool:
    """Whether two cores are better given to one job after the other.

    Side by side, jobs of these lengths cannot be done before the longest is, also where they take
    turns. A job that has both threads takes little more than half of its time; on more threads
    that depends on the job, and side by side is left as it is.
    """
    return torch.get_num_threads() == 2 and max(lengths) > 1.1 * sum(lengths) / 2


def run_jobs(
    work: Callable[[Job, Report], Result],
    jobs: Sequence[Job],
    *,
    on_report: Callable[[Job, Any], None],
    side_by_side: bool = True,
    turn: int | None = None,
) -> Mapping[Job, Result]:
    """Do ``work(job, report)`` for every job; longest jobs are best listed first.

    Five equal jobs on two cores leave one core idle for a job's time, unless jobs take turns.

    Args:
        work: does one job and returns what it found; calls ``report`` with news on the way. Jobs,
            results and reports must be picklable, ``work`` need not.
        jobs: what to do, each hashable and different.
        on_report: told, in this process, of every report and the job that it is from.
        side_by_side: False does one job after the other here, as a GPU needs. So does a platform
            that cannot fork.
        turn: side by side, a job makes room for those that wait when it has reported so often, and
            is begun again behind them. For work that then goes on from what it had reported, and
            makes all its reports anew; ``on_report`` is told of each once.

    Raises:
        SparseSamError: a process died, of memory for instance; or what ``work`` raises, after
            the other jobs were stopped.
    """
    threads = torch.get_num_threads()
    workers = min(threads, len(jobs))
    if workers < 2 or not side_by_side or not sys.platform.startswith("linux"):
        return {job: work(job, partial(on_report, job)) for job in jobs}
    if len(jobs) <= workers:
        turn = None  # nobody waits
    context = multiprocessing.get_context("fork")
    reports = context.SimpleQueue()
    start = (work, reports, os.getpid(), threads // workers)
    pool = ProcessPoolExecutor(workers, context, initializer=_adopt, initargs=start)
    try:
        running = {pool.submit(_do, job, 0, turn): job for job in jobs}
        results: dict[Job, Result] = {}
        while running:
            done, _ = wait(running, timeout=_POLL_SECONDS, return_when=FIRST_COMPLETED)
            while not reports.empty():
                on_report(*reports.get())
            for future in done:
                job, outcome = running.pop(future), future.result()
                if isinstance(outcome, _Turn):
                    running[pool.submit(_do, job, outcome.reports, turn)] = job
                else:
                    results[job] = outcome
        return {job: results[job] for job in jobs}
    except BrokenProcessPool:
        raise SparseSamError(
            "a process that trained was killed from outside, perhaps for want of memory. "
            "Fewer side by side need less: set OMP_NUM_THREADS=1."
        ) from None
    finally:
        for child in multiprocessing.active_children():
            child.terminate()
        pool.shutdown(cancel_futures=True)


def _adopt(work: Callable[..., Any], reports: Any, parent: int, threads: int) -> None:
    """Begin a worker's life, and end it with its parent's, however that ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _assigned.update(work=work, reports=reports)
    torch.set_num_threads(threads)

    def follow_parent() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=follow_parent, daemon=True).start()


class _Turn(BaseException):
    """A job's turn is over, after so many reports in all. Passes through ``except Exception``."""

    def __init__(self, reports: int) -> None:
        super().__init__(reports)
        self.reports = reports


def _do(job: Any, reported: int, turn: int | None) -> Any:
    """One turn of a job that has made so many reports: what its work returns, or ``_Turn``."""
    made = 0

    def report(news: Any) -> None:
        nonlocal made
        made += 1
        if made > reported:
            _assigned["reports"].put((job, news))
            if turn and made - reported >= turn:
                raise _Turn(made)

    try:
        return _assigned["work"](job, report)
    except _Turn as over:
        return over
