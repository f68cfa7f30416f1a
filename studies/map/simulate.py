"""Does the procedure find what is not there? ``python -m studies.map.simulate``.

The whole of it, on numbers drawn at random: every arm's values are searched by noisy accuracies on
held-out images, for every seed anew, the chosen are tested with other noise, and the tests of the
declaration are made. A value that is wrong costs the same whether it is lr, weight decay or ρ, so
SAM, with one value more, has more to miss; SGD's lengths are equally good, and its searches choose
among them. A regime that takes the values of an anchor has a best of its own, somewhere near. SAM
is better, where there is an effect, whatever ρ is.

It is also done with one search for all seeds, and with no difference taken for nothing, which shows
why that is not done. What is said is how often something is shown, and SAM's mean difference: where
there is no effect, that is what the search costs it. The noise of a network, what a wrong value
costs, and how far regimes are from their anchors are options for each task.
"""

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparse_sam.files import write_json
from studies.map.analysis import (
    Difference,
    Regime,
    Task,
    best_within,
    by_regime,
    by_sparsity,
    over_regimes,
    with_best,
)
from studies.map.search import Line, Point, search
from studies.map.study import HERE, LR, WEIGHT_DECAY, Bounds, Study, load_study

RESULT = HERE / "results" / "simulation.json"
GUESSED = {"digits": (0.12, 0.05, 0.5), "colour": (0.6, 0.3, 0.5)}
"""Noise, cost, and how far regimes are from their anchors, before there is a result."""
EFFECTS = (0.0, 0.5, 1.0, 1.5)


@dataclass(frozen=True)
class World:
    """How the accuracies of a task come about, in points.

    Attributes:
        noise: standard deviation of a network's accuracy around what its values are worth.
        cost: what a value costs that is wrong by one factor; by two, four times as much.
        moved: standard deviation of the best values of an arm in a regime, around those at the
            anchor whose values it takes, in factors.
        sampling: standard deviation that test images and held-out images add, each its own.
        apart: standard deviation of the best lr and weight decay of an arm, around what is best for
            all arms, in factors.
    """

    noise: float
    cost: float
    moved: float = 0.0
    sampling: float = 0.1
    apart: float = 0.5


