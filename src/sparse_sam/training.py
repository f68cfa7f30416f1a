"""One training loop for every arm, and evaluation.

The loop is the same for SGD and SAM: an optimizer is given a closure and calls it as often as its
step needs gradients, and what is counted is those calls. So nothing but the optimizer differs
between the arms, and ``gradient_evaluations`` cannot be wrong.
"""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from sparse_sam.config import TrainingParams
from sparse_sam.dataset import Split, TrainingData
from sparse_sam.errors import DivergenceError
from sparse_sam.masks import check_pruned_weights_are_zero
from sparse_sam.optimizers import check_holds, make_schedule
from sparse_sam.resume import ResumePoint
from sparse_sam.seeding import batch_order, derive_seed

_EVALUATION_BATCH = 250


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
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    with torch.no_grad():
        logits = torch.cat(
            [model(images) for images in torch.split(split.images, _EVALUATION_BATCH)]
        )
    for module, mode in modes:
        module.training = mode
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
    resume: ResumePoint | None = None,
) -> list[Epoch]:
    """Train ``model`` in place for ``recipe.epochs``.

    Args:
        model: the network, dense or with masks attached, on the device of ``data``.
        optimizer: a fresh optimizer over the parameters of ``model``.
        data: training and validation part; a test part is not part of this type.
        recipe: epochs, batch size, schedule and label smoothing. The optimizer was made from
            the same recipe and holds the rest.
        seed: gives the batch order, together with ``purpose`` and the epoch.
        purpose: calls with the same seed and purpose see the same batches.
        on_epoch: told of every row of the history as soon as it is there.
        before_step: called with the number of the step that comes next, from 0 and without a
            break from epoch to epoch. It may shrink the masks. What it does must depend on the
            number, the model and the seed only, so that a resumed training does the same.
        resume: where every epoch is saved, and an earlier run of the same training is gone on
            with, to the same bits as if it had never stopped.

    Returns:
        The history, ``recipe.epochs + 1`` rows.

    Raises:
        StaleOptimizerError: the optimizer does not hold exactly the model's parameters.
        DivergenceError: a loss or a weight became infinite or NaN.
        MaskError: a pruned weight was not 0 after an epoch.
    """
    check_holds(optimizer, model)
    device = data.train.labels.device
    steps = steps_per_epoch(len(data.train), recipe.batch_size)
    schedule = make_schedule(optimizer, recipe, recipe.epochs * steps)
    history = _resumed(resume, model, optimizer, schedule)
    seconds = history[-1].seconds if history else 0.0
    evaluations = history[-1].gradient_evaluations if history else 0
    for row in history:
        on_epoch(row)

    def record(epoch: int, learning_rate: float | None, train_loss: float | None) -> None:
        validation = evaluate(model, data.validation) if data.validation else None
        if validation and not math.isfinite(validation.loss):
            raise _divergence(f"the validation loss after epoch {epoch}", optimizer, recipe)
        row = Epoch(
            epoch=epoch,
            gradient_evaluations=evaluations,
            seconds=round(seconds, 4),
            learning_rate=learning_rate,
            train_loss=train_loss,
            validation_loss=validation.loss if validation else None,
            validation_accuracy=validation.accuracy if validation else None,
        )
        history.append(row)
        if resume:
            resume.save(_progress(model, optimizer, schedule, history))
        on_epoch(row)

    if not history:
        record(0, None, None)
    with torch.random.fork_rng():
        for epoch in range(len(history), recipe.epochs + 1):
            # Layers that draw random numbers (dropout) draw the same in every arm of a seed.
            torch.manual_seed(derive_seed(seed, purpose, "layers", epoch))
            order = batch_order(len(data.train), seed, purpose, epoch).to(device)
            model.train()
            started = time.perf_counter()
            done = _run_epoch(
                model, optimizer, schedule, data.train, recipe, order, epoch, before_step
            )
            evaluations += done.gradient_evaluations
            seconds += time.perf_counter() - started
            for name, tensor in model.state_dict().items():
                if not tensor.isfinite().all():
                    where = f"{name} in epoch {epoch}, step {steps},"
                    raise _divergence(where, optimizer, recipe)
            check_pruned_weights_are_zero(model)
            record(epoch, done.learning_rate, done.train_loss)
    return history


@dataclass(frozen=True)
class _Done:
    """What an epoch of training came to; the last step's learning rate."""

    train_loss: float
    learning_rate: float
    gradient_evaluations: int


