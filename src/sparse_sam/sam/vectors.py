"""Arithmetic on vectors in weight space: lists of tensors, read as one long vector.

Nothing here waits for the device: norms and products are tensors of no dimension, and stay where
they were computed.

Parts may be sharded (``DTensor``). Whatever is done element by element is done on the local parts,
without communication; norms and products are over all shards, the same in every process.
"""

# ruff: noqa: SLF001 - torch's own optimizers are built of the _foreach functions

import torch
from torch import Tensor

from sparse_sam.sam.shards import Vector, any_sharded, local_parts, sum_over_shards

# How many numbers of half precision are converted at once: 16 MiB in float32.
_PIECE = 2**22


def vector_norm(vector: Vector, over: Vector | None = None) -> Tensor:
    """‖v‖₂ over all parts together.

    Args:
        vector: v.
        over: what is sharded as v is, when v holds the local parts of something sharded.

    Returns:
        A tensor of no dimension, float32 (float64 if a part is), on the first part's device.
    """
    # Asked for by name: a norm in the precision of half-precision parts could overflow.
    dtype = _precision(vector)
    norms = _gather(torch._foreach_norm(local_parts(vector), 2, dtype))
    over = vector if over is None else over
    if any_sharded(over):
        squares = sum_over_shards([*norms.double().square().unbind()], over)
        return torch.stack(squares).sum().sqrt().to(dtype)
    length: Tensor = torch.linalg.vector_norm(norms)
    return length


def inner_product(one: Vector, other: Vector) -> Tensor:
    """⟨u, v⟩ over all parts together; a tensor as of ``vector_norm``."""
    pairs = zip(local_parts(one), local_parts(other), strict=True)
    products = _gather([_dot(a.reshape(-1), b.reshape(-1)) for a, b in pairs])
    if any_sharded(one):
        sums = torch.stack(sum_over_shards([*products.double().unbind()], one))
        return sums.sum().to(products.dtype)
    return products.sum()


def any_nonzero(vector: Vector) -> list[Tensor]:
    """For every part whether it has an element that is not 0, as a tensor of no dimension."""
    found = [part.any() for part in local_parts(vector)]
    return sum_over_shards([one.int() for one in found], vector) if any_sharded(vector) else found


def add_(vector: Vector, direction: Vector, alpha: float = 1.0) -> None:
    """Add alpha · d to v, in place."""
    torch._foreach_add_(local_parts(vector), local_parts(direction), alpha=alpha)


def add_scaled_(vector: Vector, direction: Vector, factor: Tensor, alpha: float = 1.0) -> None:
    """Add alpha · factor · d to v, in place.

    Args:
        vector: v, which is changed.
        direction: d, as long as ``vector``; it is left as it is.
        factor: a tensor of no dimension, so that its value need not be known to the host.
        alpha: what the host knows.
    """
    for device, (targets, sources) in _by_device(local_parts(vector), local_parts(direction)):
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
    for device, (targets,) in _by_device(local_parts(vector)):
        torch._foreach_mul_(targets, factor.to(device))


def _dot(one: Tensor, other: Tensor) -> Tensor:
    """⟨u, v⟩ of two parts without dimensions, in float32 or, if one has it, in float64."""
    dtype = _precision((one, other))
    if one.dtype == dtype == other.dtype:
        return torch.dot(one, other)
    # torch.dot rounds its result to half precision, where 65504 is the largest number. A part is
    # converted a piece at a time: its copy in float32 would be twice as long as the part itself.
    pieces = zip(torch.split(one, _PIECE), torch.split(other, _PIECE), strict=True)
    return torch.stack([torch.dot(a.to(dtype), b.to(dtype)) for a, b in pieces]).sum()


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
    """Cut vectors whose parts have the same shapes and devices into their parts on each device."""
    devices = {part.device for part in vectors[0]}
    if len(devices) == 1:
        return [(devices.pop(), vectors)]
    return [
        (device, tuple([part for part in vector if part.device == device] for vector in vectors))
        for device in devices
    ]
