"""Small networks, batches and closures that the tests of SAM share."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD, AdamW
from torch.optim.optimizer import Optimizer

from sparse_sam.sam.registry import VARIANTS

Batch = tuple[Tensor, Tensor]

BASES: list[tuple[type[Optimizer], dict[str, Any]]] = [
    (SGD, {"lr": 0.05, "momentum": 0.9, "weight_decay": 1e-3}),
    (AdamW, {"lr": 1e-3, "weight_decay": 1e-2}),
]

# What a variant needs to show what is its own within a few steps.
OWN: dict[str, dict[str, Any]] = {
    "asam": {"eta": 0.02},
    "periodic": {"k": 3},
    "looksam": {"k": 3, "alpha": 0.5},
    "late": {"after": 2},
    "gsam": {"alpha": 0.3},
}
VARIANT_CASES: list[tuple[str, dict[str, Any]]] = [(name, OWN.get(name, {})) for name in VARIANTS]


def perceptron() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 4))


def with_batchnorm() -> nn.Sequential:
    """A network without a bias before BatchNorm, whose gradient would be rounding noise."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(12, 16, bias=False), nn.BatchNorm1d(16, momentum=0.2), nn.ReLU(), nn.Linear(16, 4)
    )


def batches(steps: int, size: int = 24) -> list[Batch]:
    generator = torch.Generator().manual_seed(7)
    return [
        (
            torch.randn(size, 12, generator=generator),
            torch.randint(0, 4, (size,), generator=generator),
        )
        for _ in range(steps)
    ]


def closure_of(
    model: nn.Module, optimizer: Optimizer, inputs: Tensor, labels: Tensor
) -> Callable[[], Tensor]:
    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = cross_entropy(model(inputs), labels)
        loss.backward()
        return loss

    return closure


def run(model: nn.Module, optimizer: Optimizer, data: list[Batch]) -> None:
    for inputs, labels in data:
        optimizer.step(closure_of(model, optimizer, inputs, labels))


def gradient(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    """The gradient of the loss as one vector, with no trace left in the model."""
    loss = cross_entropy(model(inputs), labels)
    return flat(list(torch.autograd.grad(loss, list(model.parameters()))))


def weights(model: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


def flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([tensor.detach().flatten() for tensor in tensors])


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    """Equal bit for bit, NaN and the sign of zero included."""
    return len(one) == len(other) and all(
        bits(a).equal(bits(b)) for a, b in zip(one, other, strict=True)
    )


def bits(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().flatten().view(torch.uint8)


def relative_distance(one: nn.Module, other: nn.Module) -> float:
    a, b = flat(weights(one)).double(), flat(weights(other)).double()
    return float((a - b).norm() / b.norm())
