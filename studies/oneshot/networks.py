"""The study's networks: dense, pruned, finetuned; each is made once and kept in the store."""

import hashlib
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ruamel.yaml import YAML

from sparse_sam.data import DataParams, TestData, TrainingData, read_data
from sparse_sam.files import Store, chosen_places
from sparse_sam.pruning import PruneParams
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
    Environment,
    FinetuneParams,
    Finetuning,
    TrainingParams,
    checkpoint_hash,
    code_hash,
    load_checkpoint,
    prune,
    save_checkpoint,
    train_once,
)

HERE = Path(__file__).parent
ARMS = (SGD_ARM, SGD_2X_ARM, SAM_ARM)
TRAINING_IMAGES = 60_000  # of MNIST
NOT_DISTILLED = DistillationParams(weight=0.0, temperature=1.0)

Values = dict[str, Any]


@dataclass(frozen=True)
class Recipe:
    """A candidate of an arm for networks that were pruned by one criterion."""

    criterion: str
    arm: str
    lr: float
    rho: float | None


def load_params() -> Values:
    """What the study declares."""
    found: Values = YAML(typ="safe", pure=True).load(HERE / "params.yaml")
    return found


def results(step: str) -> Path:
    """Where the results of ``choose`` or ``measure`` go."""
    return HERE / "results" / f"{step}.json"


def load_data(params: Values, validation_images: int) -> tuple[TrainingData, TestData]:
    """All of MNIST; so many training images are held out."""
    share = validation_images / TRAINING_IMAGES
    return read_data(DataParams(**params, validation_fraction=share))


def dense_network(params: Values, data: TrainingData, seed: int) -> Checkpoint:
    """The dense network of a seed."""
    recipe = DenseParams(**params["dense"], optimizer="sgd", sam=SAMParams(variant="sam", rho=0.05))
    task = Dense(data.info.fingerprint, params["network"], recipe, seed)
    return train_once(task, data, _store()).checkpoint


def damped(
    dense: Checkpoint, data: TrainingData, damping: float, compute: Callable[[], list[float]]
) -> list[float]:
    """What is computed of ``obs`` with a damping: from the store, or done and kept there."""
    key = _key(checkpoint_hash(dense), data.info.fingerprint, damping, "sparse_sam.pruning.obs")
    known = _store().about("damped", key)
    if known is None:
        known = {"accuracies": compute()}
        _store().keep("damped", key, known)
    found: list[float] = known["accuracies"]
    return found


def pruned_network(
    params: Values, dense: Checkpoint, data: TrainingData, criterion: str, sparsity: float
) -> Checkpoint:
    """A dense network, pruned: from the store, or done and kept there."""
    how = _pruning(params, criterion, sparsity)
    places = "sparse_sam.training.experiment", *chosen_places(how)
    key = _key(checkpoint_hash(dense), how.model_dump_json(), 0.0, *places)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pruned.safetensors"
        if _store().take("pruned", key, {"network": path}) is None:
            save_checkpoint(path, prune(dense, how, data))
            _store().keep("pruned", key, {"criterion": criterion}, {"network": path})
        return load_checkpoint(
            path,
            arm=PRUNED,
            seed=dense.origin.seed,
            dataset=data.info.fingerprint,
            stage="prune",
            model=params["network"],
        )


def _key(dense: str, content: str, number: float, *places: str) -> str:
    """Of what is computed from a dense network by the code at some places, on this processor."""
    environment = str(Environment.here(torch.device("cpu"), 1))
    made_by = [dense, content, number, code_hash(places), environment]
    return hashlib.sha256(json.dumps(made_by).encode()).hexdigest()


def finetuned(
    params: Values, start: Checkpoint, data: TrainingData, recipe: Recipe, sparsity: float
) -> tuple[Checkpoint, float | None]:
    """A pruned network after its last epoch, and its validation accuracy."""
    training = TrainingParams(**params["finetune"]["training"], lr=recipe.lr)
    sam = SAMParams(variant="sam", rho=recipe.rho or 0.0)
    how = FinetuneParams(training=training, distillation=NOT_DISTILLED, sam=sam)
    task = Finetuning(
        checkpoint_hash(start),
        params["network"],
        _pruning(params, recipe.criterion, sparsity),
        recipe.arm,
        how,
        start.origin.seed,
    )
    done = train_once(task, data, _store(), start=start)
    return done.checkpoint, done.history[-1].validation_accuracy


def _pruning(params: Values, criterion: str, sparsity: float) -> PruneParams:
    named = params["criteria"][criterion]
    return PruneParams.model_validate({**params["prune"], "criterion": named, "sparsity": sparsity})


def _store() -> Store:
    return open_store(repository_root())


def best(tried: Sequence[Values], criterion: str, arm: str) -> Recipe:
    """The candidate with the highest validation accuracy; the first of equals."""
    own = [one for one in tried if (one["criterion"], one["arm"]) == (criterion, arm)]
    chosen = max(own, key=lambda one: float(one["accuracy"]))
    return Recipe(criterion, arm, chosen["lr"], chosen["rho"])
