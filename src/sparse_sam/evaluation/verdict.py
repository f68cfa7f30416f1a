"""A comparison as a sentence that says no more than its numbers do."""

from collections.abc import Mapping
from typing import Any

from sparse_sam.evaluation.statistics import ALPHA, smallest_permutation_p

FEWEST_SEEDS = 3


def verdict(what: str, compared: Mapping[str, Any], seeds: int, *, given: int | None = None) -> str:
    """A sentence on a comparison, as ``summarize_experiment`` has put it together.

    A difference is called shown when Holm's p value of the paired t-test is below 0.05, and
    excluded beyond the margin when the two one-sided tests' is. What the seeds stand for is a
    sentence of its own where that is not what one thinks.

    Args:
        what: the comparison in words, such as "SAM − SGD at equal epochs".
        compared: the entry of ``comparisons``; differences are shares, said in percentage points.
        seeds: how many pairs it is made of.
        given: with how many different networks the seeds began, if those were given and not
            trained.
    """
    said = _one_sentence(what, compared, seeds)
    if given is None or given == seeds:
        return said
    began = "one given network" if given == 1 else f"only {given} given networks"
    return (
        f"{said} All seeds began with {began}: they stand for orders of the batches, and say "
        "nothing of other networks."
    )


def _one_sentence(what: str, compared: Mapping[str, Any], seeds: int) -> str:
    mean = f"{what}: {_points(compared['mean'])} points"
    if seeds < FEWEST_SEEDS:
        plural = "s are" if seeds > 1 else " is"
        return f"{mean}; {seeds} seed{plural} too few for any claim, {FEWEST_SEEDS} the fewest."
    low, high = compared["ci95"]
    claim = _claim(compared) + _caution(compared, seeds)
    return f"{mean}, 95 % CI [{_points(low)}, {_points(high)}]: {claim}."


def _claim(compared: Mapping[str, Any]) -> str:
    margin = f"{100 * compared['equivalence']['margin']:.3g} points"
    within = compared["equivalence"]["p_value"] < ALPHA
    if compared["holm_p_value"] < ALPHA:
        side = "a gain" if compared["mean"] > 0 else "a loss"
        size = f", though a smaller one than {margin}" if within else ""
        return f"{side} is shown ({_p(compared['holm_p_value'])} after Holm's correction){size}"
    if within:
        return f"no difference shown, and none larger than {margin} at 95 %"
    return f"no difference shown, and one larger than {margin} not excluded"


def _caution(compared: Mapping[str, Any], seeds: int) -> str:
    """What the exact test, which assumes no distribution, could have said at best."""
    best = smallest_permutation_p(seeds)
    if compared["holm_p_value"] < ALPHA <= best:
        return (
            f"; it rests on the t-test's assumptions, for with {seeds} seeds the exact sign-flip "
            f"test cannot go below {best:.3g}"
        )
    return ""


def _points(share: float) -> str:
    return f"{100 * share:+z.2f}".replace("-", "−")


def _p(value: float) -> str:
    return f"p = {value:.3f}" if value >= 0.001 else "p < 0.001"
