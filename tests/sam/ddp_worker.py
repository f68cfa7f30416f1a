"""One of two processes under torchrun: trains with SAM and writes what it saw.

``torchrun --nproc-per-node 2 ddp_worker.py FOLDER``. Every rank has half of each batch.
"""

import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.nn.functional  # before the group: docs/sam.md
from sam_cases import batches, flat, perceptron, weights
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD

from sparse_sam.pruning.magnitude import magnitude_masks
from sparse_sam.pruning.masks import attach
from sparse_sam.sam.build import build_sam

STEPS = 5
OPTIONS: dict[str, Any] = {"lr": 0.05, "momentum": 0.9}

# (name, variant, its settings, options of SAM, whether gradients are views of DDP's buffers)
RUNS: list[tuple[str, str, dict[str, Any], dict[str, Any], bool]] = [
    ("local", "sam", {}, {}, False),
    ("synchronised", "sam", {}, {"sync_perturbation": True}, False),
    ("periodic", "periodic", {"k": 2}, {"sync_perturbation": True}, True),
    ("looksam", "looksam", {"k": 2}, {}, True),
    ("late", "late", {"after": 2}, {"sync_perturbation": True}, True),
    ("gsam", "gsam", {}, {}, True),
    ("momentum", "momentum", {}, {}, False),
]


def model_for(name: str) -> nn.Sequential:
    model = perceptron().double()
    if name in {"local", "synchronised"}:
        attach(model, magnitude_masks(model, 0.5))
    return model


def train(
    name: str, variant: str, own: dict[str, Any], options: dict[str, Any], views: bool
) -> dict[str, Any]:
    """Weights after each step, and where each closure call found them."""
    rank, model = dist.get_rank(), model_for(name)
    parallel = DistributedDataParallel(model, gradient_as_bucket_view=views)
    optimizer = build_sam(variant, parallel, SGD, 0.5, settings=own, **options, **OPTIONS)
    seen: list[list[Tensor]] = []
    after: list[Tensor] = []
    for inputs, labels in batches(STEPS):
        x, y = inputs.double().chunk(2)[rank], labels.chunk(2)[rank]
        calls: list[Tensor] = []

        def closure(x: Tensor = x, y: Tensor = y, calls: list[Tensor] = calls) -> Tensor:
            calls.append(flat(weights(model)))
            optimizer.zero_grad()
            loss = cross_entropy(parallel(x), y)
            loss.backward()
            return loss

        optimizer.step(closure)
        seen.append(calls)
        after.append(flat(weights(model)))
    return {"seen": seen, "after": after}


def overflow() -> dict[str, Any]:
    """The first gradient of rank 0 overflows: both ranks must skip the step."""
    rank, model = dist.get_rank(), perceptron().double()
    parallel = DistributedDataParallel(model)
    optimizer = build_sam("sam", parallel, SGD, 0.5, nonfinite="skip", **OPTIONS)
    after: list[Tensor] = []
    for step, (inputs, labels) in enumerate(batches(3)):
        calls = 0

        def closure(inputs: Tensor = inputs, labels: Tensor = labels, step: int = step) -> Tensor:
            nonlocal calls
            calls += 1
            loss = cross_entropy(parallel(inputs.double()), labels)
            loss.backward()
            if (step, rank, calls) == (1, 0, 1):
                # Finite, but its norm is not, and ρ / ∞ would be 0: only this rank would know.
                for parameter in model.parameters():
                    parameter.grad.fill_(1e200)
            return loss

        optimizer.step(closure)
        after.append(flat(weights(model)))
    return {"after": after, "skipped": optimizer.skipped}


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    results: dict[str, Any] = {name: train(name, *rest) for name, *rest in RUNS}
    results["overflow"] = overflow()
    torch.save(results, folder / f"rank{dist.get_rank()}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
