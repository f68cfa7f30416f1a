"""What the study's accuracies show: the tests that its declaration names."""

from collections.abc import Container, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from sparse_sam.evaluation import ALPHA, adjust
from studies.map.study import Bounds, Mask

Key = TypeVar("Key", bound=Hashable)
Regime = tuple[str, Mask]
"""A dense training, and how its networks were pruned."""
Pair = tuple[str, str]
Accuracies = Mapping[Regime, Mapping[str, Sequence[float] | NDArray[np.float64]]]
"""Of a task: shares of test images, by regime and arm, one for each seed in the same order."""
Best = Mapping[tuple[Regime, str], str]
"""What arm is the best of some, by regime and what the best is called."""
Verdict = Literal["gain", "loss", "equivalent", "undecided"]


@dataclass(frozen=True)
class Difference:
    """A mean difference over seeds, as shares.

    Attributes:
        mean: the first arm's minus the second's.
        low: the lower end of its 95 % interval.
        high: the upper end.
        differs: p-value that it is no larger than what luck may be worth.
        equivalent: p-value that it matters.
        holm_differs: corrected for all that was asked together.
        holm_equivalent: the same.
    """

    mean: float
    low: float
    high: float
    differs: float
    equivalent: float
    holm_differs: float = 1.0
    holm_equivalent: float = 1.0

    @property
    def verdict(self) -> Verdict:
        """What is shown after the correction."""
        if self.holm_differs < ALPHA:
            return "gain" if self.mean > 0 else "loss"
        return "equivalent" if self.holm_equivalent < ALPHA else "undecided"


@dataclass(frozen=True)
class Task:
    """What one task has come to.

    Attributes:
        name: of the task.
        accuracies: on test images, by regime and arm, and by the names of what is the best of some.
        compared: the first minus the second.
        bounds: what luck may be worth, and what does not matter.
    """

    name: str
    accuracies: Accuracies
    compared: Sequence[Pair]
    bounds: Bounds

    @property
    def sparsities(self) -> set[float]:
        """Of its regimes."""
        return {mask.sparsity for _, mask in self.accuracies}

    def difference(self, pair: Pair, of: Regime) -> NDArray[np.float64]:
        """Of one regime, by seed."""
        first, second = pair
        return np.subtract(self.accuracies[of][first], self.accuracies[of][second])

    def by_seed(self, pair: Pair, sparsities: Container[float]) -> NDArray[np.float64]:
        """The mean over the regimes of these sparsities, by seed."""
        found = [
            self.difference(pair, of) for of in self.accuracies if of[1].sparsity in sparsities
        ]
        return np.asarray(np.mean(found, axis=0))

    def over(self, pair: Pair, sparsities: Container[float], bounds: Bounds) -> Difference:
        """The mean over the regimes of these sparsities, tested."""
        return tested([self.by_seed(pair, sparsities)], bounds)


def best_within(judged: Accuracies, within: Mapping[str, Sequence[str]]) -> Best:
    """The arm of some that does best in the mean over seeds, for each regime; of equals, the first.

    Of each seed alone it would be the arm whose search was lucky: who may take the best of three
    searches finds better values than who has one.

    Args:
        judged: by what: accuracies that are not those of the networks that are reported.
        within: the arms among which is chosen, by what their best is called.
    """
    return {
        (of, name): max(among, key=lambda arm: float(np.mean(arms[arm])))
        for of, arms in judged.items()
        for name, among in within.items()
    }


def with_best(accuracies: Accuracies, best: Best) -> Accuracies:
    """Accuracies on test images, and with them those of what is the best of some arms."""
    names = dict.fromkeys(name for _, name in best)
    return {
        of: {
            **arms,
            **{name: arms[best[of, name]] for name in names},
        }
        for of, arms in accuracies.items()
    }


def pooled(accuracies: Accuracies) -> Accuracies:
    """Every accuracy replaced by the mean over the regimes of its sparsity, seed by seed."""
    alike: dict[float, list[Regime]] = {}
    for of in accuracies:
        alike.setdefault(of[1].sparsity, []).append(of)
    return {
        of: {
            arm: np.mean(
                [np.asarray(accuracies[one][arm]) for one in alike[of[1].sparsity]], axis=0
            )
            for arm in arms
        }
        for of, arms in accuracies.items()
    }


def not_below(accuracies: Accuracies, held_out: Accuracies, start: str) -> Accuracies:
    """What did worse on held-out images than what it began with counts as that."""
    return {
        of: {
            arm: np.where(np.less(held_out[of][arm], held_out[of][start]), arms[start], values)
            for arm, values in arms.items()
        }
        for of, arms in accuracies.items()
    }


def over_regimes(tasks: Sequence[Task]) -> dict[tuple[str, Pair], Difference]:
    """The primary tests: for each task and pair, the mean over pruned regimes, seed by seed."""
    return corrected(
        {
            (task.name, pair): task.over(pair, task.sparsities - {0.0}, task.bounds)
            for task in tasks
            for pair in task.compared
        }
    )


def by_sparsity(tasks: Sequence[Task]) -> dict[tuple[str, Pair, float], Difference]:
    """The same for every sparsity, in the mean over its regimes."""
    return corrected(
        {
            (task.name, pair, sparsity): task.over(pair, {sparsity}, task.bounds)
            for task in tasks
            for pair in task.compared
            for sparsity in sorted(task.sparsities)
        }
    )


def by_regime(tasks: Sequence[Task]) -> dict[tuple[str, Pair, Regime], Difference]:
    """The same for every regime alone."""
    return corrected(
        {
            (task.name, pair, of): tested([task.difference(pair, of)], task.bounds)
            for task in tasks
            for pair in task.compared
            for of in task.accuracies
        }
    )


def tested(differences: Sequence[NDArray[np.float64]], bounds: Bounds) -> Difference:
    """Test the mean over regimes, over seeds, against what luck may be worth and what matters.

    A minimum-effect test (Murphy and Myors 1999): the paired t-test, with what counts as nothing in
    the place of 0; and two one-sided tests of equivalence (Schuirmann 1987), within the margin less
    what luck may have hidden.
    """
    by_seed = np.mean(differences, axis=0)
    freedom, error = len(by_seed) - 1, float(stats.sem(by_seed))
    mean, reach = float(by_seed.mean()), float(stats.t.ppf(1 - ALPHA / 2, freedom)) * error
    inside = bounds.margin - bounds.nothing - abs(mean)
    if error:
        ends = np.array([abs(mean) - bounds.nothing, abs(mean) + bounds.nothing])
        differs = float(stats.t.sf(ends / error, freedom).sum())
        equivalent = float(stats.t.sf(inside / error, freedom))
    else:
        differs, equivalent = float(abs(mean) <= bounds.nothing), float(inside <= 0)
    return Difference(mean, mean - reach, mean + reach, min(1.0, differs), equivalent)


def corrected(found: Mapping[Key, Difference]) -> dict[Key, Difference]:
    """The same, each question corrected (Holm) for how often it is asked."""
    differs, equivalent = (
        adjust({str(at): getattr(one, question) for at, one in enumerate(found.values())})
        for question in ("differs", "equivalent")
    )
    return {
        key: replace(
            one,
            holm_differs=float(differs[str(at)] or 0.0),
            holm_equivalent=float(equivalent[str(at)] or 0.0),
        )
        for at, (key, one) in enumerate(found.items())
    }
