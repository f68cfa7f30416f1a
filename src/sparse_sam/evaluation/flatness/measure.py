"""Every measure of flatness for one network, within a budget, and many networks as tables."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from sparse_sam.data import Split
from sparse_sam.evaluation.flatness.hessian import hessian_trace, top_eigenvalues
from sparse_sam.evaluation.flatness.landscape import loss_slice, loss_surface
from sparse_sam.evaluation.flatness.sharpness import Sharpness, ascent, sharpness
from sparse_sam.evaluation.statistics import summarize
from sparse_sam.training import Checkpoint, run_jobs, training_data_on


@dataclass(frozen=True)
class FlatnessSettings:
    """How much is measured.

    Attributes:
        images: how many of the training images, class by class as they come.
        rhos: the radii of sharpness.
        ascent_steps: gradients of the longer ascent.
        eigenvalues: how many of the Hessian's largest.
        probes: of the trace.
        reach: how far slice and surface go to either side, in lengths of the filters.
        slice_points: odd, so that the network itself is one of them.
        surface_points: to a side, odd.
    """

    images: int = 64
    rhos: tuple[float, ...] = (0.05, 0.1)
    ascent_steps: int = 4
    eigenvalues: int = 1
    probes: int = 4
    reach: float = 1.0
    slice_points: int = 11
    surface_points: int = 7


@dataclass(frozen=True)
class Flatness:
    """What was measured of one network. The dearer measures are empty where they were left out."""

    sharpness: tuple[Sharpness, ...]
    top_eigenvalues: tuple[float, ...] = ()
    trace: float | None = None
    slice: tuple[tuple[float, float], ...] = ()
    surface: tuple[tuple[float, float, float], ...] = ()


def some_images(split: Split, count: int) -> Split:
    """The first images of every class in turn, ``count`` of them or all there are."""
    order = torch.argsort(split.labels, stable=True)
    rank = torch.empty_like(order)
    sizes = torch.bincount(split.labels)
    starts = sizes.cumsum(0) - sizes
    rank[order] = torch.arange(len(order), device=order.device) - starts[split.labels[order]]
    chosen = torch.argsort(rank * len(sizes) + split.labels)[:count]
    return split.part(chosen)


def measure_flatness(
    model: nn.Module,
    split: Split,
    settings: FlatnessSettings,
    seed: int = 0,
    *,
    thorough: bool = True,
    surface: bool = True,
) -> Flatness:
    """Measure one network on images of the training part.

    Args:
        model: dense or with masks; left as it was.
        split: the training part; ``settings.images`` of it are used.
        settings: how much is measured.
        seed: gives probes and directions; use the same for networks that are compared.
        thorough: False measures sharpness with one step, and nothing else.
        surface: False leaves the surface out, the dearest part.
    """
    part = some_images(split, settings.images)
    if not thorough:
        return Flatness(tuple(sharpness(model, part, rho) for rho in settings.rhos))
    climbs = [ascent(model, part, rho, settings.ascent_steps) for rho in settings.rhos]
    xs = np.linspace(-settings.reach, settings.reach, settings.slice_points).tolist()
    return Flatness(
        sharpness=tuple(climb[reached] for reached in (0, -1) for climb in climbs),
        top_eigenvalues=tuple(
            top_eigenvalues(model, part, settings.eigenvalues, seed=seed, tolerance=0.05)
        ),
        trace=hessian_trace(model, part, settings.probes, seed=seed),
        slice=tuple(zip(xs, loss_slice(model, part, xs, seed), strict=True)),
        surface=_surface(model, part, settings, seed) if surface else (),
    )


def _surface(
    model: nn.Module, part: Split, settings: FlatnessSettings, seed: int
) -> tuple[tuple[float, float, float], ...]:
    side = np.linspace(-settings.reach, settings.reach, settings.surface_points).tolist()
    losses = loss_surface(model, part, side, seed).tolist()
    return tuple((x, y, losses[i][j]) for i, x in enumerate(side) for j, y in enumerate(side))


Point = tuple[str | float, ...]


@dataclass(frozen=True)
class _Measurements:
    """What workers are told: what is measured, of whom everything, and of whom a surface too."""

    dataset: Path
    load: Callable[[str, int], Checkpoint]
    settings: FlatnessSettings
    thorough: int
    pictured: tuple[str, ...]

    def __call__(self, job: tuple[str, int], _: object) -> Flatness:
        arm, seed = job
        return measure_flatness(
            self.load(arm, seed).build(),
            training_data_on(self.dataset, "cpu").train,
            self.settings,
            thorough=seed == self.thorough,
            surface=arm in self.pictured,
        )


def measure_arms(
    load: Callable[[str, int], Checkpoint],
    dataset: Path,
    arms: Sequence[str],
    seeds: Sequence[int],
    *,
    pictured: tuple[str, ...],
    threads: int,
    name: str,
) -> tuple[dict[str, Any], list[Point], list[Point]]:
    """Measure every arm, side by side: sharpness for every seed, all else for the first.

    Args:
        load: reads an arm's network of a seed; a function of a module, or a ``partial`` of one.
        dataset: the file whose training part is measured on.
        arms: their names.
        seeds: of each arm.
        pictured: the arms whose loss surface is taken.
        threads: of each measurement.
        name: who measures, for messages.

    Returns:
        ``metrics/flatness.json``, and the rows of the slices and of the surfaces: arm, seed, place
        (x, or x and y) and loss.
    """
    began, settings = time.perf_counter(), FlatnessSettings()
    found = run_jobs(
        _Measurements(dataset, load, settings, seeds[0], pictured),
        sorted(product(arms, seeds), key=lambda job: job[1] != seeds[0]),
        on_report=lambda *_: None,
        threads=threads,
        name_of=lambda job: f"{name}: flatness of {job[0]} seed {job[1]}",
    )
    measured = {arm: [found[arm, seed] for seed in seeds] for arm in arms}
    metrics = flatness_metrics(measured, settings, time.perf_counter() - began)
    slices: list[Point] = []
    surfaces: list[Point] = []
    for arm, of in measured.items():
        slices += [(arm, seeds[0], *point) for point in of[0].slice]
        surfaces += [(arm, seeds[0], *point) for point in of[0].surface]
    return metrics, slices, surfaces


def flatness_metrics(
    measured: Mapping[str, Sequence[Flatness]], settings: FlatnessSettings, seconds: float
) -> dict[str, Any]:
    """``metrics/flatness.json``: by arm, summaries over the seeds that were measured.

    Args:
        measured: by arm, what was measured of each seed.
        settings: how much that was.
        seconds: how long it took.
    """
    return {
        "budget": {**asdict(settings), "rhos": list(settings.rhos), "seconds": round(seconds, 1)},
        "arms": {arm: _arm(found) for arm, found in measured.items()},
    }


def _arm(found: Sequence[Flatness]) -> dict[str, Any]:
    values: dict[tuple[int, float], list[float]] = {}
    for flatness in found:
        for one in flatness.sharpness:
            values.setdefault((one.steps, one.rho), []).append(one.value)
    thorough = [flatness for flatness in found if flatness.trace is not None]
    ranks = range(len(thorough[0].top_eigenvalues)) if thorough else ()
    return {
        "sharpness": [
            {"rho": rho, "steps": steps, **summarize(values[steps, rho])} for steps, rho in values
        ],
        "top_eigenvalues": [
            {"rank": rank + 1, **summarize([one.top_eigenvalues[rank] for one in thorough])}
            for rank in ranks
        ],
        "trace": summarize([one.trace for one in thorough if one.trace is not None])
        if thorough
        else None,
    }
