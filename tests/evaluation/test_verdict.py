"""A verdict says no more than its numbers do."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from sparse_sam.evaluation.statistics import compare_paired
from sparse_sam.evaluation.verdict import verdict

MARGIN = 0.005
SUMMARY = Path(__file__).resolve().parents[2] / "metrics" / "summary.json"


def said(differences: list[float], holm: float | None = None) -> str:
    compared: dict[str, Any] = compare_paired(differences, [0.0] * len(differences), MARGIN)
    compared["holm_p_value"] = compared["p_value"] if holm is None else holm
    return verdict("SAM − SGD", compared, len(differences))


def test_no_difference_and_none_that_matters() -> None:
    assert said([-0.001, 0.001, -0.002, 0.001, -0.001, 0.0]) == (
        "SAM − SGD: −0.03 points, 95 % CI [−0.16, +0.09]: no difference shown, and none larger "
        "than 0.5 points at 95 %."
    )


def test_no_difference_and_no_knowledge() -> None:
    sentence = said([-0.01, 0.01, -0.02, 0.03, 0.0])
    assert "no difference shown, and one larger than 0.5 points not excluded." in sentence


def test_a_gain_and_a_loss() -> None:
    gains = [0.010, 0.012, 0.011, 0.013, 0.009, 0.010]
    assert "a gain is shown (p = < 0.001 after" not in said(gains)
    assert "a gain is shown (p < 0.001 after Holm's correction)" in said(gains)
    assert "a loss is shown" in said([-gain for gain in gains])
    assert "cannot go below" not in said(gains)  # six seeds can reach 0.031


def test_five_seeds_are_cautioned() -> None:
    sentence = said([0.010, 0.012, 0.011, 0.013, 0.009])
    assert "with 5 seeds the exact sign-flip test cannot go below 0.0625" in sentence


def test_a_gain_too_small_to_matter() -> None:
    sentence = said([0.001, 0.0011, 0.0012, 0.001, 0.0011, 0.0009])
    assert "a gain is shown" in sentence
    assert "though a smaller one than 0.5 points" in sentence


def test_correction_can_take_a_claim_away() -> None:
    differences = [0.010, 0.002, 0.011, 0.013, 0.001, 0.004]
    assert "a gain is shown" in said(differences)
    assert "no difference shown" in said(differences, holm=0.06)


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
        assert ("is shown" in sentence) == (holm[name] < 0.05)
        if holm[name] >= 0.05:
            excluded = max(below, above) < 0.05
            assert ("none larger than" in sentence) == excluded
            assert ("not excluded" in sentence) == (not excluded)


@pytest.mark.parametrize("seeds", [2, 5])
def test_seeds_of_one_given_network_are_said_to_be_that(seeds: int) -> None:
    differences = [0.01, 0.02, 0.0, -0.01, 0.01][:seeds]
    compared: dict[str, Any] = compare_paired(differences, [0.0] * seeds, MARGIN)
    compared["holm_p_value"] = compared["p_value"]
    plain = verdict("SAM − SGD", compared, seeds)
    for given, words in ((1, "one given network"), (2, "only 2 given networks")):
        says = f" All seeds began with {words}: they stand for orders of the batches, and say "
        same = given == seeds
        assert verdict("SAM − SGD", compared, seeds, given=given) == (
            plain if same else f"{plain}{says}nothing of other networks."
        )
    assert verdict("SAM − SGD", compared, seeds, given=seeds) == plain
