"""Run the study for one network: ``python -m studies.lenet.run choose lenet-300-100``.

``choose`` tries every arm's recipes on images held out of training, with a seed of its own.
``measure`` then runs the best on all training images, for the seeds that are reported, and tests
once, after the last epoch. With ``--folder`` the digits are read from four idx files.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from tqdm import tqdm

from sparse_sam.data import DataParams, Split, TestData, TrainingData, read_data
from sparse_sam.errors import SparseSamError
from sparse_sam.files import Store, read_json, write_json
from sparse_sam.pruning import PruneParams
from sparse_sam.sam import SAMParams
from sparse_sam.tracking import open_store, repository_root
from sparse_sam.training import (
    DENSE,
    SAM_ARM,
    SGD_2X_ARM,
    Checkpoint,
    Dense,
    DenseParams,
    DistillationParams,
    FinetuneParams,
    Finetuning,
    TrainingParams,
    checkpoint_hash,
    evaluate,
    load_checkpoint,
    prune,
    run_jobs,
    save_checkpoint,
    select_device,
    train_once,
)

HERE = Path(__file__).parent
ARMS = (SGD_2X_ARM, SAM_ARM)
TRAINING_IMAGES = 60_000  # of MNIST
NOT_DISTILLED = DistillationParams(weight=0.0, temperature=1.0)

Values = dict[str, Any]
Told = Callable[[int], None]


@dataclass(frozen=True)
class Recipe:
    """A candidate of an arm, hashable: what it changes of the shared recipe."""

    arm: str
    changes: tuple[tuple[str, float], ...]
    rho: float | None


def results(step: str, network: str) -> Path:
    """Where the results of ``choose`` or ``measure`` go."""
    return HERE / "results" / f"{step}-{network}.json"


def load_data(params: Values, validation_images: int) -> tuple[TrainingData, TestData]:
    """All of MNIST; so many training images are held out."""
    share = validation_images / TRAINING_IMAGES
    return read_data(DataParams(**params, validation_fraction=share))


def candidates(params: Values, network: str) -> list[Recipe]:
    """What each arm may choose from."""
    changes = [tuple(one.items()) for one in params["networks"][network]["candidates"]]
    by_sgd = [Recipe(SGD_2X_ARM, one, None) for one in changes]
    return by_sgd + [Recipe(SAM_ARM, one, rho) for one, rho in product(changes, params["rhos"])]


def train_all_dense(
    params: Values, network: str, data: TrainingData, seeds: Sequence[int], folder: Path
) -> dict[int, Path]:
    """A dense network for every seed, as a file."""
    sam = SAMParams(variant="sam", rho=0.05)
    recipe = DenseParams(**_recipe(params, network), optimizer="sgd", sam=sam)
    paths = {seed: folder / f"dense-{seed}.safetensors" for seed in seeds}
    work = partial(_train_dense, data, network, recipe, paths)
    run_jobs(work, list(seeds), on_report=lambda *_: None)
    return paths


def _train_dense(
    data: TrainingData,
    network: str,
    recipe: DenseParams,
    paths: Mapping[int, Path],
    seed: int,
    _: Told,
) -> None:
    task = Dense(data.info.fingerprint, network, recipe, seed)
    save_checkpoint(paths[seed], train_once(task, data, _store()).checkpoint)


def _store() -> Store:
    """Where trainings are kept: a study that was stopped goes on from there."""
    return open_store(repository_root())


def finetuned(
    params: Values,
    network: str,
    dense: Checkpoint,
    data: TrainingData,
    recipe: Recipe,
    compression: float,
) -> tuple[Checkpoint, float | None]:
    """The network after its last epoch, and its validation accuracy."""
    changed = {**_recipe(params, network), **dict(recipe.changes)}
    changed["epochs"] = params["networks"][network]["epochs"]
    sam = SAMParams(variant="sam", rho=recipe.rho or 0.0)
    finetuning = FinetuneParams(
        training=TrainingParams(**changed), distillation=NOT_DISTILLED, sam=sam
    )
    pruning = PruneParams.model_validate({**params["prune"], "sparsity": 1 - 1 / compression})
    start = prune(dense, pruning, data)
    origin = start.origin
    task = Finetuning(checkpoint_hash(start), network, pruning, recipe.arm, finetuning, origin.seed)
    done = train_once(task, data, _store(), start=start)
    return done.checkpoint, done.history[-1].validation_accuracy


def choose(params: Values, network: str, data: TrainingData, progress: Told) -> list[Values]:
    """Every candidate's validation error at one compression, in percent."""
    compression = params["networks"][network]["choosing_compression"]
    seed = params["choosing_seed"]
    with tempfile.TemporaryDirectory() as folder:
        path = train_all_dense(params, network, data, [seed], Path(folder))[seed]
        dense = _read(path, network, seed, data)
        work = partial(_validation_error, params, network, dense, data, compression)
        # SGD's takes as long as SAM's: half the gradients a step, twice the steps.
        errors = run_jobs(
            work, candidates(params, network), on_report=lambda _, count: progress(count)
        )
    return [
        {"arm": one.arm, **dict(one.changes), "rho": one.rho, "validation_error": errors[one]}
        for one in candidates(params, network)
    ]


