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
Best = Mapping[tuple[float, str], str]
"""What arm is the best of some, by sparsity and what the best is called."""
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

    def over(self, pair: Pair, sparsities: Container[float], bounds: Bounds) -> Difference:
        """The mean over the regimes of these sparsities, tested."""
        return tested(
            [self.difference(pair, of) for of in self.accuracies if of[1].sparsity in sparsities],
            bounds,
        )


def best_within(held_out: Accuracies, within: Mapping[str, Sequence[str]]) -> Best:
    """The arm of some that does best on held-out images, at each sparsity.

    It has the highest mean over regimes and seeds; of equals, it is the first.

    Args:
        held_out: on held-out images.
        within: the arms among which is chosen, by what their best is called.
    """
    return {
        (sparsity, name): max(
            among,
            key=lambda arm: np.mean(
                [arms[arm] for (_, mask), arms in held_out.items() if mask.sparsity == sparsity]
            ),
        )
        for name, among in within.items()
        for sparsity in sorted({mask.sparsity for _, mask in held_out})
    }


def with_best(accuracies: Accuracies, best: Best) -> Accuracies:
    """Accuracies on test images, and with them those of what is the best of some arms."""
    return {
        (dense, mask): {
            **arms,
            **{name: arms[arm] for (at, name), arm in best.items() if at == mask.sparsity},
        }
        for (dense, mask), arms in accuracies.items()
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
