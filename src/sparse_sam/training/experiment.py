"""The experiment, one seed at a time: pure functions that the stages and sweeps call.

Every function takes what the step before it made and returns a checkpoint and a history. All
arms of a seed start from the same pruned weights and see the same batches.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.optim import Optimizer

from sparse_sam.data import DataInfo, TrainingData, seeded
from sparse_sam.errors import CheckpointError, MaskError
from sparse_sam.networks import (
    BATCHNORM_BATCH,
    ImageShape,
    Network,
    build_model,
    reestimate_batchnorm,
)
from sparse_sam.pruning import (
    Evidence,
    Masks,
    PruneParams,
    Pruner,
    attach,
    check_dense,
    load_plain,
)
from sparse_sam.training.arms import DENSE, PRUNED, SGD_2X_ARM, arm_optimizer
from sparse_sam.training.checkpoint import Checkpoint
from sparse_sam.training.distillation import Teacher
from sparse_sam.training.epoch import steps_per_epoch
from sparse_sam.training.loop import Epoch, train
from sparse_sam.training.origin import Origin
from sparse_sam.training.params import DenseParams, FinetuneParams, TrainingParams
from sparse_sam.training.registry import OPTIMIZERS
from sparse_sam.training.resume import ResumePoint
from sparse_sam.training.scheduled_pruning import ScheduledPruning

OnEpoch = Callable[[Epoch], None]


@dataclass(frozen=True)
class Trained:
    """A trained network and how it got there."""

    checkpoint: Checkpoint
    history: list[Epoch]


def train_dense(
    data: TrainingData,
    network: str | Network,
    recipe: DenseParams,
    seed: int,
    on_epoch: OnEpoch,
    resume: ResumePoint | None = None,
) -> Trained:
    """Initialise and train a dense network, with the base optimizer or a variant of SAM."""
    model = _initialised(network, data.info.image_shape, data.info.num_classes, seed)
    model.to(data.train.labels.device)
    optimizer = OPTIMIZERS.load(recipe.optimizer)(model, recipe, recipe.sam)
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
    return Trained(Checkpoint.of(model, origin_of(network, data.info, DENSE, seed)), history)


def prune(dense: Checkpoint, params: PruneParams, data: TrainingData | None = None) -> Checkpoint:
    """Prune a dense network as far as the schedule asks before finetuning.

    With ``rewind: initial`` the masks are those of the trained weights, and what they keep goes
    back to the initialisation of the seed: a lottery ticket (Frankle and Carbin 2019,
    arXiv:1803.03635).

    Args:
        dense: the trained network.
        params: what is pruned, how far and when.
        data: needed by criterion ``saliency`` and by ``reestimate_batchnorm``.

    Raises:
        MaskError: as ``Pruner.masks``, or the network is pruned already.
    """
    model = dense.build()
    check_dense(model)
    origin = dense.origin
    evidence = Evidence(origin.seed, data.train if data else None, origin.image_shape)
    attach(model, _first_masks(model, params, evidence))
    if params.schedule.rewinds_to == "initial":
        untrained = _initialised(origin.model, origin.image_shape, origin.num_classes, origin.seed)
        load_plain(model, untrained.state_dict())
    if params.reestimate_batchnorm:
        if data is None:
            raise MaskError("reestimate_batchnorm needs training data, and none is given")
        reestimate_batchnorm(model, data.train.batches(BATCHNORM_BATCH))
    return Checkpoint.of(model, replace(dense.origin, arm=PRUNED))


def _first_masks(model: nn.Module, params: PruneParams, evidence: Evidence) -> Masks:
    pruner = Pruner.of(params)
    if params.takes_zeros:
        return pruner.masks_of_zeros(model, evidence)
    asked = params.asked_at(0.0)
    return pruner.masks(model, asked.sparsity, evidence, asked.overrides)


def check_names(network: str | Network, info: DataInfo, params: PruneParams) -> None:
    """Raise MaskError if a pattern of names that pruning is told matches nothing of a network."""
    if params.ignore or params.overrides:
        model = _initialised(network, info.image_shape, info.num_classes, 0)
        evidence = Evidence(image_shape=info.image_shape)
        Pruner.of(params).check_names(model, evidence, params.overrides)


def arm_recipe(recipe: TrainingParams, arm: str) -> TrainingParams:
    """The shared recipe as one arm uses it: ``sgd_2x`` takes twice the epochs."""
    if arm == SGD_2X_ARM:
        return recipe.model_copy(update={"epochs": 2 * recipe.epochs})
    return recipe


def finetune(
    pruned: Checkpoint,
    data: TrainingData,
    params: FinetuneParams,
    arm: str,
    on_epoch: OnEpoch,
    resume: ResumePoint | None = None,
    pruning: PruneParams | None = None,
    teacher: Checkpoint | None = None,
) -> Trained:
    """Finetune a pruned network as one arm does.

    ``sgd`` and ``sam`` train for the same number of epochs; ``sgd_2x`` trains for twice as many,
    which is as many gradient evaluations as SAM needs. With ``pruning`` the masks shrink on the
    way, as its schedule says, at the same shares of every arm's training; without, they stay.
    ``teacher`` is the dense network, which a recipe with distillation needs.

    Raises:
        MaskError: a tensor would lose all its weights, or the final sparsity was not met exactly;
            beside what ``training.train`` raises.
        CheckpointError: there is to be a teacher, and none is given.
    """
    recipe = arm_recipe(params.training, arm)
    model = pruned.build().to(data.train.labels.device)
    optimizer = OPTIMIZERS.load(arm_optimizer(arm))(model, recipe, params.sam)
    steps = recipe.epochs * steps_per_epoch(len(data.train), recipe.batch_size)
    scheduled = None
    if pruning and not pruning.takes_zeros:
        scheduled = _scheduled(pruned, data, pruning, model, optimizer, steps)
    history = train(
        model,
        optimizer,
        data,
        recipe,
        seed=pruned.origin.seed,
        purpose="finetune",
        on_epoch=on_epoch,
        before_step=scheduled.before_step if scheduled else lambda _: None,
        restarts=scheduled.rewinds if scheduled else (),
        teacher=_teacher(params, teacher, data.train.labels.device),
        resume=resume,
    )
    if scheduled:
        scheduled.check_met()
    return Trained(Checkpoint.of(model, replace(pruned.origin, arm=arm)), history)


def _teacher(
    params: FinetuneParams, dense: Checkpoint | None, device: torch.device
) -> Teacher | None:
    asked = params.distillation
    if not asked.weight:
        return None
    if dense is None:
        raise CheckpointError("finetune.distillation needs the dense network, and none is given")
    network = dense.build().to(device)
    return Teacher(network, asked.weight, asked.temperature, params.training.precision)


def _scheduled(
    pruned: Checkpoint,
    data: TrainingData,
    params: PruneParams,
    model: nn.Module,
    optimizer: Optimizer,
    steps: int,
) -> ScheduledPruning:
    # Where finetuning began, be it the dense network or its initialisation: masks only shrink.
    rewind_to = pruned.state if params.schedule.rewinds_to != "none" else None
    origin = pruned.origin
    evidence = Evidence(origin.seed, data.train, origin.image_shape)
    return ScheduledPruning(params, evidence, model, optimizer, steps, rewind_to)


def _initialised(
    network: str | Network, image_shape: ImageShape, num_classes: int, seed: int
) -> nn.Module:
    with seeded(seed, "initialisation"):
        return build_model(network, image_shape, num_classes)


def initial_checkpoint(data: TrainingData, network: str | Network, seed: int) -> Checkpoint:
    """The untrained network from which ``train_dense`` starts for ``seed``."""
    model = _initialised(network, data.info.image_shape, data.info.num_classes, seed)
    return Checkpoint.of(model, origin_of(network, data.info, DENSE, seed))


def origin_of(network: str | Network, info: DataInfo, arm: str, seed: int) -> Origin:
    """What a checkpoint of a model that this data set trains belongs to."""
    return Origin(
        model=Network.of(network),
        image_shape=info.image_shape,
        classes=info.classes,
        mean=info.mean,
        std=info.std,
        dataset=info.fingerprint,
        arm=arm,
        seed=seed,
    )
