"""What is over all shards of a network whose parameters several processes share.

Arithmetic is done on what each process holds (``pruning.local_part``); norms and products are then
summed over the processes. Every process does so for the same tensors in the same order, those
included of which it holds nothing: none waits for another that does not come.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn

from sparse_sam.pruning import is_sharded, local_part

Vector = list[Tensor] | tuple[Tensor, ...]


def any_sharded(vector: Vector) -> bool:
    """Whether a part of it is shared by several processes."""
    return bool(vector) and any(map(is_sharded, vector))


def local_parts(vector: Vector) -> Vector:
    """What this process holds of every part, in the same memory."""
    return [local_part(part) for part in vector] if any_sharded(vector) else vector


def sum_over_shards(values: list[Tensor], parts: Vector) -> list[Tensor]:
    """Sum each value, got from ``local_part`` of its part, over the shards of that part.

    Replicas count once, and so does a part that is not sharded.

    Args:
        values: tensors of no dimension, of one dtype.
        parts: as many tensors.

    Raises:
        RuntimeError: a part is a sum that has not been taken yet (a placement ``Partial``).
    """
    together: dict[tuple[Any, tuple[int, ...]], list[int]] = {}
    for place, part in enumerate(parts):
        if is_sharded(part):
            together.setdefault(_shared_by(part), []).append(place)
    sums = list(values)
    for (mesh, dimensions), places in together.items():
        some = torch.stack([values[place] for place in places]).to(mesh.device_type)
        for dimension in dimensions:
            torch.distributed.all_reduce(some, group=mesh.get_group(dimension))
        for place, one in zip(places, some.unbind(), strict=True):
            sums[place] = one.to(values[place].device)
    return sums


def check_lie_alike(weights: Vector, directions: Vector) -> None:
    """Raise RuntimeError if a direction is sharded otherwise than its weight."""
    for weight, direction in zip(weights, directions, strict=True):
        mine, its = _placements(weight), _placements(direction)
        if mine != its:
            raise RuntimeError(
                f"a parameter of shape {tuple(weight.shape)} is placed as "
                f"{mine or 'not sharded'}, but its gradient as {its or 'not sharded'}. SAM needs "
                "the same placement for both: before each of first_step and second_step, set "
                "the parameter's .grad to .grad.redistribute(placements=parameter.placements)."
            )


def check_model_is_known(model: nn.Module | None, groups: list[dict[str, Any]]) -> None:
    """Raise ValueError if parameters are sharded and no model is given."""
    if model is None and any(any_sharded(group["params"]) for group in groups):
        raise ValueError(
            "parameters are sharded: pass model=, the module that you called fully_shard on. "
            "SAM needs it because its layers may hold gathered weights, which are out of date "
            "once the weights move."
        )


def made_like(part: Tensor, tensor: Tensor) -> Tensor:
    """A tensor that is placed as ``tensor``, and of which this process holds ``part``."""
    if not is_sharded(tensor):
        return part
    from torch.distributed.tensor import DTensor

    like = cast("DTensor", tensor)
    return DTensor.from_local(
        part, like.device_mesh, like.placements, shape=like.shape, stride=like.stride()
    )


def _shared_by(part: Tensor) -> tuple[Any, tuple[int, ...]]:
    """The mesh of processes, and the dimensions of it along which ``part`` is cut."""
    placements = _placements(part)
    if any(placement.is_partial() for placement in placements):
        raise RuntimeError(
            f"a gradient of shape {tuple(part.shape)} is placed as {placements}: it has not been "
            "summed over the processes. Set the parameter's .grad to "
            ".grad.redistribute(placements=parameter.placements) before the step."
        )
    dimensions = [at for at, placement in enumerate(placements) if not placement.is_replicate()]
    return part.device_mesh, tuple(dimensions)  # type: ignore[attr-defined]


def _placements(tensor: Tensor) -> tuple[Any, ...]:
    return tuple(tensor.placements) if is_sharded(tensor) else ()  # type: ignore[attr-defined]
