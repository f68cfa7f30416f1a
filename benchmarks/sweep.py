"""The sweeps' engine: its efficiency on two cores, its cost a cell, and what a cluster would do.

    python benchmarks/sweep.py                # about twenty minutes; needs pip install '.[sweep]'

- **Efficiency**: the same cells one after the other on one thread, and on Ray with two workers, in
  turn. Ray runs already; its start is timed apart.
- **Overhead**: cells of a few milliseconds, so that what is left is the engine: the seconds of its
  workers that no cell used, and the processor time of the driver, for each cell.
- **Parts**: writing a result, asking Ray what ended while so many tasks are handed out, telling
  MLflow.
- **Simulation**: 10,000 cells on 100 nodes, with those costs and the driver as it is: one thread,
  two tasks handed out for every core.
"""

import heapq
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness import (
    ROOT,
    Value,
    arguments_of,
    in_turn,
    machine,
    ratios,
    report,
    table,
    value,
    write_between,
)
from ruamel.yaml import YAML

from sparse_sam.config import REFERENCE
from sparse_sam.sweep import SET_BY_SWEEP, Store, Sweep, parse_sweep, run_sweep
from sparse_sam.training import Engine, OnRay, Sequential

PAGE = ROOT / "docs" / "sweeps.md"
CORES = 2
NODES, CORES_A_NODE, CELLS = 100, 16, 10_000
CELL_SECONDS = (1.0, 6.0, 60.0, 600.0)
TELLING = "telling MLflow (SQLite), a cell, beside the work"
SPREAD = 0.5
"""Standard deviation of the logarithm of a simulated cell's seconds."""


def declared(name: str, seeds: int, epochs: int, fraction: float) -> Sweep:
    """A sweep of 16 cells a seed, of the reference parameters with a small network."""
    content = YAML(typ="safe", pure=True).load(REFERENCE)
    base = {name: section for name, section in content.items() if name not in SET_BY_SWEEP}
    base["data"]["fraction"] = fraction
    base["model"]["name"] = "lenet-300-100"
    base["train_dense"]["epochs"] = 1
    base["finetune"]["training"]["epochs"] = epochs

    def arm(of: str, **fixed: Any) -> dict[str, Any]:
        return {"arm": of, "fixed": fixed, "choose": {}}

    return parse_sweep(
        {
            "name": name,
            "seeds": {"choosing": [], "reporting": list(range(seeds))},
            "search": {"samples": None, "seed": 0},
            "flatness": {"images": None, "rho": 0.05, "steps": 1},
            "equivalence_margin": 0.005,
            "base": base,
            "axes": {"prune.sparsity": [0.0, 0.5, 0.8, 0.9]},
            "arms": {
                "sgd": arm("sgd"),
                "sgd_2x": arm("sgd_2x"),
                "sam": arm("sam"),
                "asam": {**arm("sam"), "fixed": {"finetune.sam.variant": "asam"}},
            },
        }
    )


def run(sweep: Sweep, engine: Engine) -> list[float]:
    """Run a sweep into a new store; the seconds of its tasks. Raises if a cell failed."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        swept = run_sweep(sweep, store, engine)
        if swept.failures:
            raise RuntimeError(next(iter(swept.failures.values())))
        return [event["seconds"] for event in store.events() if "seconds" in event]


def efficiency(ray: Engine, *, quick: bool) -> list[Value]:
    """The same cells in sequence and on Ray, in turn."""
    sweep = declared("efficiency", *((2, 1, 0.2) if quick else (4, 8, 1.0)))
    cases = {
        "cells one after the other": lambda: run(sweep, Sequential()),
        f"cells on Ray, {CORES} workers": lambda: run(sweep, ray),
    }
    seconds = in_turn(cases, rounds=1 if quick else 5)
    alone, together = seconds.values()
    found = [one / CORES for one in ratios(alone, together)]
    values = [value(name, "s", times) for name, times in seconds.items()]
    return [*values, value(f"parallel efficiency on {CORES} cores", "", found, "higher")]


def overhead(ray: Engine, *, quick: bool) -> list[Value]:
    """Seconds that the workers lose, and that the driver's processor works, a cell."""
    seeds, rounds = (2, 2) if quick else (10, 5)
    sweep = declared("overhead", seeds, 1, 0.05)
    lost, driver = [], []
    for _ in range(rounds):
        started, used = time.perf_counter(), time.process_time()
        seconds = run(sweep, ray)
        wall, used = time.perf_counter() - started, time.process_time() - used
        lost.append(1000 * (CORES * wall - sum(seconds)) / (16 * seeds))
        driver.append(1000 * used / (16 * seeds))
    return [
        value("workers' time that no cell used, a cell", "ms", lost),
        value("the driver's processor time, a cell", "ms", driver),
    ]


