"""What surrounds the two backward passes: whose gradients they are, and where they go."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


def unsynchronised(model: nn.Module | None) -> AbstractContextManager[Any]:
    """A block in which gradients are those of this worker's own examples."""
    inner = getattr(model, "_orig_mod", model)  # what torch.compile was given
    return inner.no_sync() if isinstance(inner, DistributedDataParallel) else nullcontext()


def forget_gradients(groups: list[dict[str, Any]]) -> None:
    """Set gradients to None: ``Optimizer.zero_grad``, without its cost for small networks."""
    for group in groups:
        for parameter in group["params"]:
            parameter.grad = None


def take_gradients(weights: list[Tensor]) -> dict[Tensor, Tensor]:
    """Take the gradients away, for later use; the next backward pass makes others.

    A gradient that is a view of DistributedDataParallel's buffers is copied: the next one is
    written there.
    """
    taken = {}
    for weight in weights:
        gradient = cast("Tensor", weight.grad)
        taken[weight] = gradient.clone() if gradient._is_view() else gradient  # noqa: SLF001
        weight.grad = None
    return taken
