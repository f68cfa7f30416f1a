"""What computes tasks somewhere: the protocol that engines keep, and the one within this process.

An engine is given tasks, says what it began, did and could not do, and is given the tasks that can
be done then. It knows no store, no stage and no sweep.
"""

import os
import time
import traceback
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from sparse_sam.errors import SparseSamError
from sparse_sam.training.devices import select_device
from sparse_sam.training.made_by import Environment
from sparse_sam.training.worker import on_threads

ATTEMPTS = 2
"""How often a task is tried before it counts as failed."""


class Large:
    """An argument that many tasks share, such as a data set: it is sent once."""

    def __init__(self, value: Any) -> None:
        self.value = value
        # Where an engine has put it, for one of its runs.
        self.kept_for: object = None
        self.box: Any = None


@dataclass(frozen=True)
class Task:
    """Something to compute.

    Attributes:
        key: what events call it by.
        act: what to do: a function of a module.
        arguments: what with; all can be pickled, and what many tasks share is ``Large``.
        code: where the code begins that it is made by: on other computers it must be the same.
        files: what it reads beside its arguments, with hashes: likewise.
    """

    key: Hashable
    act: Callable[..., Any]
    arguments: tuple[Any, ...]
    code: tuple[str, ...]
    files: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Cost:
    """What computing something took, and where it was done: never compared.

    Attributes:
        seconds: of the worker, with all that it needed.
        worker: node and process.
        ended: seconds since 1970.
    """

    seconds: float
    worker: str
    ended: float


@dataclass(frozen=True)
class Begun:
    """A task was begun, or handed to those who begin it."""

    task: Task


@dataclass(frozen=True)
class Done:
    """A task is done."""

    task: Task
    found: Any
    cost: Cost


@dataclass(frozen=True)
class Failed:
    """A task was given up: by what it raised, and the traceback."""

    task: Task
    error: Exception
    why: str


def here() -> str:
    """What this process is called where a cost says who paid it."""
    return f"process {os.getpid()}"


Event = Begun | Done | Failed
Then = Callable[[Event], Iterable[Task]]


def nothing_more(event: Event) -> Iterable[Task]:
    """What follows where all tasks are known from the beginning."""
    del event
    return ()


class Engine(Protocol):
    """Computes tasks somewhere. One that fails is tried again, and then told of as failed."""

    def run(self, tasks: Iterable[Task], then: Then = nothing_more) -> Iterator[Event]:
        """Compute tasks, and those that ``then`` names when it is told of an event."""
        ...

    def environment(self, threads: int) -> Environment:
        """That in which tasks are computed."""
        ...

    @property
    def workers(self) -> int:
        """How many tasks are computed at once."""
        ...

    def close(self) -> None:
        """Leave what computes."""
        ...


class Sequential:
    """One task after the other, in this process, on one thread: what others must agree with."""

    workers = 1

    def close(self) -> None:
        """Nothing was begun."""

    def environment(self, threads: int = 1) -> Environment:
        """That of this process, on its CPU."""
        return Environment.here(torch.device("cpu"), threads)

    def run(self, tasks: Iterable[Task], then: Then = nothing_more) -> Iterator[Event]:
        """Compute tasks; see ``Engine``. What follows one is done before what waited already."""
        waiting = deque(tasks)
        with one_thread():
            while waiting:
                task = waiting.popleft()
                yield Begun(task)
                event = _attempt(task)
                yield event
                waiting.extendleft(reversed(list(then(event))))


def _attempt(task: Task) -> Done | Failed:
    """Try a task, and again."""
    arguments = [one.value if isinstance(one, Large) else one for one in task.arguments]
    for left in reversed(range(ATTEMPTS)):
        started = time.perf_counter()
        try:
            found = task.act(*arguments)
        except Exception as error:  # noqa: BLE001 - told of, and the others go on
            if not left or is_final(error):
                return Failed(task, error, traceback.format_exc())
        else:
            seconds = time.perf_counter() - started
            return Done(task, found, Cost(seconds, here(), time.time()))
    raise AssertionError("there is an attempt")


def is_final(error: BaseException) -> bool:
    """Whether a task that raises this does so every time."""
    return isinstance(error, SparseSamError)


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute as a worker does: on the CPU, on one thread, so that the bits are the same."""
    select_device("cpu")
    with on_threads(1):
        yield
