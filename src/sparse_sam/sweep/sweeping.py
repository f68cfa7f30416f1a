"""A whole sweep: read data, compute what is not there, choose, compute that, tabulate."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sparse_sam.data import DataParams, read_data
from sparse_sam.sweep import table
from sparse_sam.sweep.cells import Cell, Chosen, choosing_cells, data_of, reporting_cells
from sparse_sam.sweep.choosing import Choice, choose_all
from sparse_sam.sweep.compute import Result
from sparse_sam.sweep.declaration import Regime, Sweep
from sparse_sam.sweep.engines import Begun, Data, Done, Engine, Event, Failed, Group
from sparse_sam.sweep.progress import Progress
from sparse_sam.sweep.store import Cost, Store
from sparse_sam.sweep.work import Dense, Work, key_of


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
    state = _State()
    progress = progress or Progress(sweep.name, 1, disable=True)
    with store.writing(), progress:
        tried = list(choosing_cells(sweep, fingerprints))
        store.plan(sweep.identity, _plan(sweep, tried))
        _compute(tried, data, store, engine, progress, state)
        choice = Choice({}, {})
        if sweep.seeds.reporting:
            choice = choose_all(sweep, tried, state.results)
        reported = list(reporting_cells(sweep, fingerprints, choice.chosen))
        store.plan(sweep.identity, _plan(sweep, [*tried, *reported]))
        _compute(reported, data, store, engine, progress, state)
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


def _compute(
    cells: Sequence[Cell],
    data: Data,
    store: Store,
    engine: Engine,
    progress: Progress,
    state: _State,
) -> None:
    """Compute the cells that the store does not have; every result is on disk before the next."""
    finished = store.finished()
    wanted = {cell.key: cell.work for cell in cells}
    for key in wanted.keys() & finished:
        state.results[key], state.costs[key] = store.record(key)
    keys = {work: key for key, work in wanted.items() if key not in finished}
    groups = _grouped(keys)

    def known(dense: Dense) -> Any:
        return store.dense(_dense_key(dense), dense)

    untrained = [group.dense for group in groups if known(group.dense) is None]
    progress.expect(len(keys) + len(untrained))

    def place(task: Dense | Work) -> str:
        return keys[task] if isinstance(task, Work) else _dense_key(task)

    for event in engine.run(groups, data, known):
        _take(event, place(event.task), store, progress, state)


def _take(
    event: Event,
    key: str,
    store: Store,
    progress: Progress,
    state: _State,
) -> None:
    match event:
        case Begun():
            store.log("begun", key)
            progress.begin()
            return
        case Done(found=Result() as found, task=Work() as work):
            store.keep(key, work, found, event.cost)
            state.results[key], state.costs[key] = found, event.cost
            state.computed += 1
        case Done(found=found) if not isinstance(found, Result):
            store.keep_dense(key, found, event.cost)
        case Failed():
            store.log("failed", key, why=event.why)
            state.failures[key] = event.why
        case _:
            raise TypeError(f"{event} is of no engine")
    progress.end(failed=isinstance(event, Failed))


def _grouped(works: Iterable[Work]) -> list[Group]:
    # By key: two recipes may differ in what the network does not use.
    by_dense: dict[str, list[Work]] = {}
    for work in works:
        by_dense.setdefault(_dense_key(work.dense), []).append(work)
    return [Group(of[0].dense, tuple(of)) for of in by_dense.values()]


def _dense_key(dense: Dense) -> str:
    return key_of(dense)


def _plan(sweep: Sweep, cells: Sequence[Cell]) -> dict[str, Any]:
    """What whoever shows the sweep must know of it: the names and parameters of its cells."""
    return {
        "name": sweep.name,
        "identity": sweep.identity,
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
