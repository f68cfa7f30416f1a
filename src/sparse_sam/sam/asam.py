"""SAM whose radius does not depend on how the weights are scaled."""

from typing import Any

from sparse_sam.sam.optimizer import SAM


class ASAM(SAM):
    """Adaptive SAM: measures the distance relative to the size of each weight.

    Kwon et al. 2021 (arXiv:2102.11600) maximise over ‖T⁻¹ ε‖₂ ≤ ρ, which to first order gives

        ε* = ρ T² ∇L(w) / ‖T ∇L(w)‖₂,   T = |w| + η                            (equation 8)

    element by element, where η lets small weights move too (their section 4). It is the same as
    ``SAM(adaptive=True, eta=…)``. A good ρ is about ten times that of SAM.

    Args:
        params: as for ``SAM``.
        base_optimizer: as for ``SAM``.
        rho: the radius ρ, relative to the weights; the paper uses 0.5 for CIFAR-10.
        eta: the η of T, at least 0.
        options: all other arguments of ``SAM``.

    Raises:
        ValueError: a setting is out of range.
    """

    def __init__(
        self,
        params: Any,
        base_optimizer: Any,
        rho: float = 0.5,
        *,
        eta: float = 0.01,
        **options: Any,
    ) -> None:
        super().__init__(params, base_optimizer, rho, adaptive=True, eta=eta, **options)
