"""A verdict says no more than its numbers do."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from sparse_sam.evaluation.statistics import compare_paired
from sparse_sam.evaluation.verdict import answer, verdict

MARGIN = 0.005
SUMMARY = Path(__file__).resolve().parents[2] / "metrics" / "summary.json"


def said(differences: list[float], holm: float | None = None) -> str:
    compared: dict[str, Any] = compare_paired(differences, [0.0] * len(differences), MARGIN)
    compared["holm_p_value"] = compared["p_value"] if holm is None else holm
    return verdict("SAM − SGD", compared, len(differences))


@pytest.mark.parametrize(
    ("differences", "sentence"),
    [
        (
            [0.01, 0.012, 0.011, 0.013, 0.009, 0.01],
            "SAM is better by 1.08 points at equal compute (corrected p < 0.001).",
        ),
        (
            [-0.01, -0.012, -0.011, -0.013],
            (
                "SGD is better by 1.15 points at equal compute (corrected p < 0.001), if 4 seeds "
                "are enough for a t-test."
            ),
        ),
        (
            [0.00002, 0.000021, 0.000019, 0.00002, 0.000022, 0.00002],
            (
                "SAM is better by less than 0.01 points, which is less than 0.5 points, at equal "
                "compute (corrected p < 0.001)."
            ),
        ),
        (
            [-0.001, 0.001, -0.002, 0.001, -0.001, 0.0],
            (
                "SAM and SGD are equivalent within ±0.5 points at equal compute "
                "(90 % CI [−0.13, +0.07])."
            ),
        ),
        (
            [-0.01, 0.01, -0.02, 0.03, 0.0],
            "Inconclusive at equal compute, leaning to SAM by 0.20 points (corrected p = 0.828).",
        ),
        (
            [-0.03, 0.03, -0.02, 0.02],
            "Inconclusive at equal compute: no difference on average, and too much spread to tell.",
        ),
        ([0.01, 0.02], "Too few seeds to tell: 2. Take 3 or more."),
    ],
)
def test_the_answer_is_one_sentence(differences: list[float], sentence: str) -> None:
    compared: dict[str, Any] = compare_paired(differences, [0.0] * len(differences), MARGIN)
    compared["holm_p_value"] = compared["p_value"]
    assert answer(compared, len(differences)) == sentence


def test_the_answer_says_what_given_networks_stand_for() -> None:
    compared: dict[str, Any] = compare_paired(
        [0.01, 0.012, 0.011, 0.013, 0.009, 0.01], [0.0] * 6, 1
    )
    compared["holm_p_value"] = compared["p_value"]
    assert answer(compared, 6, given=1).endswith("; this is of one given network.")
    assert "given" not in answer(compared, 6, given=6)


def test_a_tie_leans_to_nobody() -> None:
    compared: dict[str, Any] = compare_paired([-0.03, 0.03, -0.02, 0.02], [0.0] * 4, MARGIN)
    compared |= {"mean": -2e-17, "holm_p_value": 1.0}
    assert "no difference on average" in answer(compared, 4)


def test_no_p_value_is_rounded_across_what_it_is_compared_with() -> None:
    differences = [0.010, 0.002, 0.011, 0.013, 0.001, 0.004]
    assert "a gain is shown (corrected p = 0.0499)" in said(differences, holm=0.0499)
    assert "no difference is shown (corrected p = 0.050)" in said(differences, holm=0.0501)


def test_three_seeds_that_gain_an_image_each_are_no_certainty() -> None:
    compared: dict[str, Any] = compare_paired([0.951] * 3, [0.95] * 3, MARGIN, images=1000)
    compared["holm_p_value"] = compared["p_value"]
    assert "is better" not in answer(compared, 3)
    assert "gain is shown" not in verdict("SAM − SGD", compared, 3)


def test_no_difference_and_none_that_matters() -> None:
    assert said([-0.001, 0.001, -0.002, 0.001, -0.001, 0.0]) == (
        "SAM − SGD: −0.03 points, 95 % CI [−0.16, +0.09]: no difference is shown (corrected "
        "p = 0.530), and one larger than 0.5 points is excluded by the equivalence test (90 % CI "
        "[−0.13, +0.07])."
    )


def test_no_difference_and_no_knowledge() -> None:
    sentence = said([-0.01, 0.01, -0.02, 0.03, 0.0])
    assert "and one larger than 0.5 points is still possible." in sentence


def test_a_gain_and_a_loss() -> None:
    gains = [0.010, 0.012, 0.011, 0.013, 0.009, 0.010]
    assert "a gain is shown (corrected p < 0.001)" in said(gains)
    assert "a loss is shown" in said([-gain for gain in gains])
    assert "cannot go below" not in said(gains)  # six seeds can reach 0.031


def test_five_seeds_are_cautioned() -> None:
    sentence = said([0.010, 0.012, 0.011, 0.013, 0.009])
    assert "with 5 seeds the exact sign-flip test cannot go below 0.0625" in sentence


def test_a_gain_too_small_to_matter() -> None:
    sentence = said([0.001, 0.0011, 0.0012, 0.001, 0.0011, 0.0009])
    assert "a gain is shown" in sentence
    assert ", smaller than 0.5 points" in sentence


def test_correction_can_take_a_claim_away() -> None:
    differences = [0.010, 0.002, 0.011, 0.013, 0.001, 0.004]
    assert "a gain is shown" in said(differences)
    assert "no difference is shown" in said(differences, holm=0.06)


@pytest.mark.parametrize("seeds", [1, 2])
def test_too_few_seeds_claim_nothing(seeds: int) -> None:
    sentence = said([0.3, 0.31][:seeds], holm=0.001)
    assert "too few for any claim" in sentence
    assert "shown" not in sentence


def test_the_published_verdict_follows_from_the_published_values() -> None:
    """Recomputed from the values of each seed with nothing but SciPy."""
    summary = json.loads(SUMMARY.read_text())
    values = {arm: np.array(of["accuracy"]["values"]) for arm, of in summary["arms"].items()}
    pairs = {"sam_vs_sgd": ("sam", "sgd"), "sam_vs_sgd_2x": ("sam", "sgd_2x")}
    tests = {name: stats.ttest_rel(values[a], values[b]) for name, (a, b) in pairs.items()}
    smaller, larger = sorted(tests, key=lambda name: tests[name].pvalue)
    holm = {smaller: min(1.0, 2 * tests[smaller].pvalue)}
    holm[larger] = max(holm[smaller], tests[larger].pvalue)
    for name, (first, second) in pairs.items():
        compared, differences = summary["comparisons"][name], values[first] - values[second]
        assert compared["holm_p_value"] == pytest.approx(holm[name])
        margin = compared["equivalence"]["margin"]
        below = stats.ttest_1samp(differences, margin, alternative="less").pvalue
        above = stats.ttest_1samp(differences, -margin, alternative="greater").pvalue
        assert compared["equivalence"]["p_value"] == pytest.approx(max(below, above))
        low, high = tests[name].confidence_interval(0.95)
        sentence = compared["verdict"].replace("−", "-")
        assert f"{100 * differences.mean():+.2f} points" in sentence
        assert f"[{100 * low:+.2f}, {100 * high:+.2f}]" in sentence
        assert ("no difference is shown" not in sentence) == (holm[name] < 0.05)
        if holm[name] >= 0.05:
            excluded = max(below, above) < 0.05
            assert ("is excluded by" in sentence) == excluded
            assert ("still possible" in sentence) == (not excluded)


@pytest.mark.parametrize("seeds", [2, 5])
def test_seeds_of_one_given_network_are_said_to_be_that(seeds: int) -> None:
    differences = [0.01, 0.02, 0.0, -0.01, 0.01][:seeds]
    compared: dict[str, Any] = compare_paired(differences, [0.0] * seeds, MARGIN)
    compared["holm_p_value"] = compared["p_value"]
    plain = verdict("SAM − SGD", compared, seeds)
    for given, words in ((1, "one given network"), (2, "only 2 given networks")):
        says = f" All seeds began with {words}: they vary only the order of the batches, and say "
        same = given == seeds
        assert verdict("SAM − SGD", compared, seeds, given=given) == (
            plain if same else f"{plain}{says}nothing of other networks."
        )
    assert verdict("SAM − SGD", compared, seeds, given=seeds) == plain
