"""What the study's accuracies show: the tests that its declaration names."""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from sparse_sam.evaluation import ALPHA, adjust
from studies.map.study import Mask

Key = TypeVar("Key", bound=Hashable)
Regime = tuple[str, Mask]
"""A dense training, and how its networks were pruned."""
Pair = tuple[str, str]
Accuracies = Mapping[Regime, Mapping[str, Sequence[float]]]
"""Of a task: shares of test images, by regime and arm, one for each seed in the same order."""


@dataclass(frozen=True)
class Difference:
    """A mean difference over seeds, as shares.

    Attributes:
        mean: the first arm's minus the second's.
        low: the lower end of its 95 % interval.
        high: the upper end.
        p_value: of the t-test.
        holm_p_value: corrected for all that was asked together.
    """

    mean: float
    low: float
    high: float
    p_value: float
    holm_p_value: float = 1.0

    @property
    def shown(self) -> int:
        """1 where a gain is shown after the correction, −1 where a loss is, 0 where neither."""
        if self.holm_p_value >= ALPHA:
            return 0
        return 1 if self.mean > 0 else -1


def best_of(
    accuracies: Mapping[str, Sequence[float]], scores: Mapping[str, Sequence[float]]
) -> list[float]:
    """Of each seed, the accuracy of the arm that did best on held-out images.

    Args:
        accuracies: on test images, by arm; one for each seed.
        scores: on held-out images, of the arms among which is chosen; of equals, the first.
    """
    by_seed = zip(*scores.values(), strict=True)
    best = (max(zip(one, scores, strict=True), key=lambda pair: pair[0])[1] for one in by_seed)
    return [accuracies[arm][seed] for seed, arm in enumerate(best)]


def over_regimes(
    tasks: Mapping[str, Accuracies], compared: Sequence[Pair], nothing: float
) -> dict[tuple[str, Pair], Difference]:
    """The primary tests: for each task and pair, the mean over pruned regimes, seed by seed."""
    return corrected(
        {
            (task, pair): tested([one for (_, mask), one in differences if mask.sparsity], nothing)
            for task, pair, differences in _differences(tasks, compared)
        }
    )


def in_detail(
    tasks: Mapping[str, Accuracies], compared: Sequence[Pair], nothing: float
) -> dict[tuple[str, Pair, float | Regime], Difference]:
    """The secondary tests: every sparsity, in the mean over its regimes, and every regime."""
    found: dict[tuple[str, Pair, float | Regime], Difference] = {}
    for task, pair, differences in _differences(tasks, compared):
        for sparsity in sorted({mask.sparsity for (_, mask), _ in differences}):
            alike = [one for (_, mask), one in differences if mask.sparsity == sparsity]
            found[task, pair, sparsity] = tested(alike, nothing)
        for regime, one in differences:
            found[task, pair, regime] = tested([one], nothing)
    return corrected(found)


def _differences(
    tasks: Mapping[str, Accuracies], compared: Sequence[Pair]
) -> Iterator[tuple[str, Pair, list[tuple[Regime, NDArray[np.float64]]]]]:
    """For each task and pair: the difference of every regime, by seed."""
    for (task, regimes), (first, second) in product(tasks.items(), compared):
        differences = [
            (regime, np.subtract(arms[first], arms[second])) for regime, arms in regimes.items()
        ]
        yield task, (first, second), differences


def tested(differences: Sequence[NDArray[np.float64]], nothing: float) -> Difference:
    """Test whether the mean over regimes is further from 0 than ``nothing``, over seeds.

    A minimum-effect test (Murphy and Myors 1999): the paired t-test, with what counts as nothing in
    the place of 0.
    """
    by_seed = np.mean(differences, axis=0)
    freedom, error = len(by_seed) - 1, float(stats.sem(by_seed))
    mean, reach = float(by_seed.mean()), float(stats.t.ppf(1 - ALPHA / 2, freedom)) * error
    ends = np.array([abs(mean) - nothing, abs(mean) + nothing])
    p_value = stats.t.sf(ends / error, freedom).sum() if error else float(ends[0] <= 0)
    return Difference(mean, mean - reach, mean + reach, float(min(1.0, p_value)))


def corrected(found: Mapping[Key, Difference]) -> dict[Key, Difference]:
    """The same, corrected (Holm) for how many there are."""
    numbers = {str(number): key for number, key in enumerate(found)}
    p_values = adjust({number: found[key].p_value for number, key in numbers.items()})
    return {
        key: replace(one, holm_p_value=float(p_values[number] or 0.0))
        for number, (key, one) in zip(numbers, found.items(), strict=True)
    }
