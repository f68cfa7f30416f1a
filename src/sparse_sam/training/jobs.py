"""Independent jobs side by side, a process each: how the seeds and arms of a stage are trained.

A small network leaves the threads of one job waiting for each other, the more so when anything
else runs on the machine. Jobs that share nothing do not wait. Every job has the same number of
threads, whatever the machine and the number of jobs: so bits do not depend on how many cores there
are, and the seconds of two arms can be compared.

Workers are started fresh and never forked from this process. A fork copies what the threads of
its parent were in the middle of, but not the threads: after any larger operation of torch, a child
that used two threads would wait for ever for one that does not exist in it.
"""

import multiprocessing
import os
import pickle
import signal
import sys
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from sparse_sam.errors import SparseSamError, StalledError
from sparse_sam.training import worker
from sparse_sam.training.cores import available_cores
from sparse_sam.training.heartbeat import Watchdog, stall_seconds, watched

Job = TypeVar("Job", bound=Hashable)
Result = TypeVar("Result")
Report = Callable[[Any], None]

_POLL_SECONDS = 0.1
_TO_WRITE_SECONDS = 0.5
_TO_END_SECONDS = 2.0
_UNKNOWN = 255
"""The exit code of a worker of which its server cannot tell any more."""
_IMPORTED_ONCE = ["torch", "pydantic", "ruamel.yaml", "safetensors.torch", "tqdm"]
"""What the server that workers come from imports, so that each of them need not.

Other people's packages only: which copy of this library a worker needs, its parent tells it.
"""
_STARTING = object()


def run_jobs(
    work: Callable[[Job, Report], Result],
    jobs: Sequence[Job],
    *,
    on_report: Callable[[Job, Any], None],
    threads: int = 1,
    side_by_side: bool = True,
    turn: int | None = None,
    name_of: Callable[[Job], str] = str,
    on_done: Callable[[Job, Result], None] = lambda *_: None,
    apart: bool = False,
) -> Mapping[Job, Result]:
    """Do ``work(job, report)`` for every job; longest jobs are best listed first.

    Five equal jobs on two cores leave one core idle for a job's time, unless jobs take turns.

    Args:
        work: does one job and returns what it found; calls ``report`` with news on the way. It,
            jobs, results and reports must be picklable: a function of a module, or a ``partial``
            of one.
        jobs: what to do, each hashable and different.
        on_report: told, in this process, of every report and the job that it is from.
        threads: of torch, for each job.
        side_by_side: False does one job after the other here, as a GPU needs.
        turn: side by side, a job makes room for those that wait when it has reported so often, and
            is begun again behind them. For work that then goes on from what it had reported, and
            makes all its reports anew; ``on_report`` is told of each once.
        name_of: what a job is called where it must be named: when it does not go on.
        on_done: told, in this process, of every job that is done, as soon as it is.
        apart: one worker is started even where there is one core, or one job: what this process
            has loaded or set then makes no difference.

    Raises:
        SparseSamError: a process died, of memory for instance; or what ``work`` raises, after
            the other jobs were stopped.
        StalledError: a job finished no step for ``heartbeat.stall_seconds``.
    """
    workers = min(max(1, available_cores() // threads), len(jobs))
    if not side_by_side or (workers < 2 and not apart):
        return _one_after_the_other(work, jobs, on_report, threads, name_of, on_done)
    if len(jobs) <= workers:
        turn = None  # nobody waits
    with _pool(work, workers, threads) as (pool, told):
        watchdog = Watchdog(partial(_name, name_of), stall_seconds())
        watchdog.alive(_STARTING)
        processes: dict[Any, int] = {}
        running: dict[Future[Any], Job] = {}
        for job in jobs:
            running[pool.submit(worker.do, job, 0, turn)] = job
        results: dict[Job, Result] = {}
        while running:
            done, _ = wait(running, timeout=_POLL_SECONDS, return_when=FIRST_COMPLETED)
            _hear(told, watchdog, processes, on_report)
            for future in done:
                job, outcome = running.pop(future), future.result()
                watchdog.ended(job)
                if isinstance(outcome, worker.Turn):
                    running[pool.submit(worker.do, job, outcome.reports, turn)] = job
                else:
                    results[job] = outcome
                    on_done(job, outcome)
            try:
                watchdog.look()
            except StalledError as error:
                _show_where(processes.get(error.job))
                raise
        return {job: results[job] for job in jobs}


def prepare_workers() -> None:
    """Begin what takes time before the first worker is there, beside what the caller does next."""
    context = _context()
    if context.get_start_method() == "forkserver" and available_cores() > 1:
        from multiprocessing.forkserver import ensure_running

        ensure_running()


def _context() -> BaseContext:
    """How workers are started: fresh. Only on Linux is a server that forks them safe everywhere."""
    if not sys.platform.startswith("linux"):
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_IMPORTED_ONCE)
    return context


@contextmanager
def _pool(
    work: Callable[..., Any], workers: int, threads: int
) -> Iterator[tuple[ProcessPoolExecutor, Any]]:
    """Workers that know ``work``, and the queue on which they tell; they end with the block."""
    context = _context()
    told = context.SimpleQueue()
    # By value: multiprocessing's own way would lay tensors into /dev/shm, 64 MB in a container.
    pickled = pickle.dumps(work)
    pool = ProcessPoolExecutor(
        workers, context, initializer=worker.begin, initargs=(pickled, told, threads)
    )
    before = set(multiprocessing.active_children())
    try:
        yield pool, told
    except BrokenProcessPool:
        raise SparseSamError(
            "a training process was killed from outside, possibly because memory ran out. Run "
            "fewer at a time: set SPARSE_SAM_CORES to 1 or 2."
        ) from None
    finally:
        _end(set(multiprocessing.active_children()) - before)
        pool.shutdown(cancel_futures=True)


def _end(workers: Iterable[BaseProcess]) -> None:
    """End workers, also those that are suspended, or stuck where no signal handler runs."""
    for one in workers:
        one.terminate()
    deadline = time.monotonic() + _TO_END_SECONDS
    for one in workers:
        one.join(max(0.0, deadline - time.monotonic()))
        if one.is_alive():
            one.kill()
        elif one.exitcode == _UNKNOWN and one.pid:  # the server died that would have known
            with suppress(OSError):
                os.kill(one.pid, signal.SIGTERM)


def _show_where(process: int | None) -> None:
    """Let a worker write to stderr what it is doing."""
    if process and worker.SHOW_WHERE:
        os.kill(process, worker.SHOW_WHERE)
        time.sleep(_TO_WRITE_SECONDS)


def _hear(
    told: Any,
    watchdog: Watchdog,
    processes: dict[Any, int],
    on_report: Callable[[Any, Any], None],
) -> None:
    """Take what workers have told since the last time, and who does which job."""
    while not told.empty():
        said: worker.Told = told.get()
        watchdog.ended(_STARTING)
        watchdog.alive(said.job)
        processes[said.job] = said.process
        if said.is_news:
            on_report(said.job, said.news)


def _one_after_the_other(
    work: Callable[[Job, Report], Result],
    jobs: Sequence[Job],
    on_report: Callable[[Job, Any], None],
    threads: int,
    name_of: Callable[[Job], str],
    on_done: Callable[[Job, Result], None],
) -> Mapping[Job, Result]:
    results = {}
    with worker.on_threads(threads):
        for job in jobs:
            with watched(name_of(job)):
                results[job] = work(job, partial(on_report, job))
            on_done(job, results[job])
    return results


def _name(name_of: Callable[[Any], str], job: Any) -> str:
    return "a process that is to train" if job is _STARTING else name_of(job)
