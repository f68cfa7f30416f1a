"""Many small networks trained as one: seeds, arms and radii side by side in every kernel.

A network of 10⁵ weights leaves a GPU idle between its kernels. Here S networks of one kind are
stacked, every tensor with a leading dimension S, and ``torch.func`` maps the forward pass over it:
linear layers become batched products, convolutions grouped ones. What each network computes is
what ``training.train`` computes, in another order of summation.

How the parts map:

- **Gradients.** The networks share nothing, so the gradient of the sum of their losses is each
  one's own. Ordinary autograd over the mapped forward pass gives it in one backward pass, and,
  other than ``torch.func.grad``, lets BatchNorm write its buffers.
- **BatchNorm.** Mapping over the running statistics together with the weights lets
  ``batch_norm`` update them in place, each network's own, ``num_batches_tracked`` too. (Refused
  are only statistics that are not mapped, which is what
  ``torch.func.replace_all_batch_norm_modules_`` is there for; it gives the statistics up.)
- **Masks** stand in the graph, weight · mask, as ``masks.attach`` puts them.
- **SGD** acts on every element by itself, so torch's own steps the stacked weights.
- **SAM** has a norm and a radius for each network. w + ε is another tensor: w is never touched.
  Networks whose radius is 0 take no part in the second pass.

Refused, by ``torch.func`` itself: layers that draw random numbers, since they would draw others
than in the loop, and BatchNorm with ``momentum=None``, whose update asks for a number of the host.
"""

import math
import time
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim import SGD

from sparse_sam.arms import DENSE
from sparse_sam.augmentation import random_shifts, shift
from sparse_sam.checkpoint import Checkpoint
from sparse_sam.config import TrainingParams
from sparse_sam.dataset import TrainingData
from sparse_sam.epochs import split_order, steps_per_epoch
from sparse_sam.experiment import Trained, origin_of
from sparse_sam.models import build_model
from sparse_sam.optimizers import make_schedule
from sparse_sam.seeding import batch_order, seeded
from sparse_sam.stacked import Member, Stack, divergence
from sparse_sam.training import Epoch

__all__ = ["Member", "initial", "train_batched"]


def initial(data: TrainingData, model_name: str, seed: int) -> Checkpoint:
    """The untrained network from which ``experiment.train_dense`` starts for ``seed``."""
    with seeded(seed, "initialisation"):
        model = build_model(model_name, data.info.image_shape, data.info.num_classes)
    return Checkpoint.of(model, origin_of(model_name, data.info, DENSE, seed))


def train_batched(
    members: Sequence[Member], data: TrainingData, recipe: TrainingParams, *, purpose: str
) -> list[Trained]:
    """Train networks of one kind together, on the device of ``data``.

    Every network ends where ``training.train`` with SGD or SAM would have taken it, up to the
    rounding of float32: see docs/performance.md for the tolerance and how it is tested.

    Args:
        members: the networks; any seeds, masks and radii.
        data: training and validation part, the same for all.
        recipe: the same for all. An arm of twice the epochs is a call of its own.
        purpose: as for ``training.train``.

    Returns:
        One result a member, in their order. ``seconds`` is an equal share of the time of all.

    Raises:
        ValueError: there are no members, they are not of one model, or the recipe's precision is
            bfloat16, which BatchNorm under ``torch.func.vmap`` cannot mix with float32.
        DivergenceError: a network's loss or weights became infinite or NaN; the message names it.
        MaskError: a pruned weight was not 0 after an epoch.
    """
    if len({(one.start.origin.model, one.start.origin.image_shape) for one in members}) != 1:
        raise ValueError(
            "networks that are trained together must be of one model, and one at least"
        )
    if recipe.precision != "float32":
        raise ValueError(
            f"precision = {recipe.precision!r}: networks that are trained together take no other "
            "products; allowed: float32"
        )
    # Those that ascend stand first, so that the second pass takes a part without a copy.
    order = sorted(range(len(members)), key=lambda index: members[index].rho == 0)
    stack = Stack([members[index] for index in order], data.train.labels.device)
    trained = _train(stack, data, recipe, purpose)
    return [one for _, one in sorted(zip(order, trained, strict=True), key=lambda pair: pair[0])]


