"""The step down: what happens to the final gradient before the base optimizer takes it."""

from typing import Literal, cast, get_args

import torch
from torch import Tensor
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from sparse_sam.errors import DivergenceError
from sparse_sam.pruning import local_part
from sparse_sam.sam import vectors

Nonfinite = Literal["propagate", "skip", "raise"]


class Descent:
    """Clipping, the gradient scaler, and the choice what becomes of a step that is not finite.

    Args:
        max_grad_norm: clip to this norm over all parameters together; None does not.
        nonfinite: see ``SAM``.

    Raises:
        ValueError: one of them is out of range.
    """

    def __init__(self, max_grad_norm: float | None, nonfinite: Nonfinite) -> None:
        if max_grad_norm is not None and not max_grad_norm > 0:
            raise ValueError(f"max_grad_norm = {max_grad_norm}: must be more than 0, or None")
        if nonfinite not in get_args(Nonfinite):
            allowed = ", ".join(get_args(Nonfinite))
            raise ValueError(f"nonfinite = {nonfinite!r}: must be one of {allowed}")
        self.max_grad_norm, self.nonfinite = max_grad_norm, nonfinite
        self.skipped = 0

    def take(self, base: Optimizer, ascent_norm: Tensor | None, scaler: GradScaler | None) -> None:
        """One step of ``base``, or none.

        Args:
            base: its parameters hold the final gradient.
            ascent_norm: the norm of this step's ascent direction; None without ascent. When it is
                not finite the step is not, whatever the final gradient looks like.
            scaler: by which the gradient is still scaled.

        Raises:
            DivergenceError: the step is not finite, and ``nonfinite`` is ``raise``.
        """
        weights = [p for group in base.param_groups for p in group["params"] if p.grad is not None]
        scaled = scaler is not None and scaler.is_enabled()
        if scaled:
            if ascent_norm is not None:
                _pass_on(ascent_norm, weights)
            cast("GradScaler", scaler).unscale_(base)
        norm = None
        if self.max_grad_norm is not None and weights:
            # Not torch's norm: in half precision it overflows, and all would be clipped to 0.
            gradients = [cast("Tensor", weight.grad) for weight in weights]
            norm = vectors.vector_norm(gradients)
            # 1e-6 as in torch.nn.utils.clip_grad_norm_, whose step this is otherwise.
            vectors.scale_(gradients, (self.max_grad_norm / (norm + 1e-6)).clamp(max=1.0))
        if scaled:
            cast("GradScaler", scaler).step(base)
        elif self.nonfinite == "propagate" or self._is_finite(weights, norm, ascent_norm):
            base.step()
        else:
            self.skipped += 1

    def _is_finite(
        self, weights: list[Tensor], norm: Tensor | None, ascent_norm: Tensor | None
    ) -> bool:
        if not weights:
            return True
        if norm is None:
            norm = vectors.vector_norm([cast("Tensor", weight.grad) for weight in weights])
        passes = [norm] if ascent_norm is None else [ascent_norm.to(norm), norm]
        if bool(torch.stack(passes).isfinite().all()):  # here the host waits
            return True
        if self.nonfinite == "raise":
            which = "first" if not bool(passes[0].isfinite()) and len(passes) > 1 else "last"
            raise DivergenceError(
                f"the gradient of the {which} pass of a SAM step is infinite or NaN. The weights "
                "are as they were before the step. Lower lr or rho."
            )
        return False


def _pass_on(ascent_norm: Tensor, weights: list[Tensor]) -> None:
    """Let an infinity of the first pass appear in the final gradient, where the scaler looks.

    x − x is 0 for a finite x, and NaN for others.
    """
    gradient = local_part(cast("Tensor", weights[0].grad))
    gradient.add_((ascent_norm - ascent_norm).to(gradient.device))
