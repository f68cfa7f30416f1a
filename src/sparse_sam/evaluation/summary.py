"""``metrics/summary.json``: the arms and their paired differences, from the stages' metrics."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparse_sam.evaluation.shown_arms import COMPARISONS, SGD
from sparse_sam.evaluation.statistics import adjust, compare_paired, compare_predictions, summarize
from sparse_sam.evaluation.verdict import answer, outcome, verdict
from sparse_sam.evaluation.words import p_in_words, signed
from sparse_sam.files import printable, why_not
from sparse_sam.training import ARMS, SAM_ARM, SGD_2X_ARM, Evaluation

_BASES = {"sgd": SGD, "adamw": "AdamW"}
SUBJECT, ANSWER, OUTCOME = "subject", "answer", "outcome"
DIFFERENCE = "SAM minus SGD at equal compute"
"""What ``as_tags`` calls what it says."""


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
    compared = _comparisons(len(seeds), accuracy, correct, costs, margin, base, given=given)
    decides = primary({"arms": costs})
    return {
        "answer": answer(
            compared[decides], len(seeds), base=base, budget=_budget(decides, costs), given=given
        ),
        "primary": decides,
        "dataset": dataset,
        "model": model,
        "base_optimizer": base,
        "seeds": seeds,
        "dense_networks": _dense_networks(given, len(seeds)),
        "arms": {
            arm: {"accuracy": accuracy[arm], **{name: costs[arm][name] for name in taken}}
            for arm in ARMS
        },
        "comparisons": compared,
    }


def primary(summary: Mapping[str, Any]) -> str:
    """The comparison that decides: the one at equal compute, where there is one.

    SAM takes two gradients a step, so SGD gets twice the epochs. A variant that takes one is
    compared at equal epochs, and so is one between.
    """
    arms = summary["arms"]
    sam, twice = (arms[arm]["gradient_evaluations"] for arm in (SAM_ARM, SGD_2X_ARM))
    return "sam_vs_sgd_2x" if sam == twice else "sam_vs_sgd"


def _dense_networks(given: int | None, seeds: int) -> str:
    """Where the dense networks are from, and so what the seeds stand for."""
    if given is None:
        return "trained"
    if given == seeds > 1:
        return "given, one a seed"
    return "one given" if given == 1 else f"{given} given"


def describe(name: str, costs: Mapping[str, Mapping[str, Any]], base: str = SGD) -> str:
    """A comparison in words. Compute is called equal only where the counted gradients are."""
    return f"SAM − {base} at {_budget(name, costs)}"


def _budget(name: str, costs: Mapping[str, Mapping[str, Any]]) -> str:
    if name == "sam_vs_sgd":
        return "equal epochs"
    equal = costs[SAM_ARM]["gradient_evaluations"] == costs[SGD_2X_ARM]["gradient_evaluations"]
    return "equal compute" if equal else "2× epochs"


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


def in_points(summary: Mapping[str, Any]) -> dict[str, float | None]:
    """The paired differences in percentage points, their intervals' ends, and p after Holm's.

    Flat, and rounded to the hundredth of a point: for a list of runs.
    """
    said: dict[str, float | None] = {}
    for name, compared in summary["comparisons"].items():
        low, high = compared["ci95"] or (None, None)
        for what, share in (("points", compared["mean"]), ("low", low), ("high", high)):
            said[f"{name}.{what}"] = None if share is None else round(100 * share, 2) + 0.0
        p = compared["holm_p_value"]
        said[f"{name}.p"] = None if p is None else float(f"{p:.4g}")
    for arm, of in summary["arms"].items():
        said[f"seconds.{arm}"] = round(of["seconds"], 1)
        said[f"sparsity.{arm}"] = round(of["sparsity"], 6)
    return said


def as_tags(summary: Mapping[str, Any]) -> dict[str, str]:
    """What was compared, what came out, and by how much, in words: for a list of runs.

    By how much only where both take as many gradients.
    """
    seeds = len(summary["seeds"])
    decides = summary["comparisons"][summary["primary"]]
    difference = f"{signed(100 * decides['mean'])} points"
    if decides["ci95"] is not None:
        low, high = (signed(100 * end) for end in decides["ci95"])
        difference += f" [{low}, {high}], corrected p {p_in_words(decides['holm_p_value'])}"
    sparsity = f"{round(100 * summary['arms'][SAM_ARM]['sparsity'], 2):g} % sparse"
    many = f"{seeds} seed{'s' * (seeds != 1)}"
    said = {
        SUBJECT: f"{summary['model']} on {summary['dataset']}, {sparsity}, {many}",
        ANSWER: summary["answer"],
        OUTCOME: outcome(decides, seeds),
    }
    costs = {
        summary["arms"][arm]["gradient_evaluations"] for arm in COMPARISONS[summary["primary"]]
    }
    if len(costs) == 1:
        said[DIFFERENCE] = difference
    return {name: printable(text) for name, text in said.items()}


def sharpness_by_arm(flatness: Mapping[str, Any], rho: float) -> dict[str, float]:
    """By how much the loss rises around each arm's weights, where it was measured at this ρ."""
    found: dict[str, float] = {}
    for arm, of in flatness["arms"].items():
        if why_not(of["sharpness"]) is None:
            found |= {
                f"sharpness.{arm}": float(f"{row['mean']:.4g}")
                for row in of["sharpness"]
                if row["steps"] == 1 and row["rho"] == rho
            }
    return found


def headline(summary: Mapping[str, Any]) -> dict[str, float]:
    """The summary's means as flat metrics, for a table of runs."""
    return {
        **{f"test_accuracy.{arm}": of["accuracy"]["mean"] for arm, of in summary["arms"].items()},
        **{name: compared["mean"] for name, compared in summary["comparisons"].items()},
    }
