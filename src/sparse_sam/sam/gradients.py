"""What surrounds the two backward passes: whose gradients they are, and where they go."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.weak import TensorWeakRef


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


class LeftGradients:
    """Knows the gradients that a step leaves in ``.grad`` from those that came there since.

    They are told apart by what the tensors are and by how often they were written to, without
    holding them and without looking into them, for which a device would have to be waited for.
    """

    def __init__(self) -> None:
        self._left: dict[int, tuple[TensorWeakRef, int]] = {}

    def remember(self, groups: list[dict[str, Any]]) -> None:
        """A step ends here: what is in ``.grad`` now is used up."""
        self._left = {}
        self.remember_older(groups)

    def remember_older(self, groups: list[dict[str, Any]]) -> None:
        """What is in ``.grad`` of these was there before the optimizer had the parameters."""
        older = (p.grad for group in groups for p in group["params"] if p.grad is not None)
        self._left |= {id(one): (TensorWeakRef(one), one._version) for one in older}  # noqa: SLF001

    def check_nothing_came(self, groups: list[dict[str, Any]]) -> None:
        """Raise RuntimeError if gradients came that setting them to None would lose."""
        parameters = [parameter for group in groups for parameter in group["params"]]
        came = [p.grad for p in parameters if p.grad is not None and not self._was_left(p.grad)]
        lost = sum(bool(gradient.any()) for gradient in came)
        if lost:
            raise RuntimeError(
                f"gradients of {lost} of {len(parameters)} parameters lie in .grad that came since "
                "this optimizer's last step, as from earlier micro-batches (accumulate_grad_batches"
                " of Lightning, accumulate of accelerate). step(closure) sets gradients to None "
                "before each call of the closure, so they would be lost. Go through all "
                "micro-batches in the closure; or use first_step and second_step, with all "
                "micro-batches before each of them; or, if these gradients are not wanted, call "
                "zero_grad() before step."
            )

    def _was_left(self, gradient: Tensor) -> bool:
        known = self._left.get(id(gradient))
        return known is not None and known[0]() is gradient and known[1] == gradient._version  # noqa: SLF001
