"""Tensors that several processes share, as ``torch.distributed.fsdp.fully_shard`` makes parameters.

Such a tensor is a ``DTensor``: each process holds its *local* part, which may be empty, and reads
shape and names as if it held all. Nothing here communicates.
"""

import sys
from typing import Any

import torch
from torch import Tensor, nn


def is_sharded(tensor: Tensor) -> bool:
    """Whether it is a ``DTensor``, of which this process may hold a part only."""
    # Asked often, of tensors that mostly are of one of these.
    if type(tensor) is nn.Parameter or type(tensor) is Tensor:
        return False
    # Nobody has one who has not imported this; most never do, and it takes a while.
    module: Any = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


@torch.no_grad()
def local_part(tensor: Tensor) -> Tensor:
    """What this process holds of ``tensor``, in the same memory, without a graph.

    A tensor that is not sharded is returned as it is.
    """
    return tensor.to_local() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]


@torch.no_grad()
def matching_part(whole: Tensor, tensor: Tensor) -> Tensor:
    """The part of ``whole``, which every process has, that ``local_part(tensor)`` is of its own.

    Args:
        whole: of the shape of ``tensor``, such as its mask.
        tensor: sharded or not.
    """
    if not is_sharded(tensor):
        return whole
    from torch.distributed.tensor import DTensor, distribute_tensor

    mesh, placements = tensor.device_mesh, tensor.placements  # type: ignore[attr-defined]
    if isinstance(whole, DTensor):
        return local_part(whole.redistribute(mesh, placements))
    return local_part(distribute_tensor(whole, mesh, placements, src_data_rank=None))


def drop_gathered(model: nn.Module) -> None:
    """Free the whole weights that layers under ``fully_shard`` may hold.

    They hold them after a forward pass without a backward pass, such as an evaluation. Until then
    ``model.parameters()`` gives the whole weights, which are not those of any optimizer; and when
    the parts are changed, they are stale.
    """
    fsdp: Any = sys.modules.get("torch.distributed.fsdp")
    for module in model.modules() if fsdp is not None else ():
        if isinstance(module, fsdp.FSDPModule):
            module.reshard()
