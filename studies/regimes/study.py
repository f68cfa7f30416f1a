"""The study's results: its tables, their paired differences, and what chose ρ."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparse_sam.evaluation import ALPHA, adjust, compare_paired
from sparse_sam.sweep import Sweep, load_sweep

HERE = Path(__file__).parent
NAMES = {
    "sgd": "SGD",
    "sgd_2x": "SGD (2× epochs)",
    "sam": "SAM",
    "asam": "ASAM",
    "momentum": "momentum SAM",
}
"""The arms, as the declarations name them, in words."""
TITLES = {
    "lenet-300-100": "LeNet-300-100 on MNIST",
    "classifier": "classifier on mnist-sample",
}
DENSE, SPARSITY = "train_dense.optimizer", "prune.sparsity"
LR, RHO = "finetune.training.lr", "finetune.sam.rho"
COMPARED = {
    ("sam", "sgd"): "SAM − SGD at equal epochs",
    ("asam", "sgd"): "ASAM − SGD at equal epochs",
    ("sam", "sgd_2x"): "SAM − SGD at equal compute",
    ("asam", "sgd_2x"): "ASAM − SGD at equal compute",
    ("momentum", "sgd"): "momentum SAM − SGD at equal epochs and compute",
}
OF_DENSE = "dense training with SAM − with SGD, finetuned with SGD alike"

Row = Mapping[str, str]
Place = tuple[str, str, float, str]
"""A comparison's network, dense training, sparsity, and what is compared."""


@dataclass(frozen=True)
class Study:
    """One network's sweep: its declaration and its table."""

    network: str
    sweep: Sweep
    rows: Sequence[Row]

    @property
    def dense(self) -> list[str]:
        """How dense networks were trained, in the declaration's order."""
        return _labels(self.sweep, DENSE)

    @property
    def sparsities(self) -> list[float]:
        """In the declaration's order."""
        return [float(one) for one in _labels(self.sweep, SPARSITY)]

    def values(self, dense: str, sparsity: float, arm: str, column: str) -> NDArray[np.float64]:
        """A column of the reported cells, by seed."""
        found = {
            int(row["seed"]): float(row[column])
            for row in self.rows
            if row["purpose"] == "report"
            and (row[DENSE], float(row[SPARSITY]), row["arm"]) == (dense, sparsity, arm)
        }
        return np.array([found[seed] for seed in self.sweep.seeds.reporting])


def _labels(sweep: Sweep, axis: str) -> list[str]:
    (found,) = (one for one in sweep.axes if one.name == axis)
    return [str(point.label) for point in found.points]


def load() -> list[Study]:
    """The networks that were measured, in the order of the titles."""
    return [
        Study(name, load_sweep(HERE / f"{name}.yaml"), _read(results(name)))
        for name in TITLES
        if results(name).is_file()
    ]


def results(network: str) -> Path:
    """The network's table."""
    return HERE / "results" / f"{network}.csv"


def _read(path: Path) -> list[Row]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def compare(studies: Sequence[Study]) -> dict[Place, dict[str, Any]]:
    """Every paired difference of the study, corrected together for how many there are (Holm)."""
    found: dict[Place, dict[str, Any]] = {}
    for study in studies:
        margin = study.sweep.equivalence_margin

        def accuracy(dense: str, sparsity: float, arm: str, study: Study = study) -> list[float]:
            return study.values(dense, sparsity, arm, "test_accuracy").tolist()

        for dense, sparsity in product(study.dense, study.sparsities):
            for (first, second), what in COMPARED.items():
                pair = (accuracy(dense, sparsity, one) for one in (first, second))
                found[study.network, dense, sparsity, what] = compare_paired(*pair, margin)
        for sparsity in study.sparsities:
            pair = (accuracy(dense, sparsity, "sgd") for dense in ("sam", "sgd"))
            found[study.network, "sam", sparsity, OF_DENSE] = compare_paired(*pair, margin)
    keys = {"|".join(map(str, place)): place for place in found}
    adjusted = adjust({key: found[place]["p_value"] for key, place in keys.items()})
    for key, place in keys.items():
        found[place]["holm_p_value"] = adjusted[key]
    return found


def shown(compared: Mapping[str, Any]) -> int:
    """1 where a gain is shown after the correction, −1 where a loss is, 0 where neither."""
    if compared["holm_p_value"] >= ALPHA:
        return 0
    return 1 if compared["mean"] > 0 else -1


def by_rho(study: Study, dense: str, sparsity: float, arm: str) -> dict[float, float]:
    """Validation accuracy of the best learning rate, by ρ; SGD's at ρ = 0."""
    best: dict[float, float] = {}
    for row in study.rows:
        place = (row[DENSE], float(row[SPARSITY]), row["arm"])
        if (
            row["purpose"] == "choose"
            and place == (dense, sparsity, arm)
            and row["diverged"] == "0"
        ):
            rho = float(row[RHO] or 0.0)
            best[rho] = max(best.get(rho, 0.0), float(row["validation_accuracy"]))
    return best
