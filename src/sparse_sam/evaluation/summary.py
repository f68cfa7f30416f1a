"""``metrics/summary.json``: the arms and their paired differences, from the stages' metrics."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparse_sam.evaluation.statistics import adjust, compare_paired, compare_predictions, summarize
from sparse_sam.evaluation.verdict import verdict
from sparse_sam.training import ARMS, SAM_ARM, SGD_2X_ARM, SGD_ARM, Evaluation

COMPARISONS = {"sam_vs_sgd": (SAM_ARM, SGD_ARM), "sam_vs_sgd_2x": (SAM_ARM, SGD_2X_ARM)}
SGD = "SGD"
_BASES = {"sgd": SGD, "adamw": "AdamW"}


def base_in_words(base_optimizer: str) -> str:
    """What a recipe's base optimizer is called: that of one's own by its attribute."""
    return _BASES.get(base_optimizer, base_optimizer.rpartition(":")[2])


def compare_arms(
    tested: Mapping[tuple[str, int], Evaluation],
    labels: NDArray[np.int64],
    *,
    dataset: str,
    model: str,
    seeds: Sequence[int],
    costs: Mapping[str, Mapping[str, Any]],
    margin: float,
    base: str = SGD,
    given: int | None = None,
) -> tuple[dict[str, Any], dict[str, Any], dict[str, NDArray[np.int64]]]:
    """What the tests of every arm and seed say.

    Args:
        tested: by arm and seed.
        labels: of the test images, (N,).
        dataset: the name of the data source.
        model: the network's name.
        seeds: of every arm.
        costs: by arm, as for ``summarize_experiment``.
        margin: likewise.
        base: likewise.
        given: likewise.

    Returns:
        ``metrics/evaluate.json``, ``metrics/summary.json``, and predictions by arm, (seeds, N).
    """
    metrics, predictions = {}, {}
    for arm in ARMS:
        of = [tested[arm, seed] for seed in seeds]
        metrics[arm] = {
            "test_accuracy": summarize([one.accuracy for one in of]),
            "test_loss": summarize([one.loss for one in of]),
        }
        predictions[arm] = np.stack([one.predictions.numpy() for one in of])
    summary = summarize_experiment(
        dataset=dataset,
        model=model,
        seeds=list(seeds),
        accuracy={arm: metrics[arm]["test_accuracy"] for arm in ARMS},
        correct={arm: predictions[arm] == labels for arm in ARMS},
        costs=costs,
        margin=margin,
        base=base,
        given=given,
    )
    return metrics, summary, predictions


def summarize_experiment(
    *,
    dataset: str,
    model: str,
    seeds: list[int],
    accuracy: Mapping[str, Mapping[str, Any]],
    correct: Mapping[str, NDArray[np.bool_]],
    costs: Mapping[str, Mapping[str, Any]],
    margin: float,
    base: str = SGD,
    given: int | None = None,
) -> dict[str, Any]:
    """The published summary (its schema: docs/outputs.md).

    Args:
        dataset: the name of the data source.
        model: the network's name.
        seeds: the seeds, in the order of every list of values.
        accuracy: test accuracy by arm, as ``summarize`` gives it.
        correct: by arm, whether it is right on an image: boolean, (seeds, images).
        costs: by arm, ``sparsity``, and ``gradient_evaluations`` and ``seconds`` of one seed.
        margin: the largest difference in accuracy that counts as none.
        base: the base optimizer in words: what the arms ``sgd`` and ``sgd_2x`` train with, and what
            SAM is around.
        given: how many different dense networks were taken over; None if they were trained.
    """
    taken = ("sparsity", "gradient_evaluations", "seconds")
    return {
        "dataset": dataset,
        "model": model,
        "base_optimizer": base,
        "seeds": seeds,
        "dense_networks": _dense_networks(given, len(seeds)),
        "arms": {
            arm: {"accuracy": accuracy[arm], **{name: costs[arm][name] for name in taken}}
            for arm in ARMS
        },
        "comparisons": _comparisons(
            len(seeds),
            accuracy,
            correct,
            costs,
            margin,
            base,
            given=given,
        ),
    }


def _dense_networks(given: int | None, seeds: int) -> str:
    """Where the dense networks are from, and so what the seeds stand for."""
    if given is None:
        return "trained"
    if given == seeds > 1:
        return "given, one a seed"
    return "one given" if given == 1 else f"{given} given"


def describe(name: str, costs: Mapping[str, Mapping[str, Any]], base: str = SGD) -> str:
    """A comparison in words. Compute is called equal only where the counted gradients are."""
    if name == "sam_vs_sgd":
        return f"SAM − {base} at equal epochs"
    equal = costs[SAM_ARM]["gradient_evaluations"] == costs[SGD_2X_ARM]["gradient_evaluations"]
    return f"SAM − {base} at equal compute" if equal else f"SAM − {base} at 2x epochs"


def _comparisons(
    seeds: int,
    accuracy: Mapping[str, Mapping[str, Any]],
    correct: Mapping[str, NDArray[np.bool_]],
    costs: Mapping[str, Mapping[str, Any]],
    margin: float,
    base: str,
    *,
    given: int | None,
) -> dict[str, Any]:
    found = {
        name: {
            **compare_paired(
                accuracy[first]["values"],
                accuracy[second]["values"],
                margin,
                images=correct[first].shape[-1],
            ),
            "mcnemar": compare_predictions(correct[first], correct[second]),
        }
        for name, (first, second) in COMPARISONS.items()
    }
    adjusted = adjust({name: compared["p_value"] for name, compared in found.items()})
    for name, compared in found.items():
        compared["holm_p_value"] = adjusted[name]
        compared["verdict"] = verdict(describe(name, costs, base), compared, seeds, given=given)
    return found


def headline(summary: Mapping[str, Any]) -> dict[str, float]:
    """The summary's means as flat metrics, for a table of runs."""
    return {
        **{f"test_accuracy.{arm}": of["accuracy"]["mean"] for arm, of in summary["arms"].items()},
        **{name: compared["mean"] for name, compared in summary["comparisons"].items()},
    }
