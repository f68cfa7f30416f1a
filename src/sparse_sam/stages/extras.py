"""What ``evaluate`` measures beside the comparison. None of it can take the comparison along.

Each is written as soon as it is there. What cannot be measured of a network, or not within its
budget, is said in its place, and on stderr.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sparse_sam.data import TestData
from sparse_sam.evaluation import MeasureMemory, finetuning_cost, measure_arms
from sparse_sam.export import compression_metrics
from sparse_sam.files import NotMeasured, gaps, write_csv, write_json
from sparse_sam.stages.runner import Stage
from sparse_sam.terminal import activity
from sparse_sam.tracking import MADE_BY, layout
from sparse_sam.training import Checkpoint

PICTURED = ("sgd", "sam")
"""The arms whose loss surfaces are taken."""


def measure_extras(
    stage: Stage,
    load: Callable[[str, int], Checkpoint],
    data: TestData,
    summary: Mapping[str, Any],
    measure_memory: MeasureMemory,
) -> dict[str, Any]:
    """Measure flatness, cost and compression; give what was written, by the name of its file.

    Args:
        stage: whose work it is.
        load: reads an arm's network of a seed; picklable.
        data: the test set, whose images inference is timed with.
        summary: ``metrics/summary.json``.
        measure_memory: as ``step_memory`` gives it.
    """
    params, seeds = stage.params, stage.params.seeds
    budget = params.evaluate.budget_seconds
    written: dict[str, Any] = {}

    def write(name: str, content: dict[str, Any]) -> None:
        written[name] = content
        write_json(layout.metrics(name), content)
        for why, names in gaps(content).items():
            sys.stderr.write(f"warning: {stage.name}: not measured: {names}: {why}\n")

    # In a process beside, meanwhile.
    memory = measure_memory(load("pruned", seeds[0]), params.finetune, budget.step_memory)
    flatness, slices, surfaces = measure_arms(
        load,
        layout.dataset,
        tuple(MADE_BY),
        seeds,
        pictured=PICTURED,
        budget=budget,
        threads=params.threads,
        name=stage.name,
    )
    write("flatness", flatness)
    write_csv(layout.slices, *_table(["arm", "seed", "x", "loss"], slices))
    write_csv(layout.surfaces, *_table(["arm", "seed", "x", "y", "loss"], surfaces))
    with activity("measuring the memory that a step takes"):
        write("cost", finetuning_cost(summary, memory()))
    with activity("measuring sizes and latency"):
        compression = compression_metrics(
            load("dense", seeds[0]),
            load("sgd", seeds[0]),
            data.test.taken(slice(256)).cpu(),
            params.evaluate.latency_seconds,
            latency_budget=budget.latency,
            compression_budget=budget.compression,
        )
        write("compression", compression)
    return written


def _table(
    columns: list[str], rows: Sequence[Sequence[Any]] | NotMeasured
) -> tuple[list[str], Sequence[Sequence[Any]]]:
    """A CSV file's columns and rows; where nothing was measured, one row that says why."""
    if isinstance(rows, NotMeasured):
        return columns, [(f"not measured: {rows.why}", *[""] * (len(columns) - 1))]
    return columns, rows
