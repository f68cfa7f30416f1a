"""Cells on Ray: the cores of this machine, or of a cluster. It alone knows Ray.

Each dense network and each cell is a task of one core. Ray places tasks, tries those again that
raise or whose node dies, and says when they end; what is decided here is only what is handed out
when. Results come back to this process, which alone writes, so nodes need no common disk. A dense
network is held here as soon as it is trained: a node that dies takes nothing with it but the tasks
that it was running.
"""

import os
import secrets
import socket
import time
import traceback
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch

from sparse_sam.errors import SparseSamError
from sparse_sam.redaction import redacted
from sparse_sam.sweep import compute
from sparse_sam.sweep.code_version import code_version
from sparse_sam.sweep.compute import Diverged, Result
from sparse_sam.sweep.engines import ATTEMPTS, Begun, Data, Done, Event, Failed, Group, Known
from sparse_sam.sweep.store import Cost
from sparse_sam.sweep.work import Dense, Work
from sparse_sam.training import Checkpoint, select_device

_NODE_DEATHS = 3
"""How many more times a task may be lost with its node."""
_HANDED_OUT_A_CORE = 2
"""One at work and one that waits beside it; more only make this process slow."""
_WAIT_SECONDS = 1.0
_CONNECT_SECONDS = 10.0

Boxes = dict[str, list[Any]]
"""Data sets by fingerprint, as references that Ray does not open by itself (hence the list)."""


class Shared(NamedTuple):
    """What every task is given: references to the data, and the code it must be computed by."""

    training: Boxes
    test: Boxes
    code: str


class OnRay:
    """Cells on a cluster of Ray's, begun here with this machine's cores if none is named.

    Args:
        address: of a running cluster, such as "10.0.0.1:6379" or "auto"; None begins one here.
        cores: how many to use of this machine; None uses all. Only without an address.

    Raises:
        SparseSamError: Ray is not installed, or the cluster is not reached.
    """

    def __init__(self, address: str | None = None, cores: int | None = None) -> None:
        # Usage reports go to Ray's makers by default.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        if address is None and "RAY_AUTH_MODE" not in os.environ:
            # A cluster that begins here listens on the network too, but to nobody else.
            os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        try:
            import ray
        except ImportError:
            raise SparseSamError(
                "ray is not installed. Install it (`pip install '.[sweep]'`), or use "
                "--engine sequential."
            ) from None
        self.ray: Any = ray
        _check_that_it_answers(address)
        # What a worker prints is not the sweep's to show; its errors come as exceptions.
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
        if address is None:
            options |= {"include_dashboard": False, "num_cpus": cores or os.cpu_count()}
        try:
            ray.init(address=address or "local", **options)
        except (ConnectionError, RuntimeError, ValueError) as error:
            reason = " ".join(redacted(str(error)).split())[:300]
            raise SparseSamError(f"Ray at {address or 'this machine'}: {reason}") from error

    def close(self) -> None:
        """Leave the cluster; end it if it was begun here."""
        self.ray.shutdown()

    @property
    def workers(self) -> int:
        """How many cores the cluster has now."""
        resources: dict[str, float] = self.ray.cluster_resources()
        return max(1, int(resources.get("CPU", 1)))

    def run(self, groups: Sequence[Group], data: Data, known: Known) -> Iterator[Event]:
        """Compute every cell of ``groups``; see ``Engine``."""
        if not groups:
            return
        yield from _Run(self, groups, data, known).events()


def _check_that_it_answers(address: str | None) -> None:
    """Ray itself tries for minutes."""
    host, _, port = (address or "").rpartition(":")
    if not port.isdecimal() or "/" in host:
        return  # "auto", say
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        raise SparseSamError(
            f"nothing answers at {address} ({error}). Start Ray there: `ray start --head`."
        ) from None


class _Waiting(NamedTuple):
    """A task that can be handed out: a dense network, or a cell whose network is there."""

    task: Dense | Work
    group: int


