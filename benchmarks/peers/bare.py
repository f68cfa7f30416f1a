"""The pipeline's mathematics in one process, seed after seed: no DVC, no MLflow, no files between.

    python benchmarks/peers/bare.py --evaluation

With ``--evaluation`` also what the stage ``evaluate`` computes beside test accuracies: flatness,
and the statistics of the comparison. The report is no arithmetic and is left out.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sparse_sam.config import Params, load_params
from sparse_sam.data import TestData, TrainingData, read_data
from sparse_sam.training import (
    ARMS,
    DENSE,
    PRUNED,
    SAM_ARM,
    SGD_2X_ARM,
    SGD_ARM,
    Checkpoint,
    evaluate,
    finetune,
    prune,
    select_device,
    train_dense,
)


def silent(_: object) -> None:
    """Nobody is told."""


def train(params: Params, data: TrainingData, seed: int) -> dict[str, Checkpoint]:
    """Train one seed's arms."""
    dense = train_dense(data, params.model.network, params.train_dense, seed, silent)
    found = {DENSE: dense.checkpoint, PRUNED: prune(dense.checkpoint, params.prune)}
    for arm in (SGD_ARM, SGD_2X_ARM, SAM_ARM):
        found[arm] = finetune(found[PRUNED], data, params.finetune, arm, silent).checkpoint
    return found


def measure(found: Mapping[str, Checkpoint], data: TrainingData, *, thorough: bool) -> None:
    """Flatness of every arm, as the stage measures it: thoroughly for the first seed."""
    from sparse_sam.evaluation import FlatnessSettings
    from sparse_sam.evaluation import measure_flatness as flatness

    for arm, checkpoint in found.items():
        surface = arm in {SGD_ARM, SAM_ARM}
        flatness(
            checkpoint.build(), data.train, FlatnessSettings(), thorough=thorough, surface=surface
        )


def compare(seeds: Sequence[int], tested: Mapping[str, list[Any]], test: TestData) -> None:
    """The statistics of the summary."""
    from sparse_sam.evaluation import summarize, summarize_experiment

    summarize_experiment(
        dataset="",
        model="",
        seeds=list(seeds),
        accuracy={arm: summarize([one.accuracy for one in all_]) for arm, all_ in tested.items()},
        correct={
            arm: np.stack([(one.predictions == test.test.labels).numpy() for one in all_])
            for arm, all_ in tested.items()
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
    found = {seed: train(params, data, seed) for seed in params.seeds}
    tested = {
        arm: [evaluate(found[seed][arm].build(), test.test) for seed in params.seeds]
        for arm in ARMS
    }
    if given.evaluation:
        for seed in params.seeds:
            measure(found[seed], data, thorough=seed == params.seeds[0])
        compare(params.seeds, tested, test)
    accuracies = {arm: [one.accuracy for one in all_] for arm, all_ in tested.items()}
    sys.stdout.write(json.dumps(accuracies) + "\n")


if __name__ == "__main__":
    main()
