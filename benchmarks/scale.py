"""How time and memory grow: with training images, parameters, seeds and epochs; and pruning.

    python benchmarks/scale.py                # about four minutes

Time is fitted as a power law, log t = a + b log n, in every round; b is 1 where time is linear.
Memory is the peak of a process of its own for each size, above what it had before.
"""

import math
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from digits import made_up
from harness import Value, arguments_of, in_turn, machine, report, value
from torch import nn

from sparse_sam.data import DataInfo, TrainingData
from sparse_sam.pruning import magnitude_masks
from sparse_sam.training import TrainingParams, make_sgd, select_device, train

BATCH = 64


def network(width: int) -> nn.Module:
    """A perceptron with two hidden layers: about width² weights when it is wide."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(784, width),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.ReLU(),
        nn.Linear(width, 10),
    )


def weights(width: int) -> int:
    """How many parameters ``network`` has."""
    return sum(parameter.numel() for parameter in network(width).parameters())


def trained(images: int, width: int, epochs: int = 1, seeds: int = 1) -> None:
    """The training loop, one seed after the other, without a validation part."""
    info = DataInfo("made-up", "", (1, 28, 28), tuple("0123456789"), (0.0,), (1.0,), {}, {})
    data = TrainingData(made_up(images), None, info)
    recipe = TrainingParams(
        epochs=epochs,
        batch_size=BATCH,
        base_optimizer="sgd",
        lr=0.01,
        momentum=0.9,
        weight_decay=0.0,
        schedule="constant",
        warmup_epochs=0.0,
        clip_norm=None,
        label_smoothing=0.0,
        shift_pixels=0,
        flip=False,
        cutout_pixels=0,
        precision="float32",
    )
    for seed in range(seeds):
        model = network(width)
        train(model, make_sgd(model, recipe), data, recipe, seed=seed, purpose="benchmark")


def exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """The slope of log seconds over log sizes, by least squares."""
    logs = [math.log(size) for size in sizes]
    return statistics.linear_regression(logs, [math.log(one) for one in seconds]).slope


def growth(name: str, sizes: dict[float, Callable[[], Any]], rounds: int) -> list[Value]:
    """Seconds at every size, and the exponent of their growth."""
    cases = {f"{size:g}": work for size, work in sizes.items()}
    seconds = in_turn(cases, rounds)
    found = [exponent(list(sizes), [times[i] for times in seconds.values()]) for i in range(rounds)]
    ends = [next(iter(cases)), list(cases)[-1]]
    return [
        *(value(f"{name} = {size}", "s", seconds[size]) for size in ends),
        value(f"exponent of time in {name}", "", found),
    ]


def big(count: int) -> nn.Module:
    """A network of ten equal layers and ``count`` weights in all, drawn cheaply."""
    side = math.isqrt(count // 10)
    layers = [nn.Linear(side, side, bias=False, device="meta") for _ in range(10)]
    model = nn.Sequential(*layers).to_empty(device="cpu")
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.uniform_(parameter, -1.0, 1.0)
    return model


def _peak_of(work: str, arguments: tuple[int, ...], results: Any) -> None:
    """In a process of its own: seconds, and MiB at the peak above what there was at first."""
    status = Path("/proc/self/status")
    torch.set_num_threads(int(os.environ.get("BENCHMARK_THREADS", "1")))
    if work == "trained":
        trained(BATCH, 8)  # what the first training of a process imports is no part of it
    else:
        magnitude_masks(big(1000), 0.9, "global")
    model = big(*arguments) if work == "pruned" else None
    before = resident(status, "VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    started = time.perf_counter()
    if model is None:
        trained(*arguments)
    else:
        magnitude_masks(model, 0.9, "global")
    seconds = time.perf_counter() - started
    results.put((seconds, (resident(status, "VmHWM") - before) / 2**10))


def resident(status: Path, key: str) -> int:
    """A value of /proc/self/status, in KiB."""
    line = next(line for line in status.read_text().splitlines() if line.startswith(key))
    return int(line.split()[1])


def peak(work: str, *arguments: int) -> tuple[float, float]:
    """Seconds and peak MiB of ``trained``, or of pruning, in a new process."""
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "65536"  # freed blocks are given back at once
    os.environ["BENCHMARK_THREADS"] = str(torch.get_num_threads())
    context = multiprocessing.get_context("spawn")
    results = context.SimpleQueue()
    process = context.Process(target=_peak_of, args=(work, arguments, results))
    process.start()
    process.join()
    if results.empty():
        raise RuntimeError(f"{work}{arguments} ended with {process.exitcode}")
    seconds, memory = results.get()
    return float(seconds), float(memory)


def memory(repetitions: int, images: int) -> list[Value]:
    """Peak memory with few and with many epochs and seeds, and the ratio."""
    values = []
    for name, few, many in (("epochs", (1, 1), (8, 1)), ("seeds", (1, 1), (1, 8))):
        small, large = (
            [peak("trained", images, 100, *size)[1] for _ in range(repetitions)]
            for size in (few, many)
        )
        growing = [b / a for a, b in zip(small, large, strict=True)]
        values.append(value(f"peak memory with 8 {name} / with 1", "×", growing))
    return values


def pruning(repetitions: int, count: int) -> list[Value]:
    """Seconds and memory of global pruning; the memory includes the weights themselves."""
    found = [peak("pruned", count) for _ in range(repetitions)]
    own = 10 * math.isqrt(count // 10) ** 2 * 4 / 2**20
    what = f"pruning {count / 1e6:g} M weights globally"
    return [
        value(what, "s", [seconds for seconds, _ in found]),
        value(f"{what}: peak / weights", "×", [1 + added / own for _, added in found]),
    ]


def measure(*, quick: bool) -> list[Value]:
    """All of it."""
    select_device("cpu")
    base, rounds = (256, 3) if quick else (2048, 7)
    doubled = [1, 2, 4] if quick else [1, 2, 4, 8]
    images = {base * n: (lambda n=n: trained(base * n, 300)) for n in doubled}
    widths = [64, 128] if quick else [512, 1024, 2048]
    wide = {weights(w): (lambda w=w: trained(base, w)) for w in widths}
    seeds = {n: (lambda n=n: trained(base, 300, seeds=n)) for n in doubled}
    epochs = {n: (lambda n=n: trained(base, 300, epochs=n)) for n in doubled}
    return [
        *growth("training images", images, rounds),
        *growth("parameters", wide, rounds),
        *growth("seeds", seeds, rounds),
        *growth("epochs", epochs, rounds),
        *memory(1 if quick else 5, base),
        *pruning(1 if quick else 5, 1_000_000 if quick else 100_000_000),
    ]


def main() -> None:
    """Measure and report."""
    arguments = arguments_of(__doc__).parse_args()
    where = machine()
    report("scale", measure(quick=arguments.quick), where, arguments)


if __name__ == "__main__":
    main()
