"""The notebook's faults, each to be switched on alone.

They live here and nowhere else. Where the library refuses them, this module goes around it, and
says why what it does is wrong.
"""

from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from sparse_sam.data import TrainingData, batch_order
from sparse_sam.networks import build_model
from sparse_sam.pruning import attach, magnitude_masks
from sparse_sam.training import (
    PRUNED,
    SAM_ARM,
    Checkpoint,
    Epoch,
    FinetuneParams,
    TrainingParams,
    arm_recipe,
    evaluate,
    finetune,
    make_sam,
    make_sgd,
    train,
)


@dataclass(frozen=True)
class Faults:
    """Which of the notebook's faults are switched on.

    Attributes:
        stale_optimizer: SGD finetunes with the optimizer that trained the dense network.
        no_mask: pruned weights are set to 0 once, and then trained like all others.
        batchnorm_pruned: BatchNorm's scales are pruned like weights.
    """

    stale_optimizer: bool = False
    no_mask: bool = False
    batchnorm_pruned: bool = False


VARIANTS = {
    "corrected": Faults(),
    "stale optimizer": Faults(stale_optimizer=True),
    "no mask": Faults(no_mask=True),
    "BatchNorm pruned": Faults(batchnorm_pruned=True),
    "all together": Faults(stale_optimizer=True, no_mask=True, batchnorm_pruned=True),
    "all but stale optimizer": Faults(no_mask=True, batchnorm_pruned=True),
    "all but no mask": Faults(stale_optimizer=True, batchnorm_pruned=True),
    "all but BatchNorm pruned": Faults(stale_optimizer=True, no_mask=True),
}


@dataclass(frozen=True)
class Finetuned:
    """A finetuned network, and its validation accuracy after every epoch, from epoch 0."""

    model: nn.Module
    validation: list[float]


def prune(dense: Checkpoint, sparsity: float, faults: Faults) -> Checkpoint:
    """One-shot magnitude pruning, tensor by tensor, as the notebook does it."""
    model = dense.build()
    # FAULT batchnorm_pruned: a scale of 0 silences its whole channel, whatever its weights. The
    # library does this only when prune.batchnorm asks for it.
    attach(model, magnitude_masks(model, sparsity, batchnorm=faults.batchnorm_pruned))
    return Checkpoint.of(model, replace(dense.origin, arm=PRUNED))


def finetune_with(
    faults: Faults,
    dense: Checkpoint,
    pruned: Checkpoint,
    data: TrainingData,
    params: FinetuneParams,
    arm: str,
) -> Finetuned:
    """Finetune as one arm does, with the faults that are switched on."""
    recipe = arm_recipe(params.training, arm)
    if faults.stale_optimizer and arm != SAM_ARM:
        return _stale(pruned, dense, data, recipe, masked=not faults.no_mask)
    if faults.no_mask:
        return _unmasked(pruned, data, params, recipe, arm)
    trained = finetune(pruned, data, params, arm, lambda _: None)
    return Finetuned(trained.checkpoint.build(), _validation(trained.history))


def _unmasked(
    pruned: Checkpoint, data: TrainingData, params: FinetuneParams, recipe: TrainingParams, arm: str
) -> Finetuned:
    # FAULT no_mask: the zeros are only initial values. Nothing keeps them, their gradients are
    # not 0, and SAM's ε lies on them too. To the library this is an ordinary dense network.
    model = _without_masks(pruned)
    optimizer = make_sam(model, recipe, params.sam) if arm == SAM_ARM else make_sgd(model, recipe)
    seed = pruned.origin.seed
    history = train(model, optimizer, data, recipe, seed=seed, purpose="finetune")
    return Finetuned(model, _validation(history))


def _stale(
    pruned: Checkpoint,
    dense: Checkpoint,
    data: TrainingData,
    recipe: TrainingParams,
    *,
    masked: bool,
) -> Finetuned:
    model = pruned.build() if masked else _without_masks(pruned)
    # FAULT stale_optimizer: it holds the dense network's parameters, and steps them with gradients
    # that they do not have. `train` raises StaleOptimizerError here, so this loop is our own.
    optimizer = make_sgd(dense.build(), recipe)
    history = [_accuracy(model, data)]
    for epoch in range(1, recipe.epochs + 1):
        model.train()
        order = batch_order(len(data.train), pruned.origin.seed, "finetune", epoch)
        for batch in torch.split(order, recipe.batch_size):
            optimizer.zero_grad()
            # In training mode the forward pass updates BatchNorm's running statistics: the only
            # thing in this network that still moves.
            loss = cross_entropy(model(data.train.taken(batch)), data.train.labels[batch])
            loss.backward()
            optimizer.step()
        history.append(_accuracy(model, data))
    return Finetuned(model, history)


def _without_masks(pruned: Checkpoint) -> nn.Module:
    origin = pruned.origin
    model = build_model(origin.model, origin.image_shape, origin.num_classes)
    model.load_state_dict(pruned.state)
    return model


def _accuracy(model: nn.Module, data: TrainingData) -> float:
    if data.validation is None:
        raise ValueError("the study looks at the validation part after every epoch")
    return evaluate(model, data.validation).accuracy


def _validation(history: list[Epoch]) -> list[float]:
    return [row.validation_accuracy for row in history if row.validation_accuracy is not None]
