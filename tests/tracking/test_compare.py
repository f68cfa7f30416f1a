"""The terminal's table of runs shows what differs, and what came out."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from sparse_sam.tracking.mlflow_store import Param, Tracker


def run_of(tracker: Tracker, name: str, params: dict[str, str], sam: float, status: str) -> None:
    experiment, client = tracker.experiment({}), tracker.client
    tags = {"sparse_sam.kind": "pipeline"}
    run = client.create_run(experiment, run_name=name, tags=tags).info.run_id
    client.log_batch(run, params=[Param(key, value) for key, value in params.items()])
    client.log_metric(run, "test_accuracy.sam", sam)
    client.log_metric(run, "test_accuracy.sgd_2x", 0.96)
    client.log_metric(run, "sam_vs_sgd_2x.points", round(100 * (sam - 0.96), 2))
    for end, value in (("low", -1.5), ("high", 0.25), ("p", 0.0412)):
        client.log_metric(run, f"sam_vs_sgd_2x.{end}", value)
    client.set_terminated(run, status)


def test_only_what_differs_is_shown(tmp_path: Path, empty_store: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW", "DVC"))}
    command = [sys.executable, "-m", "sparse_sam.tracking.compare"]

    def said() -> str:
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
        )
        return done.stdout

    shutil.copy(empty_store, tmp_path)
    assert "no finished run yet: make repro" in said()
    tracker = Tracker(tmp_path)
    same = {"prune.sparsity": "0.5", "engine.name": "processes"}
    run_of(tracker, "first", {**same, "finetune.sam.rho": "0.05"}, 0.94, "FINISHED")
    other = {**same, "finetune.sam.rho": "0.1", "engine.name": "ray"}
    run_of(tracker, "ρ 0.1", other, 0.9527999999, "FINISHED")
    run_of(tracker, "broken", {**same, "seeds": "[1]"}, 0.1, "FAILED")
    lines = [line.split("  ") for line in said().splitlines()]
    rows = [[cell.strip() for cell in line if cell.strip()] for line in lines]
    assert [cell for cell in rows[0] if cell != "began (UTC)"] == [
        *(
            "run",
            "sam.rho",
            "SGD (2× epochs) %",
            "SAM %",
            "difference",
            "95 % interval",
            "corrected p",
        )
    ]
    assert [rows[2][0], *rows[2][2:]] == [
        *("ρ 0.1", "0.1", "96.00", "95.28", "−0.72", "[−1.50, +0.25]", "0.041")
    ]
    assert [rows[3][0], *rows[3][2:4]] == ["first", "0.05", "96.00"]
    assert "broken" not in said()
    base = {"finetune.training.base_optimizer": "adamw"}
    run_of(tracker, "AdamW", {**same, **base}, float("nan"), "FINISHED")
    mixed = said()
    assert "  base optimizer (2× epochs) %" in mixed
    assert "SGD (2×" not in mixed
    assert "nan" not in mixed
