"""Means, intervals and p values, against closed forms worked out by hand."""

import itertools
import json
import math
import warnings
from functools import cache
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import stats

from sparse_sam.evaluation.statistics import (
    adjust,
    compare_paired,
    compare_predictions,
    smallest_permutation_p,
    summarize,
)

# Student's t at 0.975, from a printed table: 1, 2 and 4 degrees of freedom.
T = {1: 12.706205, 2: 4.302653, 4: 2.776445}
MARGIN = 0.005
ACCURACIES = st.integers(0, 10_000).map(lambda right: right / 10_000)


def test_two_values_by_hand() -> None:
    # Mean 2, deviations ±1: variance 2/1, error of the mean sqrt(2/2) = 1.
    found = summarize([1.0, 3.0])
    assert found["mean"] == 2.0
    assert found["std"] == pytest.approx(math.sqrt(2))
    assert found["ci95"] == pytest.approx([2 - T[1], 2 + T[1]], rel=1e-6)
    assert found["values"] == [1.0, 3.0]


def test_five_values_by_hand() -> None:
    # Mean 5, squared deviations 16 + 4 + 0 + 4 + 16 = 40: variance 10, error sqrt(10/5).
    found = summarize([1, 3, 5, 7, 9])
    assert found["std"] == pytest.approx(math.sqrt(10))
    margin = T[4] * math.sqrt(2)
    assert found["ci95"] == pytest.approx([5 - margin, 5 + margin], rel=1e-6)


def test_a_paired_difference_by_hand() -> None:
    # Differences 1, 2, 3: mean 2, error sqrt(1/3), t = 2·sqrt(3) with 2 degrees of freedom, for
    # which P(|T| > t) = 1 − t / sqrt(t² + 2) = 1 − sqrt(12/14).
    found = compare_paired([11.0, 22.0, 33.0], [10.0, 20.0, 30.0], MARGIN)
    assert found["mean"] == pytest.approx(2.0)
    margin = T[2] / math.sqrt(3)
    assert found["ci95"] == pytest.approx([2 - margin, 2 + margin], rel=1e-6)
    assert found["p_value"] == pytest.approx(1 - math.sqrt(12 / 14))


def test_pairs_are_paired() -> None:
    # Large differences between seeds, small and constant ones between arms.
    first, second = [0.91, 0.52, 0.73], [0.90, 0.51, 0.71]
    assert compare_paired(first, second, MARGIN)["p_value"] < 0.1
    assert compare_paired(first, sorted(second), MARGIN)["p_value"] > 0.5


def test_the_sign_is_that_of_first_minus_second() -> None:
    first, second = [0.9, 0.95], [0.8, 0.9]
    forth, back = compare_paired(first, second, MARGIN), compare_paired(second, first, MARGIN)
    assert forth["mean"] == pytest.approx(0.075)
    assert back["mean"] == -forth["mean"]
    assert back["ci95"] == pytest.approx([-forth["ci95"][1], -forth["ci95"][0]])
    assert back["p_value"] == forth["p_value"]


def test_one_value_has_no_spread() -> None:
    assert summarize([0.97]) == {"mean": 0.97, "std": None, "ci95": None, "values": [0.97]}
    assert compare_paired([0.97], [0.96], MARGIN) == {
        "mean": pytest.approx(0.01),
        "ci95": None,
        "p_value": None,
        "bootstrap_ci95": None,
        "permutation_p_value": None,
        "equivalence": {"margin": MARGIN, "p_value": None, "ci90": None},
    }


@given(value=ACCURACIES, count=st.integers(2, 12))
def test_equal_values_have_a_spread_of_exactly_nothing(value: float, count: int) -> None:
    found = summarize([value] * count)
    assert (found["mean"], found["std"], found["ci95"]) == (value, 0.0, [value, value])
    same = compare_paired([value] * count, [value] * count, MARGIN)
    assert same == {
        "mean": 0.0,
        "ci95": [0.0, 0.0],
        "p_value": 1.0,
        "bootstrap_ci95": [0.0, 0.0],
        "permutation_p_value": 1.0,
        "equivalence": {"margin": MARGIN, "p_value": 0.0, "ci90": [0.0, 0.0]},
    }


def test_equal_differences_that_are_not_0_are_certain() -> None:
    found = compare_paired([0.75, 0.5, 0.25], [0.5, 0.25, 0.0], MARGIN)
    assert (found["mean"], found["ci95"], found["p_value"]) == (0.25, [0.25, 0.25], 0.0)
    assert found["bootstrap_ci95"] == [0.25, 0.25]
    assert found["permutation_p_value"] == 2 / 2**3
    assert found["equivalence"] == {"margin": MARGIN, "p_value": 1.0, "ci90": [0.25, 0.25]}


