"""What a few seeds can show: means, intervals, paired differences, and their tests.

All tests are those of SciPy and statsmodels. This module chooses them, and says what they give
where they are not defined.
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.weightstats import DescrStatsW

ALPHA = 0.05
CONFIDENCE = 1 - ALPHA
_RESAMPLES = 9999
_SEED = 0

Sample = NDArray[np.float64]


def summarize(values: Sequence[float]) -> dict[str, Any]:
    """Return mean, standard deviation (n − 1) and the 95 % t interval of the mean.

    ``std`` and ``ci95`` (``[low, high]``) are None for a single value: one seed has no spread.

    Raises:
        ValueError: there is no value.
    """
    sample = np.asarray(values, dtype=float)
    if not len(sample):
        raise ValueError("there is no value to summarize: give one per seed")
    several = len(sample) > 1
    return {
        "mean": _mean(sample),
        "std": _std(sample) if several else None,
        "ci95": _interval(sample, CONFIDENCE) if several else None,
        "values": [float(value) for value in sample],
    }


def compare_paired(
    first: Sequence[float], second: Sequence[float], margin: float, images: int | None = None
) -> dict[str, Any]:
    """Test the paired differences first − second, one pair per seed.

    Accuracies on n images are multiples of 1/n, so seeds that agree to the image do not agree to
    all digits. With ``images``, the standard deviation of the differences is taken to be at least
    that of rounding two accuracies, 1/(n√6). If it is less, the seeds do not show their spread, and
    the t-test does not give a smaller p value than the permutation test.

    Args:
        first: one value per seed.
        second: the same, in the same order.
        margin: the largest difference that counts as none.
        images: n, if the values are shares of n images; None otherwise.

    Returns:
        ``mean``; the t interval ``ci95`` and the paired t-test's ``p_value``; the bootstrap's
        ``bootstrap_ci95`` (BCa, percentile where that is not defined); the exact sign-flip
        permutation test's ``permutation_p_value``, which cannot be below 2 / 2ⁿ; and
        ``equivalence``, two one-sided t-tests of |mean| < margin, with the interval at 90 % that
        they amount to. All but the mean are None for a single pair. If all differences are
        equal, the bootstrap's interval is a point; without ``images``, the other intervals are
        points too, and p is 0 or 1.

    Raises:
        ValueError: the two differ in how many values they have, or there is none.
    """
    if len(first) != len(second) or not len(first):
        raise ValueError(
            f"{len(first)} values and {len(second)}: both need one per seed, in the same order"
        )
    differences = np.subtract(first, second, dtype=float)
    if len(differences) < 2:
        nothing = {"margin": margin, "p_value": None, "ci90": None}
        tests = dict.fromkeys(("ci95", "p_value", "bootstrap_ci95", "permutation_p_value"))
        return {"mean": _mean(differences), **tests, "equivalence": nothing}
    least = 1 / (images * 6**0.5) if images else 0.0
    permutation = _permutation(differences)
    p_value = _p_value(differences, least)
    if _std(differences) < least:
        p_value = max(p_value, permutation)
    return {
        "mean": _mean(differences),
        "ci95": _interval(differences, CONFIDENCE, least),
        "p_value": p_value,
        "bootstrap_ci95": _bootstrap(differences),
        "permutation_p_value": permutation,
        "equivalence": {
            "margin": margin,
            "p_value": _equivalence(differences, margin, least),
            "ci90": _interval(differences, 1 - 2 * ALPHA, least),
        },
    }


def compare_predictions(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> dict[str, Any]:
    """Test which images two arms get right: McNemar's exact test, pooled over seeds.

    The seeds share their test images, so the pooled pairs are not independent: the p value holds
    for these networks on these images, not for other seeds.

    Args:
        first: whether the first arm is right, one value per image and seed, of any shape.
        second: the same, in the same order.

    Returns:
        ``first_only`` and ``second_only``, how often only one is right, and ``p_value``.
    """
    first_only = int((first & ~second).sum())
    second_only = int((second & ~first).sum())
    table = [
        [int((first & second).sum()), first_only],
        [second_only, int((~first & ~second).sum())],
    ]
    p_value = float(mcnemar(table, exact=True).pvalue) if first_only + second_only else 1.0
    return {"first_only": first_only, "second_only": second_only, "p_value": p_value}


def adjust(p_values: Mapping[str, float | None]) -> dict[str, float | None]:
    """Apply Holm's correction to the p values that are not None."""
    known = {name: p for name, p in p_values.items() if p is not None}
    adjusted = multipletests([*known.values()], method="holm")[1] if known else []
    return {**p_values, **dict(zip(known, map(float, adjusted), strict=True))}


def smallest_permutation_p(pairs: int) -> float:
    """Return the p value of the sign-flip test if all pairs agree in sign: 2 / 2ⁿ."""
    return float(min(1.0, 2.0 ** (1 - pairs)))


def _mean(sample: Sample) -> float:
    # The mean of equal values is that value; a rounded one would have a spread.
    return float(sample[0] if np.ptp(sample) == 0 else sample.mean())


def _std(sample: Sample) -> float:
    return 0.0 if np.ptp(sample) == 0 else float(sample.std(ddof=1))


def _interval(sample: Sample, confidence: float, least: float = 0.0) -> list[float]:
    spread = max(_std(sample), least)
    margin = stats.t.ppf((1 + confidence) / 2, len(sample) - 1) * spread / len(sample) ** 0.5
    return [_mean(sample) - float(margin), _mean(sample) + float(margin)]


def _p_value(differences: Sample, least: float) -> float:
    if _std(differences) < least:
        t = abs(_mean(differences)) * len(differences) ** 0.5 / least
        return float(2 * stats.t.sf(t, len(differences) - 1))
    if np.ptp(differences) == 0:
        return float(not differences.any())
    return float(stats.ttest_1samp(differences, 0.0).pvalue)


def _equivalence(differences: Sample, margin: float, least: float) -> float:
    if _std(differences) < least:
        t = (margin - abs(_mean(differences))) * len(differences) ** 0.5 / least
        return float(stats.t.sf(t, len(differences) - 1))
    if np.ptp(differences) == 0:
        return float(abs(differences[0]) >= margin)
    return float(DescrStatsW(differences).ttost_mean(-margin, margin)[0])


def _bootstrap(differences: Sample) -> list[float]:
    if np.ptp(differences) == 0:
        return [_mean(differences)] * 2
    for method in ("BCa", "percentile"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # BCa says so where it is not defined, and gives NaN
            found = stats.bootstrap(
                (differences,),
                np.mean,
                confidence_level=CONFIDENCE,
                n_resamples=_RESAMPLES,
                method=method,
                rng=np.random.default_rng(_SEED),
            ).confidence_interval
        if np.isfinite(found).all():
            break
    return [float(found.low), float(found.high)]


def _permutation(differences: Sample) -> float:
    # With two samples and these settings SciPy flips the signs of the differences, and goes
    # through all 2ⁿ of them when they are not more than the resamples.
    found = stats.permutation_test(
        (differences, np.zeros_like(differences)),
        # Rounded, so that sums of the same numbers in another order are equal.
        lambda one, other, axis: np.round(np.mean(one - other, axis=axis), 12),
        permutation_type="samples",
        vectorized=True,
        n_resamples=_RESAMPLES,
        rng=np.random.default_rng(_SEED),
    )
    return float(found.pvalue)
