"""Every measure of flatness for one network, each in its time; what workers do for many networks.

Workers import this module, so it imports no statistics, whose import takes longer than measuring.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from sparse_sam.data import Split
from sparse_sam.errors import OverBudgetError
from sparse_sam.evaluation.flatness.hessian import (
    hessian_trace,
    product_seconds,
    top_eigenvalues,
)
from sparse_sam.evaluation.flatness.landscape import loss_seconds, loss_slice, loss_surface
from sparse_sam.evaluation.flatness.sharpness import Sharpness, ascent, sharpness
from sparse_sam.evaluation.params import BudgetParams
from sparse_sam.training import (
    Checkpoint,
    check_budget,
    measured,
    seconds_of,
    training_data_on,
)

SHARPNESS, EIGENVALUES, TRACE = "sharpness", "top_eigenvalues", "trace"
SLICE, SURFACE = "slice", "surface"
MEASURES = {
    SHARPNESS: "sharpness",
    EIGENVALUES: "curvature",
    TRACE: "curvature",
    SLICE: "landscape",
    SURFACE: "landscape",
}
"""Everything that is measured, and which of the budgets it is within."""

_TOLERANCE = 0.05
_PRODUCTS, _RESTARTS = 24, 30
"""Of Lanczos's method at that tolerance: how many products it is expected to take, and after how
many restarts, of some seven products each, it is given up."""


@dataclass(frozen=True)
class FlatnessSettings:
    """How much is measured.

    Attributes:
        images: how many of the training images, class by class as they come.
        rhos: the radii of sharpness.
        ascent_steps: gradients of the longer ascent.
        eigenvalues: how many of the Hessian's largest.
        probes: of the trace.
        reach: how far slice and surface extend to either side, in filter norms.
        slice_points: odd, so that the network itself is one of them.
        surface_points: per side, odd.
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
    """What was measured of one network. Expensive measures are empty if they were left out."""

    sharpness: tuple[Sharpness, ...]
    top_eigenvalues: tuple[float, ...] = ()
    trace: float | None = None
    slice: tuple[tuple[float, float], ...] = ()
    surface: tuple[tuple[float, float, float], ...] = ()


def some_images(split: Split, count: int) -> Split:
    """Return the first images of each class in turn: ``count`` of them, or all if fewer."""
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
        model: dense or with masks; it is not changed.
        split: the training part; ``settings.images`` of it are used.
        settings: how much to measure.
        seed: determines probes and directions; use the same for networks that you compare.
        thorough: False measures only sharpness, with one step.
        surface: False leaves out the surface, the most expensive part.
    """
    part = some_images(split, settings.images)
    names = _names(thorough=thorough, surface=surface)
    take = partial(_take, model=model, part=part, settings=settings, seed=seed, thorough=thorough)
    return Flatness(**{name: take(name) for name in names})


def _names(*, thorough: bool, surface: bool) -> tuple[str, ...]:
    """What is measured of a network."""
    if not thorough:
        return (SHARPNESS,)
    return tuple(name for name in MEASURES if surface or name != SURFACE)


def _take(
    name: str,
    model: nn.Module,
    part: Split,
    settings: FlatnessSettings,
    seed: int,
    *,
    thorough: bool,
) -> Any:
    """One measure of a network, as ``Flatness`` has it."""
    side = partial(np.linspace, -settings.reach, settings.reach)
    match name:
        case "sharpness" if thorough:
            climbs = [ascent(model, part, rho, settings.ascent_steps) for rho in settings.rhos]
            return tuple(climb[reached] for reached in (0, -1) for climb in climbs)
        case "sharpness":
            return tuple(sharpness(model, part, rho) for rho in settings.rhos)
        case "top_eigenvalues":
            k, tolerance = settings.eigenvalues, _TOLERANCE
            return tuple(
                top_eigenvalues(model, part, k, seed=seed, tolerance=tolerance, restarts=_RESTARTS)
            )
        case "trace":
            return hessian_trace(model, part, settings.probes, seed=seed)
        case "slice":
            xs = side(settings.slice_points).tolist()
            return tuple(zip(xs, loss_slice(model, part, xs, seed), strict=True))
    xs = side(settings.surface_points).tolist()
    losses = loss_surface(model, part, xs, seed).tolist()
    return tuple((x, y, losses[i][j]) for i, x in enumerate(xs) for j, y in enumerate(xs))


Point = tuple[str | float, ...]


Found = dict[str, Any]
"""By name, what was measured of one network, or why not."""


@dataclass(frozen=True)
class Measurements:
    """What workers are told: what is measured, of whom everything, and of whom a surface too."""

    dataset: Path
    load: Callable[[str, int], Checkpoint]
    settings: FlatnessSettings
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    pictured: tuple[str, ...]
    budget: BudgetParams
    names: tuple[str, ...]
    # By budget, whether a worker found all that is within it too much. The arms are one network:
    # what is found of the first holds for the others.
    known: dict[str, OverBudgetError | None] = field(default_factory=dict)

    def __call__(self, job: tuple[str, int], report: Callable[[None], None]) -> Found:
        """Measure the network of an arm and a seed; report that it is begun."""
        arm, seed = job
        report(None)
        model = self.load(arm, seed).build()
        part = some_images(training_data_on(self.dataset, "cpu").train, self.settings.images)
        thorough = seed == self.seeds[0]

        def take(name: str) -> Any:
            self._check(MEASURES[name], model, part)
            return _take(name, model, part, self.settings, 0, thorough=thorough)

        names = _names(thorough=thorough, surface=arm in self.pictured)
        return {
            name: measured(partial(take, name), f"{arm}, seed {seed}")
            for name in names
            if name in self.names
        }

    def _check(self, budget: str, model: nn.Module, part: Split) -> None:
        """Raise OverBudgetError if what is within a budget would take longer, of all arms."""
        if budget not in self.known:
            allowed, key = getattr(self.budget, budget), f"evaluate.budget_seconds.{budget}"
            try:
                check_budget(
                    lambda: self._seconds(budget, model, part), allowed, key, "for all arms"
                )
                self.known[budget] = None
            except OverBudgetError as error:
                self.known[budget] = error
        too_long = self.known[budget]
        if too_long:
            raise too_long

    def _seconds(self, budget: str, model: nn.Module, part: Split) -> float:
        """How long all that is within a budget takes, one after the other, by a piece of it."""
        settings, arms = self.settings, len(self.arms)
        if budget == "sharpness":
            steps = arms * len(settings.rhos) * (len(self.seeds) - 1 + settings.ascent_steps)
            return steps * seconds_of(lambda: sharpness(model, part, settings.rhos[0]))
        if budget == "curvature":
            graph, one = product_seconds(model, part)
            return arms * (2 * graph + (_PRODUCTS + settings.probes) * one)
        points = arms * settings.slice_points + len(self.pictured) * settings.surface_points**2
        return points * loss_seconds(model, part)
