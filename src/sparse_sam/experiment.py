"""The experiment, one seed at a time: pure functions that the stages and sweeps call.

Every function takes what the step before it made and returns a checkpoint and a history. All
arms of a seed start from the same pruned weights and see the same batches.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from sparse_sam.arms import DENSE, PRUNED, SAM, SGD_2X
from sparse_sam.checkpoint import Checkpoint, Origin
from sparse_sam.config import DenseParams, FinetuneParams, PruneParams, TrainingParams
from sparse_sam.dataset import DataInfo, TrainingData
from sparse_sam.masks import attach
from sparse_sam.models import build_model
from sparse_sam.optimizers import make_sam, make_sgd
from sparse_sam.pruning import magnitude_masks
from sparse_sam.resume import ResumePoint
from sparse_sam.seeding import seeded
from sparse_sam.training import Epoch, train

OnEpoch = Callable[[Epoch], None]


@dataclass(frozen=True)
class Trained:
    """A trained network and how it got there."""

    checkpoint: Checkpoint
    history: list[Epoch]


def train_dense(
    data: TrainingData,
    model_name: str,
    recipe: DenseParams,
    seed: int,
    on_epoch: OnEpoch,
    resume: ResumePoint | None = None,
) -> Trained:
    """Initialise and train a dense network, with SGD or a variant of SAM."""
    with seeded(seed, "initialisation"):
        model = build_model(model_name, data.info.image_shape, data.info.num_classes)
    model.to(data.train.labels.device)
    sam = recipe.optimizer == "sam"
    optimizer = make_sam(model, recipe, recipe.sam) if sam else make_sgd(model, recipe)
    history = train(
        model,
        optimizer,
        data,
        recipe,
        seed=seed,
        purpose="train_dense",
        on_epoch=on_epoch,
        resume=resume,
    )
    return Trained(Checkpoint.of(model, _origin(model_name, data.info, DENSE, seed)), history)


def prune(dense: Checkpoint, params: PruneParams) -> Checkpoint:
    """Prune a dense network once, by magnitude."""
    model = dense.build()
    masks = magnitude_masks(
        model,
        params.sparsity,
        params.scope,
        batchnorm=params.batchnorm,
        biases=params.biases,
    )
    attach(model, masks)
    return Checkpoint.of(model, replace(dense.origin, arm=PRUNED))


def arm_recipe(recipe: TrainingParams, arm: str) -> TrainingParams:
    """The shared recipe as one arm uses it: ``sgd_2x`` takes twice the epochs."""
    if arm == SGD_2X:
        return recipe.model_copy(update={"epochs": 2 * recipe.epochs})
    return recipe


def finetune(
    pruned: Checkpoint,
    data: TrainingData,
    params: FinetuneParams,
    arm: str,
    on_epoch: OnEpoch,
    resume: ResumePoint | None = None,
) -> Trained:
    """Finetune a pruned network as one arm does.

    ``sgd`` and ``sam`` train for the same number of epochs; ``sgd_2x`` trains for twice as many,
    which is as many gradient evaluations as SAM needs. Raises what ``training.train`` raises.
    """
    recipe = arm_recipe(params.training, arm)
    model = pruned.build().to(data.train.labels.device)
    optimizer = make_sam(model, recipe, params.sam) if arm == SAM else make_sgd(model, recipe)
    history = train(
        model,
        optimizer,
        data,
        recipe,
        seed=pruned.origin.seed,
        purpose="finetune",
        on_epoch=on_epoch,
        resume=resume,
    )
    return Trained(Checkpoint.of(model, replace(pruned.origin, arm=arm)), history)


def _origin(model_name: str, info: DataInfo, arm: str, seed: int) -> Origin:
    return Origin(
        model=model_name,
        image_shape=info.image_shape,
        num_classes=info.num_classes,
        mean=info.mean,
        std=info.std,
        dataset=info.fingerprint,
        arm=arm,
        seed=seed,
    )
