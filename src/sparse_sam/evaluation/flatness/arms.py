"""The flatness of every arm and seed, measured side by side, as tables.

A measure is there for all arms and seeds that it is taken of, or for none: where one of them cannot
be measured, the others would be compared with nothing.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from sparse_sam.errors import ConfigError, SparseSamError, StalledError
from sparse_sam.evaluation.flatness.measure import (
    EIGENVALUES,
    MEASURES,
    SHARPNESS,
    SLICE,
    SURFACE,
    TRACE,
    Flatness,
    FlatnessSettings,
    Found,
    Measurements,
    Point,
)
from sparse_sam.evaluation.params import BudgetParams
from sparse_sam.evaluation.statistics import summarize
from sparse_sam.files import NotMeasured
from sparse_sam.terminal import Activity, activity
from sparse_sam.training import Checkpoint, not_measured, run_jobs, training_data_on

_THOROUGH = 10.0
"""How much longer all measures of a network take than its sharpness alone, roughly."""


def measure_arms(
    load: Callable[[str, int], Checkpoint],
    dataset: Path,
    arms: Sequence[str],
    seeds: Sequence[int],
    *,
    pictured: tuple[str, ...],
    budget: BudgetParams,
    threads: int,
    name: str,
) -> tuple[dict[str, Any], list[Point] | NotMeasured, list[Point] | NotMeasured]:
    """Measure all arms in parallel: sharpness for each seed, everything else for the first.

    Args:
        load: reads the network of an arm and seed; a module's function, or a ``partial`` of one.
        dataset: the file of the data set; its training part is used.
        arms: their names.
        seeds: of each arm.
        pictured: the arms whose loss surface is computed.
        budget: how long the measures of all arms may take, one after the other.
        threads: for each measurement.
        name: the caller, for messages.

    Returns:
        ``metrics/flatness.json``, and the rows of the slices and of the surfaces: arm, seed, place
        (x, or x and y) and loss. If a measure could not be taken for one arm, it is missing for
        all.
    """
    began, settings = time.perf_counter(), FlatnessSettings()
    work = partial(
        Measurements, dataset, load, settings, tuple(arms), tuple(seeds), pictured, budget
    )
    jobs = [(arm, seed) for seed in seeds for arm in arms]
    with activity("measuring flatness", sum(map(partial(_cost, seeds[0]), jobs))) as doing:
        found = _run(work, tuple(MEASURES), jobs, threads, name, doing)
    missing: dict[str, NotMeasured] = {}
    for of in found.values():
        for measure, value in of.items():
            if isinstance(value, NotMeasured):
                missing.setdefault(measure, value)
    measurements = {
        arm: [Flatness(**{SHARPNESS: (), **_without(found[arm, seed], missing)}) for seed in seeds]
        for arm in arms
    }
    used = replace(
        settings, images=min(settings.images, len(training_data_on(dataset, "cpu").train))
    )
    metrics = flatness_metrics(measurements, used, time.perf_counter() - began, missing)
    slices: list[Point] = []
    surfaces: list[Point] = []
    for arm, all_ in measurements.items():
        slices += [(arm, seeds[0], *point) for point in all_[0].slice]
        surfaces += [(arm, seeds[0], *point) for point in all_[0].surface]
    return metrics, missing.get(SLICE, slices), missing.get(SURFACE, surfaces)


def _without(found: Found, missing: Mapping[str, NotMeasured]) -> Found:
    return {name: value for name, value in found.items() if name not in missing}


def _run(
    work: Callable[[tuple[str, ...]], Measurements],
    names: tuple[str, ...],
    jobs: Sequence[tuple[str, int]],
    threads: int,
    name: str,
    doing: Activity,
) -> Mapping[tuple[str, int], Found]:
    """Take measures of every network, in processes that may be killed for want of memory.

    Then measures are taken one after the other, so that only those are lost that need too much.
    """
    seeds = list(dict.fromkeys(seed for _, seed in jobs))

    def begun(job: tuple[str, int], _: None) -> None:
        doing.begin()
        doing.now(f"measuring flatness, seed {seeds.index(job[1]) + 1} of {len(seeds)}")

    try:
        return run_jobs(
            work(names),
            jobs,
            on_report=begun,
            threads=threads,
            name_of=lambda job: f"{name}: flatness of {job[0]} seed {job[1]}",
            on_done=lambda job, _: doing.advance(_cost(seeds[0], job)),
            apart=True,
        )
    except ConfigError:
        raise
    except SparseSamError as error:
        if len(names) == 1 or isinstance(error, StalledError):
            return {job: dict.fromkeys(names, not_measured(error)) for job in jobs}
    each = [_run(work, (one,), jobs, threads, name, doing) for one in names]
    return {job: {key: of for found in each for key, of in found[job].items()} for job in jobs}


def _cost(first: int, job: tuple[str, int]) -> float:
    """How long a network takes, against the others: all is measured of the first seed's."""
    return _THOROUGH if job[1] == first else 1.0


def flatness_metrics(
    measurements: Mapping[str, Sequence[Flatness]],
    settings: FlatnessSettings,
    seconds: float,
    missing: Mapping[str, NotMeasured] | None = None,
) -> dict[str, Any]:
    """``metrics/flatness.json``: by arm, summaries over the seeds that were measured.

    Args:
        measurements: by arm, what was measured of each seed.
        settings: how much that was.
        seconds: how long it took.
        missing: by name, the measures that could not be taken. They stand in their places; those
            whose numbers are in files of their own (slice, surface), beside the arms.
    """
    gaps = {name: gap.as_json() for name, gap in (missing or {}).items()}
    in_arms = {name: gaps.pop(name) for name in (SHARPNESS, EIGENVALUES, TRACE) if name in gaps}
    return {
        "budget": {**asdict(settings), "rhos": list(settings.rhos), "seconds": round(seconds, 1)},
        "arms": {arm: {**_arm(found), **in_arms} for arm, found in measurements.items()},
        **gaps,
    }


def _arm(found: Sequence[Flatness]) -> dict[str, Any]:
    values: dict[tuple[int, float], list[float]] = {}
    for flatness in found:
        for one in flatness.sharpness:
            values.setdefault((one.steps, one.rho), []).append(one.value)
    eigenvalues = [flatness.top_eigenvalues for flatness in found if flatness.top_eigenvalues]
    traces = [flatness.trace for flatness in found if flatness.trace is not None]
    return {
        "sharpness": [
            {"rho": rho, "steps": steps, **summarize(values[steps, rho])} for steps, rho in values
        ],
        "top_eigenvalues": [
            {"rank": rank, **summarize(of_rank)}
            for rank, of_rank in enumerate(zip(*eigenvalues, strict=True), start=1)
        ],
        "trace": summarize(traces) if traces else None,
    }