def _run_epoch(
    model: nn.Module,
    optimizer: Optimizer,
    schedule: LRScheduler,
    part: Split,
    recipe: TrainingParams,
    order: Tensor,
    epoch: int,
    before_step: Callable[[int], None],
) -> _Done:
    """One pass over ``part`` in ``order``. Raises DivergenceError, naming the step."""
    losses: list[Tensor] = []
    sizes: list[int] = []
    evaluations, learning_rate = 0, 0.0
    batches = _batches(order, recipe.batch_size)
    for step, batch in enumerate(batches, start=(epoch - 1) * len(batches)):
        before_step(step)
        gradient = _Gradient(model, optimizer, part.images[batch], part.labels[batch], recipe)
        optimizer.step(gradient)  # type: ignore[arg-type]
        learning_rate = float(optimizer.param_groups[0]["lr"])
        schedule.step()
        evaluations += gradient.calls
        losses.append(gradient.first_loss)
        sizes.append(len(batch))
    train_loss, bad_step = _mean_loss(losses, sizes)
    if bad_step is not None:
        raise _divergence(f"the loss in epoch {epoch}, step {bad_step},", optimizer, recipe)
    return _Done(train_loss, learning_rate, evaluations)


def _progress(
    model: nn.Module, optimizer: Optimizer, schedule: LRScheduler, history: list[Epoch]
) -> dict[str, Any]:
    """All that the next epoch depends on: every random number is derived from the epoch's."""
    return {
        "model": dict(model.state_dict()),
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "history": [asdict(row) for row in history],
    }


def _resumed(
    resume: ResumePoint | None, model: nn.Module, optimizer: Optimizer, schedule: LRScheduler
) -> list[Epoch]:
    """Put everything where an earlier run left it, and return its history; [] without one."""
    progress = resume.load() if resume else None
    if progress is None:
        return []
    model.load_state_dict(progress["model"])
    optimizer.load_state_dict(progress["optimizer"])
    schedule.load_state_dict(progress["schedule"])
    return [Epoch(**row) for row in progress["history"]]


class _Gradient:
    """The closure of one step: the gradient of one batch, and how often it was asked for."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        images: Tensor,
        labels: Tensor,
        recipe: TrainingParams,
    ) -> None:
        self.model, self.optimizer, self.recipe = model, optimizer, recipe
        self.images, self.labels = images, labels
        self.calls = 0
        self.first_loss: Tensor

    def __call__(self) -> Tensor:
        self.optimizer.zero_grad()
        logits = self.model(self.images)
        loss = cross_entropy(logits, self.labels, label_smoothing=self.recipe.label_smoothing)
        loss.backward()  # type: ignore[no-untyped-call]
        if not self.calls:
            self.first_loss = loss.detach()
        self.calls += 1
        return loss


def steps_per_epoch(images: int, batch_size: int) -> int:
    """How many steps an epoch of so many images has."""
    return len(_batches(torch.arange(images), batch_size))


def _batches(order: Tensor, batch_size: int) -> list[Tensor]:
    """Split an epoch's order into batches; a last one that is not half full is left out.

    A gradient and batch statistics of a few images are mostly noise, and as a step they count as
    much as any other. SAM suffers most: it climbs that gradient first.
    """
    batches = list(torch.split(order, batch_size))
    short = len(batches) > 1 and len(batches[-1]) < max(2, batch_size / 2)
    return batches[:-1] if short else batches


def _mean_loss(losses: list[Tensor], sizes: list[int]) -> tuple[float, int | None]:
    """The mean over an epoch's images, and the first step, from 1, whose loss is not finite.

    The losses are read once an epoch, so that a GPU never waits for it.
    """
    values = torch.stack(losses).double().cpu()
    bad_steps = values.isfinite().logical_not().nonzero()
    weights = torch.tensor(sizes, dtype=torch.double)
    mean = float((values * weights).sum() / weights.sum())
    return mean, int(bad_steps[0]) + 1 if len(bad_steps) else None


def _divergence(what: str, optimizer: Optimizer, recipe: TrainingParams) -> DivergenceError:
    rho = optimizer.param_groups[0].get("rho")
    used = f"lr {recipe.lr:g}" + ("" if rho is None else f" and rho {rho:g}")
    cure = "Lower lr" + ("" if rho is None else " or rho")
    return DivergenceError(f"{what} became infinite or NaN, with {used}. {cure} in params.yaml.")