def parts(ray: OnRay, *, quick: bool) -> list[Value]:
    """What the driver's work is made of, and MLflow's beside it."""
    values = []
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "store")
        sweep = declared("parts", 2 if quick else 10, 1, 0.05)
        swept = run_sweep(sweep, store, ray)
        cells = {cell.key: cell.work for cell in swept.cells}
        kept = Store(Path(folder) / "kept")
        seconds = []
        for key, work in cells.items():
            record = store.record(key)
            if record is None:
                raise RuntimeError(f"{key} is not there")
            result, cost = record
            started = time.perf_counter()
            kept.keep(key, work, result, cost)
            seconds.append(1000 * (time.perf_counter() - started))
        values.append(value("writing a result, a cell", "ms", seconds))
        each = [kept.cell_path(key).stat().st_size / 1000 for key in cells]
        values.append(value("a cell's result on disk", "kB", each))
        blobs = (store.folder / "blobs").rglob("*")
        networks = [path.stat().st_size / 1e6 for path in blobs if path.is_file()]
        values.append(value("a dense network on disk", "MB", networks))
        values.append(_telling_mlflow(store, Path(folder), len(cells)))
    handed = 2 * CORES_A_NODE * NODES
    for count in (2 * CORES, handed // 10, handed):
        waits = _waits(ray, count)
        values.append(value(f"asking Ray what ended, {count} tasks handed out", "ms", waits))
    return values


def _telling_mlflow(store: Store, folder: Path, cells: int) -> Value:
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    environment = {**os.environ, "MLFLOW_TRACKING_URI": uri}
    command = [sys.executable, "-m", "sparse_sam.sweep.sending", str(store.folder)]
    seconds = []
    for _ in range(2):  # the second has nothing to send: it is what starting and looking take
        started = time.perf_counter()
        subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
        seconds.append(time.perf_counter() - started)
    each = 1000 * (seconds[0] - seconds[1]) / cells
    return value(TELLING, "ms", [each])


def _waits(ray: OnRay, count: int) -> list[float]:
    """Milliseconds of a question about ``count`` tasks that wait."""

    def sleep() -> None:
        time.sleep(3600)

    remote = ray.ray.remote(num_cpus=1)(sleep)
    references = [remote.remote() for _ in range(count)]
    found = []
    for _ in range(20):
        started = time.perf_counter()
        ray.ray.wait(references, num_returns=1, timeout=0)
        found.append(1000 * (time.perf_counter() - started))
    for reference in references:
        ray.ray.cancel(reference, force=True)
    return found


def simulate(cell_seconds: float, driver_seconds: float, seed: int) -> tuple[float, float]:
    """10,000 cells on 100 nodes: seconds of the whole, and the share that the driver worked.

    Every cell takes half of ``driver_seconds`` to be handed out and half when it ends, one after
    the other. So many are handed out as there are twice the workers; a worker that is free takes
    the first that waits.
    """
    drawn, workers = random.Random(seed), NODES * CORES_A_NODE  # noqa: S311
    mean = -(SPREAD**2) / 2
    waiting = [cell_seconds * drawn.lognormvariate(mean, SPREAD) for _ in range(CELLS)]
    idle = [0.0] * workers  # when each worker is
    ends: list[float] = []
    driver = 0.0  # when it is free

    def hand_out() -> None:
        nonlocal driver
        driver += driver_seconds / 2
        end = max(driver, heapq.heappop(idle)) + waiting.pop()
        heapq.heappush(idle, end)
        heapq.heappush(ends, end)

    for _ in range(2 * workers):
        hand_out()
    while ends:
        driver = max(driver, heapq.heappop(ends)) + driver_seconds / 2
        if waiting:
            hand_out()
    return driver, CELLS * driver_seconds / driver


def simulated(values: Sequence[Value]) -> str:
    """The simulation as a table, with the medians that were measured."""
    measured = {one.name: one.median for one in values}
    handed = 2 * CORES_A_NODE * NODES
    few, many = (
        measured[f"asking Ray what ended, {count} tasks handed out"]
        for count in (2 * CORES, handed)
    )
    driver = (measured["the driver's processor time, a cell"] + many - few) / 1000
    said = (
        f"10,000 cells on {NODES} nodes of {CORES_A_NODE} cores, the driver busy "
        f"{1000 * driver:.1f} ms a cell (measured, with {handed} tasks handed out):"
    )
    lines = [
        said,
        "",
        "| a cell takes | the sweep takes | of the cores' time used | the driver works |",
        "|---|---|---|---|",
    ]
    for cell in CELL_SECONDS:
        runs = [simulate(cell, driver, seed) for seed in range(5)]
        whole, busy = (statistics.median(one) for one in zip(*runs, strict=True))
        ideal = CELLS * cell / (NODES * CORES_A_NODE)
        lines.append(f"| {cell:g} s | {whole:.0f} s | {ideal / whole:.0%} | {busy:.0%} |")
    size = CELLS * measured["a cell's result on disk"] / 1000
    sent = CELLS * measured[TELLING] / 1000
    said = (
        f"The driver keeps up with {1 / driver:.0f} cells a second. The store takes "
        f"{1000 / measured['writing a result, a cell']:.0f} results a second and {size:.0f} MB for "
        f"all, besides {measured['a dense network on disk']:.1f} MB for every dense network. "
        f"Telling MLflow of all takes {sent:.0f} s, beside the work."
    )
    lines += ["", said]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, simulate and report."""
    arguments = arguments_of(__doc__).parse_args()
    where = machine()
    started = time.perf_counter()
    ray = OnRay(cores=CORES)
    begun = time.perf_counter() - started
    try:
        values = [value("starting Ray, once a sweep", "s", [begun])]
        for measure in (efficiency, overhead, parts):
            values += measure(ray, quick=arguments.quick)
    finally:
        ray.close()
    docs, arguments.docs = arguments.docs, False
    report("sweep", values, where, arguments)
    text = simulated(values)
    sys.stdout.write(text)
    if docs:
        write_between(PAGE, "sweep", table(values, where) + "\n" + text)


if __name__ == "__main__":
    main()
