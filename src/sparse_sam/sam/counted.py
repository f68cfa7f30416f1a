"""A SAM that counts its steps, for variants that ascend in some of them only."""

from typing import Any

from sparse_sam.sam.optimizer import SAM


class CountedSAM(SAM):
    """SAM that knows how many steps it has taken, also after it is saved and loaded.

    A step that a GradScaler or ``nonfinite="skip"`` skips counts; one that raises does not.

    Args:
        params: as for ``SAM``.
        base_optimizer: as for ``SAM``.
        rho: the radius ρ.
        options: all other arguments of ``SAM``.

    Attributes:
        steps: how many there were.
    """

    def __init__(self, params: Any, base_optimizer: Any, rho: float = 0.05, **options: Any) -> None:
        super().__init__(params, base_optimizer, rho, **options)
        self.steps = 0

    def _end_step(self) -> None:
        self.steps += 1

    def _own_state(self) -> dict[str, Any]:
        return {"steps": self.steps}

    def _load_own_state(self, state: dict[str, Any]) -> None:
        self.steps = state.get("steps", 0)