@given(pairs=st.lists(st.tuples(ACCURACIES, ACCURACIES), min_size=2, max_size=10))
def test_scipy_agrees_and_json_takes_it(pairs: list[tuple[float, float]]) -> None:
    first, second = ([pair[side] for pair in pairs] for side in (0, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compared, summary = compare_paired(first, second, MARGIN), summarize(first)
    for content in (compared, summary):
        assert json.loads(json.dumps(content, allow_nan=False)) == content
    assert summary["values"] == first
    assert summary["mean"] == pytest.approx(np.mean(first))
    assert summary["std"] == pytest.approx(np.std(first, ddof=1), abs=1e-12)
    assert summary["ci95"][0] <= summary["mean"] <= summary["ci95"][1]
    assert 0 <= compared["p_value"] <= 1
    if np.ptp(np.subtract(first, second)) > 1e-9:
        test = stats.ttest_rel(first, second)
        assert compared["p_value"] == pytest.approx(test.pvalue)
        assert compared["ci95"] == pytest.approx(list(test.confidence_interval(0.95)))
        # The interval and the test must tell the same story.
        low, high = compared["ci95"]
        assert (low > 0 or high < 0) == (compared["p_value"] < 0.05)


@given(differences=st.lists(st.integers(-50, 50), min_size=2, max_size=8))
@example(differences=[6, 3, -6, -3])  # whose sum is not 0 in every order
def test_the_permutation_test_is_exact(differences: list[int]) -> None:
    """Against every one of the 2ⁿ ways to flip signs, counted here."""
    values = np.array(differences) / 1000
    flips = np.array(list(itertools.product([1, -1], repeat=len(values))))
    means = (flips * values).mean(axis=1)
    as_extreme = np.abs(means) >= abs(values.mean()) - 1e-12
    found = compare_paired(values, np.zeros_like(values), MARGIN)["permutation_p_value"]
    assert found == pytest.approx(as_extreme.mean())
    assert found >= smallest_permutation_p(len(values)) - 1e-12


def test_five_seeds_cannot_reach_five_percent_by_flipping_signs() -> None:
    found = compare_paired([1.0, 2, 3, 4, 5], [0.0] * 5, MARGIN)
    assert found["permutation_p_value"] == smallest_permutation_p(5) == 2 / 32
    assert found["p_value"] < 0.05


def test_the_bootstrap_interval_repeats_and_holds_the_mean() -> None:
    first, second = [0.91, 0.93, 0.92, 0.95, 0.90, 0.94], [0.90, 0.91, 0.93, 0.92, 0.89, 0.92]
    found = compare_paired(first, second, MARGIN)
    low, high = found["bootstrap_ci95"]
    assert low < found["mean"] < high
    assert compare_paired(first, second, MARGIN)["bootstrap_ci95"] == [low, high]
    reference = stats.bootstrap(
        (np.subtract(first, second),), np.mean, n_resamples=50_000, rng=np.random.default_rng(1)
    ).confidence_interval
    assert [low, high] == pytest.approx([reference.low, reference.high], abs=8e-4)


def test_mcnemar_by_hand() -> None:
    # 6 images that only the first gets right, 1 that only the second does: the probability of 6
    # or more heads or tails in 7 throws is 2 · (7 + 1) / 2⁷.
    first = np.array([[True] * 6 + [False] + [True] * 5] * 1)
    second = np.array([[False] * 6 + [True] + [True] * 5] * 1)
    found = compare_predictions(first, second)
    assert found == {"first_only": 6, "second_only": 1, "p_value": pytest.approx(16 / 128)}
    none = compare_predictions(first, first)
    assert none == {"first_only": 0, "second_only": 0, "p_value": 1.0}


def test_holm_by_hand() -> None:
    # The smallest of three is multiplied by 3, the next by 2, and none is below the one before.
    found = adjust({"a": 0.04, "b": 0.01, "c": 0.015, "d": None})
    assert found == {
        "a": pytest.approx(0.04),
        "b": pytest.approx(0.03),
        "c": pytest.approx(0.03),
        "d": None,
    }
    assert adjust({"a": None}) == {"a": None}


# Calibration: what 95 % means, by simulation

TRIALS, SEEDS, SPREAD = 1000, 5, 0.003


@cache
def simulate(true_difference: float, margin: float = MARGIN) -> list[dict[str, Any]]:
    rng = np.random.default_rng(20261123)
    draws = rng.normal(true_difference, SPREAD, (TRIALS, SEEDS))
    # The resampling tests have tests of their own, and cost a minute here.
    with (
        patch("sparse_sam.evaluation.statistics._bootstrap", lambda _: None),
        patch("sparse_sam.evaluation.statistics._permutation", lambda _: None),
    ):
        return [compare_paired(draw, np.zeros(SEEDS), margin) for draw in draws]


def within_chance(hits: int, probability: float) -> bool:
    """Whether so many hits are what chance gives, in all but one of 10,000 such tests."""
    low, high = stats.binom.interval(0.9999, TRIALS, probability)
    return bool(low <= hits <= high)


def test_with_no_difference_the_interval_excludes_zero_in_five_percent() -> None:
    found = simulate(0.0)
    excluded = sum(one["ci95"][0] > 0 or one["ci95"][1] < 0 for one in found)
    assert within_chance(excluded, 0.05)
    assert excluded == sum(one["p_value"] < 0.05 for one in found)


def test_with_a_difference_of_two_standard_errors_the_power_is_the_theorys() -> None:
    error = SPREAD / SEEDS**0.5
    found = simulate(2 * error)
    bound = stats.t.ppf(0.975, SEEDS - 1)
    power = stats.nct.sf(bound, SEEDS - 1, 2) + stats.nct.cdf(-bound, SEEDS - 1, 2)
    assert within_chance(sum(one["p_value"] < 0.05 for one in found), power)


def test_a_difference_as_large_as_the_margin_is_called_none_in_five_percent() -> None:
    found = simulate(MARGIN)
    called = sum(one["equivalence"]["p_value"] < 0.05 for one in found)
    assert called <= stats.binom.ppf(0.9999, TRIALS, 0.05)
    # The interval at 90 % tells the same story.
    for one in found[:200]:
        low, high = one["equivalence"]["ci90"]
        assert (one["equivalence"]["p_value"] < 0.05) == (low > -MARGIN and high < MARGIN)
    larger = simulate(1.5 * MARGIN)
    assert sum(one["equivalence"]["p_value"] < 0.05 for one in larger) < called


def test_no_difference_is_found_to_be_none_when_the_spread_is_small() -> None:
    found = simulate(0.0, margin=4 * SPREAD)
    assert sum(one["equivalence"]["p_value"] < 0.05 for one in found) > 0.95 * TRIALS


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_one_image_in_every_seed_is_no_gain_that_is_shown(seeds: int) -> None:
    accuracies = [0.9 + 0.01 * seed for seed in range(seeds)]
    gained = [one + 0.001 for one in accuracies]
    found = compare_paired(gained, accuracies, 0.005, images=1000)
    assert found["p_value"] >= found["permutation_p_value"] == pytest.approx(2 ** (1 - seeds))
    low, high = found["ci95"]
    assert low < 0.001 < high
    assert high - low == pytest.approx(
        2 * stats.t.ppf(0.975, seeds - 1) / (1000 * (6 * seeds) ** 0.5)
    )


def test_equal_answers_on_few_images_are_no_equivalence() -> None:
    same = [0.75, 0.7917, 0.8333, 0.75, 0.75]
    few = compare_paired(same, same, 0.005, images=24)
    many = compare_paired(same, same, 0.005, images=10_000)
    assert few["equivalence"]["p_value"] > 0.2
    assert many["equivalence"]["p_value"] < 0.001
    assert few["p_value"] == many["p_value"] == 1.0
    assert few["ci95"][1] > 0.01


@given(counts=st.lists(st.tuples(st.integers(0, 500), st.integers(0, 500)), min_size=2, max_size=8))
def test_what_the_images_resolve_is_as_without_them(counts: list[tuple[int, int]]) -> None:
    first, second = ([of[i] / 500 for of in counts] for i in (0, 1))
    with_images = compare_paired(first, second, 0.005, images=500)
    without = compare_paired(first, second, 0.005)
    if np.std(np.subtract(first, second), ddof=1) >= 1 / (500 * 6**0.5):
        assert with_images == without
    else:
        assert with_images["p_value"] >= without["p_value"]
        within = abs(without["mean"]) < 0.005
        p_values = [of["equivalence"]["p_value"] for of in (with_images, without)]
        assert p_values[0] >= p_values[1] - 1e-12 if within else p_values[0] >= 0.5


@pytest.mark.parametrize(("first", "second"), [([], []), ([0.9], [0.9, 0.8]), ([0.9, 0.8], [])])
def test_what_is_not_paired_is_refused(first: list[float], second: list[float]) -> None:
    with pytest.raises(ValueError, match="one per seed"):
        compare_paired(first, second, 0.005)
    with pytest.raises(ValueError, match="one per seed"):
        summarize([])
