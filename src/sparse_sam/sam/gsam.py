"""SAM that closes the gap between the loss around the weights and the loss at them."""

from typing import Any, cast

from torch import Tensor

from sparse_sam.sam import vectors
from sparse_sam.sam.optimizer import SAM

_SMALLEST_SQUARE = 1e-24
_SEEN = "largest_lr_so_far"


class GSAM(SAM):
    """Surrogate gap guided SAM.

    Zhuang et al. 2022 (arXiv:2203.08065, algorithm 1) descend along the perturbed gradient
    g_p = ∇L(w + ε*). They also ascend along the part of g = ∇L(w) that is orthogonal to g_p, which
    reduces the surrogate gap L(w + ε*) − L(w) without changing the perturbed loss. The base
    optimizer gets

        g_p − α g_⊥,   g_⊥ = g − (⟨g, g_p⟩ / ‖g_p‖²) g_p.

    In the paper (section 5.1) ρ follows the learning rate η_t between ``rho_min`` and
    ρ_max = ``rho``:

        ρ_t = ρ_min + (ρ_max − ρ_min) (η_t − η_min) / (η_max − η_min).

    η_max is the largest of the group's ``initial_lr``, which schedulers set; its ``max_lr``, which
    OneCycleLR sets; and the rates so far. If a schedule rises above ``initial_lr``, as CyclicLR
    does, set ``max_lr`` in the group: otherwise ρ is ρ_max whenever the rate is the largest so far.
    η_min is the group's ``min_lr``, which OneCycleLR sets too, or 0. ρ never leaves [ρ_min, ρ_max].
    Without ``rho_min`` it is constant.

    Under DistributedDataParallel all workers use one ε, whatever ``sync_perturbation`` is: g is
    part of the update, which must be the same on all of them.

    Args:
        params: as for ``SAM``.
        base_optimizer: as for ``SAM``.
        rho: the radius ρ, or ρ_max.
        alpha: the weight α, at least 0; 0 gives SAM.
        rho_min: ρ at the learning rate η_min, in [0, rho]; None keeps ρ constant.
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
        if self.rho_min is None:
            return largest
        lowest, lr = float(group.get("min_lr", 0.0)), float(group["lr"])
        span = _largest_rate(group) - lowest
        part = min(max((lr - lowest) / span, 0.0), 1.0) if span > 0 else 1.0
        smallest = min(self.rho_min, largest)
        return min(smallest + (largest - smallest) * part, largest)

    def _end_step(self) -> None:
        if self.rho_min is not None:
            for group in self.param_groups:  # where state_dict finds it
                group[_SEEN] = _largest_rate(group)

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
        vectors.add_(perturbed, gradient, -self.alpha)


def _largest_rate(group: dict[str, Any]) -> float:
    """η_max, as far as it is known."""
    known = (group[name] for name in ("lr", "initial_lr", "max_lr", _SEEN) if name in group)
    return max(float(rate) for rate in known)