class _Run:
    """One run of an engine: what waits, what is handed out, and the networks that are held."""

    def __init__(self, engine: OnRay, groups: Sequence[Group], data: Data, known: Known) -> None:
        self.ray, self.engine, self.groups = engine.ray, engine, groups
        training = {name: [self.ray.put(one)] for name, one in data.training.items()}
        test = {name: [self.ray.put(one)] for name, one in data.test.items()}
        self.data = (training, test)
        options = {
            "num_cpus": 1,
            "max_retries": ATTEMPTS - 1 + _NODE_DEATHS,
            "retry_exceptions": False,
        }
        self.remote = {
            function: self.ray.remote(**options)(function)
            for function in (_train_dense, _choose, _report)
        }
        self.waiting: deque[_Waiting] = deque()
        self.handed: dict[Any, tuple[_Waiting, int]] = {}
        self.networks: dict[int, Any] = {}
        self.left = [len(group.works) for group in groups]
        ready = []
        # Networks first: everything else waits for them.
        for number, group in enumerate(groups):
            network = known(group.dense)
            if network is None:
                self.waiting.append(_Waiting(group.dense, number))
            else:
                self.networks[number] = network
                ready.append(number)
        for number in ready:
            self._release(number)

    def events(self) -> Iterator[Event]:
        looked, cores = 0.0, self.engine.workers
        while self.waiting or self.handed:
            if time.monotonic() - looked > _WAIT_SECONDS:  # nodes come and go
                looked, cores = time.monotonic(), self.engine.workers
            while self.waiting and len(self.handed) < _HANDED_OUT_A_CORE * cores:
                yield from self._hand_out(self.waiting.popleft(), ATTEMPTS)
            ended, _ = self.ray.wait(list(self.handed), num_returns=1, timeout=_WAIT_SECONDS)
            for reference in ended:
                yield from self._collect(reference)

    def _release(self, number: int) -> None:
        works = self.groups[number].works
        self.waiting.extend(_Waiting(work, number) for work in works)

    def _hand_out(self, one: _Waiting, attempts: int) -> Iterator[Event]:
        task = one.task
        training, test = self.data
        fingerprint = task.data if isinstance(task, Dense) else task.dense.data
        shared = Shared(
            {fingerprint: training[fingerprint]},
            {fingerprint: test[fingerprint]} if isinstance(task, Work) and task.tested else {},
            code_version(task.content()),
        )
        if isinstance(task, Dense):
            reference = self.remote[_train_dense].remote(task, shared)
        else:
            network = self.networks[one.group]
            if isinstance(network, Checkpoint):
                network = self.networks[one.group] = self.ray.put(network)
            function = _report if task.tested else _choose
            reference = self.remote[function].remote(task, network, shared)
        self.handed[reference] = (one, attempts)
        if attempts == ATTEMPTS:
            yield Begun(task)

    def _collect(self, reference: Any) -> Iterator[Event]:
        one, attempts = self.handed.pop(reference)
        try:
            found, cost = self.ray.get(reference)
        except self.ray.exceptions.RayError as error:
            if attempts > 1 and isinstance(error, self.ray.exceptions.RayTaskError):
                yield from self._hand_out(one, attempts - 1)
                return
            yield from self._give_up(one, "".join(traceback.format_exception(error)))
            return
        yield Done(one.task, found, cost)
        if isinstance(one.task, Dense):
            self.networks[one.group] = found
            self._release(one.group)
        else:
            self._finish(one.group)

    def _give_up(self, one: _Waiting, why: str) -> Iterator[Event]:
        yield Failed(one.task, why)
        if isinstance(one.task, Dense):
            yield from (Failed(work, why) for work in self.groups[one.group].works)
        else:
            self._finish(one.group)

    def _finish(self, group: int) -> None:
        """Let a network go when the last of its cells has ended."""
        self.left[group] -= 1
        if not self.left[group]:
            del self.networks[group]


# What follows runs in Ray's workers.

Measured = tuple[Checkpoint | Diverged | Result, Cost]
_DATA_SETS_KEPT = 4
_fetched: dict[Any, Any] = {}


def _train_dense(dense: Dense, shared: Shared) -> Measured:
    _prepare(dense, shared.code)
    started = time.perf_counter()
    found = compute.dense_network(dense, _fetch(shared.training[dense.data]))
    return found, _cost(started)


def _choose(work: Work, network: Checkpoint | Diverged, shared: Shared) -> Measured:
    _prepare(work, shared.code)
    started = time.perf_counter()
    found = compute.choose(work, network, _fetch(shared.training[work.dense.data]))
    return found, _cost(started)


def _report(work: Work, network: Checkpoint | Diverged, shared: Shared) -> Measured:
    _prepare(work, shared.code)
    started = time.perf_counter()
    training = _fetch(shared.training[work.dense.data])
    test = _fetch(shared.test[work.dense.data])
    return compute.report(work, network, training, test), _cost(started)


def _prepare(task: Dense | Work, code: str) -> None:
    """One thread, and the same code as whoever asks."""
    if code_version(task.content()) != code:
        raise SparseSamError(
            "this node has another version of sparse-sam, of torch, or of the model's module, than "
            "the process that runs the sweep. Install the same on all nodes."
        )
    select_device("cpu")
    torch.set_num_threads(1)


def _fetch(box: list[Any]) -> Any:
    """A data set, taken out of Ray's store once a process: that copies it."""
    import ray

    (reference,) = box
    if reference not in _fetched:
        if len(_fetched) >= _DATA_SETS_KEPT:
            del _fetched[next(iter(_fetched))]
        _fetched[reference] = ray.get(reference)
    return _fetched[reference]


def _cost(started: float) -> Cost:
    import ray

    node = ray.get_runtime_context().get_node_id()[:8]
    return Cost(time.perf_counter() - started, f"node {node} process {os.getpid()}", time.time())
