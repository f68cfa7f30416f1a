"""Parameters that several tests need, since their types have no defaults."""

from typing import Any

from sparse_sam.pruning.params import PruneParams
from sparse_sam.sam.params import SAMParams
from sparse_sam.training.params import DistillationParams

# What a variant of SAM cannot be without, for it has no default.
NEEDED: dict[str, dict[str, Any]] = {"late": {"after": 3}}
NOT_DISTILLED = DistillationParams(weight=0.0, temperature=4.0)


def training_values(**changes: Any) -> dict[str, Any]:
    """A recipe of training, as params.yaml has it, with what the test says otherwise."""
    return {
        "epochs": 3,
        "batch_size": 64,
        "base_optimizer": "sgd",
        "lr": 0.05,
        "momentum": 0.9,
        "weight_decay": 0.0,
        "schedule": "constant",
        "warmup_epochs": 0.0,
        "clip_norm": None,
        "label_smoothing": 0.0,
        "shift_pixels": 0,
        "flip": False,
        "cutout_pixels": 0,
        "precision": "float32",
        **changes,
    }


def sam_values(rho: float = 0.05, **changes: Any) -> dict[str, Any]:
    """The section ``finetune.sam``, as params.yaml has it, with what the test says otherwise."""
    return {"variant": "sam", "rho": rho, **NEEDED.get(changes.get("variant", ""), {}), **changes}


def sam_params(rho: float = 0.05, **changes: Any) -> SAMParams:
    """The same, checked."""
    return SAMParams(**sam_values(rho, **changes))


def prune_values(**changes: Any) -> dict[str, Any]:
    """The section ``prune``, as params.yaml has it, with what the test says otherwise."""
    schedule = {"name": "one-shot", **changes.pop("schedule", {})}
    return {
        "sparsity": 0.5,
        "criterion": "magnitude",
        "scope": "layerwise",
        "structure": "unstructured",
        "batchnorm": False,
        "biases": False,
        "ignore": (),
        "overrides": {},
        "schedule": schedule,
        "reestimate_batchnorm": False,
        **changes,
    }


def prune_params(**changes: Any) -> PruneParams:
    """The same, checked."""
    return PruneParams.model_validate(prune_values(**changes))
