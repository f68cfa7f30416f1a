"""One training loop for every arm, and evaluation."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from sparse_sam.data import Split, TrainingData
from sparse_sam.errors import ConfigError
from sparse_sam.networks import in_evaluation_mode
from sparse_sam.pruning import Sparsifier, attached_masks, check_pruned_weights_are_zero
from sparse_sam.terminal import beat
from sparse_sam.training.distillation import Teacher
from sparse_sam.training.epoch import (
    Batches,
    EpochProgress,
    divergence,
    mean_loss,
    run_steps,
    steps_per_epoch,
    training_loss,
)
from sparse_sam.training.optimizers import check_holds
from sparse_sam.training.params import TrainingParams
from sparse_sam.training.registry import LEARNING_RATES
from sparse_sam.training.resume import ResumePoint
from sparse_sam.training.untrained import UntrainedTensors
from sparse_sam.training.warm_up import warmed_up

EVALUATION_BATCH = 250
"""How many images are evaluated at once."""


@dataclass(frozen=True)
class Evaluation:
    """How a model does on a part of the data.

    Attributes:
        loss: mean cross-entropy in nats.
        accuracy: share of right answers, in [0, 1].
        predictions: the predicted class of every image, int64, shape (N,).
    """

    loss: float
    accuracy: float
    predictions: Tensor


@dataclass(frozen=True)
class Epoch:
    """One row of a training history. Epoch 0 is the model before its first step.

    Attributes:
        epoch: how many epochs have been trained.
        gradient_evaluations: how many mini-batch gradients were computed so far.
        seconds: time spent in training steps so far, without evaluation.
        learning_rate: that of the epoch's last step; None at epoch 0.
        train_loss: mean loss at the weights that the steps started from; None at epoch 0.
        validation_loss: mean cross-entropy; None without a validation part.
        validation_accuracy: in [0, 1]; None without a validation part.
    """

    epoch: int
    gradient_evaluations: int
    seconds: float
    learning_rate: float | None
    train_loss: float | None
    validation_loss: float | None
    validation_accuracy: float | None


def evaluate(model: nn.Module, split: Split) -> Evaluation:
    """Loss, accuracy and predictions of ``model`` on ``split``, which is on the same device."""
    with in_evaluation_mode(model), torch.no_grad():
        parts = []
        for images in split.batches(EVALUATION_BATCH):
            parts.append(model(images))
            beat()
        logits = torch.cat(parts)
    predictions = logits.argmax(dim=1)
    return Evaluation(
        loss=float(cross_entropy(logits, split.labels)),
        accuracy=float((predictions == split.labels).double().mean()),
        predictions=predictions.cpu(),
    )


def train(
    model: nn.Module,
    optimizer: Optimizer,
    data: TrainingData,
    recipe: TrainingParams,
    *,
    seed: int,
    purpose: str,
    on_epoch: Callable[[Epoch], None] = lambda _: None,
    before_step: Callable[[int], None] = lambda _: None,
    sparsifier: Sparsifier | None = None,
    teacher: Teacher | None = None,
    resume: ResumePoint | None = None,
) -> list[Epoch]:
    """Train ``model`` in place for ``recipe.epochs``.

    Args:
        model: the network, dense or with masks attached, on the device of ``data``.
        optimizer: a fresh optimizer over the parameters of ``model``.
        data: training and validation part; a test part is not part of this type.
        recipe: epochs, batch size, schedule and label smoothing. The optimizer was made from
            the same recipe and holds the rest.
        seed: gives the batch order, together with ``purpose`` and the epoch, and what layers draw
            (dropout), together with the step, too.
        purpose: calls with the same seed and purpose see the same batches, and draw the same.
        on_epoch: told of every row of the history as soon as it is there.
        before_step: called with the number of the step that comes next, from 0 over all epochs.
        sparsifier: holds the zeros of ``model``, for which it is prepared with ``optimizer``, and
            shrinks its masks between two steps, an epoch's end being evaluated before. Where it
            rewinds, the schedule of the learning rate begins anew.
        teacher: a network whose outputs are learned from, beside the labels.
        resume: where every epoch is saved, and steps on the way if it says so; an earlier run of
            the same training is gone on with, to the same bits as if it had never stopped.

    Returns:
        The history, ``recipe.epochs + 1`` rows.

    Raises:
        StaleOptimizerError: the optimizer does not hold exactly the model's parameters.
        ConfigError: the recipe's warm-up does not fit between two restarts.
        DivergenceError: a loss or a weight became infinite or NaN.
        MaskError: a pruned weight was not 0 after an epoch.
        FrozenWeightError: an epoch did not train a parameter that requires a gradient.
        DeadWeightError: nor could it have, since units died; a kind of DivergenceError, too.
    """
    check_holds(optimizer, model)
    device = data.train.labels.device
    steps = steps_per_epoch(len(data.train), recipe.batch_size)
    schedule = _made_schedule(optimizer, recipe, steps, sparsifier)
    made_so = _not_finite(model)  # such as the −inf of an attention mask
    history, begun = _resumed(resume, model, optimizer, schedule, sparsifier)
    for row in history:
        on_epoch(row)

    def save(progress: EpochProgress | None = None) -> None:
        if resume:
            resume.save(_snapshot(model, optimizer, schedule, sparsifier, history, progress))

    def record(epoch: int, progress: EpochProgress, train_loss: float | None) -> None:
        validation = evaluate(model, data.validation) if data.validation else None
        if validation and not math.isfinite(validation.loss):
            raise divergence(f"the validation loss after epoch {epoch}", optimizer, recipe)
        before = history[-1] if history else None
        evaluations = before.gradient_evaluations if before else 0
        row = Epoch(
            epoch=epoch,
            gradient_evaluations=evaluations + progress.gradient_evaluations,
            seconds=round((before.seconds if before else 0.0) + progress.seconds, 4),
            learning_rate=progress.learning_rate if epoch else None,
            train_loss=train_loss,
            validation_loss=validation.loss if validation else None,
            validation_accuracy=validation.accuracy if validation else None,
        )
        history.append(row)
        save()
        on_epoch(row)

    if not history:
        record(0, EpochProgress(), None)
    with torch.random.fork_rng():
        for epoch in range(len(history), recipe.epochs + 1):
            progress = EpochProgress.from_tree(begun, device) if begun else EpochProgress()
            begun = None
            batches = Batches(data, recipe, seed, purpose, epoch)
            untrained = UntrainedTensors(model, optimizer, progress.watched)
            model.train()
            run_steps(
                model,
                optimizer,
                schedule,
                batches,
                recipe,
                progress,
                teacher=teacher,
                untrained=untrained,
                before_step=partial(_before_step, before_step, sparsifier, (epoch - 1) * steps),
                save_every=resume.every_steps if resume else None,
                save=partial(save, progress),
            )
            train_loss, bad_step = mean_loss(progress.losses, batches.sizes)
            if bad_step is not None:
                raise divergence(f"the loss in epoch {epoch}, step {bad_step},", optimizer, recipe)
            if infinite := _not_finite(model) - made_so:
                name = min(infinite)
                raise divergence(f"{name} in epoch {epoch}, step {steps},", optimizer, recipe)
            _check_zeros(model, sparsifier)
            untrained.check(epoch, partial(_first_loss, model, batches, recipe, teacher))
            record(epoch, progress, train_loss)
    return history


def _made_schedule(
    optimizer: Optimizer,
    recipe: TrainingParams,
    steps_an_epoch: int,
    sparsifier: Sparsifier | None,
) -> LRScheduler:
    restarts = sparsifier.rewinds if sparsifier else []
    make, steps = LEARNING_RATES.load(recipe.schedule), recipe.epochs * steps_an_epoch
    if warmup := round(recipe.warmup_epochs * steps_an_epoch):
        return warmed_up(make, optimizer, steps, restarts, warmup)
    made: Any = make(optimizer, steps, restarts)
    if not isinstance(made, LRScheduler):
        raise ConfigError(
            f"schedule = {recipe.schedule!r}: must return a scheduler of torch, not "
            f"{type(made).__name__}"
        )
    return made


def _not_finite(model: nn.Module) -> set[str]:
    plain = {one.keys[0]: one.name for one in attached_masks(model, every_name=True)}
    state = model.state_dict().items()
    return {plain.get(key, key) for key, tensor in state if not tensor.isfinite().all()}


def _check_zeros(model: nn.Module, sparsifier: Sparsifier | None) -> None:
    if sparsifier:
        sparsifier.hold()
    check_pruned_weights_are_zero(model)


def _first_loss(
    model: nn.Module, batches: Batches, recipe: TrainingParams, teacher: Teacher | None
) -> Tensor:
    images, labels = batches[0]
    return training_loss(model, images, labels, recipe, teacher(images) if teacher else None)


def _before_step(
    before_step: Callable[[int], None], sparsifier: Sparsifier | None, earlier: int, step: int
) -> bool:
    """What happens before a step, from 0 in its epoch; whether weights were put back."""
    put_back = sparsifier is not None and earlier + step > 0 and sparsifier.step()
    before_step(earlier + step)
    return put_back


def _snapshot(
    model: nn.Module,
    optimizer: Optimizer,
    schedule: LRScheduler,
    sparsifier: Sparsifier | None,
    history: list[Epoch],
    progress: EpochProgress | None,
) -> dict[str, Any]:
    """All that the next step depends on; in every step random numbers are derived anew."""
    return {
        "model": dict(model.state_dict()),
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "sparsifier": sparsifier.state_dict() if sparsifier else None,
        "history": [asdict(row) for row in history],
        "epoch": progress.to_tree() if progress else None,
    }


@torch.no_grad()
def _lay_out(optimizer: Optimizer) -> None:
    """Let what an optimizer remembers lie in memory as its weights do, which no file says.

    A sum over it has another order otherwise, and other bits.
    """
    for weight, state in optimizer.state.items():
        for key, value in state.items():
            if isinstance(value, Tensor) and value.dim() and value.shape == weight.shape:
                state[key] = torch.empty_like(weight, dtype=value.dtype).copy_(value)


def _resumed(
    resume: ResumePoint | None,
    model: nn.Module,
    optimizer: Optimizer,
    schedule: LRScheduler,
    sparsifier: Sparsifier | None,
) -> tuple[list[Epoch], dict[str, Any] | None]:
    """Put everything where an earlier run left it; its history, and the epoch it was in."""
    saved = resume.load() if resume else None
    if saved is None:
        return [], None
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    _lay_out(optimizer)
    schedule.load_state_dict(saved["schedule"])
    if sparsifier:
        sparsifier.load_state_dict(saved["sparsifier"])
    return [Epoch(**row) for row in saved["history"]], saved["epoch"]
