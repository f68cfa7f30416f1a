"""A worker's side of ``jobs``: one process, one job at a time, on so many threads."""

import faulthandler
import os
import pickle
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import parent_process
from typing import Any, NamedTuple

from sparse_sam.terminal import heard_by

SHOW_WHERE: signal.Signals | None = getattr(signal, "SIGUSR1", None)
"""The signal that makes a worker write to stderr what it is doing; None where there is none."""

_BEAT_SECONDS = 1.0
_assigned: dict[str, Any] = {}


class Told(NamedTuple):
    """What a worker tells: news of a job's, or None when the job only shows that it is alive."""

    job: Any
    process: int
    is_news: bool
    news: Any = None


class Turn(BaseException):
    """A job's turn is over, after so many reports in all. Passes through ``except Exception``."""

    def __init__(self, reports: int) -> None:
        super().__init__(reports)
        self.reports = reports


def begin(work: bytes, told: Any, threads: int) -> None:
    """Begin a worker's life, and end it with its parent's, however that ends.

    Args:
        work: what to do with a job, pickled.
        told: the queue to the parent.
        threads: how many torch may use.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if SHOW_WHERE:
        faulthandler.register(SHOW_WHERE, all_threads=False)
    threading.Thread(target=_follow_parent, daemon=True).start()
    # Side by side is for CPUs: a worker that asked a GPU for its state would take memory there.
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    import torch

    from sparse_sam.training.devices import select_device

    torch.set_num_threads(threads)
    select_device("cpu")
    _assigned.update(pickled=work, told=told)


def _follow_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def do(job: Any, reported: int, turn: int | None) -> Any:
    """One turn of a job that has made so many reports: what its work returns, or ``Turn``."""
    told = _assigned["told"]
    made, last = 0, time.monotonic()

    def report(news: Any) -> None:
        nonlocal made
        made += 1
        if made > reported:
            told.put(Told(job, os.getpid(), is_news=True, news=news))
            if turn and made - reported >= turn:
                raise Turn(made)

    def alive() -> None:
        nonlocal last
        if time.monotonic() - last > _BEAT_SECONDS:
            last = time.monotonic()
            told.put(Told(job, os.getpid(), is_news=False))

    told.put(Told(job, os.getpid(), is_news=False))
    try:
        with heard_by(alive):
            return _work()(job, report)
    except Turn as over:
        return over


def _work() -> Any:
    """What is done with a job. Here and not at the beginning, so that its faults are the job's."""
    if "work" not in _assigned:
        _assigned["work"] = pickle.loads(_assigned["pickled"])  # noqa: S301 - from its own parent
    return _assigned["work"]


@contextmanager
def on_threads(threads: int) -> Iterator[None]:
    """Within it, torch uses so many threads."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
