"""A SAM step in three parts, for loops that give no closure to the optimizer.

A framework's loop makes backward passes, may unscale and clip what is in ``.grad``, and then calls
``step()``. Between its passes and the rest the gradient is replaced by the one that moves the
weights, and all that follows is as for any other optimizer.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch.amp.grad_scaler import GradScaler
from torch.utils.weak import TensorWeakRef

from sparse_sam.sam.gradients import forget_gradients


class ReplacedGradient:
    """Knows whether ``.grad`` still holds what ``SAM.replace_gradient`` has put there.

    Unscaling and clipping write into the same tensors; zeroing makes none of them, and another
    backward pass after it others.
    """

    def __init__(self) -> None:
        self._tensors: list[TensorWeakRef | None] | None = None

    def remember(self, groups: list[dict[str, Any]]) -> None:
        """What is in ``.grad`` now is the gradient that moves the weights."""
        gradients = [p.grad for group in groups for p in group["params"]]
        self._tensors = [None if one is None else TensorWeakRef(one) for one in gradients]

    def taken(self, groups: list[dict[str, Any]]) -> bool:
        """Whether it is there, for a step; the next step needs another."""
        known, self._tensors = self._tensors, None
        if known is None:
            return False
        gradients = [p.grad for group in groups for p in group["params"]]
        return len(known) == len(gradients) and all(
            gradient is None if one is None else gradient is not None and one() is gradient
            for one, gradient in zip(known, gradients, strict=True)
        )


class ReplacesGradient:
    """What ``SAM`` offers to a loop without a closure. To be inherited by it."""

    param_groups: list[dict[str, Any]]
    ascends: Any
    first_step: Callable[[], None]
    second_pass: Callable[[], AbstractContextManager[None]]
    _replaced: ReplacedGradient
    restore: Callable[[], None]
    _finish_gradient: Callable[[], None]
    _descend: Callable[[GradScaler | None], None]

    @torch.no_grad()
    def replace_gradient(self, backward: Callable[[], Any]) -> None:
        """Replace the gradient at w in ``.grad`` by the one that the step needs.

        Call it after the backward passes at w of all micro-batches (each in a ``first_pass`` block,
        if the options need it) and before anything unscales or clips gradients. ``step()`` then
        uses what is in ``.grad``. The weights are w before and after.

        Args:
            backward: makes the same backward passes again. It is called at w + ε*, with gradients
                set to None, if the step ascends; otherwise it is not called.

        Raises:
            RuntimeError: no parameter has a gradient, before or after ``backward``.
        """
        with self._undone_on_error():
            if self.ascends:
                self.first_step()
                forget_gradients(self.param_groups)
                with self.second_pass(), torch.enable_grad():
                    backward()
            self._finish_gradient()
        self._replaced.remember(self.param_groups)

    def _step_with_replaced(
        self, closure: Callable[[], Any] | None, scaler: GradScaler | None
    ) -> Any:
        """Step with what ``replace_gradient`` made; the closure may clip it."""
        loss = closure() if closure is not None else None
        self._descend(scaler)
        return loss

    @contextmanager
    def _undone_on_error(self) -> Iterator[None]:
        """A block that, when it fails, ends at w and without gradients."""
        try:
            yield
        except BaseException:
            self.restore()
            forget_gradients(self.param_groups)
            raise
