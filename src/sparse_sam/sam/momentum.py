"""SAM at the cost of its base optimizer: the momentum replaces the gradient at w."""

from collections.abc import Callable
from typing import Any

import torch
from torch.amp.grad_scaler import GradScaler

from sparse_sam.sam.optimizer import SAM
from sparse_sam.sam.perturbation import Ascent

_BUFFERS = ("momentum_buffer", "exp_avg")


class MomentumSAM(SAM):
    """Momentum SAM: one gradient per step, at w + ε, with ε from the base optimizer's momentum.

    Becker, Altrock and Risse 2024 (arXiv:2401.12033, section 2.4 and algorithm 1) take

        ε = −ρ v / ‖v‖₂

    with the momentum v of the steps before. The sign follows the paper: the last step went along
    −v, and going on by ρ overshoots the minimum in that direction and climbs its other side.

    The authors' code keeps the perturbed weights from step to step. Here they are perturbed only
    within a step, so evaluation and checkpoints see w. ``step`` returns the loss at w + ε, since
    no other is computed, and BatchNorm takes its statistics there. In the first step there is no
    momentum, and ε = 0.

    With ``first_step`` and ``second_step``, make one backward pass, between the two.

    Args:
        params: as for ``SAM``.
        base_optimizer: as for ``SAM``, with momentum: SGD with ``momentum``, or an Adam variant.
        rho: the radius ρ; good values are larger than for SAM, about 1 to 3 in the paper.
        options: all other arguments of ``SAM``.

    Raises:
        ValueError: a setting is out of range; the base optimizer has no momentum; or an option
            needs the gradient at w.
    """

    needs_momentum = True

    def __init__(self, params: Any, base_optimizer: Any, rho: float = 0.05, **options: Any) -> None:
        super().__init__(params, base_optimizer, rho, **options)
        for name in ("dense_gradient", "track_kept_share"):
            if getattr(self, name):
                raise ValueError(
                    f"{name} = True: momentum SAM does not compute the gradient at w; leave it out"
                )
        for group in self.param_groups:
            if not (group.get("momentum") or group.get("betas", (0,))[0]):
                raise ValueError(
                    "momentum SAM needs a base optimizer with momentum, such as SGD with "
                    f"momentum=0.9; {type(self.base_optimizer).__name__} has none"
                )

    @torch.no_grad()
    def step(
        self, closure: Callable[[], Any] | None = None, *, scaler: GradScaler | None = None
    ) -> Any:
        """A whole step, and the loss at w + ε. Arguments and errors are those of ``SAM.step``."""
        if self._replaced.taken(self.param_groups):
            return self._step_with_replaced(closure, scaler)
        if closure is None:
            return self._make_first_state()
        with self._whole_step():
            self.first_step()
            with torch.enable_grad():
                loss = closure()
            self.second_step(scaler=scaler)
        return loss

    def _ascents(self) -> list[Ascent]:
        ascents = []
        for group in self.param_groups:
            momenta = {
                weight: state[name]
                for weight in group["params"]
                if (state := self.state.get(weight))
                for name in _BUFFERS
                if state.get(name) is not None
            }
            if momenta:
                rho, adaptive = -self._radius(group), group["adaptive"]
                ascents.append(Ascent([*momenta], [*momenta.values()], rho, adaptive))
        return ascents
