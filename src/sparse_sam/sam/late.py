"""SAM that begins late: before, there are only steps of the base optimizer."""

from typing import Any

from sparse_sam.sam.counted import CountedSAM


class LateSAM(CountedSAM):
    """Steps of the base optimizer alone at first, and SAM in all later ones.

    Zhou et al. 2024 (arXiv:2410.10373) train with SGD, switch to SAM for the last few epochs, and
    find minima as flat as those of SAM from the start. The first ``after`` steps are the base
    optimizer's, bit for bit, and need 1 gradient; the others are those of a SAM made then, around
    the base optimizer as it is, and need 2. The paper switches near the end of a training, whose
    number of steps an optimizer does not know: ``after`` has no default.

    Args:
        params: as for ``SAM``.
        base_optimizer: as for ``SAM``.
        rho: the radius ρ of the steps that ascend.
        after: the number of steps before the first that ascends, at least 0; with 0 it is SAM.
        options: all other arguments of ``SAM``.

    Raises:
        ValueError: after is not a whole number, or less than 0.
    """

    def __init__(
        self, params: Any, base_optimizer: Any, rho: float = 0.05, *, after: int, **options: Any
    ) -> None:
        if isinstance(after, bool) or not (after >= 0 and after % 1 == 0):
            raise ValueError(f"after = {after}: must be a whole number, at least 0")
        super().__init__(params, base_optimizer, rho, **options)
        self.after = after

    @property
    def ascends(self) -> bool:
        """Whether the next step, or the one in progress, perturbs the weights."""
        return self.steps >= self.after and super().ascends
