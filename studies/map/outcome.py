"""What a task has come to: its rows, and what follows from them."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from sparse_sam.errors import SparseSamError
from studies.map.analysis import Accuracies, Best, Regime, Task, best_within, with_best
from studies.map.cells import (
    CONTROL,
    Known,
    is_whole,
    measured_key,
    searched_arm,
    tried_key,
)
from studies.map.run import Chosen, choices, chosen_arms, chosen_dense, table
from studies.map.search import Found
from studies.map.study import PRUNED, Mask, Start, Study, load_study
from studies.rows import Row, check_kept, read_rows

TITLES = {
    "digits": "LeNet-300-100 on 10,240 digits",
    "colour": "ResNet-20 on 4,352 colour images",
    "whole": "ResNet-20 on 45,000 colour images",
}
COLLAPSED = 0.005
"""A finetuning that ends so far below what it began with is counted as having collapsed."""


class Results:
    """What one task has come to.

    Attributes:
        study: what was declared.
        rows: by what they are of.
        missing: how many rows are not there yet, or have other values than the chosen.

    Raises:
        SparseSamError: the rows are of another declaration.
    """

    def __init__(self, study: Study, step: str = "measured") -> None:
        self.study = study
        kept = table(study.name, step).with_name("images.json")
        if kept.is_file():
            check_kept(kept, {"declared": load_study(study.name).digest})
        self.rows: Mapping[Any, Row] = {
            measured_key(row): row for row in read_rows(table(study.name, step))
        }
        each = 1 + len(study.arms)
        self.missing = sum(
            each for seed in study.seeds for of in self.regimes() if not self._is_whole(seed, of)
        )

    def _is_whole(self, seed: int, of: Regime) -> bool:
        (dense, mask), chosen = of, self.chosen
        start = Start(dense, seed)
        return bool(chosen) and is_whole(self.study, self.rows, chosen, start, mask)

    @cached_property
    def chosen(self) -> Chosen:
        """The values of everything; none if a search is not at its end."""
        try:
            return chosen_dense(self.study) | chosen_arms(self.study)
        except SparseSamError:
            return {}

    @cached_property
    def searches(self) -> Mapping[Any, Found]:
        """What every search of an arm's values came to."""
        return {
            choice: searched_arm(self.study, self.tried, choice) for choice in choices(self.study)
        }

    @cached_property
    def task(self) -> Task:
        """Its accuracies, with what is the best of some arms, and what is asked of them."""
        study, accuracies = self.study, with_best(self.by_arm("accuracy"), self.best)
        return Task(study.name, accuracies, study.compared, study.bounds)

    @cached_property
    def best(self) -> Best:
        """For how long SGD does best in the searches, within each budget, for each regime."""
        study = self.study
        judged = {
            (dense, mask): {
                arm: [
                    found.scores[found.best]
                    for seed in study.seeds
                    for found in [self.searches[arm, dense, study.anchor(mask), seed]]
                ]
                for arm in study.arms
            }
            for dense, mask in self.regimes()
        }
        return best_within(judged, study.within)

    def usual(self, sparsity: float, name: str) -> str:
        """The arm that is the best of some in most regimes."""
        found = Counter(
            arm
            for ((_, mask), of), arm in self.best.items()
            if (mask.sparsity, of) == (sparsity, name)
        )
        return found.most_common(1)[0][0]

    def accuracy(self, sparsity: float, arm: str) -> float:
        """On test images, in the mean over regimes and seeds."""
        of_arm = [
            np.mean(arms[arm])
            for (_, mask), arms in self.task.accuracies.items()
            if mask.sparsity == sparsity
        ]
        return float(np.mean(of_arm))

    @cached_property
    def tried(self) -> Known:
        """Every row of the arms' searches."""
        return {tried_key(row): row for row in read_rows(table(self.study.name, "tried"))}

    @property
    def title(self) -> str:
        """What the task is called."""
        return TITLES.get(self.study.name, self.study.name)

    @property
    def diverged(self) -> int:
        """How many finetunings did."""
        return sum(row.get("diverged", False) for row in self.rows.values())

    @property
    def control(self) -> Mapping[Mask, list[float]]:
        """Accuracies of SGD's networks with SAM's values, right after pruning, by seed."""
        rows = {measured_key(row): row for row in read_rows(table(self.study.name, "control"))}
        found = {}
        for mask in self.study.controlled():
            of_seeds = [rows.get((CONTROL, seed, *mask, PRUNED)) for seed in self.study.seeds]
            if all(of_seeds):
                found[mask] = [row["accuracy"] for row in of_seeds if row]
        return found

    @property
    def machines(self) -> str:
        """How many rows each kind of processor made; none made only a part of a regime."""
        found = Counter(row["machine"] for row in self.rows.values() if "machine" in row)
        return ", ".join(f"{name} ({count:,} networks)" for name, count in found.most_common())

    def collapsed(self, arm: str, regimes: Sequence[Regime]) -> int:
        """How many finetunings with an arm ended far below what they began with."""
        accuracies = self.by_arm("accuracy")
        return sum(
            int(np.sum(np.subtract(accuracies[of][PRUNED], accuracies[of][arm]) > COLLAPSED))
            for of in regimes
        )

    def by_arm(self, name: str) -> Accuracies:
        """By regime and arm, ``pruned`` among them; one for each seed."""
        return {
            (dense, mask): {
                arm: [self.rows[dense, seed, *mask, arm][name] for seed in self.study.seeds]
                for arm in (PRUNED, *self.study.arms)
            }
            for dense, mask in self.regimes()
        }

    def regimes(self) -> Iterator[Regime]:
        """Every dense training and mask."""
        for dense in self.study.dense:
            for mask in self.study.masks(dense):
                yield dense, mask

    def curve(self, sparsity: float, arm: str) -> tuple[list[float], list[float]] | None:
        """Gradient evaluations, and validation accuracy in the mean over regimes and seeds.

        Of what did not diverge; None if all did.
        """
        curves = [
            [point[:2] for point in self.rows[dense, seed, *mask, arm]["curve"]]
            for dense, mask in self.regimes()
            for seed in self.study.seeds
            if mask.sparsity == sparsity and "curve" in self.rows[dense, seed, *mask, arm]
        ]
        if not curves:
            return None
        gradients, accuracies = np.array(curves).mean(axis=0).T
        return gradients.tolist(), accuracies.tolist()
