"""SAM at a fraction of the cost: it ascends only in every k-th step."""

from typing import Any, cast

import torch
from torch import Tensor

from sparse_sam.pruning import local_part, matching_part
from sparse_sam.sam import shards, vectors
from sparse_sam.sam.counted import CountedSAM

_SMALLEST_SQUARE = 1e-24


class PeriodicSAM(CountedSAM):
    """One SAM step, then k − 1 steps of the base optimizer, and so on.

    This is SAM-k, to which Liu et al. 2022 (arXiv:2203.02714, section 3) compare LookSAM, and the
    deterministic case of the schedules of SS-SAM (Zhao et al. 2022, arXiv:2203.09962). A step
    needs 1 + 1/k gradients on average.

    Args:
        params: as for ``SAM``.
        base_optimizer: as for ``SAM``.
        rho: the radius ρ of the steps that ascend.
        k: the number of steps in a period, at least 1; the first of them ascends.
        options: all other arguments of ``SAM``.

    Raises:
        ValueError: k is less than 1.
    """

    def __init__(
        self, params: Any, base_optimizer: Any, rho: float = 0.05, *, k: int = 5, **options: Any
    ) -> None:
        if k < 1 or k != int(k):
            raise ValueError(f"k = {k}: must be a whole number, at least 1")
        super().__init__(params, base_optimizer, rho, **options)
        self.k = k

    @property
    def ascends(self) -> bool:
        """Whether the next step, or the one in progress, perturbs the weights."""
        return self.steps % self.k == 0 and super().ascends


class LookSAM(PeriodicSAM):
    """Periodic SAM that keeps using the direction that the last ascent found.

    Liu et al. 2022 (arXiv:2203.02714, algorithm 1) split the gradient at w + ε into its part along
    the gradient g at w and the rest, g_v = g_s − (⟨g, g_s⟩ / ‖g‖²) g, which points to flatter
    regions and changes slowly. The k − 1 steps after an ascent take

        g + α (‖g‖ / ‖g_v‖) g_v

    with the g of their own batch. Norms and products are over all parameters together.

    Under DistributedDataParallel all workers use one ε, whatever ``sync_perturbation`` is: g_v is
    part of the update, which must be the same on all of them.

    Args:
        params: as for ``SAM``.
        base_optimizer: as for ``SAM``.
        rho: the radius ρ.
        k: the number of steps in a period, at least 1; the first of them ascends.
        alpha: the weight α of g_v relative to g, at least 0.
        options: all other arguments of ``SAM``.

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
            direction = self._lookahead[weight]
            local_part(direction).masked_fill_(matching_part(pruned, direction), 0.0)

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
        vectors.add_(gradient, perturbed)  # in the memory of g: it is not needed any more
        norm = vectors.vector_norm(gradient)
        # After an overflow, when a GradScaler will skip this step unseen by the host, the last
        # good direction is kept.
        finite = norm.isfinite()
        vectors.scale_(gradient, norm.clamp_min(_SMALLEST_SQUARE).reciprocal())
        for weight, direction in zip(weights, gradient, strict=True):
            old = self._lookahead.get(weight)
            mine, here = local_part(direction), finite.to(direction.device)
            kept = torch.where(here, mine, 0.0 if old is None else local_part(old))
            self._lookahead[weight] = shards.made_like(kept, direction)

    def _own_state(self) -> dict[str, Any]:
        order = enumerate(self._weights())
        directions = {i: self._lookahead[w] for i, w in order if w in self._lookahead}
        return {**super()._own_state(), "lookahead": directions}

    def _make_own_state(self) -> None:
        for weight in self._weights():
            if weight.grad is not None:
                self._lookahead.setdefault(weight, torch.zeros_like(weight))

    @torch.no_grad()
    def _load_own_state(self, state: dict[str, Any]) -> None:
        super()._load_own_state(state)
        weights = self._weights()
        self._lookahead = {}
        for i, direction in state.get("lookahead", {}).items():
            # Laid out in memory as the weight, so that sums have the same order.
            own = self._lookahead[weights[i]] = torch.empty_like(weights[i])
            local_part(own).copy_(matching_part(direction, own))

    def _weights(self) -> list[Tensor]:
        return [weight for group in self.param_groups for weight in group["params"]]
