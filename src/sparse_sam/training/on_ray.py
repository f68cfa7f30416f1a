"""Tasks on Ray: the cores of this machine, or of a cluster. It alone knows Ray.

Ray places tasks, tries those again that raise or whose node dies, and says when they end; what is
decided here is only what is handed out when. Results come back to this process, which alone writes,
so nodes need no common disk, and one that dies takes nothing with it but what it was running.
"""

import os
import secrets
import socket
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

from sparse_sam.errors import SparseSamError
from sparse_sam.redaction import redacted
from sparse_sam.training.devices import select_device
from sparse_sam.training.engines import (
    ATTEMPTS,
    Begun,
    Cost,
    Done,
    Event,
    Failed,
    Large,
    Task,
    Then,
    is_final,
    nothing_more,
)
from sparse_sam.training.heartbeat import stall_seconds
from sparse_sam.training.made_by import Environment, code_hash, hashes_of

_NODE_DEATHS = 3
"""How many more times a task may be lost with its node."""
_HANDED_OUT_A_CORE = 2
"""One at work and one that waits beside it; more only make this process slow."""
_WAIT_SECONDS = 1.0
_CONNECT_SECONDS = 10.0


class _Box(NamedTuple):
    """A large argument, as a reference that Ray does not open by itself (hence the list)."""

    reference: list[Any]


class _Expected(NamedTuple):
    """What a node must have, so that it computes the same."""

    environment: Environment
    code: str
    roots: tuple[str, ...]
    files: dict[str, str]


