"""A comparison as a sentence that says no more than its numbers do."""

from collections.abc import Mapping
from typing import Any, Literal

from sparse_sam.evaluation.statistics import ALPHA, smallest_permutation_p
from sparse_sam.evaluation.words import p_in_words, signed

Outcome = Literal["better", "worse", "equivalent", "undecided"]
"""Of SAM, against what it is compared with."""
FEWEST_SEEDS = 3
_NOTHING = 1e-9
"""A share below which a mean is one of rounding."""


def verdict(what: str, compared: Mapping[str, Any], seeds: int, *, given: int | None = None) -> str:
    """A sentence on a comparison, as ``summarize_experiment`` has put it together.

    A difference is called shown if the p value of the paired t-test, corrected by Holm for all
    comparisons, is below 0.05; one beyond the margin is called excluded if the p value of the two
    one-sided tests is. What the seeds stand for is a sentence of its own where that may surprise.

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
        f"{said} All seeds began with {began}: they vary only the order of the batches, and say "
        "nothing of other networks."
    )


def answer(
    compared: Mapping[str, Any],
    seeds: int,
    *,
    base: str = "SGD",
    budget: str = "equal compute",
    given: int | None = None,
) -> str:
    """The comparison that decides, in one short sentence.

    Args:
        compared: as for ``verdict``; SAM minus the other.
        seeds: as for ``verdict``.
        base: what SAM is compared with.
        budget: under what conditions, such as "equal compute".
        given: as for ``verdict``.
    """
    if seeds < FEWEST_SEEDS:
        return f"Too few seeds to tell: {seeds}. Take {FEWEST_SEEDS} or more."
    leader = "SAM" if compared["mean"] > 0 else base
    size = abs(100 * compared["mean"])
    points = f"{size:.2f} points" if size >= 0.01 else "less than 0.01 points"
    margin = _margin(compared)
    match outcome(compared, seeds):
        case "better" | "worse":
            less = f", which is less than {margin}," if _is_within(compared) else ""
            said = f"{leader} is better by {points}{less} at {budget} ({_corrected(compared)})"
            if _caution(compared, seeds):
                said += f", if {seeds} seeds are enough for a t-test"
        case "equivalent":
            said = f"SAM and {base} are equivalent within ±{margin} at {budget} ({_ci90(compared)})"
        case _ if abs(compared["mean"]) >= _NOTHING:
            p = _corrected(compared)
            said = f"Inconclusive at {budget}, leaning to {leader} by {points} ({p})"
        case _:
            said = (
                f"Inconclusive at {budget}: no difference on average, and too much spread to tell"
            )
    if given is not None and given < seeds:
        networks = "one given network" if given == 1 else f"{given} given networks"
        said += f"; this is of {networks}"
    return f"{said}."


def _one_sentence(what: str, compared: Mapping[str, Any], seeds: int) -> str:
    mean = f"{what}: {signed(100 * compared['mean'])} points"
    if seeds < FEWEST_SEEDS:
        plural = "s are" if seeds > 1 else " is"
        return f"{mean}; {seeds} seed{plural} too few for any claim; take {FEWEST_SEEDS} or more."
    low, high = compared["ci95"]
    claim = _claim(compared, seeds) + _caution(compared, seeds)
    return f"{mean}, 95 % CI [{signed(100 * low)}, {signed(100 * high)}]: {claim}."


def outcome(compared: Mapping[str, Any], seeds: int) -> Outcome:
    """What a comparison shows of SAM; arguments as for ``verdict``."""
    if seeds < FEWEST_SEEDS:
        return "undecided"
    if compared["holm_p_value"] < ALPHA:
        return "better" if compared["mean"] > 0 else "worse"
    return "equivalent" if _is_within(compared) else "undecided"


def _claim(compared: Mapping[str, Any], seeds: int) -> str:
    p, margin = _corrected(compared), _margin(compared)
    match outcome(compared, seeds):
        case "better" | "worse" as found:
            side = "a gain" if found == "better" else "a loss"
            size = f", smaller than {margin}" if _is_within(compared) else ""
            return f"{side} is shown ({p}){size}"
        case "equivalent":
            excluded = f"excluded by the equivalence test ({_ci90(compared)})"
            return f"no difference is shown ({p}), and one larger than {margin} is {excluded}"
        case _:
            return f"no difference is shown ({p}), and one larger than {margin} is still possible"


def _is_within(compared: Mapping[str, Any]) -> bool:
    """Whether a difference larger than the margin is excluded."""
    return bool(compared["equivalence"]["p_value"] < ALPHA)


def _margin(compared: Mapping[str, Any]) -> str:
    return f"{100 * compared['equivalence']['margin']:.3g} points"


def _corrected(compared: Mapping[str, Any]) -> str:
    """The p value that decides: a 95 % interval, which is of one comparison, may exclude 0."""
    return f"corrected {_p(compared['holm_p_value'])}"


def _ci90(compared: Mapping[str, Any]) -> str:
    low, high = compared["equivalence"]["ci90"]
    return f"90 % CI [{signed(100 * low)}, {signed(100 * high)}]"


def _caution(compared: Mapping[str, Any], seeds: int) -> str:
    """What the exact test, which assumes no distribution, could have said at best."""
    best = smallest_permutation_p(seeds)
    if compared["holm_p_value"] < ALPHA <= best:
        return (
            f"; this rests on the t-test's assumptions: with {seeds} seeds the exact sign-flip "
            f"test cannot go below {best:.3g}"
        )
    return ""


def _p(value: float) -> str:
    said = p_in_words(value)
    return f"p {said}" if said.startswith("<") else f"p = {said}"