def _train(stack: Stack, data: TrainingData, recipe: TrainingParams, purpose: str) -> list[Trained]:
    members, device = stack.members, data.train.labels.device
    batches = split_order(torch.arange(len(data.train)), recipe.batch_size)
    optimizer = SGD(
        list(stack.weights.values()),
        lr=recipe.lr,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
    )
    schedule = make_schedule(optimizer, recipe, recipe.epochs * len(batches))
    histories: list[list[Epoch]] = [[] for _ in members]
    seconds = 0.0
    _record(stack, data, recipe, histories, 0.0, None, [None] * len(members))
    sizes = torch.tensor([len(batch) for batch in batches], dtype=torch.double)
    for epoch in range(1, recipe.epochs + 1):
        orders = torch.stack(
            [
                batch_order(len(data.train), member.start.origin.seed, purpose, epoch)
                for member in members
            ]
        ).to(device)
        shifts = _shifts(stack, len(data.train), recipe, purpose, epoch)
        started = time.perf_counter()
        losses = []
        learning_rate = 0.0
        for batch in batches:
            chosen = orders[:, batch[0] : batch[-1] + 1]
            images = data.train.images[chosen]
            if shifts is not None:
                each = torch.gather(shifts, 1, chosen[:, :, None].expand(-1, -1, 2))
                background = -data.info.mean / data.info.std
                flat = images.flatten(0, 1)
                moved = shift(flat, each.flatten(0, 1), recipe.shift_pixels, background)
                images = moved.view_as(images)
            losses.append(
                stack.step_gradients(images, data.train.labels[chosen], recipe.label_smoothing)
            )
            optimizer.step()
            learning_rate = float(optimizer.param_groups[0]["lr"])
            schedule.step()
        values = torch.stack(losses).double().cpu()  # here the host waits, once an epoch
        seconds += time.perf_counter() - started
        bad = values.isfinite().logical_not().nonzero()
        if len(bad):
            where = f"the loss in epoch {epoch}, step {int(bad[0, 0]) + 1},"
            raise divergence(where, members[int(bad[0, 1])], recipe)
        stack.check(f"in epoch {epoch}, step {len(batches)},", recipe)
        means = ((values * sizes[:, None]).sum(0) / sizes.sum()).tolist()
        _record(stack, data, recipe, histories, seconds, learning_rate, means)
    return [Trained(stack.checkpoint(i), history) for i, history in enumerate(histories)]


def _shifts(
    stack: Stack, count: int, recipe: TrainingParams, purpose: str, epoch: int
) -> Tensor | None:
    """Every network's own shifts, (S, count, 2); None without any."""
    if not recipe.shift_pixels:
        return None
    seeds = [member.start.origin.seed for member in stack.members]
    each = [random_shifts(count, recipe.shift_pixels, seed, purpose, epoch) for seed in seeds]
    return torch.stack(each).to(next(iter(stack.weights.values())).device)


def _record(
    stack: Stack,
    data: TrainingData,
    recipe: TrainingParams,
    histories: list[list[Epoch]],
    seconds: float,
    learning_rate: float | None,
    train_losses: Sequence[float | None],
) -> None:
    """Add a row to every history."""
    epoch = len(histories[0])
    steps = steps_per_epoch(len(data.train), recipe.batch_size)
    losses, accuracies = stack.evaluate(data.validation) if data.validation else ([], [])
    for index, (member, history) in enumerate(zip(stack.members, histories, strict=True)):
        if losses and not math.isfinite(losses[index]):
            raise divergence(f"the validation loss after epoch {epoch}", member, recipe)
        history.append(
            Epoch(
                epoch=epoch,
                gradient_evaluations=epoch * steps * (2 if member.rho else 1),
                seconds=round(seconds / len(histories), 4),
                learning_rate=learning_rate,
                train_loss=train_losses[index],
                validation_loss=losses[index] if losses else None,
                validation_accuracy=accuracies[index] if losses else None,
            )
        )
