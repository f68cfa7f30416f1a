"""Gradients of bounded length, whatever optimizer takes them."""

from collections.abc import Callable
from typing import Any

import torch
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from sparse_sam.sam import Uncompiled


class Clipped(Uncompiled, Optimizer):
    """A base optimizer whose steps take the gradient g · min(1, c / ‖g‖₂).

    The norm is over all parameters together (Pascanu et al. 2013, arXiv:1211.5063, algorithm 1).
    It is the last gradient of a step that is clipped, the one that moves the weights: within SAM
    that at w + ε, after a variant has completed it, and never the one that ε lies along. ε has the
    length ρ whatever the gradient's, so clipping it would change nothing; and clipping before a
    variant combines two gradients would change their proportion.

    ``param_groups`` and ``state`` are the base's own: schedulers act on it, and its state is saved.

    Args:
        base: the optimizer.
        max_norm: c, above 0.
    """

    def __init__(self, base: Optimizer, max_norm: float) -> None:
        self.base, self.max_norm = base, max_norm
        super().__init__(base.param_groups, base.defaults)
        self._share_with_base()

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Clip what the closure, or who called it before, left in ``.grad``; step with it."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        weights = [weight for group in self.param_groups for weight in group["params"]]
        clip_grad_norm_(weights, self.max_norm)
        self.base.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """The base's."""
        return self.base.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where the base's ``state_dict`` was taken."""
        self.base.load_state_dict(state_dict)
        self._share_with_base()

    def __getstate__(self) -> dict[str, Any]:
        """All of it, so that a copy clips too."""
        return dict(self.__dict__)

    def _share_with_base(self) -> None:
        self.param_groups, self.state = self.base.param_groups, self.base.state
