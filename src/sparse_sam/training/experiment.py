"""The experiment, one seed at a time: pure functions that the stages and sweeps call.

Every function takes what the step before it made and returns a checkpoint and a history. All
arms of a seed start from the same pruned weights and see the same batches.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import nn

from sparse_sam.data import DataInfo, TrainingData, seeded
from sparse_sam.errors import CheckpointError, MaskError
from sparse_sam.networks import (
    BATCHNORM_BATCH,
    ImageShape,
    Network,
    build_model,
    reestimate_batchnorm,
)
from sparse_sam.pruning import Evidence, Masks, PruneParams, Pruner, Sparsifier, check_dense
from sparse_sam.training.arms import DENSE, PRUNED, SGD_2X_ARM, arm_optimizer
from sparse_sam.training.checkpoint import Checkpoint
from sparse_sam.training.distillation import Teacher
from sparse_sam.training.epoch import steps_per_epoch
from sparse_sam.training.loop import Epoch, train
from sparse_sam.training.origin import Origin
from sparse_sam.training.params import DenseParams, FinetuneParams, TrainingParams
from sparse_sam.training.registry import OPTIMIZERS
from sparse_sam.training.resume import ResumePoint

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
        data: needed by criteria that look at gradients and by ``reestimate_batchnorm``.

    Raises:
        MaskError: as ``Pruner.masks``, or the network is pruned already.
    """
    model = dense.build()
    check_dense(model)
    origin = dense.origin
    evidence = Evidence(origin.seed, data.train if data else None, origin.image_shape)
    initial = None
    if params.schedule.rewinds_to == "initial":
        untrained = _initialised(origin.model, origin.image_shape, origin.num_classes, origin.seed)
        initial = untrained.state_dict()
    _sparsifier(model, params, evidence).prepare(rewind_to=initial)
    if params.reestimate_batchnorm:
        if data is None:
            raise MaskError("reestimate_batchnorm = True needs training data: pass data")
        reestimate_batchnorm(model, data.train.batches(BATCHNORM_BATCH))
    return Checkpoint.of(model, replace(dense.origin, arm=PRUNED))


def _sparsifier(model: nn.Module, params: PruneParams, evidence: Evidence) -> Sparsifier:
    return Sparsifier(
        model,
        params.sparsity,
        criterion=params.criterion,
        scope=params.scope,
        structure=params.structure,
        schedule=params.schedule,
        batchnorm=params.batchnorm,
        biases=params.biases,
        ignore=params.ignore,
        overrides=params.overrides,
        evidence=evidence,
    )


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
        MaskError: the network is not pruned as ``pruning`` asks before finetuning, a tensor would
            lose all its weights, or the final sparsity was not met exactly; beside what
            ``training.train`` raises.
        CheckpointError: there is to be a teacher, and none is given.
    """
    recipe = arm_recipe(params.training, arm)
    model = pruned.build().to(data.train.labels.device)
    optimizer = OPTIMIZERS.load(arm_optimizer(arm))(model, recipe, params.sam)
    steps = recipe.epochs * steps_per_epoch(len(data.train), recipe.batch_size)
    sparsifier = None
    if pruning:
        _check_start(pruned, pruning)
        origin = pruned.origin
        evidence = Evidence(origin.seed, data.train, origin.image_shape)
        sparsifier = _sparsifier(model, pruning, evidence)
        # (Rounds go back to where finetuning began: the dense network, or its initialisation.)
        sparsifier.prepare(optimizer, steps)
    history = train(
        model,
        optimizer,
        data,
        recipe,
        seed=pruned.origin.seed,
        purpose="finetune",
        on_epoch=on_epoch,
        sparsifier=sparsifier,
        teacher=_teacher(params, teacher, data.train.labels.device),
        resume=resume,
    )
    if sparsifier:
        sparsifier.step()  # after the last; the others are between the steps of ``train``
        sparsifier.verify()
    return Trained(Checkpoint.of(model, replace(pruned.origin, arm=arm)), history)


def _check_start(pruned: Checkpoint, params: PruneParams) -> None:
    """Raise MaskError if a network is not pruned as far as is asked for before finetuning."""
    if not params.takes_zeros:
        asked = params.asked_at(0.0)
        masks = pruned.masks or Masks({})
        Pruner.of(params).check_counts(masks, asked.sparsity, asked.overrides)


def _teacher(
    params: FinetuneParams, dense: Checkpoint | None, device: torch.device
) -> Teacher | None:
    asked = params.distillation
    if not asked.weight:
        return None
    if dense is None:
        raise CheckpointError(
            "finetune.distillation needs the dense network as its teacher: pass dense"
        )
    network = dense.build().to(device)
    return Teacher(network, asked.weight, asked.temperature, params.training.precision)


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
