"""Arithmetic on vectors in weight space: lists of tensors, read as one long vector.

Nothing here waits for the device: norms and products are tensors of no dimension, and stay where
they were computed.
"""

# ruff: noqa: SLF001 - torch's own optimizers are built of the _foreach functions

import torch
from torch import Tensor

Vector = list[Tensor] | tuple[Tensor, ...]
"""The parts of a vector. Two vectors fit when their parts have the same shapes and devices."""


def vector_norm(vector: Vector) -> Tensor:
    """‖v‖₂ over all parts together.

    Returns:
        A tensor of no dimension, float32 (float64 if a part is), on the first part's device.
    """
    # Asked for by name: a norm in the precision of half-precision parts could overflow.
    norms = torch._foreach_norm(vector, 2, _precision(vector))
    length: Tensor = torch.linalg.vector_norm(_gather(norms))
    return length


def inner_product(one: Vector, other: Vector) -> Tensor:
    """⟨u, v⟩ over all parts together; a tensor as of ``norm``."""
    products = [torch.dot(a.reshape(-1), b.reshape(-1)) for a, b in zip(one, other, strict=True)]
    return _gather(products).sum()


def add_scaled_(vector: Vector, direction: Vector, factor: Tensor, alpha: float = 1.0) -> None:
    """Add alpha · factor · d to v, in place.

    Args:
        vector: v, which is changed.
        direction: d, as long as ``vector``; it is left as it is.
        factor: a tensor of no dimension, so that its value need not be known to the host.
        alpha: what the host knows.
    """
    for device, (targets, sources) in _by_device(vector, direction):
        add_here_ = add_each_ if device.type == "cpu" else add_fused_
        add_here_(targets, sources, factor.to(device), alpha)


def add_each_(targets: Vector, sources: Vector, factor: Tensor, alpha: float = 1.0) -> None:
    """As ``add_scaled_``, for a CPU.

    One pass and no temporary, whose pages would cost more there than the arithmetic.
    """
    if all(target.dtype == factor.dtype for target in targets):
        torch._foreach_addcmul_(targets, sources, [factor] * len(targets), value=alpha)
        return
    for target, source in zip(targets, sources, strict=True):
        target.add_(source * factor, alpha=alpha)  # addcmul would round the factor to half


def add_fused_(targets: Vector, sources: Vector, factor: Tensor, alpha: float = 1.0) -> None:
    """As ``add_scaled_``, for an accelerator: two kernels, however many parts there are."""
    torch._foreach_add_(targets, torch._foreach_mul(sources, factor), alpha=alpha)


def scale_(vector: Vector, factor: Tensor) -> None:
    """Multiply v in place by ``factor``, a tensor of no dimension."""
    for device, (targets,) in _by_device(vector):
        torch._foreach_mul_(targets, factor.to(device))


def _precision(vector: Vector) -> torch.dtype:
    double = any(part.dtype == torch.float64 for part in vector)
    return torch.float64 if double else torch.float32


def _gather(scalars: Vector) -> Tensor:
    """Tensors of no dimension, of any device and dtype, as one vector."""
    home, dtype = scalars[0].device, _precision(scalars)
    if any(scalar.device != home or scalar.dtype != dtype for scalar in scalars):
        scalars = [scalar.to(home, dtype) for scalar in scalars]
    return torch.stack(scalars)


def _by_device(*vectors: Vector) -> list[tuple[torch.device, tuple[Vector, ...]]]:
    """Cut vectors that fit into their parts on each device."""
    devices = {part.device for part in vectors[0]}
    if len(devices) == 1:
        return [(devices.pop(), vectors)]
    return [
        (device, tuple([part for part in vector if part.device == device] for vector in vectors))
        for device in devices
    ]