def _validation_error(
    params: Values,
    network: str,
    dense: Checkpoint,
    data: TrainingData,
    compression: float,
    recipe: Recipe,
    report: Told,
) -> float:
    """In percent."""
    _, accuracy = finetuned(params, network, dense, data, recipe, compression)
    report(1)
    return 100 * (1 - (accuracy or 0.0))


def best(tried: Sequence[Values], arm: str) -> Recipe:
    """The candidate of an arm with the lowest validation error; the first of equals."""
    own = [one for one in tried if one["arm"] == arm]
    chosen = min(own, key=lambda one: float(one["validation_error"]))
    names = [name for name in chosen if name not in {"arm", "rho", "validation_error"}]
    return Recipe(arm, tuple((name, chosen[name]) for name in names), chosen["rho"])


def measure(
    params: Values,
    network: str,
    data: TrainingData,
    test: Split,
    chosen: Sequence[Recipe],
    progress: Told,
) -> list[Values]:
    """The chosen recipes for every compression and seed: test error after the last epoch."""
    seeds, compressions = params["seeds"], params["networks"][network]["compressions"]
    with tempfile.TemporaryDirectory() as folder:
        paths = train_all_dense(params, network, data, seeds, Path(folder))
        dense = {seed: _read(path, network, seed, data) for seed, path in paths.items()}
        dense_error = {seed: _error(one, test) for seed, one in dense.items()}
    jobs = list(product(chosen, compressions, seeds))
    work = partial(_measured, params, network, data, test, dense, dense_error)
    rows = run_jobs(work, jobs, on_report=lambda _, count: progress(count))
    return [rows[job] for job in jobs]


def _measured(
    params: Values,
    network: str,
    data: TrainingData,
    test: Split,
    dense: Mapping[int, Checkpoint],
    dense_error: Mapping[int, float],
    job: tuple[Recipe, float, int],
    report: Told,
) -> Values:
    """A row of the results."""
    recipe, compression, seed = job
    checkpoint, _ = finetuned(params, network, dense[seed], data, recipe, compression)
    if checkpoint.masks is None:
        raise SparseSamError("a finetuned network has no masks")
    report(1)
    return {
        "arm": recipe.arm,
        "compression": compression,
        "seed": seed,
        "kept": checkpoint.masks.kept,
        "weights": checkpoint.masks.total,
        "error": _error(checkpoint, test),
        "dense_error": dense_error[seed],
    }


def _recipe(params: Values, network: str) -> Values:
    return {**params["recipe"], "precision": params["networks"][network]["precision"]}


def _read(path: Path, network: str, seed: int, data: TrainingData) -> Checkpoint:
    return load_checkpoint(
        path,
        arm=DENSE,
        seed=seed,
        dataset=data.info.fingerprint,
        stage="train_dense",
        model=network,
    )


def _error(checkpoint: Checkpoint, test: Split) -> float:
    """In percent."""
    return 100 * (1 - evaluate(checkpoint.build(), test).accuracy)


def run_choose(params: Values, network: str) -> Values:
    """What was tried, and how each did."""
    data, _ = load_data(params["data"], params["validation_images"])
    with tqdm(total=len(candidates(params, network)), desc="choosing", disable=None) as progress:
        tried = choose(params, network, data, progress.update)
    return {
        "compression": params["networks"][network]["choosing_compression"],
        "seed": params["choosing_seed"],
        "tried": tried,
    }


def run_measure(params: Values, network: str) -> Values:
    """The test errors of what was chosen."""
    cure = f"Run `python -m studies.lenet.run choose {network}`."
    tried = read_json(results("choose", network), cure=cure)["tried"]
    chosen = [best(tried, arm) for arm in ARMS]
    data, test = load_data(params["data"], 0)
    cells = len(params["seeds"]) * len(params["networks"][network]["compressions"]) * len(chosen)
    with tqdm(total=cells, desc="measuring", disable=None) as progress:
        rows = measure(params, network, data, test.test, chosen, progress.update)
    counts = {part: sum(each) for part, each in data.info.counts.items()}
    return {"fingerprint": data.info.fingerprint, "images": counts, "rows": rows}


def main() -> int:
    """Choose or measure, and write the results."""
    params = YAML(typ="safe", pure=True).load(HERE / "params.yaml")
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("step", choices=["choose", "measure"])
    parser.add_argument("network", choices=params["networks"])
    parser.add_argument("--folder", help="four idx files to read instead of downloading")
    arguments = parser.parse_args()
    if arguments.folder:
        params["data"] |= {"source": "idx", "folder": arguments.folder}
    step = run_choose if arguments.step == "choose" else run_measure
    try:
        select_device("cpu")
        found = step(params, arguments.network)
    except SparseSamError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    write_json(results(arguments.step, arguments.network), {"network": arguments.network, **found})
    return 0


if __name__ == "__main__":
    sys.exit(main())
