"""Costs by step and by point, from numbers that are easy to divide."""

from typing import Any

from sparse_sam.evaluation.cost import finetuning_cost
from sparse_sam.files.unmeasured import NotMeasured

UNKNOWN = dict.fromkeys(("sgd", "sgd_2x", "sam"), NotMeasured("killed"))


def summary(**accuracy: float) -> dict[str, Any]:
    costs = {"pruned": (0, 0.0), "sgd": (100, 2.0), "sgd_2x": (200, 4.0), "sam": (150, 3.5)}
    return {
        "arms": {
            arm: {
                "accuracy": {"mean": accuracy[arm]},
                "gradient_evaluations": gradients,
                "seconds": seconds,
            }
            for arm, (gradients, seconds) in costs.items()
        }
    }


def test_by_step_and_by_point() -> None:
    found = finetuning_cost(
        summary(pruned=0.5, sgd=0.75, sgd_2x=1.0, sam=0.75), {"sgd": 7, "sgd_2x": 7, "sam": 9}
    )
    assert list(found) == ["sgd", "sgd_2x", "sam"]
    assert found["sam"] == {
        "steps": 100,  # as many as SGD, half of them with a second gradient
        "seconds_per_step": 0.035,
        "gradient_evaluations_per_step": 1.5,
        "points_recovered": 25.0,
        "seconds_per_point": 0.14,
        "gradient_evaluations_per_point": 6.0,
        "peak_step_memory_bytes": 9,
    }
    assert found["sgd_2x"]["gradient_evaluations_per_step"] == 1
    assert found["sgd_2x"]["seconds_per_point"] == 0.08


def test_where_nothing_was_recovered_a_point_has_no_price() -> None:
    found = finetuning_cost(summary(pruned=0.75, sgd=0.75, sgd_2x=0.5, sam=1.0), UNKNOWN)
    for arm in ("sgd", "sgd_2x"):
        assert found[arm]["seconds_per_point"] is None
        assert found[arm]["gradient_evaluations_per_point"] is None
    assert found["sgd_2x"]["points_recovered"] == -25.0
    assert found["sam"]["peak_step_memory_bytes"] == {"not_measured": "killed"}
