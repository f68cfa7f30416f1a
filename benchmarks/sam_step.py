"""What a SAM step costs: time relative to SGD, what it adds to its gradients, and peak memory.

    python benchmarks/sam_step.py                       # everything; about six minutes on two cores
    python benchmarks/sam_step.py --models classifier --seconds 20 --no-memory
    python benchmarks/sam_step.py --device cuda
    python benchmarks/sam_step.py --docs docs/sam.md    # and put the table there: `make bench`

All rows of a model run in one process, one step each in turn, in a new random order every round,
so that whatever else the machine does falls on all of them. Times are medians with quartiles.

On a CPU what a step adds is measured inside it: its time less that of its closure's calls, of the
base optimizer's step, and of what SGD's step spends besides (on zeroing gradients) for each
gradient. It is given relative to the closure's calls, the forward and backward passes. On a GPU,
where that would need a synchronisation, it is not measured.

Peak memory is that of a fresh process for every row, over two steps, above what the process had
before it made the network.
"""

import argparse
import json
import multiprocessing
import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from harness import machine
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD, Optimizer

SGD_OPTIONS = {"lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4}
RHO, SPARSITY, PERIOD = 0.05, 0.9, 5
BEGIN = "<!-- benchmark: written by `make bench` -->"
END = "<!-- end of benchmark -->"


@dataclass(frozen=True)
class Case:
    """A network, its input and how long it is measured."""

    image_shape: tuple[int, int, int]
    batch: int
    seconds: float


CASES = {
    "lenet-300-100": Case((1, 28, 28), 128, 25),
    "classifier": Case((1, 28, 28), 64, 50),
    "resnet-18": Case((3, 32, 32), 32, 150),
}

Step = Callable[[Callable[[], Tensor]], Any]
Timed = tuple[Step, Optimizer]


def make_model(name: str, masked: bool) -> nn.Module:
    """A registered network of the library, or ResNet-18; with masks if they are wanted."""
    from sparse_sam.networks import build_model
    from sparse_sam.pruning import attach, magnitude_masks

    torch.manual_seed(0)
    shape = CASES[name].image_shape
    model = cifar_resnet18() if name == "resnet-18" else build_model(name, shape, 10)
    if masked:
        attach(model, magnitude_masks(model, SPARSITY))
    return model


def cifar_resnet18() -> nn.Module:
    """Torchvision's ResNet-18 with the usual stem for 32 × 32 images: 11.2 million weights."""
    from sparse_sam.files import import_torchvision

    model: Any = import_torchvision().models.resnet18(num_classes=10)
    model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    model.maxpool = nn.Identity()
    return model


def sgd(model: nn.Module) -> Timed:
    """Plain SGD; as a closure's optimizer it adds nothing of its own."""
    optimizer = SGD(model.parameters(), **SGD_OPTIONS)

    def step(closure: Callable[[], Tensor]) -> None:
        optimizer.zero_grad()
        closure()
        optimizer.step()

    return step, optimizer


def ours(variant: str, **settings: Any) -> Callable[[nn.Module], Timed]:
    """A variant of this library."""

    def make(model: nn.Module) -> Timed:
        from sparse_sam.sam import build_sam

        optimizer = build_sam(variant, model, SGD, RHO, settings=settings, **SGD_OPTIONS)
        return optimizer.step, optimizer.base_optimizer

    return make


def peer(foreach: bool | None) -> Callable[[nn.Module], Timed]:
    """``pytorch_optimizer.SAM``, used as its documentation says."""

    def make(model: nn.Module) -> Timed:
        import pytorch_optimizer

        optimizer = pytorch_optimizer.SAM(
            model.parameters(), SGD, rho=RHO, foreach=foreach, **SGD_OPTIONS
        )

        def step(closure: Callable[[], Tensor]) -> None:
            optimizer.zero_grad()
            closure()
            optimizer.step(after_zeroing(optimizer, closure))

        return step, optimizer.base_optimizer

    return make


def after_zeroing(optimizer: Optimizer, closure: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """The closure, after the gradients of the optimizer are zeroed."""

    def zeroed() -> Tensor:
        optimizer.zero_grad()
        return closure()

    return zeroed


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    make: Callable[[nn.Module], Timed]
    masked: bool = False


ROWS = {
    "SGD": Row(sgd),
    "SAM": Row(ours("sam")),
    "peer SAM": Row(peer(None)),
    "peer SAM, foreach": Row(peer(True)),
    "ASAM": Row(ours("asam")),
    f"periodic, k = {PERIOD}": Row(ours("periodic", k=PERIOD)),
    f"LookSAM, k = {PERIOD}": Row(ours("looksam", k=PERIOD)),
    "momentum SAM": Row(ours("momentum")),
    "GSAM": Row(ours("gsam")),
    "SGD, masked": Row(sgd, masked=True),
    "SAM, masked": Row(ours("sam"), masked=True),
}


@dataclass(frozen=True)
class Cost:
    """One step: seconds in all, in the closure's calls, and in the base optimizer's step."""

    total: float
    passes: float
    base: float
    gradients: int


class Runner:
    """A row at work."""

    def __init__(self, name: str, row: Row, device: torch.device) -> None:
        case = CASES[name]
        self.model = make_model(name, row.masked).to(device)
        self.step, base = row.make(self.model)
        self.device = device
        generator = torch.Generator().manual_seed(1)
        shape = (case.batch, *case.image_shape)
        self.inputs = torch.randn(shape, generator=generator).to(device)
        self.labels = torch.randint(0, 10, (case.batch,), generator=generator).to(device)
        self.costs: list[Cost] = []
        self._passes = self._base = 0.0
        self._gradients = 0
        base.register_step_pre_hook(self._enter_base)
        base.register_step_post_hook(self._leave_base)

    def run(self) -> None:
        """One step."""
        self._passes = self._base = 0.0
        self._gradients = 0
        self._wait()
        started = time.perf_counter()
        self.step(self._closure)
        self._wait()
        total = time.perf_counter() - started
        self.costs.append(Cost(total, self._passes, self._base, self._gradients))

    def _closure(self) -> Tensor:
        started = time.perf_counter()
        loss = cross_entropy(self.model(self.inputs), self.labels)
        loss.backward()
        self._passes += time.perf_counter() - started
        self._gradients += 1
        return loss

    def _enter_base(self, *_: Any) -> None:
        self._base -= time.perf_counter()

    def _leave_base(self, *_: Any) -> None:
        self._base += time.perf_counter()

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


@dataclass(frozen=True)
class Line:
    """What is known of a row of a model. Times in ms, memory in MiB; None is not measured."""

    model: str
    row: str
    gradients: float
    median: float
    quartiles: tuple[float, float]
    relative: float
    added: float | None
    memory: float | None
    steps: int


def beside(cost: Cost) -> float:
    """What a step spends outside of its passes and of the base optimizer's step."""
    return cost.total - cost.passes - cost.base


def expectation(costs: list[Cost], value: Callable[[Cost], float]) -> tuple[float, float, float]:
    """Median and quartiles of a value, per step.

    Steps with one and with two gradients differ by a factor; each kind has its quartiles, and
    they are weighted by how often it occurs.
    """
    kinds: dict[int, list[float]] = {}
    for cost in costs:
        kinds.setdefault(cost.gradients, []).append(value(cost))
    parts = []
    for values in kinds.values():
        lower, middle, upper = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
        parts.append((len(values) / len(costs), middle, lower, upper))
    middle, lower, upper = (sum(share * part[i] for share, *part in parts) for i in range(3))
    return middle, lower, upper


def measure(
    name: str, rows: list[str], seconds: float, device: torch.device
) -> dict[str, list[Cost]]:
    """Steps of all rows in turn for about so many seconds; whole periods of rounds."""
    runners = {row: Runner(name, ROWS[row], device) for row in rows}
    order, shuffle = list(rows), random.Random(0)  # noqa: S311
    for _ in range(2):  # memory and thread pools; momentum
        for row in order:
            runners[row].run()
    for runner in runners.values():
        runner.costs.clear()
    # Rows with a period begin it in different rounds, so that the rounds are alike.
    ended = time.perf_counter() + seconds
    rounds = 0
    while time.perf_counter() < ended or rounds % PERIOD:
        shuffle.shuffle(order)
        for row in order:
            runners[row].run()
        rounds += 1
    return {row: runner.costs for row, runner in runners.items()}


def peak_memory(name: str, row: str, device: torch.device, results: Any) -> None:
    """In a process of its own: the peak of two steps, in MiB, put into ``results``."""
    if device.type == "cuda":
        runner = Runner(name, ROWS[row], device)
        for _ in range(2):
            runner.run()
        results.put(torch.cuda.max_memory_allocated() / 2**20)
        return
    from sparse_sam.sam import build_sam  # noqa: F401 - what is imported is no part of it

    # The first optimizer of a process imports part of torch's compiler, which no step needs.
    torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    status = Path("/proc/self/status")
    before = resident(status, "VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    runner = Runner(name, ROWS[row], device)
    for _ in range(2):
        runner.run()
    results.put((resident(status, "VmHWM") - before) / 2**10)


def resident(status: Path, key: str) -> int:
    """A value of /proc/self/status, in KiB."""
    line = next(line for line in status.read_text().splitlines() if line.startswith(key))
    return int(line.split()[1])


def in_fresh_process(name: str, row: str, device: torch.device) -> float | None:
    """``peak_memory`` in a new process; None where it cannot be measured."""
    if device.type == "cpu" and not Path("/proc/self/clear_refs").exists():
        return None
    # Every large block is mapped by itself, so that the peak is of what is in use, without the
    # holes that glibc's heap has in between.
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "65536"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "pytorch_optimizer", "sparse_sam.sam"])
    results = context.SimpleQueue()
    process = context.Process(target=peak_memory, args=(name, row, device, results))
    process.start()
    process.join()
    return None if results.empty() else float(results.get())


def lines_of(
    name: str, rows: list[str], seconds: float, device: torch.device, memory: bool
) -> Iterator[Line]:
    """The table's lines for a model."""
    peaks = {row: in_fresh_process(name, row, device) if memory else None for row in rows}
    costs = measure(name, rows, seconds, device)
    reference, *_ = expectation(costs["SGD"], lambda cost: cost.total)
    zeroing, *_ = expectation(costs["SGD"], beside)
    for row in rows:
        middle, lower, upper = expectation(costs[row], lambda cost: cost.total)
        added = None
        if device.type == "cpu":
            own, *_ = expectation(costs[row], lambda cost: beside(cost) - zeroing * cost.gradients)
            passes, *_ = expectation(costs[row], lambda cost: cost.passes)
            added = own / passes
        yield Line(
            model=name,
            row=row,
            gradients=sum(cost.gradients for cost in costs[row]) / len(costs[row]),
            median=1e3 * middle,
            quartiles=(1e3 * lower, 1e3 * upper),
            relative=middle / reference,
            added=added,
            memory=peaks[row],
            steps=len(costs[row]),
        )


def markdown(lines: list[Line]) -> str:
    """The lines as a table."""
    head = (
        "| model | row | gradients | ms a step (quartiles) | × SGD | added to the passes | peak |"
    )
    table = [head, "|---|---|---|---|---|---|---|"]
    for line in lines:
        added = "" if line.added is None else f"{100 * line.added:.1f} %"
        memory = "" if line.memory is None else f"{line.memory:.0f} MiB"
        lower, upper = line.quartiles
        digits = 1 if line.median < 100 else 0
        times = f"{line.median:.{digits}f} ({lower:.{digits}f}–{upper:.{digits}f})"
        table.append(
            f"| {line.model} | {line.row} | {line.gradients:.1f} | {times} | "
            f"{line.relative:.2f} | {added} | {memory} |"
        )
    return "\n".join(table)


def main() -> None:
    """Measure, print, and write what was asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--models", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--seconds", type=float, help="for every model (default: its own)")
    parser.add_argument("--device", default="cpu", type=torch.device)
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--json", type=Path, help="where to write the numbers too")
    parser.add_argument("--docs", type=Path, help="a page with a place for the table")
    arguments = parser.parse_args()
    rows = list(dict.fromkeys(["SGD", *arguments.rows]))
    before = machine(arguments.device)
    lines = [
        line
        for name in arguments.models
        for line in lines_of(
            name,
            rows,
            arguments.seconds or CASES[name].seconds,
            arguments.device,
            not arguments.no_memory,
        )
    ]
    after = machine(arguments.device)
    table = (
        f"{markdown(lines)}\n\n{before['device']}, {before['threads']} threads, torch "
        f"{before['torch']}, Python {before['python']}; load before {before['load']}, after "
        f"{after['load']}.\n"
    )
    sys.stdout.write(table)
    if arguments.docs:
        page = arguments.docs.read_text(encoding="utf-8")
        head, rest = page.split(BEGIN)
        tail = rest.partition(END)[2]
        arguments.docs.write_text(f"{head}{BEGIN}\n{table}{END}{tail}", encoding="utf-8")
    if arguments.json:
        numbers = {"before": before, "after": after, "lines": [asdict(line) for line in lines]}
        arguments.json.write_text(json.dumps(numbers, indent=1) + "\n")


if __name__ == "__main__":
    main()
