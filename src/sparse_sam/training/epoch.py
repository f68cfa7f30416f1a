"""One epoch of training: its batches, its steps, and where it stands between two of them.

The steps are the same for SGD and SAM: an optimizer is given a closure and calls it as often as
its step needs gradients, and what is counted is those calls. So nothing but the optimizer differs
between the arms, and ``gradient_evaluations`` cannot be wrong.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from sparse_sam.data import Augmentation, Scale, TrainingData, batch_order, derive_seed
from sparse_sam.errors import DivergenceError
from sparse_sam.terminal import beat
from sparse_sam.training.devices import products_in
from sparse_sam.training.distillation import Taught, Teacher
from sparse_sam.training.params import TrainingParams
from sparse_sam.training.untrained import UntrainedTensor, UntrainedTensors


class Batches:
    """An epoch's batches, as every arm of a seed sees them.

    Args:
        data: what is trained on.
        recipe: batch size, and what becomes of the images.
        seed: gives order and augmentation, together with ``purpose`` and the epoch.
        purpose: what the training is for.
        epoch: from 1.
    """

    def __init__(
        self, data: TrainingData, recipe: TrainingParams, seed: int, purpose: str, epoch: int
    ) -> None:
        self._part = data.train
        order = batch_order(len(data.train), seed, purpose, epoch).to(data.train.labels.device)
        self._places = split_order(order, recipe.batch_size)
        self._drawn_from = (seed, purpose, "layers", epoch)
        self._augmented = Augmentation(
            data.train.images,
            Scale.of(data.info.mean, data.info.std).black,
            shift_pixels=recipe.shift_pixels,
            flip=recipe.flip,
            cutout_pixels=recipe.cutout_pixels,
            seed=seed,
            purpose=(purpose, epoch),
        )

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor]:
        """Images and labels of a step, from 0."""
        places = self._places[step]
        images = self._augmented(self._part.taken(places), places)
        return images, self._part.labels[places]

    def layers_seed(self, step: int) -> int:
        """What layers draw from in every gradient of a step, from 0."""
        return derive_seed(*self._drawn_from, step)

    @property
    def sizes(self) -> list[int]:
        """How many images every batch has."""
        return [len(places) for places in self._places]


@dataclass
class EpochProgress:
    """What the steps of an epoch came to so far.

    Attributes:
        losses: of every step, at the weights that it started from.
        gradient_evaluations: how often the optimizer asked for a gradient.
        learning_rate: that of the last step.
        seconds: time spent in the steps.
        watched: the tensors that the epoch has yet to train, for ``untrained.UntrainedTensors``.
    """

    losses: list[Tensor] = field(default_factory=list)
    gradient_evaluations: int = 0
    learning_rate: float = 0.0
    seconds: float = 0.0
    watched: dict[str, UntrainedTensor] = field(default_factory=dict)

    def to_tree(self) -> dict[str, Any]:
        """What a resume point holds."""
        return {**vars(self)}

    @classmethod
    def from_tree(cls, tree: dict[str, Any], device: torch.device) -> Self:
        """Back from ``to_tree``."""
        return cls(**{**tree, "losses": [loss.to(device) for loss in tree["losses"]]})


def run_steps(
    model: nn.Module,
    optimizer: Optimizer,
    schedule: LRScheduler,
    batches: Batches,
    recipe: TrainingParams,
    progress: EpochProgress,
    *,
    teacher: Teacher | None,
    untrained: UntrainedTensors,
    before_step: Callable[[int], bool],
    save_every: int | None,
    save: Callable[[], None],
) -> None:
    """Do the steps of an epoch that ``progress`` does not have yet, and add them to it.

    Args:
        model: what is trained, in training mode.
        optimizer: over its parameters.
        schedule: of the learning rate; it steps with the optimizer.
        batches: the epoch's.
        recipe: its label smoothing.
        progress: the steps that were done.
        teacher: asked once a step, for all of its gradients.
        untrained: sees to it that every tensor is trained.
        before_step: called with the step's number in the epoch, from 0; True says that it put
            weights back.
        save_every: after how many steps ``save`` is called; None never calls it.
        save: called between two steps.
    """
    started = time.perf_counter()
    for step in range(len(progress.losses), len(batches)):
        put_back = before_step(step)
        if step == 0:
            untrained.begin()
        elif put_back:
            untrained.begin_again()
        images, labels = batches[step]
        loss = partial(
            training_loss, model, images, labels, recipe, teacher(images) if teacher else None
        )
        gradient = _Gradient(optimizer, loss, batches.layers_seed(step), images.device)
        optimizer.step(untrained.beside(gradient))  # type: ignore[arg-type]
        untrained.after_step()
        progress.learning_rate = float(optimizer.param_groups[0]["lr"])
        schedule.step()
        progress.gradient_evaluations += gradient.calls
        progress.losses.append(gradient.first_loss)
        beat()
        if save_every and (step + 1) % save_every == 0 and step + 1 < len(batches):
            progress.seconds += time.perf_counter() - started
            save()
            started = time.perf_counter()
    progress.seconds += time.perf_counter() - started


class _Gradient:
    """The closure of one step: the gradient of one batch, and how often it was asked for."""

    def __init__(
        self,
        optimizer: Optimizer,
        loss: Callable[[], Tensor],
        layers_seed: int,
        device: torch.device,
    ) -> None:
        self.optimizer, self.loss = optimizer, loss
        self.layers_seed, self.device = layers_seed, device
        self.calls = 0
        self.first_loss: Tensor

    def __call__(self) -> Tensor:
        self.optimizer.zero_grad()
        seed_layers(self.layers_seed, self.device)
        loss = self.loss()
        loss.backward()  # type: ignore[no-untyped-call]
        if not self.calls:
            self.first_loss = loss.detach()
        self.calls += 1
        return loss


def training_loss(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    recipe: TrainingParams,
    taught: Taught | None = None,
) -> Tensor:
    """The mean loss of a batch, in float32, as ``recipe`` smooths labels and rounds products.

    ``taught`` is what a teacher says of these images, if there is one.
    """
    with products_in(recipe.precision, images.device):
        logits = model(images).float()
    loss = cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
    return taught.mixed_with(loss, logits) if taught else loss


def seed_layers(seed: int, device: torch.device) -> None:
    """Let layers that draw random numbers (dropout) draw what ``seed`` gives them, on ``device``.

    Done before every gradient, both passes of SAM and the arms of a seed see the same masks in a
    step. The two generators alone: ``torch.manual_seed`` takes eighty times as long.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index].manual_seed(seed)


