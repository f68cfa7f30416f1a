"""The network, the batches and the plain loop with which every framework is compared."""

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR

from sparse_sam.pruning import Masks, attach
from sparse_sam.sam import ASAM, GSAM, SAM, LateSAM, LookSAM, PeriodicSAM

Batch = tuple[Tensor, Tensor]

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
STEPS, RHO, CLIP = 5, 0.2, 0.3
OF_SGD: dict[str, Any] = {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-3}
VARIANTS: list[tuple[type[SAM], dict[str, Any]]] = [
    (ASAM, {}),
    (LookSAM, {"k": 2}),
    (GSAM, {}),
    (PeriodicSAM, {"k": 2}),
    (LateSAM, {"after": 2}),
]
"""Those that take a second pass, and their settings."""
DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def network(*, masked: bool = True) -> nn.Sequential:
    """BatchNorm, whose statistics tell the passes apart, and half of the first layer pruned."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(12, 16, bias=False), nn.BatchNorm1d(16, momentum=0.2), nn.ReLU(), nn.Linear(16, 4)
    )
    if masked:
        attach(model, Masks({"0.weight": torch.rand(16, 12) < 0.5}))
    return model.to(DEVICE)


def batches(count: int, size: int = 8) -> list[Batch]:
    generator = torch.Generator().manual_seed(7)
    return [
        (
            torch.randn(size, 12, generator=generator).to(DEVICE),
            torch.randint(0, 4, (size,), generator=generator).to(DEVICE),
        )
        for _ in range(count)
    ]


def make_sam(model: nn.Module, variant: Callable[..., SAM] = SAM, **options: Any) -> SAM:
    return variant(model.parameters(), SGD, rho=RHO, model=model, **OF_SGD, **options)


def make_scaler(scale: float = 2.0**10) -> torch.amp.GradScaler:
    return torch.amp.GradScaler(DEVICE, init_scale=scale)


def set_scaler(accelerator: Any, scale: float = 2.0**10) -> None:
    """Give accelerate's fp16 a scale. On a CPU it refuses fp16, which torch has there too."""
    if DEVICE == "cpu":
        accelerator.state._mixed_precision, accelerator.native_amp = "fp16", True
    accelerator.scaler = make_scaler(scale)


def windows(data: list[Batch], accumulate: int) -> Iterable[list[Batch]]:
    return [data[i : i + accumulate] for i in range(0, len(data), accumulate)]


def plain(
    data: list[Batch],
    *,
    accumulate: int = 1,
    precision: str = "fp32",
    clip: float | None = None,
    scaler: torch.amp.GradScaler | None = None,
    model: nn.Module | None = None,
    loss_of: Callable[..., Tensor] = cross_entropy,
    loss_in_autocast: bool = True,
    **options: Any,
) -> dict[str, Tensor]:
    """What ``SAM.step(closure)`` makes of the network in a loop of one's own.

    accelerate makes only the network's pass under autocast, and the loss of outputs in float32. On
    a GPU that gives other bits than a loss under autocast (8e-4 after five steps with bfloat16).
    """
    model = model or network()
    optimizer = make_sam(model, max_grad_norm=clip, **options)
    scheduler = CosineAnnealingLR(optimizer, STEPS)
    if precision == "fp16" and scaler is None:
        scaler = make_scaler()
    for window in windows(data, accumulate):

        def closure(window: list[Batch] = window) -> Tensor:
            total = torch.zeros((), device=DEVICE)
            for number, (inputs, labels) in enumerate(window, 1):
                with ExitStack() as stack:
                    if DTYPES[precision]:
                        stack.enter_context(torch.autocast(DEVICE, DTYPES[precision]))
                    if hasattr(model, "no_sync") and number < len(window):
                        stack.enter_context(model.no_sync())
                    outputs = model(inputs)
                    if not loss_in_autocast:
                        stack.enter_context(torch.autocast(DEVICE, enabled=False))
                        outputs = outputs.float()
                    loss = loss_of(outputs, labels) / accumulate
                    (scaler.scale(loss) if scaler else loss).backward()
                total += loss.detach()
            return total

        optimizer.step(closure, scaler=scaler)
        if scaler:
            scaler.update()
        scheduler.step()
    return state(model)


def state(model: nn.Module) -> dict[str, Tensor]:
    """Weights, masks, and BatchNorm's statistics, under the names of ``network``."""
    return {
        name.removeprefix("module.").removeprefix("net."): tensor.detach().cpu().clone()
        for name, tensor in model.state_dict().items()
    }


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor], tolerance: float = 0.0) -> None:
    """Equal bit for bit on a CPU, unless a tolerance is given; a GPU sums in its own order."""
    if DEVICE == "cuda":
        tolerance = max(tolerance, 1e-6)
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], rtol=tolerance, atol=tolerance, msg=name)


def distance(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    return max(float((one[name].double() - other[name].double()).abs().max()) for name in one)


def weights_after(steps: list[list[Batch]], accumulate: int) -> dict[str, Tensor]:
    """Weights after steps of these micro-batches, of which a loop may have dropped some."""
    model = network()
    optimizer = make_sam(model)
    for window in steps:

        def closure(window: list[Batch] = window) -> None:
            for inputs, labels in window:
                (cross_entropy(model(inputs), labels) / accumulate).backward()

        optimizer.step(closure)
    return weights_in(state(model))


def weights_in(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: one for name, one in state.items() if "running" not in name and "num" not in name}


class Draws(nn.Module):
    """Adds noise, as dropout would, and remembers it."""

    def __init__(self) -> None:
        super().__init__()
        self.drawn: list[Tensor] = []

    def forward(self, inputs: Tensor) -> Tensor:
        noise = torch.rand_like(inputs)
        self.drawn.append(noise.detach().cpu())
        return inputs + 0.1 * noise


def with_noise() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 8), Draws(), nn.ReLU(), nn.Linear(8, 4)).to(DEVICE)


def assert_drawn_in_both_passes_alike(drawn: list[Tensor], accumulate: int) -> None:
    """Every micro-batch of a step has the noise of its first pass again, and none another's."""
    assert drawn
    assert len(drawn) % (2 * accumulate) == 0
    first: list[Tensor] = []
    for start in range(0, len(drawn), 2 * accumulate):
        middle = start + accumulate
        for one, again in zip(
            drawn[start:middle], drawn[middle : middle + accumulate], strict=True
        ):
            assert one.equal(again)
            assert not any(one.equal(other) for other in first)
            first.append(one)