def main() -> int:
    """Simulate and write what was found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[2])
    parser.add_argument("--times", type=int, default=400)
    for task, guessed in GUESSED.items():
        parser.add_argument(
            f"--{task}", type=float, nargs=3, default=guessed, metavar=("NOISE", "COST", "MOVED")
        )
    asked = parser.parse_args()
    worlds = {task: World(*getattr(asked, task)) for task in GUESSED}
    found = [simulated(worlds, effect, asked.times) for effect in EFFECTS]
    found += [
        simulated(worlds, 0.0, asked.times, alone=False),
        simulated(worlds, 0.0, asked.times, allowed=False),
    ]
    sys.stdout.writelines(json.dumps(one) + "\n" for one in found)
    worlds_said = {task: asdict(world) for task, world in worlds.items()}
    write_json(RESULT, {"worlds": worlds_said, "studies": found})
    return 0


def simulated(
    worlds: Mapping[str, World],
    effect: float,
    times: int,
    *,
    alone: bool = True,
    allowed: bool = True,
) -> dict[str, float]:
    """How often something is shown.

    Args:
        worlds: where accuracies come from, by task.
        effect: what SAM's best is worth more than SGD's, in points.
        times: how many studies are drawn.
        alone: every seed chooses for itself; else one search, with a seed of its own, serves all.
        allowed: whether ``nothing`` is allowed for.
    """
    studies = [load_study(task) for task in worlds]
    draw = np.random.default_rng(0)
    count: defaultdict[str, float] = defaultdict(float)
    for _ in range(times):
        tasks = [
            _drawn(study, worlds[study.name], effect, draw, alone, allowed) for study in studies
        ]
        primary = over_regimes(tasks)
        families: dict[str, Mapping[tuple[Any, ...], Difference]] = {
            "primary": primary,
            "sparsity": by_sparsity(tasks),
            "regime": by_regime(tasks),
        }
        for family, found in families.items():
            shown = {key: one.verdict for key, one in found.items()}
            count[f"a difference, {family}"] += any(
                one in {"gain", "loss"} for one in shown.values()
            )
            for key, verdict in shown.items():
                if key[1][0] == "sam":
                    alike = sum(other[:2] == key[:2] for other in shown)
                    count[f"SAM: {verdict}, {family}, {key[0]}"] += 1 / alike
        for (task, (first, _)), one in primary.items():
            if first == "sam":
                count[f"SAM: points, mean, {task}"] += 100 * one.mean
    shares = {name: round(number / times, 4) for name, number in sorted(count.items())}
    return {
        "effect": effect,
        "each seed chooses": alone,
        "allowed": allowed,
        "times": times,
    } | shares


def _drawn(
    study: Study, world: World, effect: float, draw: np.random.Generator, alone: bool, allowed: bool
) -> Task:
    """Shares of images, by regime, arm and seed."""
    seeds = len(study.seeds)
    found, judged = {}, {}
    shared = {
        (anchor, name): draw.uniform(-2, 2)
        for anchor in study.anchors()
        for name in (LR, WEIGHT_DECAY)
    }
    for anchor, arm in product(study.anchors(), study.arms):
        lines = study.lines(study.arms[arm])
        # In factors, from where the search begins.
        best = np.array(
            [
                shared[anchor, line.name] + draw.normal(0, world.apart)
                if (anchor, line.name) in shared
                else draw.uniform(-2, 2)
                for line in lines
            ]
        )
        searches = seeds if alone else 1
        first = [_chosen(lines, best, world, draw) for _ in range(searches)]
        for kind in study.searched_of:
            searched = first
            if kind != study.searched_of[0]:  # lr alone, from there
                moved = draw.normal(0, world.moved, len(lines))
                searched = [_nearby(lines, away - moved, world, draw) for away, _ in first]
            away, scores = (np.array(each) for each in zip(*searched, strict=True))
            found[arm, kind, anchor] = np.broadcast_to(away, (seeds, len(lines)))
            judged[arm, kind, anchor] = np.broadcast_to(scores, seeds)
    accuracies: dict[Regime, dict[str, list[float]]] = {}
    of_search: dict[Regime, dict[str, list[float]]] = {}
    for dense, mask in _regimes(study):
        at = (dense, study.anchor(mask))
        accuracies[dense, mask], of_search[dense, mask] = {}, {}
        for arm in study.arms:
            away = found[arm, *at]
            if mask not in study.anchors():
                away = away + draw.normal(0, world.moved, away.shape[1])
            noise = draw.normal(0, np.hypot(world.noise, world.sampling), seeds)
            points = 50 + effect * (arm == "sam") + noise - world.cost * np.square(away).sum(axis=1)
            accuracies[dense, mask][arm] = list(points / 100)
            of_search[dense, mask][arm] = list(judged[arm, *at])
    bounds = study.bounds if allowed else Bounds(0.0, study.bounds.margin)
    best_too = with_best(accuracies, best_within(of_search, study.within))
    return Task(study.name, best_too, study.compared, bounds)


def _regimes(study: Study) -> Iterator[Regime]:
    for dense in study.dense:
        for mask in study.masks(dense):
            yield dense, mask


def _chosen(
    lines: list[Line],
    best: NDArray[np.float64],
    world: World,
    draw: np.random.Generator,
) -> tuple[NDArray[np.float64], float]:
    """How far from the best a search by noisy accuracies ends, in factors, and its best score."""

    def away(point: Point) -> NDArray[np.float64]:
        places = [
            np.log(value / line.start) / np.log(line.factor)
            for value, line in zip(point, lines, strict=True)
        ]
        return np.array(places) - best

    def score(point: Point) -> float:
        worth = -world.cost * float(np.square(away(point)).sum())
        return worth + draw.normal(0, np.hypot(world.noise, world.sampling))

    found = search(lines, score)
    return away(found.best), found.scores[found.best]


def _nearby(
    lines: list[Line], away: NDArray[np.float64], world: World, draw: np.random.Generator
) -> tuple[NDArray[np.float64], float]:
    """The same of a search of the first value alone, which begins so far from the best."""
    others = away[1:]
    (rate,), score = _chosen(lines[:1], -away[:1], world, draw)
    return np.array([rate, *others]), score - world.cost * float(np.square(others).sum())


if __name__ == "__main__":
    sys.exit(main())
