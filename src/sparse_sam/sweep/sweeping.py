"""A whole sweep: read data, compute what is not there, choose, compute that, tabulate."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sparse_sam.data import DataParams, TestData, TrainingData, read_data
from sparse_sam.sweep import compute, table
from sparse_sam.sweep.cells import Cell, Chosen, Known, choosing_cells, data_of, reporting_cells
from sparse_sam.sweep.choosing import Choice, choose_all
from sparse_sam.sweep.compute import Result
from sparse_sam.sweep.declaration import Regime, Sweep
from sparse_sam.sweep.progress import Progress
from sparse_sam.sweep.store import Store
from sparse_sam.sweep.work import Work
from sparse_sam.training import (
    DENSE,
    Begun,
    Cost,
    Dense,
    Diverged,
    Done,
    Engine,
    Event,
    Failed,
    Large,
    Origin,
    Task,
    Trained,
    hashes_of,
    key_of,
    origin_of,
)


@dataclass(frozen=True)
class Data:
    """The data sets of a sweep by fingerprint, test parts apart from all others."""

    training: Mapping[str, TrainingData]
    test: Mapping[str, TestData]

    def origin(self, dense: Dense) -> Origin:
        """What a dense network of the sweep belongs to."""
        return origin_of(dense.model, self.training[dense.data].info, DENSE, dense.seed)


@dataclass(frozen=True)
class Swept:
    """What a sweep came to.

    Attributes:
        cells: all that were asked for.
        chosen: the candidate of every regime and arm.
        table: the rows of all cells that have a result.
        costs: by key, what they took.
        computed: how many cells were computed now, and not found in the store.
        failures: by key, why a cell or a dense network failed.
        lacking: by regime and arm, why nothing could be chosen, and so nothing is reported.
    """

    cells: tuple[Cell, ...]
    chosen: Chosen
    table: list[list[Any]]
    costs: Mapping[str, Cost]
    computed: int
    failures: Mapping[str, str]
    lacking: Mapping[tuple[Regime, str], str]


@dataclass
class _State:
    """What is known so far."""

    results: dict[str, Result] = field(default_factory=dict)
    costs: dict[str, Cost] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    computed: int = 0


def read_all(sweep: Sweep) -> tuple[Data, dict[DataParams, str]]:
    """Every data set of the sweep, and its fingerprint by its parameters. Raises DataError."""
    training, test, fingerprints = {}, {}, {}
    for params in data_of(sweep):
        train, tested = read_data(params)
        fingerprint = train.info.fingerprint
        training[fingerprint], test[fingerprint] = train, tested
        fingerprints[params] = fingerprint
    return Data(training, test), fingerprints


def run_sweep(
    sweep: Sweep, store: Store, engine: Engine, progress: Progress | None = None
) -> Swept:
    """Run what is not done of a sweep.

    Args:
        sweep: the declaration.
        store: where results are and go.
        engine: what computes them.
        progress: is told of every cell.

    Raises:
        DataError: a data set cannot be read.
        SparseSamError: another process writes to the store.
    """
    data, fingerprints = read_all(sweep)
    known = Known(fingerprints, engine.environment(1))
    state = _State()
    progress = progress or Progress(sweep.name, 1)
    with store.writing(), progress:
        computing = _Computing(data, known, store, engine, progress, state)
        tried = list(choosing_cells(sweep, known))
        store.plan(sweep.identity, _plan(sweep, tried, computing.dense_key))
        computing.all(tried)
        choice = Choice({}, {})
        if sweep.seeds.reporting:
            choice = choose_all(sweep, tried, state.results)
        reported = list(reporting_cells(sweep, known, choice.chosen))
        store.plan(sweep.identity, _plan(sweep, [*tried, *reported], computing.dense_key))
        computing.all(reported)
    cells = (*tried, *reported)
    return Swept(
        cells=cells,
        chosen=choice.chosen,
        table=table.rows(sweep, cells, state.results, choice.chosen),
        costs=state.costs,
        computed=state.computed,
        failures=state.failures,
        lacking=choice.lacking,
    )


class _Computing:
    """Computes the cells that the store does not have; every result is on disk before the next.

    Cells that start from one dense network follow it: an engine is given them when it is there.
    """

    def __init__(
        self,
        data: Data,
        known: Known,
        store: Store,
        engine: Engine,
        progress: Progress,
        state: _State,
    ) -> None:
        self._data, self._known, self._store, self._engine = data, known, store, engine
        self._progress, self._state = progress, state
        self._training = {name: Large(one) for name, one in data.training.items()}
        self._test = {name: Large(one) for name, one in data.test.items()}
        self._waiting: dict[str, list[Task]] = {}

    def all(self, cells: Iterable[Cell]) -> None:
        """Compute those that are not done."""
        state, store = self._state, self._store
        works: dict[str, Work] = {}
        for cell in cells:
            if cell.key in state.results or cell.key in works:
                continue
            if record := store.record(cell.key):
                state.results[cell.key], state.costs[cell.key] = record
            else:
                works[cell.key] = cell.work
        # By key: two recipes may differ in what the network does not use.
        groups: dict[str, tuple[Dense, dict[str, Work]]] = {}
        for key, work in works.items():
            dense_key = self.dense_key(work.dense)
            groups.setdefault(dense_key, (work.dense, {}))[1][key] = work
        tasks, ready = self._tasks(groups)
        self._progress.expect(len(works) + len(tasks))
        for event in self._engine.run([*tasks, *ready], self._then):
            self._take(event)

    def dense_key(self, dense: Dense) -> str:
        """Where a dense network is kept."""
        return key_of(dense, self._known.environment, self._known.codes)

    def _tasks(
        self, groups: Mapping[str, tuple[Dense, dict[str, Work]]]
    ) -> tuple[list[Task], list[Task]]:
        """The dense networks that are to be trained, and the cells of those that are there."""
        tasks, ready = [], []
        for key, (dense, works) in groups.items():
            network = self._store.dense(key, dense, self._data.origin(dense))
            if network is None:
                arguments = (dense, self._training[dense.data])
                task = Task((key, dense), compute.dense_network, arguments, dense.code())
                tasks.append(replace(task, files=hashes_of(dense.files)))
                self._waiting[key] = [self._cell(one, work, None) for one, work in works.items()]
            else:
                large = Large(network)
                ready += [self._cell(one, work, large) for one, work in works.items()]
        return tasks, ready

    def _cell(self, key: str, work: Work, network: Large | None) -> Task:
        data = work.dense.data
        test = self._test[data] if work.tested else None
        arguments = (work, network, self._training[data], test)
        files = hashes_of(work.files)
        return Task((key, work), compute.measure, arguments, work.code(), files)

    def _then(self, event: Event) -> Iterable[Task]:
        """The cells of a dense network, when it has been trained."""
        key, task = _named(event)
        if not isinstance(task, Dense) or isinstance(event, Begun):
            return []
        waiting = self._waiting.pop(key, [])
        if isinstance(event, Failed):
            for one in waiting:
                self._take(Failed(one, event.error, event.why))
            return []
        network = event.found.checkpoint if isinstance(event.found, Trained) else event.found
        large = Large(network)
        return [_started_from(large, one) for one in waiting]

    def _take(self, event: Event) -> None:
        (key, task), store, state = _named(event), self._store, self._state
        match event:
            case Begun():
                store.log("begun", key)
                self._progress.begin()
                return
            case Done(found=Result() as found) if isinstance(task, Work):
                store.keep(key, task, found, event.cost)
                state.results[key], state.costs[key] = found, event.cost
                state.computed += 1
            case Done(found=Trained() | Diverged() as found) if isinstance(task, Dense):
                store.keep_dense(key, task, found, event.cost)
            case Failed():
                store.log("failed", key, why=event.why)
                state.failures[key] = event.why
            case _:
                raise TypeError(f"{event} is of no engine")
        self._progress.end(failed=isinstance(event, Failed))


def _started_from(network: Large, task: Task) -> Task:
    """A cell whose dense network is there now."""
    work, _, *data = task.arguments
    return replace(task, arguments=(work, network, *data))


def _named(event: Event) -> tuple[str, Dense | Work]:
    """The key of an event's task, and what it computes."""
    key: Any = event.task.key
    return key[0], key[1]


def _plan(sweep: Sweep, cells: Sequence[Cell], dense_key: Callable[[Dense], str]) -> dict[str, Any]:
    """What whoever shows the sweep must know of it: the names and parameters of its cells."""
    return {
        "name": sweep.name,
        "identity": sweep.identity,
        "dense": sorted({dense_key(cell.work.dense) for cell in cells}),
        "cells": [
            {
                "key": cell.key,
                "purpose": cell.purpose,
                "arm": cell.arm,
                "seed": cell.seed,
                "params": {**dict(cell.regime.labels), **dict(cell.candidate)},
            }
            for cell in cells
        ],
    }
