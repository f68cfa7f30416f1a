"""Is everything right on this GPU, and what does a step cost there? ``python benchmarks/gpu.py``.

Needs torch and nothing more, and a CUDA device (without one it says so and ends with 2). First it
checks every variant of SAM on a pruned ResNet-20: the same steps as on the CPU, zeros that hold
with bfloat16, and with float16 and its scaler, weights that are put back bit for bit, FSDP2 in one
process. Then it times steps: medians of CUDA events, variants in turn.
"""

import argparse
import copy
import json
import os
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from sparse_sam import Sparsifier
from sparse_sam.networks import build_model
from sparse_sam.pruning import Gradual, check_pruned_weights_are_zero, plain_state
from sparse_sam.sam import VARIANTS, build_sam

SHAPE, CLASSES, BATCH = (3, 32, 32), 10, 128
SETTINGS = {"lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4}
OWN = {"late": {"after": 1}}
"""What has no default: the check of two steps has one of each kind, and what is timed ascends."""
WARM_UP, TIMED = 10, 40
SAME = 1e-9
"""In float64: two devices sum in another order, and steps of a network make that larger."""


def say(text: str) -> None:
    """Write a line at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def require(holds: bool, what: object) -> None:
    """Raise AssertionError if something does not hold."""
    if not holds:
        raise AssertionError(what)


def batches(count: int, device: str) -> list[tuple[Tensor, Tensor]]:
    """Images and labels that are the same on every device."""
    generator = torch.Generator().manual_seed(0)
    return [
        (
            torch.randn(BATCH, *SHAPE, generator=generator).to(device),
            torch.randint(CLASSES, (BATCH,), generator=generator).to(device),
        )
        for _ in range(count)
    ]


def network(device: str) -> nn.Module:
    """ResNet-20 with the same first weights on every device."""
    torch.manual_seed(0)
    return build_model("resnet-20", SHAPE, CLASSES).to(device)


def optimizer_of(variant: str, model: nn.Module) -> Any:
    """The base optimizer, or a variant of SAM around it."""
    if variant == "sgd":
        return torch.optim.SGD(model.parameters(), **SETTINGS)
    own = OWN.get(variant)
    return build_sam(variant, model, torch.optim.SGD, rho=0.05, settings=own, **SETTINGS)


def steps(
    model: nn.Module,
    variant: str,
    count: int,
    device: str,
    precision: torch.dtype | None = None,
    sparsifier: Sparsifier | None = None,
) -> list[float]:
    """Train for some steps; the losses. With float16 there is a scaler."""
    optimizer = optimizer_of(variant, model)
    if sparsifier:
        sparsifier.prepare(optimizer, steps=count)
    scaler = torch.amp.GradScaler(device) if precision is torch.float16 else None
    losses = []
    dtype = next(model.parameters()).dtype
    for images, labels in batches(count, device):

        def closure(images: Tensor = images, labels: Tensor = labels) -> Tensor:
            with torch.autocast(device, dtype=precision, enabled=precision is not None):
                loss = cross_entropy(model(images.to(dtype)), labels)
            (scaler.scale(loss) if scaler else loss).backward()
            return loss

        optimizer.zero_grad()
        loss = optimizer.step(closure, **({"scaler": scaler} if scaler else {}))
        losses.append(float(loss.detach()))
        if scaler:
            scaler.update()
        if sparsifier:
            sparsifier.step()
            check_pruned_weights_are_zero(model)
    return losses


def difference(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """The relative distance of two states, their weights as one vector."""
    pairs = [
        (one[k].cpu().double(), other[k].cpu().double()) for k in one if one[k].is_floating_point()
    ]
    above = sum(float((a - b).square().sum()) for a, b in pairs) ** 0.5
    return above / sum(float(b.square().sum()) for _, b in pairs) ** 0.5


def pruned(device: str, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, Sparsifier]:
    """A network that loses 90 % of its weights on the way."""
    model = network(device).to(dtype)
    schedule = Gradual(name="gradual", initial=0.5, end=0.8, updates=3)
    return model, Sparsifier(model, 0.9, scope="global", schedule=schedule)


def check_variant(variant: str, count: int) -> dict[str, float]:
    """Raise AssertionError if a variant does not do on the GPU what it does on the CPU."""
    found = {}
    states = {}
    for device in ("cpu", "cuda"):
        model, sparsifier = pruned(device, torch.float64)
        steps(model, variant, count, device, sparsifier=sparsifier)
        sparsifier.finalize()
        states[device] = plain_state(model)
    found["float64 on cuda and cpu"] = difference(states["cuda"], states["cpu"])
    require(found["float64 on cuda and cpu"] < SAME, found)
    for name, precision in (("bfloat16", torch.bfloat16), ("float16", torch.float16)):
        model, sparsifier = pruned("cuda")
        losses = steps(model, variant, count, "cuda", precision, sparsifier)
        sparsifier.finalize()
        require(bool(torch.tensor(losses).isfinite().all()), (name, losses))
        found[name] = difference(plain_state(model), states["cpu"])
    return found


def check_restored(variant: str) -> None:
    """Raise AssertionError if the weights are not bit for bit what they were after two passes."""
    model = network("cuda")
    options = {"settings": OWN.get(variant), "lr": 0.0, "momentum": 0.9}
    optimizer = build_sam(variant, model, torch.optim.SGD, rho=0.1, **options)
    before = copy.deepcopy(dict(model.named_parameters()))
    for images, labels in batches(2, "cuda"):

        def closure(images: Tensor = images, labels: Tensor = labels) -> Tensor:
            loss = cross_entropy(model(images), labels)
            loss.backward()
            return loss

        optimizer.step(closure)
    same = all(before[name].equal(one) for name, one in model.named_parameters())
    require(same, f"{variant}: weights are not what they were")


def check_sharded(count: int) -> float:
    """The distance of FSDP2 with NCCL, in one process, from the plain network."""
    import torch.distributed as dist
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor

    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "29517",
        "RANK": "0",
        "WORLD_SIZE": "1",
    }
    dist.init_process_group("nccl", device_id=torch.device("cuda", 0))
    plain, model = network("cuda").double(), network("cuda").double()
    fully_shard(model)
    steps(plain, "sam", count, "cuda")
    steps(model, "sam", count, "cuda")
    whole = {
        name: one.full_tensor() if isinstance(one, DTensor) else one
        for name, one in model.state_dict().items()
    }
    dist.destroy_process_group()
    return difference(whole, plain.state_dict())


def timed(make: dict[str, Callable[[], Callable[[], Any]]]) -> dict[str, dict[str, float]]:
    """Milliseconds of a step, taken in turn: median and quartiles; peak memory in MiB."""
    found = {}
    runs = {}
    for name, one in make.items():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        step = runs[name] = one()
        for _ in range(WARM_UP):
            step()
        found[name] = {"peak_mib": torch.cuda.max_memory_allocated() / 2**20}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(TIMED):
        for name, step in runs.items():
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            step()
            end.record()
            torch.cuda.synchronize()
            times[name].append(begin.elapsed_time(end))
    for name, values in times.items():
        low, middle, high = statistics.quantiles(values, n=4)
        found[name] |= {"ms": middle, "low": low, "high": high}
    return found


def one_step(
    variant: str, precision: torch.dtype | None, *, masked: bool, compiled: bool
) -> Callable[[], Any]:
    """A step of a variant, to be called again and again."""
    model = network("cuda")
    if masked:
        Sparsifier(model, 0.9, scope="global").prepare()
    model = model.to(memory_format=torch.channels_last)
    optimizer = optimizer_of(variant, model)
    forward: Any = torch.compile(model) if compiled else model
    ((images, labels),) = batches(1, "cuda")
    images = images.to(memory_format=torch.channels_last)

    def closure() -> Tensor:
        if variant == "sgd":
            optimizer.zero_grad()
        with torch.autocast("cuda", dtype=precision, enabled=precision is not None):
            loss = cross_entropy(forward(images), labels)
        loss.backward()
        return loss

    return lambda: optimizer.step(closure)


def write_page(kept: Path) -> None:
    """Put a kept result into docs/performance.md."""
    from harness import write_between

    found = json.loads(kept.read_text(encoding="utf-8"))
    times = found["times"]
    lines = [
        "| a step of ResNet-20, batch 128, ms | float32 | with masks | bfloat16 | with masks |",
        "|---|---|---|---|---|",
    ]
    measured = [one for one in VARIANTS if one in found["checks"]]  # it may be older than some
    for variant in ("sgd", *measured):
        cells = [
            f"{times[f'{variant}, {precision}, {masks}']['ms']:.1f}"
            for precision in ("float32", "bfloat16")
            for masks in ("dense", "masks")
        ]
        lines.append(f"| {variant} | {' | '.join(cells)} |")
    worst = max(found["checks"][variant]["float64 on cuda and cpu"] for variant in measured)
    said = (
        f"{found['device']}, torch {found['torch']}. In float64 a GPU and a CPU agree within "
        f"{worst:.0e} of the weights after five steps, with every variant, while masks shrink to "
        "90 %. With bfloat16, and float16 with a scaler, pruned weights stay 0; every step puts "
        "the weights back bit for bit."
    )
    lines += ["", said]
    write_between(Path("docs/performance.md"), "gpu", "\n".join(lines) + "\n")


def main() -> int:
    """Check, time, print, and keep what was found if ``--json`` names a file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write everything there, too")
    parser.add_argument("--steps", type=int, default=5, help="of each check")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--page", type=Path, help="only put this result into docs/performance.md")
    options = parser.parse_args()
    if options.page:
        write_page(options.page)
        return 0
    if not torch.cuda.is_available():
        sys.stderr.write("error: there is no CUDA device here\n")
        return 2
    torch.backends.cudnn.deterministic = True
    checks: dict[str, Any] = {}
    say(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    for variant in VARIANTS:
        check_restored(variant)
        checks[variant] = check_variant(variant, options.steps)
        of = ", ".join(f"{name} {value:.1e}" for name, value in checks[variant].items())
        say(f"{variant}: restored bit for bit; {of}")
    checks["fully_shard"] = check_sharded(options.steps)
    say(f"fully_shard, NCCL, one process: {checks['fully_shard']:.1e}")
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = False, True
    make: dict[str, Callable[[], Callable[[], Any]]] = {}
    for precision in (None, torch.bfloat16):
        for variant in ("sgd", *VARIANTS):
            for masked in (False, True):
                for compiled in (
                    (False,) if options.no_compile or variant != "sam" else (False, True)
                ):
                    words = (
                        variant,
                        "float32" if precision is None else "bfloat16",
                        "masks" if masked else "dense",
                        *(("compiled",) if compiled else ()),
                    )
                    make[", ".join(words)] = lambda v=variant, p=precision, m=masked, c=compiled: (
                        one_step(v, p, masked=m, compiled=c)
                    )
    times = timed(make)
    for name, one in times.items():
        spread = f"({one['low']:.2f} to {one['high']:.2f})"
        say(f"{name:36} {one['ms']:7.2f} ms {spread} {one['peak_mib']:6.0f} MiB")
    found = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "checks": checks,
        "times": times,
    }
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