def steps_per_epoch(images: int, batch_size: int) -> int:
    """How many steps an epoch of so many images has."""
    return len(split_order(torch.arange(images), batch_size))


def split_order(order: Tensor, batch_size: int) -> list[Tensor]:
    """Split an epoch's order into batches; a last one that is not half full is left out.

    A gradient and batch statistics of a few images are mostly noise, and as a step they count as
    much as any other. SAM suffers most: it climbs that gradient first.
    """
    batches = list(torch.split(order, batch_size))
    short = len(batches) > 1 and len(batches[-1]) < max(2, batch_size / 2)
    return batches[:-1] if short else batches


def mean_loss(losses: list[Tensor], sizes: list[int]) -> tuple[float, int | None]:
    """The mean over an epoch's images, and the first step, from 1, whose loss is not finite.

    The losses are read once an epoch, so that a GPU never waits for it.
    """
    values = torch.stack(losses).double().cpu()
    bad_steps = values.isfinite().logical_not().nonzero()
    weights = torch.tensor(sizes, dtype=torch.double)
    mean = float((values * weights).sum() / weights.sum())
    return mean, int(bad_steps[0]) + 1 if len(bad_steps) else None


def divergence(what: str, optimizer: Optimizer, recipe: TrainingParams) -> DivergenceError:
    """The error that says what became infinite or NaN, with which settings."""
    rho = optimizer.param_groups[0].get("rho")
    used = f"lr {recipe.lr:g}" + ("" if rho is None else f" and rho {rho:g}")
    cure = "Lower lr" + ("" if rho is None else " or rho")
    return DivergenceError(f"{what} became infinite or NaN, with {used}. {cure} in params.yaml.")
