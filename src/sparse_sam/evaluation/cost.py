"""What finetuning cost, per step and per point of accuracy that it recovered."""

from collections.abc import Mapping
from typing import Any

from sparse_sam.files import NotMeasured
from sparse_sam.training import PRUNED, SAM_ARM, SGD_2X_ARM, SGD_ARM


def finetuning_cost(
    summary: Mapping[str, Any], memory: Mapping[str, int | NotMeasured]
) -> dict[str, dict[str, Any]]:
    """Return ``metrics/cost.json``: means over the seeds, for each arm that finetunes.

    A point is a hundredth of accuracy, counted from the pruned network before finetuning. If an
    arm recovered none, its cost per point is None.

    Args:
        summary: ``metrics/summary.json``. SGD takes one gradient per step, and SAM as many steps.
        memory: by arm, the peak memory of a step in bytes, or why it was not measured.
    """
    arms = summary["arms"]
    start = arms[PRUNED]["accuracy"]["mean"]
    steps = {
        SGD_ARM: arms[SGD_ARM]["gradient_evaluations"],
        SGD_2X_ARM: arms[SGD_2X_ARM]["gradient_evaluations"],
        SAM_ARM: arms[SGD_ARM]["gradient_evaluations"],
    }
    return {
        arm: {
            "steps": count,
            "seconds_per_step": arms[arm]["seconds"] / count,
            "gradient_evaluations_per_step": arms[arm]["gradient_evaluations"] / count,
            "points_recovered": (points := 100 * (arms[arm]["accuracy"]["mean"] - start)),
            "seconds_per_point": arms[arm]["seconds"] / points if points > 0 else None,
            "gradient_evaluations_per_point": (
                arms[arm]["gradient_evaluations"] / points if points > 0 else None
            ),
            "peak_step_memory_bytes": _as_json(memory[arm]),
        }
        for arm, count in steps.items()
    }


def _as_json(value: int | NotMeasured) -> int | dict[str, str]:
    return value.as_json() if isinstance(value, NotMeasured) else value
