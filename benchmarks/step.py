"""A training step's arithmetic as a fraction of what the machine's matrix products reach.

    python benchmarks/step.py                 # about three minutes, without --compile
    python benchmarks/step.py --compile       # torch.compile too, which takes a minute to begin

The step is an SGD step of ``classifier`` on 64 images: forward, backward, update. Its operations
are two for every multiply-add of the forward pass and of the gradients of weights and of inputs
(those of the images are not computed). The peak is that of ``torch.mm`` on square matrices of the
same type and with as many threads, in the same run.
"""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from digits import made_up
from harness import Value, arguments_of, in_turn, machine, ratios, report, value
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD

from sparse_sam.data import DataInfo, TrainingData
from sparse_sam.export import multiply_adds
from sparse_sam.networks import build_model
from sparse_sam.training import initial_checkpoint, select_device

BATCH, MODEL, SHAPE = 64, "classifier", (1, 28, 28)


def operations() -> int:
    """Floating-point operations of one step."""
    info = DataInfo("made-up", "", SHAPE, tuple("0123456789"), (0.0,), (1.0,), {}, {})
    total, _ = multiply_adds(initial_checkpoint(TrainingData(made_up(1), None, info), MODEL, 0))
    model = build_model(MODEL, SHAPE, 10)
    first = next(model.parameters()).numel() * (SHAPE[1] // 2) * (SHAPE[2] // 2)
    return 2 * BATCH * (3 * total - first)


def wait(device: torch.device) -> None:
    """Until the device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def product(dtype: torch.dtype, side: int, device: torch.device) -> Callable[[], None]:
    """One product of two square matrices."""
    one, other = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(one)

    def multiply() -> None:
        torch.mm(one, other, out=out)
        wait(device)

    return multiply


def step(
    device: torch.device,
    *,
    half: bool = False,
    channels_last: bool = False,
    compiled: bool = False,
    steps: int = 4,
) -> Callable[[], None]:
    """``steps`` training steps in a row."""
    torch.manual_seed(0)
    model: nn.Module = build_model(MODEL, SHAPE, 10).to(device)
    part = made_up(BATCH).to(device)
    images = part.images
    if channels_last:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        images = images.contiguous(memory_format=torch.channels_last)
    optimizer = SGD(model.parameters(), lr=0.05)
    forward: Any = torch.compile(model) if compiled else model
    context: Callable[[], AbstractContextManager[Any]] = (
        partial(torch.autocast, device.type, dtype=torch.bfloat16) if half else nullcontext
    )

    def run() -> None:
        for _ in range(steps):
            optimizer.zero_grad()
            with context():
                loss = cross_entropy(forward(images), part.labels)
            loss.backward()
            optimizer.step()
        wait(device)

    return run


def measure(device: torch.device, *, quick: bool, compiled: bool) -> list[Value]:
    """Milliseconds a step, rates, and fractions of the peak, by threads."""
    select_device("cuda" if device.type == "cuda" else "cpu")  # as the stages set it
    work, side = operations(), 512 if quick else 1536
    steps, rounds = (1, 3) if quick else (4, 25)
    values, most = [], torch.get_num_threads()
    for threads in sorted({1, most} if device.type == "cpu" else {most}):
        torch.set_num_threads(threads)
        options: dict[str, dict[str, bool]] = {
            "float32": {},
            "bfloat16 autocast": {"half": True},
            "float32, channels last": {"channels_last": True},
        }
        if compiled:
            options["float32, compiled"] = {"compiled": True}
        cases = {name: step(device, steps=steps, **one) for name, one in options.items()}
        if compiled:
            started = time.perf_counter()
            cases["float32, compiled"]()
            spent = time.perf_counter() - started
            values.append(value(f"compiling, {threads} threads", "s", [spent]))
        peaks = {
            "peak of float32": product(torch.float32, side, device),
            "peak of bfloat16": product(torch.bfloat16, side, device),
        }
        seconds = in_turn({**cases, **peaks}, rounds, warm_up=2)
        rates = {
            name: [(2 * side**3 if name in peaks else work * steps) / one / 1e9 for one in times]
            for name, times in seconds.items()
        }
        for name in cases:
            each = [1e3 * one / steps for one in seconds[name]]
            values.append(value(f"{name}, {threads} threads: a step", "ms", each))
        for name, rate in rates.items():
            values.append(value(f"{name}, {threads} threads", "GFLOP/s", rate, "higher"))
        for name in cases:
            peak = rates["peak of bfloat16" if "bfloat16" in name else "peak of float32"]
            share = ratios(rates[name], peak)
            values.append(value(f"{name}, {threads} threads: of peak", "", share, "higher"))
    torch.set_num_threads(most)
    return values


def main() -> None:
    """Measure and report."""
    parser = arguments_of(__doc__, device=True)
    parser.add_argument("--compile", action="store_true")
    arguments = parser.parse_args()
    where = machine(arguments.device)
    values = measure(arguments.device, quick=arguments.quick, compiled=arguments.compile)
    report("step", values, where, arguments)


if __name__ == "__main__":
    main()