class OnRay:
    """Tasks on a cluster of Ray's, begun here with this machine's cores if none is named.

    Args:
        address: of a running cluster, such as "10.0.0.1:6379" or "auto"; None begins one here.
        cores: how many to use of this machine; None uses all. Only without an address.
        threads: of a task.

    Raises:
        SparseSamError: Ray is not installed, the cluster is not reached, or has no node of so many
            cores.
    """

    def __init__(
        self, address: str | None = None, cores: int | None = None, threads: int = 1
    ) -> None:
        # Usage reports go to Ray's makers by default.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        if address is None and "RAY_AUTH_MODE" not in os.environ:
            # A cluster that begins here listens on the network too, but to nobody else.
            os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        try:
            import ray
        except ImportError:
            raise SparseSamError(
                "ray is not installed. Run `make setup-sweep` or `pip install '.[sweep]'`, or "
                "choose another engine."
            ) from None
        self.ray: Any = ray
        self._environments: dict[int, Environment] = {}
        self._threads, self._where = threads, address or "this machine"
        _check_that_it_answers(address)
        # What a worker prints is not the driver's to show; its errors come as exceptions.
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
        if address is None:
            options |= {"include_dashboard": False, "num_cpus": cores or os.cpu_count()}
        try:
            ray.init(address=address or "local", **options)
        except (ConnectionError, RuntimeError, ValueError) as error:
            reason = " ".join(redacted(str(error)).split())[:300]
            raise SparseSamError(f"Ray at {self._where}: {reason}") from error
        try:
            self._nodes(threads)
        except SparseSamError:
            self.close()
            raise

    def close(self) -> None:
        """Leave the cluster; end it if it was begun here."""
        self.ray.shutdown()

    @property
    def workers(self) -> int:
        """How many tasks the cluster can do at once now."""
        resources: dict[str, float] = self.ray.cluster_resources()
        return max(1, int(resources.get("CPU", 1)) // self._threads)

    def environment(self, threads: int) -> Environment:
        """That of the cluster's nodes. All that are there now are asked at once.

        So nodes that differ are known before any work, and all have a process that is ready: the
        first tasks, where they are short, are not all done by the node that was ready first.
        """
        if threads in self._environments:
            return self._environments[threads]
        on = self.ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
        asked = [
            self.ray.remote(
                # Whoever else computes there is not waited for, nor (soft) a node that dies now.
                num_cpus=0,
                max_retries=_NODE_DEATHS,
                scheduling_strategy=on(node, soft=True),
            )(_environment).remote(threads)
            for node in self._nodes(threads)
        ]
        try:
            found: list[Environment] = self.ray.get(asked)
        except self.ray.exceptions.RayError as error:
            last = str(error).strip().splitlines()[-1]
            raise SparseSamError(
                f"a node of Ray at {self._where} cannot run sparse-sam: {redacted(last)[:300]}. "
                "Install the same version of sparse-sam and of torch on all nodes."
            ) from error
        for one in found:
            _check_alike(one, found[0])
        self._environments[threads] = found[0]
        return found[0]

    def _nodes(self, threads: int) -> list[str]:
        """Those that can do a task of so many threads."""
        cores = {
            node["NodeID"]: int(node["Resources"].get("CPU", 0))
            for node in self.ray.nodes()
            if node["Alive"]
        }
        found = [node for node, has in cores.items() if has >= threads]
        if not found:
            raise SparseSamError(
                f"Ray at {self._where} has no node of {threads} cores, which threads in "
                f"params.yaml asks for (the largest has {max(cores.values(), default=0)}). Lower "
                "threads, or add a node."
            )
        return found

    def run(self, tasks: Iterable[Task], then: Then = nothing_more) -> Iterator[Event]:
        """Compute tasks; see ``Engine``."""
        waiting = deque(tasks)
        if waiting:
            yield from _Run(self, waiting, then, self._threads).events()

    def warn(self, silent: float) -> None:
        """Say that nothing has come back for long."""
        sys.stderr.write(
            f"warning: no task has finished at Ray ({self._where}) for {silent:.0f} s; it has "
            f"{self.ray.cluster_resources().get('CPU', 0):.0f} cores now\n"
        )


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


class _Run:
    """One run of an engine: what waits, and what is handed out."""

    def __init__(self, engine: OnRay, waiting: deque[Task], then: Then, threads: int) -> None:
        self.ray, self.engine, self.waiting, self.then = engine.ray, engine, waiting, then
        self.threads, self.here = threads, engine.environment(threads)
        self.remote = self.ray.remote(
            num_cpus=threads, max_retries=ATTEMPTS - 1 + _NODE_DEATHS, retry_exceptions=False
        )(_do)
        self.handed: dict[Any, tuple[Task, int]] = {}
        self.code: dict[tuple[str, ...], str] = {}

    def events(self) -> Iterator[Event]:
        looked, cores, heard = 0.0, self.engine.workers, time.monotonic()
        patience = stall_seconds()
        while self.waiting or self.handed:
            if time.monotonic() - looked > _WAIT_SECONDS:  # nodes come and go
                looked, cores = time.monotonic(), self.engine.workers
            while self.waiting and len(self.handed) < _HANDED_OUT_A_CORE * cores:
                yield from self._hand_out(self.waiting.popleft(), ATTEMPTS)
            ended, _ = self.ray.wait(list(self.handed), num_returns=1, timeout=_WAIT_SECONDS)
            for reference in ended:
                heard = time.monotonic()
                yield from self._collect(reference)
            if time.monotonic() - heard > patience:
                self.engine.warn(time.monotonic() - heard)
                patience *= 2

    def _hand_out(self, task: Task, attempts: int) -> Iterator[Event]:
        if task.code not in self.code:
            self.code[task.code] = code_hash(task.code)
        expected = _Expected(self.here, self.code[task.code], task.code, dict(task.files))
        arguments = [self._boxed(one) if isinstance(one, Large) else one for one in task.arguments]
        reference = self.remote.remote(task.act, arguments, expected, self.threads)
        self.handed[reference] = (task, attempts)
        if attempts == ATTEMPTS:
            yield Begun(task)

    def _boxed(self, large: Large) -> _Box:
        """Its box, made once, and let go with the last task that holds it."""
        if large.kept_for is not self:
            large.kept_for, large.box = self, _Box([self.ray.put(large.value)])
        box: _Box = large.box
        return box

    def _collect(self, reference: Any) -> Iterator[Event]:
        task, attempts = self.handed.pop(reference)
        event: Event
        try:
            found, cost = self.ray.get(reference)
        except self.ray.exceptions.RayError as error:
            cause = getattr(error, "cause", None)
            told = cause if isinstance(cause, Exception) else error
            is_its_own = isinstance(error, self.ray.exceptions.RayTaskError)
            if attempts > 1 and is_its_own and not is_final(told):
                yield from self._hand_out(task, attempts - 1)
                return
            event = Failed(task, told, "".join(traceback.format_exception(error)))
        else:
            event = Done(task, found, cost)
        yield event
        self.waiting.extend(self.then(event))


# What follows runs in Ray's workers.

_VALUES_KEPT = 6
_fetched: dict[Any, Any] = {}


def _environment(threads: int) -> Environment:
    return Environment.here(select_device("cpu"), threads)


def _do(
    act: Callable[..., Any], arguments: list[Any], expected: _Expected, threads: int
) -> tuple[Any, Cost]:
    _check(expected, threads)
    torch.set_num_threads(threads)
    started = time.perf_counter()
    found = act(*[_fetch(one.reference) if isinstance(one, _Box) else one for one in arguments])
    return found, _cost(started)


def _check(expected: _Expected, threads: int) -> None:
    """The same code and the same kind of processor as whoever asks."""
    _check_alike(_environment(threads), expected.environment)
    if code_hash(expected.roots) != expected.code:
        raise SparseSamError(
            "this node has another version of sparse-sam, or of a module that the parameters "
            "name, than the process that sends the work. Install the same version on all nodes."
        )
    if (here_files := hashes_of(tuple(expected.files))) != expected.files:
        others = [name for name, one in expected.files.items() if here_files[name] != one]
        raise SparseSamError(
            f"{others[0]} is missing on this node (seen from {Path.cwd()}), or differs from the "
            "file of the process that sends the work. Files in model.files are not sent: copy "
            "them to every node, into the folder where `ray start` is run."
        )


def _check_alike(one: Environment, other: Environment) -> None:
    if one != other:
        raise SparseSamError(
            f"the nodes of this cluster differ: one is {one}, another {other}, so their results "
            "would not be identical to the bit. Use nodes of one kind, with the same torch."
        )


def _fetch(box: list[Any]) -> Any:
    """A large value, taken out of Ray's store once a process: that copies it."""
    import ray

    (reference,) = box
    if reference not in _fetched:
        if len(_fetched) >= _VALUES_KEPT:
            del _fetched[next(iter(_fetched))]
        _fetched[reference] = ray.get(reference)
    return _fetched[reference]


def _cost(started: float) -> Cost:
    import ray

    node = ray.get_runtime_context().get_node_id()[:8]
    return Cost(time.perf_counter() - started, f"node {node} process {os.getpid()}", time.time())
