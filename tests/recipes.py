"""Parameters that several tests need, since their types have no defaults."""

from typing import Any

from sparse_sam.config import SAMParams


def sam_values(rho: float = 0.05, **changes: Any) -> dict[str, Any]:
    """The section ``finetune.sam``, as params.yaml has it, with what the test says otherwise."""
    settings = {"eta": None, "k": None, "alpha": None, "rho_min": None}
    return {"variant": "sam", "rho": rho, **settings, **changes}


def sam_params(rho: float = 0.05, **changes: Any) -> SAMParams:
    """The same, checked."""
    return SAMParams(**sam_values(rho, **changes))
