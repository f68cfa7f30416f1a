"""Run the study on one data set: ``python -m studies.notebook.run mnist-sample``.

Every fault alone and together, for every seed, from one dense network a seed. With ``--folder``
the digits of ``mnist-10`` are read from four idx files instead of downloaded.
"""

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from tqdm import tqdm

from sparse_sam.data import DataParams, TestData, TrainingData, read_data
from sparse_sam.errors import SparseSamError
from sparse_sam.files import write_json
from sparse_sam.pruning import plain_state, prunable_parameters
from sparse_sam.sam import SAMParams
from sparse_sam.tracking import open_store, repository_root
from sparse_sam.training import (
    PRUNED,
    SAM_ARM,
    SGD_2X_ARM,
    SGD_ARM,
    Checkpoint,
    Dense,
    DenseParams,
    DistillationParams,
    FinetuneParams,
    TrainingParams,
    evaluate,
    run_jobs,
    select_device,
    train_once,
)
from studies.notebook.faults import VARIANTS, Faults, Finetuned, finetune_with, prune

HERE = Path(__file__).parent
ARMS = (SGD_ARM, SGD_2X_ARM, SAM_ARM)
MODEL = "classifier"
NOT_DISTILLED = DistillationParams(weight=0.0, temperature=1.0)


def results(dataset: str) -> Path:
    """Where a data set's results go."""
    return HERE / "results" / f"{dataset}.json"


def recipes(params: dict[str, Any]) -> tuple[DenseParams, FinetuneParams]:
    """The recipes of the dense network and of every arm."""
    sam = SAMParams(variant="sam", rho=params["rho"])
    dense = DenseParams(**params["train_dense"], optimizer="sgd", sam=sam)
    training = TrainingParams(**params["finetune"])
    return dense, FinetuneParams(training=training, distillation=NOT_DISTILLED, sam=sam)


def run_seed(
    params: dict[str, Any],
    training: TrainingData,
    test: TestData,
    seed: int,
    done: Callable[[int], None],
    model: str = MODEL,
) -> list[dict[str, Any]]:
    """One row for every sparsity and variant; ``done`` is told of every finetuning."""
    recipe, finetuning = recipes(params)
    task = Dense(training.info.fingerprint, model, recipe, seed)
    dense = train_once(task, training, open_store(repository_root())).checkpoint
    dense_accuracy = evaluate(dense.build(), test.test).accuracy
    rows = []
    for sparsity in params["sparsities"]:
        # What two variants share is computed once.
        known: dict[tuple[Faults, str], Finetuned] = {}
        for name, faults in VARIANTS.items():
            pruned = prune(dense, sparsity, faults)
            row: dict[str, Any] = {
                "seed": seed,
                "sparsity": sparsity,
                "variant": name,
                "dense": dense_accuracy,
                PRUNED: evaluate(pruned.build(), test.test).accuracy,
            }
            for arm in ARMS:
                key = (_that_matter(faults, arm), arm)
                if key not in known:
                    known[key] = finetune_with(faults, dense, pruned, training, finetuning, arm)
                row[arm] = describe(known[key], pruned, test)
                done(1)
            rows.append(row)
    return rows


def _that_matter(faults: Faults, arm: str) -> Faults:
    """The SAM arm's optimizer is never stale."""
    return Faults(False, faults.no_mask, faults.batchnorm_pruned) if arm == SAM_ARM else faults


def describe(finetuned: Finetuned, pruned: Checkpoint, test: TestData) -> dict[str, Any]:
    """Test accuracy, validation by epoch, what is left of sparsity, and whether weights moved."""
    state = plain_state(finetuned.model)
    weights = list(prunable_parameters(pruned_network(pruned)))
    zeros = sum(int((state[name] == 0).sum()) for name in weights)
    moved = any(not state[name].equal(pruned.state[name]) for name in weights)
    return {
        "test_accuracy": evaluate(finetuned.model, test.test).accuracy,
        "validation_accuracy": finetuned.validation,
        "sparsity": zeros / sum(state[name].numel() for name in weights),
        "weights_moved": moved,
    }


def pruned_network(pruned: Checkpoint) -> Any:
    """The network without masks, to ask which of its parameters are weights."""
    return Checkpoint(pruned.origin, pruned.state, None).build()


def main() -> int:
    """Run, with a progress bar, and write the results."""
    params = YAML(typ="safe", pure=True).load(HERE / "params.yaml")
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("dataset", choices=params["datasets"])
    parser.add_argument("--folder", help="four idx files to read instead of downloading")
    arguments = parser.parse_args()
    chosen = params["datasets"][arguments.dataset]
    if arguments.folder:
        chosen |= {"source": "idx", "folder": arguments.folder}
    try:
        training, test = read_data(DataParams(**chosen))
        select_device("cpu")
        total = len(params["seeds"]) * len(params["sparsities"]) * len(VARIANTS) * len(ARMS)
        with tqdm(total=total, desc=arguments.dataset, unit="run", disable=None) as progress:
            rows = run_jobs(
                partial(run_seed, params, training, test),
                params["seeds"],
                on_report=lambda _, count: progress.update(count),
            )
    except SparseSamError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    write_json(
        results(arguments.dataset),
        {
            "dataset": arguments.dataset,
            "images": {part: sum(counts) for part, counts in training.info.counts.items()},
            "fingerprint": training.info.fingerprint,
            "seeds": params["seeds"],
            "rows": [row for seed in params["seeds"] for row in rows[seed]],
        },
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
