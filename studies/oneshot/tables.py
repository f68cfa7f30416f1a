"""What was measured, what is published beside it, and the paired differences."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparse_sam.evaluation import adjust, compare_paired
from sparse_sam.files import read_json
from studies.oneshot.networks import Values, results

NAMES = {"sgd": "SGD", "sgd_2x": "SGD (2× epochs)", "sam": "SAM"}
ROWS = {
    "random": "random",
    "magnitude": "magnitude",
    "saliency": "saliency",
    "obs-single": "obs in a single stage",
    "obs-selection": "obs-selection",
    "obs": "obs",
}
PUBLISHED: dict[str, tuple[float, ...]] = {
    "magnitude": (92.89, 90.30, 83.64, 32.25),
    "WoodFisher (Singh and Alistarh 2020)": (93.57, 91.69, 85.54, 38.26),
    "CBS (Yu et al. 2022)": (93.90, 93.14, 88.92, 55.45),
    "CBS, selection alone": (93.59, 92.37, 88.24, 66.64),
}
"""Test accuracy at 0.8, 0.9, 0.95 and 0.98, as Yu et al. 2022 (arXiv:2203.04466) give them."""
PUBLISHED_DENSE = 93.97
COMPARED = {("sam", "sgd"): "equal epochs", ("sam", "sgd_2x"): "equal compute"}
MARGIN = 0.1
"""The difference in accuracy that counts as none, in points: ten of 10,000 test images."""

Measured = Mapping[str, Any]


def load() -> tuple[Values, Values]:
    """What was tried, and what was measured."""
    cure = "Run `make study-oneshot`."
    return read_json(results("choose"), cure=cure), read_json(results("measure"), cure=cure)


def accuracies(
    measured: Measured, criterion: str, sparsity: float, arm: str
) -> NDArray[np.float64]:
    """Test accuracy by seed, in percent, of an arm, or of ``pruned``."""
    rows = [
        row
        for row in measured["rows"]
        if (row["criterion"], row["sparsity"]) == (criterion, sparsity)
    ]
    return np.array([row[arm] for row in sorted(rows, key=lambda row: row["seed"])])


def comparisons(
    params: Values, measured: Measured
) -> dict[tuple[str, float, str, str], dict[str, Any]]:
    """Between arms, by (criterion, sparsity, arm, arm); p values corrected over all of them."""
    found = {}
    for criterion in params["finetuned"]:
        for at in params["sparsities"]:
            for first, second in COMPARED:
                pair = [
                    accuracies(measured, criterion, at, arm).tolist() for arm in (first, second)
                ]
                found[criterion, at, first, second] = compare_paired(*pair, MARGIN)
    p_values = adjust({str(place): one["p_value"] for place, one in found.items()})
    return {place: {**one, "adjusted": p_values[str(place)]} for place, one in found.items()}
