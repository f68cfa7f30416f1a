"""How busy a device is while many networks train as one: the gaps between its kernels, and memory.

    python benchmarks/gaps.py --device cuda --seeds 64 --trace trace.json
    python benchmarks/gaps.py                 # the same on a CPU, where operators are counted

One epoch of finetuning with SAM, batched, after one that warms up. The trace opens in
https://ui.perfetto.dev. Busy is the time in which at least one kernel runs, of the time from the
first to the end of the last.
"""

import time
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import torch
from digits import reference
from harness import ROOT, Value, arguments_of, machine, report, value
from seeds import together
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from sparse_sam.compute import select_device
from sparse_sam.reading import read_data

Interval = tuple[float, float]


def merged(intervals: Iterable[Interval]) -> list[Interval]:
    """The union of intervals, as intervals that do not touch, in order."""
    union: list[Interval] = []
    for start, end in sorted(intervals):
        if union and start <= union[-1][1]:
            union[-1] = (union[-1][0], max(union[-1][1], end))
        else:
            union.append((start, end))
    return union


def gaps_of(intervals: Iterable[Interval]) -> tuple[float, float]:
    """Share of the time that is busy, and the longest gap, from the first start to the last end."""
    union = merged(intervals)
    whole = union[-1][1] - union[0][0]
    busy = sum(end - start for start, end in union)
    between = [after[0] - before[1] for before, after in pairwise(union)]
    return busy / whole, max(between, default=0.0)


def measure(device: torch.device, seeds: int, model: str, trace: Path | None) -> list[Value]:
    """Busy share, longest gap, seconds and peak memory of one epoch."""
    on_gpu = device.type == "cuda"
    params = reference(ROOT)
    recipe = params.finetune.training.model_copy(update={"epochs": 1})
    params = params.model_copy(
        update={
            "model": params.model.model_copy(update={"name": model}),
            "finetune": params.finetune.model_copy(update={"training": recipe}),
        }
    )
    data, _ = read_data(params.data)
    data = data.to(select_device("cuda" if on_gpu else "cpu"))
    together(data, params, seeds, whole=False)
    if on_gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    started = time.perf_counter()
    with profile(activities=kinds) as profiled:
        together(data, params, seeds, whole=False)
        if on_gpu:
            torch.cuda.synchronize()
    seconds = time.perf_counter() - started
    if trace:
        profiled.export_chrome_trace(str(trace))
    counted = DeviceType.CUDA if on_gpu else DeviceType.CPU
    busy, longest = gaps_of(
        (event.time_range.start, event.time_range.end)
        for event in profiled.events() or ()
        if event.device_type == counted
    )
    name = f"{model}, {seeds} seeds"
    values = [
        value(f"{name}: an epoch with SAM, profiled", "s", [seconds]),
        value(f"{name}: busy", "", [busy], "higher"),
        value(f"{name}: longest gap", "ms", [longest / 1e3]),
    ]
    if on_gpu:
        peak = torch.cuda.max_memory_allocated() / 2**20
        values.append(value(f"{name}: peak memory of the GPU", "MiB", [peak]))
    return values


def main() -> None:
    """Measure and report."""
    parser = arguments_of(__doc__, device=True)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--model", default="classifier")
    parser.add_argument("--trace", type=Path, help="where to write the trace")
    arguments = parser.parse_args()
    where = machine(arguments.device)
    model, seeds = ("mlpnet", 2) if arguments.quick else (arguments.model, arguments.seeds)
    report("gaps", measure(arguments.device, seeds, model, arguments.trace), where, arguments)


if __name__ == "__main__":
    main()
