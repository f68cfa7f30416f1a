"""A recipe with everything that is off by default, through all stages."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.pipeline.conftest import LATER, SMALL, Clone

pytestmark = [pytest.mark.pipeline, pytest.mark.slow]

RECIPE: dict[str, Any] = {
    "base_optimizer": "adamw",
    "lr": 0.002,
    "momentum": 0.0,
    "weight_decay": 0.01,
    "schedule": "cosine",
    "warmup_epochs": 0.5,
    "clip_norm": 5.0,
    "label_smoothing": 0.1,
    "shift_pixels": 1,
    "flip": True,
    "cutout_pixels": 6,
}
EVERYTHING = {
    **SMALL,
    **{f"train_dense.{key}": value for key, value in RECIPE.items()},
    **{f"finetune.training.{key}": value for key, value in RECIPE.items()},
    "finetune.sam": {"variant": "momentum", "rho": 0.5},
    "finetune.distillation.weight": 0.5,
}


def test_every_stage_takes_it_and_says_what_the_base_is(make_clone: Callable[..., Clone]) -> None:
    clone = make_clone("everything", EVERYTHING)
    clone.run("dvc", "repro", **LATER)
    summary = json.loads((clone.path / "metrics/summary.json").read_text())
    assert summary["base_optimizer"] == "AdamW"
    for arm in ("sgd", "sgd_2x", "sam"):
        assert summary["arms"][arm]["sparsity"] == pytest.approx(0.5, abs=1e-3)
        assert summary["arms"][arm]["accuracy"]["mean"] > 0.2  # of mirrored digits with holes
    table = clone.run("python", "-m", "sparse_sam.tracking.show").stdout
    assert "mlpnet on mnist-sample, 2 seeds, base optimizer AdamW: mean with" in table
    assert "AdamW (2× epochs)" in table
    assert "SAM − AdamW" in table
    report = (clone.path / "reports" / "report.md").read_text()
    assert "The base optimizer is AdamW: the arms called SGD train with it" in report
    again = clone.run("dvc", "repro", **LATER).stdout
    assert "Running stage 'finetune_sgd'" not in again
