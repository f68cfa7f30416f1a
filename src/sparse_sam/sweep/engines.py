"""What computes cells: the protocol that every engine keeps, and the one without any other process.

An engine is given groups of cells that start from one dense network, computes what it is given,
and tells what it began, did and could not do. It knows no store and no table.
"""

import os
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch

from sparse_sam.data import TestData, TrainingData
from sparse_sam.sweep import compute
from sparse_sam.sweep.compute import Diverged, Result
from sparse_sam.sweep.store import Cost
from sparse_sam.sweep.work import Dense, Work
from sparse_sam.training import Checkpoint, select_device

ATTEMPTS = 2
"""How often a cell is tried before it counts as failed."""

Known = Callable[[Dense], Checkpoint | Diverged | None]


@dataclass(frozen=True)
class Data:
    """The data sets of a sweep by fingerprint, test parts apart from all others."""

    training: Mapping[str, TrainingData]
    test: Mapping[str, TestData]


@dataclass(frozen=True)
class Group:
    """Cells that start from one dense network."""

    dense: Dense
    works: tuple[Work, ...]


@dataclass(frozen=True)
class Begun:
    """A task was begun, or handed to those who begin it."""

    task: Dense | Work


@dataclass(frozen=True)
class Done:
    """A task is done."""

    task: Dense | Work
    found: Checkpoint | Diverged | Result
    cost: Cost


@dataclass(frozen=True)
class Failed:
    """A task was given up; ``why`` is the traceback."""

    task: Dense | Work
    why: str


Event = Begun | Done | Failed


class Engine(Protocol):
    """Computes cells somewhere. A cell that fails is tried again, and then told of as failed."""

    def run(self, groups: Sequence[Group], data: Data, known: Known) -> Iterator[Event]:
        """Compute every cell of ``groups``.

        Args:
            groups: the cells, by dense network.
            data: the data sets that they name.
            known: a dense network that need not be trained, or None.
        """
        ...

    @property
    def workers(self) -> int:
        """How many cells are computed at once."""
        ...


class Sequential:
    """One cell after the other, in this process, on one thread: what others must agree with."""

    workers = 1

    def run(self, groups: Sequence[Group], data: Data, known: Known) -> Iterator[Event]:
        """Compute every cell of ``groups``; see ``Engine``."""
        with one_thread():
            for group in groups:
                yield from self._group(group, data, known)

    def _group(self, group: Group, data: Data, known: Known) -> Iterator[Event]:
        training = data.training[group.dense.data]
        dense = known(group.dense)
        if dense is None:
            yield Begun(group.dense)
            done = attempt(group.dense, lambda: compute.dense_network(group.dense, training))
            yield done
            if isinstance(done, Failed):
                yield from (Failed(work, done.why) for work in group.works)
                return
            assert not isinstance(done.found, Result)  # noqa: S101 - for the type checker
            dense = done.found
        for work in group.works:
            yield Begun(work)
            yield attempt(work, lambda work=work: _cell(work, dense, data))  # type: ignore[misc]


def _cell(work: Work, dense: Checkpoint | Diverged, data: Data) -> Result:
    training = data.training[work.dense.data]
    if work.tested:
        return compute.report(work, dense, training, data.test[work.dense.data])
    return compute.choose(work, dense, training)


def attempt(task: Dense | Work, act: Callable[[], Checkpoint | Diverged | Result]) -> Done | Failed:
    """Try a task, and again."""
    for left in reversed(range(ATTEMPTS)):
        started = time.perf_counter()
        try:
            found = act()
        except Exception:  # noqa: BLE001 - told of, and the other cells go on
            if not left:
                return Failed(task, traceback.format_exc())
        else:
            seconds = time.perf_counter() - started
            return Done(task, found, Cost(seconds, f"process {os.getpid()}", time.time()))
    raise AssertionError("there is an attempt")


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute as a worker does: on the CPU, on one thread, so that the bits are the same."""
    threads = torch.get_num_threads()
    select_device("cpu")
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
