"""What surrounds the two backward passes: whose gradients they are, and where they go."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.weak import TensorWeakRef

from sparse_sam.pruning import is_sharded, local_part
from sparse_sam.sam import vectors


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


def check_some_came(groups: list[dict[str, Any]], place: str = "") -> None:
    """Raise RuntimeError if no parameter has a gradient after a pass; ``place`` says which pass.

    Without it the step would change nothing, and nobody would know. Only None is looked for, which
    no device is waited for.
    """
    if all(p.grad is None for group in groups for p in group["params"]):
        raise RuntimeError(
            f"the backward pass{place} left no gradient in .grad of any parameter of this "
            "optimizer. Call loss.backward() in every pass, in the closure or in the loop. If "
            "you do, check that the optimizer was given the parameters of the network that "
            "computes the loss, and that at least one of them has requires_grad=True."
        )


class LeftGradients:
    """Knows the gradients that a step leaves in ``.grad`` from those that came there since.

    They are told apart by what the tensors are and by how often they were written to, without
    holding them and without looking into them, for which a device would have to be waited for.
    """

    def __init__(self) -> None:
        self._left: dict[int, tuple[TensorWeakRef, tuple[int, ...]]] = {}

    def remember(self, groups: list[dict[str, Any]]) -> None:
        """A step ends here: what is in ``.grad`` now is used up."""
        self._left = {}
        self.remember_older(groups)

    def remember_older(self, groups: list[dict[str, Any]]) -> None:
        """What is in ``.grad`` of these was there before the optimizer had the parameters."""
        older = (p.grad for group in groups for p in group["params"] if p.grad is not None)
        self._left |= {id(one): (TensorWeakRef(one), _versions(one)) for one in older}

    def check_nothing_came(self, groups: list[dict[str, Any]]) -> None:
        """Raise RuntimeError if gradients came that setting them to None would lose."""
        parameters = [parameter for group in groups for parameter in group["params"]]
        lost = sum(bool(found) for found in vectors.any_nonzero(self.came(groups)))
        if lost:
            raise RuntimeError(
                f"{lost} of {len(parameters)} parameters already hold a gradient that was added "
                "after this optimizer's last step, for example by earlier micro-batches "
                "(accumulate_grad_batches of Lightning, accumulate of accelerate). "
                "step(closure) sets gradients to None before each call of the closure, so these "
                "would be lost. Run all micro-batches inside the closure. Or use first_step and "
                "second_step, and run all micro-batches before each of them. In a framework's "
                "loop, use the adapters of sparse_sam.frameworks. If you do not want these "
                "gradients, call zero_grad() before step."
            )

    def came(self, groups: list[dict[str, Any]]) -> list[Tensor]:
        """The gradients that came, or were written to, since those were remembered."""
        there = (p.grad for group in groups for p in group["params"] if p.grad is not None)
        return [gradient for gradient in there if not self._was_left(gradient)]

    def were_zeroed(self, groups: list[dict[str, Any]]) -> bool:
        """Whether gradients were set to None or 0 since those were remembered.

        A device is waited for only if they were written to.
        """
        there = [p.grad for group in groups for p in group["params"] if p.grad is not None]
        return not there or (bool(self.came(groups)) and not any(vectors.any_nonzero(there)))

    def _was_left(self, gradient: Tensor) -> bool:
        known = self._left.get(id(gradient))
        return known is not None and known[0]() is gradient and known[1] == _versions(gradient)


def _versions(gradient: Tensor) -> tuple[int, ...]:
    """How often it was written to; ``fully_shard`` writes to the local part behind its back."""
    if is_sharded(gradient):
        return gradient._version, local_part(gradient)._version  # noqa: SLF001
    return (gradient._version,)  # noqa: SLF001
