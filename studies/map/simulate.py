"""Does the procedure find what is not there? ``python -m studies.map.simulate``.

The whole of it, on numbers drawn at random: every arm's values are searched by noisy accuracies on
held-out images, the chosen are tested with other noise, and the tests of the declaration are made.
The arms differ in where their best values are, and SAM, where there is an effect, by half a point,
whatever ρ is. It is also done the usual way, with one search for all seeds, which shows why that is
not done here. The noise of one network, and
what a wrong value costs, are options for each task.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from sparse_sam.files import write_json
from studies.map.analysis import Accuracies, Regime, best_of, in_detail, over_regimes
from studies.map.search import Line, Point, search
from studies.map.study import HERE, RHO, Study, load_study

RESULT = HERE / "results" / "simulation.json"
GUESSED = {"digits": (0.12, 0.05), "colour": (0.6, 0.3)}
"""Noise and cost, before there is a result."""


@dataclass(frozen=True)
class World:
    """How the accuracies of a task come about, in points.

    Attributes:
        noise: standard deviation of a network's accuracy around what its values are worth, on
            held-out images and on test images.
        cost: what lr or weight decay costs that is wrong by one factor; by two, four times as much.
    """

    noise: float
    cost: float


def main() -> int:
    """Simulate and write what was found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[2])
    parser.add_argument("--times", type=int, default=1000)
    for task, (noise, cost) in GUESSED.items():
        parser.add_argument(f"--{task}", type=float, nargs=2, default=(noise, cost))
    asked = parser.parse_args()
    worlds = {task: World(*getattr(asked, task)) for task in GUESSED}
    found = []
    for effect, alone in product((0.0, 0.5), (True, False)):
        found.append(simulated(worlds, effect, asked.times, alone=alone))
        sys.stdout.write(json.dumps(found[-1]) + "\n")
        sys.stdout.flush()
    worlds_said = {task: asdict(world) for task, world in worlds.items()}
    write_json(RESULT, {"worlds": worlds_said, "studies": found})
    return 0


def simulated(
    worlds: Mapping[str, World], effect: float, times: int, *, alone: bool
) -> dict[str, float]:
    """How often something is shown.

    Args:
        worlds: where accuracies come from, by task.
        effect: what SAM's best is worth more than SGD's, in points.
        times: how many studies are drawn.
        alone: every seed chooses for itself; else one search, with a seed of its own, serves all.
    """
    studies = [load_study(task) for task in worlds]
    compared, nothing = studies[0].compared, studies[0].values["nothing"]
    draw = np.random.default_rng(0)
    count: Counter[str] = Counter()
    for _ in range(times):
        tasks = {
            study.name: _accuracies(study, worlds[study.name], effect, draw, alone)
            for study in studies
        }
        primary = over_regimes(tasks, compared, nothing)
        detail = in_detail(tasks, compared, nothing)
        count["anything primary"] += any(one.shown for one in primary.values())
        count["anything in detail"] += any(one.shown for one in detail.values())
        for (task, pair), one in primary.items():
            count[f"SAM's gain, {task}"] += pair[0] == "sam" and one.shown > 0
        for (task, pair, _), one in detail.items():
            if pair[0] == "sam":
                count[f"details of {task}"] += 1
                count[f"SAM's gain in a detail, {task}"] += one.shown > 0
    shares = {name: number / times for name, number in count.items() if "detail" not in name}
    shares["anything in detail"] = count["anything in detail"] / times
    for task in worlds:
        name = f"SAM's gain in a detail, {task}"
        shares[name] = count[name] / count[f"details of {task}"]
    return {"effect": effect, "each seed chooses": alone, "times": times, **shares}


def _accuracies(
    study: Study, world: World, effect: float, draw: np.random.Generator, alone: bool
) -> Accuracies:
    """Shares of test images, by regime, arm and seed."""
    worth, scores = {}, {}
    for arm, anchor in product(study.arms, study.anchors()):
        lines = study.lines(study.arms[arm])
        best = draw.uniform(-2, 2, len(lines))  # in factors, from where the search begins
        found = [_chosen(lines, best, world, draw) for _ in (study.seeds if alone else [0])]
        worths, of_search = zip(*(found if alone else found * len(study.seeds)), strict=True)
        worth[arm, anchor], scores[arm, anchor] = worths, of_search
    accuracies: dict[Regime, dict[str, list[float]]] = {}
    for dense, mask in _regimes(study):
        anchor = study.anchor(mask)
        arms = {
            arm: [
                (50 + one + effect * (arm == "sam") + draw.normal(0, world.noise)) / 100
                for one in worth[arm, anchor]
            ]
            for arm in study.arms
        }
        better = {
            name: best_of(arms, {arm: scores[arm, anchor] for arm in among})
            for name, among in study.within.items()
        }
        accuracies[dense, mask] = arms | better
    return accuracies


def _regimes(study: Study) -> Iterator[Regime]:
    for dense in study.dense:
        for mask in study.masks(dense):
            yield dense, mask


def _chosen(
    lines: list[Line],
    best: NDArray[np.float64],
    world: World,
    draw: np.random.Generator,
) -> tuple[float, float]:
    """What the values are worth that a search by noisy accuracies finds, and what it took them for.

    In points, less than the best.
    """

    def worth(point: Point) -> float:
        away = [
            np.log(value / line.start) / np.log(line.factor) - where
            for value, line, where in zip(point, lines, best, strict=True)
            if line.name != RHO
        ]
        return float(-world.cost * np.square(away).sum())

    found = search(lines, lambda point: worth(point) + draw.normal(0, world.noise))
    return worth(found.best), found.scores[found.best]


if __name__ == "__main__":
    sys.exit(main())
