"""The pipeline's mathematics for one seed in one process: no DVC, no MLflow, no files between.

    python benchmarks/peers/bare.py --evaluation

With ``--evaluation`` also what the stage ``evaluate`` computes beside test accuracies: flatness,
and the statistics of the comparison. The report is no arithmetic and is left out.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from sparse_sam.arms import ARMS, DENSE, PRUNED, SAM, SGD, SGD_2X
from sparse_sam.checkpoint import Checkpoint
from sparse_sam.compute import select_device
from sparse_sam.config import load_params
from sparse_sam.dataset import TestData, TrainingData
from sparse_sam.experiment import finetune, prune, train_dense
from sparse_sam.reading import read_data
from sparse_sam.training import evaluate


def silent(_: object) -> None:
    """Nobody is told."""


def measure(found: dict[str, Checkpoint], data: TrainingData) -> None:
    """Flatness of every arm, as thoroughly as the stage measures it for the first seed."""
    from sparse_sam.flatness.measure import Settings
    from sparse_sam.flatness.measure import measure as flatness

    for arm, checkpoint in found.items():
        flatness(checkpoint.build(), data.train, Settings(), surface=arm in {SGD, SAM})


def compare(tested: dict[str, Any], test: TestData) -> None:
    """The statistics of the summary."""
    from sparse_sam.statistics import summarize
    from sparse_sam.summary import summarize_experiment

    summarize_experiment(
        dataset="",
        model="",
        seeds=[0],
        accuracy={arm: summarize([one.accuracy]) for arm, one in tested.items()},
        correct={
            arm: (one.predictions == test.test.labels).numpy()[None] for arm, one in tested.items()
        },
        costs={arm: {"sparsity": 0.0, "gradient_evaluations": 1, "seconds": 1.0} for arm in tested},
        margin=0.005,
    )


def main() -> None:
    """Train, prune, finetune three times, evaluate, and print what the arms reach."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--evaluation", action="store_true")
    given = parser.parse_args()
    params = load_params(given.params)
    select_device("cpu")
    data, test = read_data(params.data)
    dense = train_dense(data, params.model.name, params.train_dense, params.seeds[0], silent)
    found = {DENSE: dense.checkpoint, PRUNED: prune(dense.checkpoint, params.prune)}
    for arm in (SGD, SGD_2X, SAM):
        found[arm] = finetune(found[PRUNED], data, params.finetune, arm, silent).checkpoint
    tested = {arm: evaluate(found[arm].build(), test.test) for arm in ARMS}
    if given.evaluation:
        measure(found, data)
        compare(tested, test)
    accuracies = {arm: one.accuracy for arm, one in tested.items()}
    sys.stdout.write(json.dumps(accuracies) + "\n")


if __name__ == "__main__":
    main()
