"""What second-order pruning costs: seconds and memory of ``obs``, for 10⁴, 10⁶ and 10⁷ weights.

    python benchmarks/obs.py                # half an hour, of which 10⁷ weights take most

A stage of all weights is what is measured: gradients of a thousand images, the statistic of every
weight, the update of the 90 % that are kept. Each in a process of its own, whose peak is above what
it had with the network in it. Pruning walks through stages of fewer and fewer weights; that is
measured for the smallest. Seconds are the processor's, which depend less on what else runs.
"""

import multiprocessing
import time
from pathlib import Path
from typing import Any

import torch
from digits import made_up
from harness import Value, arguments_of, machine, report, value
from scale import network, resident, weights

from sparse_sam.pruning import OBS, Evidence, Pruner, plain_parameters
from sparse_sam.training import select_device

WIDTHS = {"10⁴": 12, "10⁶": 670, "10⁷": 2790}
"""Of hidden layers, which make about so many weights."""
IMAGES = 2000


def stage(width: int, examples: int) -> None:
    """One stage: a tenth of the weights goes."""
    model = network(width)
    found = plain_parameters(model)
    generator = torch.Generator().manual_seed(0)
    masks = {name: torch.rand(one.shape, generator=generator) < 0.9 for name, one in found.items()}
    evidence = Evidence(0, made_up(IMAGES))
    OBS(examples=examples, first=0.0).compensated(model, found, masks, evidence)


def pruned(width: int, examples: int) -> None:
    """A network pruned to 0.9, all stages of it."""
    del examples
    Pruner("obs", "global").prune(network(width), 0.9, Evidence(0, made_up(IMAGES)))


def _measured(work: str, width: int, examples: int, threads: int, results: Any) -> None:
    """In a process of its own."""
    status = Path("/proc/self/status")
    torch.set_num_threads(threads)
    do = {"stage": stage, "pruned": pruned}[work]
    stage(2, 10)  # what the first of a process imports is no part of it
    before = resident(status, "VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    busy = time.process_time()
    do(width, examples)
    taken = time.process_time() - busy
    results.put((taken, (resident(status, "VmHWM") - before) / 2**20))


def peak(work: str, width: int, examples: int = 1000) -> tuple[float, float]:
    """Seconds of the processor, over all cores, and GiB at the peak."""
    context = multiprocessing.get_context("spawn")
    results = context.SimpleQueue()
    arguments = (work, width, examples, torch.get_num_threads(), results)
    process = context.Process(target=_measured, args=arguments)
    process.start()
    process.join()
    if results.empty():
        raise RuntimeError(f"{work} of width {width} ended with {process.exitcode}")
    busy, memory = results.get()
    return float(busy), float(memory)


def costs(name: str, found: list[tuple[float, float]]) -> list[Value]:
    """The rows of one size."""
    columns = (", of the processor", "s"), (", peak memory", "GiB")
    return [
        value(name + what, unit, [one[place] for one in found])
        for place, (what, unit) in enumerate(columns)
    ]


def measure(*, quick: bool) -> list[Value]:
    """All of it."""
    select_device("cpu")
    smallest = next(iter(WIDTHS))
    if quick:
        return costs("a stage of 24 k weights", [peak("stage", 30, 50)])
    found = costs(f"obs, {smallest} weights to 0.9", [peak("pruned", WIDTHS[smallest])])
    for name, width in WIDTHS.items():
        size = f"{weights(width) / 1e6:.3g} M"
        found += costs(f"a stage of obs, {name} weights ({size})", [peak("stage", width)])
    return found


def main() -> None:
    """Measure and report."""
    arguments = arguments_of(__doc__).parse_args()
    where = machine()
    report("obs", measure(quick=arguments.quick), where, arguments)


if __name__ == "__main__":
    main()
