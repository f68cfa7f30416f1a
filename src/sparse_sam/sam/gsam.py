"""SAM that closes the gap between the loss around the weights and the loss at them."""

from typing import Any, cast

import torch
from torch import Tensor

from sparse_sam.sam import vectors
from sparse_sam.sam.optimizer import SAM

_SMALLEST_SQUARE = 1e-24


class GSAM(SAM):
    """Surrogate gap guided SAM.

    Zhuang et al. 2022 (arXiv:2203.08065, algorithm 1) descend along the perturbed gradient
    g_p = ∇L(w + ε*) and, at right angles to it so that the perturbed loss does not change, ascend
    along the rest of the gradient g = ∇L(w), which makes the surrogate gap L(w + ε*) − L(w)
    smaller. The base optimizer gets

        g_p − α g_⊥,   g_⊥ = g − (⟨g, g_p⟩ / ‖g_p‖²) g_p.

    In the paper ρ follows the learning rate η_t from ρ_max = ``rho`` down to ``rho_min``:
    ρ_t = ρ_min + (ρ_max − ρ_min) η_t / η_max, η_max being the group's ``initial_lr``, which
    schedulers set. Without ``rho_min`` it is constant.

    Under DistributedDataParallel ε is that of all workers, whatever ``sync_perturbation`` says:
    g enters the update, which has to be the same everywhere.

    Args:
        params: as for ``SAM``, as are the other arguments that are not named here.
        base_optimizer: as for ``SAM``.
        rho: the radius ρ, or ρ_max.
        alpha: the weight α, at least 0; with 0 it is SAM.
        rho_min: ρ where the learning rate is 0, in [0, rho]; None keeps ρ constant.
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
        alpha: float = 0.4,
        rho_min: float | None = None,
        **options: Any,
    ) -> None:
        if not alpha >= 0:
            raise ValueError(f"alpha = {alpha}: must be at least 0")
        if rho_min is not None and not 0 <= rho_min <= rho:
            raise ValueError(f"rho_min = {rho_min}: must be between 0 and rho = {rho}, or None")
        self.alpha, self.rho_min = alpha, rho_min
        super().__init__(params, base_optimizer, rho, **options)

    def _radius(self, group: dict[str, Any]) -> float:
        largest = super()._radius(group)
        if self.rho_min is None or "initial_lr" not in group:
            return largest
        return self.rho_min + (largest - self.rho_min) * float(group["lr"] / group["initial_lr"])

    def _complete_gradient(self, first: dict[Tensor, Tensor]) -> None:
        weights = [weight for weight in first if weight.grad is not None]
        if not weights or not self.alpha:
            return
        gradient = [first[weight] for weight in weights]
        perturbed = [cast("Tensor", weight.grad) for weight in weights]
        square = vectors.inner_product(perturbed, perturbed).clamp_min(_SMALLEST_SQUARE)
        cosine_part = vectors.inner_product(gradient, perturbed) / square
        # g_p − α (g − c g_p) = (1 + α c) g_p − α g
        vectors.scale_(perturbed, 1 + self.alpha * cosine_part)
        torch._foreach_add_(perturbed, gradient, alpha=-self.alpha)
