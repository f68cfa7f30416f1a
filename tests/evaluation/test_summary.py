"""The summary that is published: which arms, which comparisons, from which numbers."""

from typing import Any

import numpy as np
import pytest

from sparse_sam.evaluation.statistics import compare_paired, summarize
from sparse_sam.evaluation.summary import (
    DIFFERENCE,
    OUTCOME,
    SUBJECT,
    as_tags,
    base_in_words,
    headline,
    summarize_experiment,
)
from sparse_sam.training.arms import ARMS

ACCURACY = {
    "dense": [0.96, 0.97],
    "pruned": [0.40, 0.60],
    "sgd": [0.95, 0.96],
    "sgd_2x": [0.96, 0.98],
    "sam": [0.97, 0.98],
}


RIGHT = {"dense": 96, "pruned": 50, "sgd": 95, "sgd_2x": 97, "sam": 98}
CORRECT = {arm: np.arange(100) < np.full((2, 1), count) for arm, count in RIGHT.items()}


def cost(arm: str) -> dict[str, Any]:
    index = ARMS.index(arm)
    return {
        "sparsity": index / 10,
        "gradient_evaluations": 100 * index,
        "seconds": float(index),
        "validation_accuracy": {"mean": 0.0},
    }


def example(**changes: Any) -> dict[str, Any]:
    return summarize_experiment(
        **{
            "dataset": "mnist",
            "model": "classifier",
            "seeds": [3, 5],
            "accuracy": {arm: summarize(values) for arm, values in ACCURACY.items()},
            "correct": CORRECT,
            "costs": {arm: cost(arm) for arm in ARMS},
            "margin": 0.005,
            **changes,
        }
    )


def test_every_arm_has_its_own_accuracy_and_cost() -> None:
    summary = example()
    assert (summary["dataset"], summary["model"], summary["seeds"]) == (
        "mnist",
        "classifier",
        [3, 5],
    )
    assert list(summary["arms"]) == ["dense", "pruned", "sgd", "sgd_2x", "sam"]
    for index, (arm, values) in enumerate(ACCURACY.items()):
        assert summary["arms"][arm] == {
            "accuracy": summarize(values),
            "sparsity": index / 10,
            "gradient_evaluations": 100 * index,
            "seconds": index,
        }


def test_sam_is_compared_with_sgd_at_equal_epochs_and_at_equal_compute() -> None:
    compared = example()["comparisons"]
    assert list(compared) == ["sam_vs_sgd", "sam_vs_sgd_2x"]
    own = compare_paired(ACCURACY["sam"], ACCURACY["sgd"], 0.005, images=100)
    assert {name: compared["sam_vs_sgd"][name] for name in own} == own
    mcnemar = {"first_only": 6, "second_only": 0, "p_value": pytest.approx(2 / 2**6)}
    assert compared["sam_vs_sgd"]["mcnemar"] == mcnemar
    assert compared["sam_vs_sgd"]["verdict"].startswith("SAM − SGD at equal epochs: +2.00 points")
    assert compared["sam_vs_sgd"]["mean"] == pytest.approx(0.02)
    assert compared["sam_vs_sgd_2x"]["mean"] == pytest.approx(0.005)


def test_tags_are_of_the_comparison_that_decides() -> None:
    said = as_tags(example(seeds=[3, 5]))
    assert (said[SUBJECT], said[OUTCOME]) == (
        "classifier on mnist, 40 % sparse, 2 seeds",
        "undecided",
    )
    assert DIFFERENCE not in said  # SAM took 400 gradients, SGD 200, and SGD (2×) 300
    for same, points in (("sgd_2x", "+0.50"), ("sgd", "+2.00")):  # two gradients a step, or one
        costs = {arm: cost(arm) for arm in ARMS}
        costs["sam"]["gradient_evaluations"] = costs[same]["gradient_evaluations"]
        said = as_tags(example(costs=costs))
        assert said[DIFFERENCE].startswith(f"{points} points [")


@pytest.mark.parametrize(
    ("sparsity", "said"), [(0.5, "50"), (0.99949, "99.95"), (0.9999, "99.99"), (0.98, "98")]
)
def test_a_network_is_called_as_sparse_as_it_is(sparsity: float, said: str) -> None:
    costs = {arm: cost(arm) | {"sparsity": sparsity} for arm in ARMS}
    assert f", {said} % sparse," in as_tags(example(costs=costs))[SUBJECT]


def test_the_headline_is_flat() -> None:
    assert headline(example()) == pytest.approx(
        {
            "test_accuracy.dense": 0.965,
            "test_accuracy.pruned": 0.5,
            "test_accuracy.sgd": 0.955,
            "test_accuracy.sgd_2x": 0.97,
            "test_accuracy.sam": 0.975,
            "sam_vs_sgd": 0.02,
            "sam_vs_sgd_2x": 0.005,
        }
    )


def test_an_arm_that_is_missing_is_no_summary() -> None:
    with pytest.raises(KeyError, match="sgd_2x"):
        example(costs={arm: cost(arm) for arm in ARMS if arm != "sgd_2x"})


def test_another_base_is_called_by_its_name() -> None:
    assert example()["base_optimizer"] == "SGD"
    summary = example(base="AdamW")
    assert summary["base_optimizer"] == "AdamW"
    for name, words in (("sam_vs_sgd", "epochs"), ("sam_vs_sgd_2x", "2× epochs")):
        assert f"SAM − AdamW at {words}" in summary["comparisons"][name]["verdict"].replace(
            "equal ", ""
        )
    words = {name: base_in_words(name) for name in ("sgd", "adamw", "lab.optimizers:lion")}
    assert words == {"sgd": "SGD", "adamw": "AdamW", "lab.optimizers:lion": "lion"}


@pytest.mark.parametrize(
    ("given", "called", "says"),
    [(None, "trained", False), (1, "one given", True), (2, "given, one a seed", False)],
)
def test_it_says_where_the_dense_networks_are_from(
    given: int | None, called: str, says: bool
) -> None:
    summary = example(given=given)
    assert summary["dense_networks"] == called
    for compared in summary["comparisons"].values():
        assert ("All seeds began with one given network" in compared["verdict"]) == says
