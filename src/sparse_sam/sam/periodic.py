"""SAM at a part of the cost: the ascent in every k-th step only."""

from typing import Any, cast

import torch
from torch import Tensor

from sparse_sam.sam import vectors
from sparse_sam.sam.optimizer import SAM

_SMALLEST_SQUARE = 1e-24


class PeriodicSAM(SAM):
    """A SAM step, then k − 1 steps of the base optimizer, and so on.

    This is the SAM-k with which Liu et al. 2022 (arXiv:2203.02714, section 3) compare LookSAM, and
    the deterministic case of the schedules of SS-SAM (Zhao et al. 2022, arXiv:2203.09962). A step
    needs 1 + 1/k gradients on average.

    Args:
        params: as for ``SAM``, as are the other arguments that are not named here.
        base_optimizer: as for ``SAM``.
        rho: the radius ρ of the steps that ascend.
        k: how many steps make a period, at least 1; the first of them ascends.
        options: as for ``SAM``.

    Raises:
        ValueError: k is less than 1.
    """

    def __init__(
        self, params: Any, base_optimizer: Any, rho: float = 0.05, *, k: int = 5, **options: Any
    ) -> None:
        if k < 1:
            raise ValueError(f"k = {k}: must be at least 1")
        super().__init__(params, base_optimizer, rho, **options)
        self.k = k
        self.steps = 0

    @property
    def ascends(self) -> bool:
        """Whether the step that comes next, or is under way, perturbs the weights."""
        return self.steps % self.k == 0 and super().ascends

    def _end_step(self) -> None:
        self.steps += 1

    def _own_state(self) -> dict[str, Any]:
        return {"steps": self.steps}

    def _load_own_state(self, state: dict[str, Any]) -> None:
        self.steps = state.get("steps", 0)


class LookSAM(PeriodicSAM):
    """Periodic SAM that goes on using what the last ascent found.

    Liu et al. 2022 (arXiv:2203.02714, algorithm 1) split the gradient at w + ε into its part along
    the gradient g at w and the rest, g_v = g_s − (⟨g, g_s⟩ / ‖g‖²) g, which points to flatter
    places and changes slowly. The k − 1 steps after an ascent take

        g + α (‖g‖ / ‖g_v‖) g_v

    with the g of their own batch. Norms and products are over all parameters together.

    Under DistributedDataParallel ε is that of all workers, whatever ``sync_perturbation`` says:
    g_v enters the update, which has to be the same everywhere.

    Args:
        params: as for ``SAM``, as are the other arguments that are not named here.
        base_optimizer: as for ``SAM``.
        rho: the radius ρ.
        k: how many steps make a period, at least 1; the first of them ascends.
        alpha: the weight α of g_v relative to g, at least 0.
        options: as for ``SAM``.

    Raises:
        ValueError: a setting is out of range.
    """

    needs_first_gradient = True

    def __init__(
        self,
        params: Any,
        base_optimizer: Any,
        rho: float = 0.05,
        *,
        k: int = 5,
        alpha: float = 0.7,
        **options: Any,
    ) -> None:
        if not alpha >= 0:
            raise ValueError(f"alpha = {alpha}: must be at least 0")
        super().__init__(params, base_optimizer, rho, k=k, **options)
        self.alpha = alpha
        # g_v / ‖g_v‖ of the last ascent, for every parameter that had a gradient.
        self._lookahead: dict[Tensor, Tensor] = {}

    def forget(self, weight: Tensor, pruned: Tensor) -> None:
        """Set g_v to 0 where ``pruned`` (bool, of the weight's shape), in place."""
        if weight in self._lookahead:
            self._lookahead[weight].masked_fill_(pruned, 0.0)

    def _complete_gradient(self, first: dict[Tensor, Tensor]) -> None:
        if first:
            self._split(first)
            return
        # (A weight without a gradient takes no part, as in every optimizer.)
        weights = [w for w in self._lookahead if w.grad is not None]
        if weights and self.alpha:
            gradients = [cast("Tensor", weight.grad) for weight in weights]
            directions = [self._lookahead[weight] for weight in weights]
            vectors.add_scaled_(gradients, directions, vectors.vector_norm(gradients), self.alpha)

    def _split(self, first: dict[Tensor, Tensor]) -> None:
        """Keep the direction of g_v; the update of this step is SAM's, g_s as it is."""
        weights = [w for w in first if w.grad is not None]
        if not weights:
            return
        gradient = [first[weight] for weight in weights]
        perturbed = [cast("Tensor", weight.grad) for weight in weights]
        square = vectors.inner_product(gradient, gradient).clamp_min(_SMALLEST_SQUARE)
        vectors.scale_(gradient, -vectors.inner_product(gradient, perturbed) / square)
        torch._foreach_add_(gradient, perturbed)  # in the memory of g: it is not needed any more
        norm = vectors.vector_norm(gradient)
        # After an overflow, when a GradScaler will skip this step unseen by the host, the last
        # good direction is kept.
        finite = norm.isfinite()
        vectors.scale_(gradient, norm.clamp_min(_SMALLEST_SQUARE).reciprocal())
        for weight, direction in zip(weights, gradient, strict=True):
            old = self._lookahead.get(weight)
            here = finite.to(direction.device)
            self._lookahead[weight] = torch.where(here, direction, 0.0 if old is None else old)

    def _own_state(self) -> dict[str, Any]:
        order = enumerate(self._weights())
        directions = {i: self._lookahead[w] for i, w in order if w in self._lookahead}
        return {**super()._own_state(), "lookahead": directions}

    @torch.no_grad()
    def _load_own_state(self, state: dict[str, Any]) -> None:
        super()._load_own_state(state)
        weights = self._weights()
        self._lookahead = {
            # Laid out in memory as the weight, so that sums have the same order.
            weights[i]: torch.empty_like(weights[i]).copy_(direction)
            for i, direction in state.get("lookahead", {}).items()
        }

    def _weights(self) -> list[Tensor]:
        return [weight for group in self.param_groups for weight in group["params"]]
