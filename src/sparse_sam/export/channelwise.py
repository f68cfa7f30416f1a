"""What treats each channel by itself: modules, functions and methods, as torch.fx meets them.

Through these a channel that is constant stays one, and a channel can be taken away without any
other one being changed. What is not in these tables is not understood, and keeps its channels.
"""

import operator
from collections.abc import Hashable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - as everybody calls it
from torch import nn
from torch.fx import Node

BATCHNORM = (nn.BatchNorm1d, nn.BatchNorm2d)
_DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d)
_ELEMENTWISE = (
    nn.Identity,
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.ELU,
    nn.GELU,
    nn.SiLU,
    nn.Mish,
    nn.Hardswish,
    nn.Hardsigmoid,
    nn.Hardtanh,
    nn.Sigmoid,
    nn.Softplus,
    nn.Tanh,
)
_POOLING = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)

# By identity and not by name: somebody's own ``relu`` may be anything.
_ELEMENTWISE_CALLS: frozenset[Hashable] = frozenset(
    [
        *(torch.relu, torch.relu_, torch.sigmoid, torch.tanh, torch.clamp),
        *(F.relu, F.relu6, F.leaky_relu, F.elu, F.gelu, F.silu, F.mish, F.hardswish, F.hardsigmoid),
        *(F.hardtanh, F.sigmoid, F.softplus, F.tanh),
        *("relu", "relu_", "sigmoid", "sigmoid_", "tanh", "tanh_", "clamp", "clamp_"),
        *("clone", "contiguous"),
    ]
)
_POOLING_CALLS: frozenset[Hashable] = frozenset(
    [F.max_pool2d, F.avg_pool2d, F.adaptive_avg_pool2d, F.adaptive_max_pool2d]
)
_JOINING_CALLS: frozenset[Hashable] = frozenset(
    [
        *(operator.add, operator.sub, operator.mul, operator.truediv),
        *(operator.iadd, operator.isub, operator.imul, operator.itruediv),
        *(torch.add, torch.sub, torch.mul, torch.div),
        *("add", "add_", "sub", "sub_", "mul", "mul_", "div", "div_"),
    ]
)
_HARMLESS = {"ndim", "dtype", "device", "dim", "is_cuda"}
"""What may be asked of a tensor, whatever its channels."""


def joins(node: Node) -> bool:
    """Whether it computes number by number from two tensors."""
    return node.op != "call_module" and node.target in _JOINING_CALLS


def carried(node: Node, module: nn.Module | None, given: torch.Size, dim: int) -> int | None:
    """Where the channels are after a call that treats each by itself; None where it does not.

    Args:
        node: the call; one of its inputs is a tensor.
        module: that is called; None for a function or method.
        given: the tensor's shape.
        dim: which of its dimensions the channels are; each may be several numbers in a row.
    """
    if module is not None:
        return _through_module(module, given, dim)
    target: Any = node.target
    if target in _ELEMENTWISE_CALLS or target in _JOINING_CALLS:  # (joined with plain numbers)
        return dim
    if target is F.dropout:
        return None if _argument(node, 2, "training", default=True) else dim
    if target in _POOLING_CALLS:
        return dim if dim == 1 and len(given) == 4 else None
    if target in {torch.flatten, "flatten"}:
        ends = (_argument(node, 1, "start_dim", 0), _argument(node, 2, "end_dim", -1))
        return _flattened(*ends, len(given), dim)
    if target in {torch.mean, "mean"}:
        return _averaged(node, len(given), dim)
    if target in {torch.reshape, "view", "reshape"}:
        return dim if dim == 1 and _is_flattening(node) else None
    return None


def asks_of_form(node: Node) -> bool:
    """Whether what it gives of a tensor, a number or a shape, is the same for every image."""
    asked = node.args[1] if node.target is getattr else node.target
    return node.op != "call_module" and asked in {"size", "shape", *_HARMLESS}


def asks_of_channels(node: Node, dim: int) -> bool:
    """Whether what it gives of a tensor may depend on how many channels that has."""
    asked = node.args[1] if node.target is getattr else node.target
    if not asks_of_form(node):
        return True
    place = _argument(node, 1, "dim", None) if asked == "size" else None
    if place is not None:
        return not _is_other(place, dim)
    return asked not in _HARMLESS and _asks_for(node, dim)


def _asks_for(shape: Node, dim: int) -> bool:
    """Whether anybody takes the number of channels, or the whole, out of a shape."""
    return any(
        user.target is not operator.getitem or not (_is_other(user.args[1], dim) or not user.users)
        for user in shape.users
    )


def _is_other(place: Any, dim: int) -> bool:
    # (From the end, -1 may be the channels' dimension as well.)
    return type(place) is int and place >= 0 and place != dim


def _through_module(module: nn.Module, given: torch.Size, dim: int) -> int | None:
    kind = type(module)
    if kind in _ELEMENTWISE or (kind in _DROPOUT and not module.training):
        return dim
    if isinstance(module, nn.Flatten):
        return _flattened(module.start_dim, module.end_dim, len(given), dim)
    if kind in BATCHNORM:
        fixed = "running_mean" in dict(module.named_buffers()) and not module.training
        return dim if fixed and dim == 1 else None
    return dim if kind in _POOLING and dim == 1 and len(given) == 4 else None


def _flattened(start: Any, end: Any, dims: int, dim: int) -> int | None:
    """Channels may be the first of what is laid in a row, or not be among it."""
    if type(start) is not int or type(end) is not int:
        return None
    start, end = start % dims, end % dims
    if start >= dim:
        return dim
    return dim - (end - start) if end < dim else None


def _averaged(node: Node, dims: int, dim: int) -> int | None:
    """Over positions: neither over images nor over channels."""
    over = _argument(node, 1, "dim", None)
    places = over if isinstance(over, (list, tuple)) else (over,)
    if not places or not all(type(place) is int for place in places):
        return None
    gone = {place % dims for place in places}
    if gone & {0, dim}:
        return None
    keeps = _argument(node, 2, "keepdim", default=False)
    return dim if keeps else dim - sum(place < dim for place in gone)


def _is_flattening(node: Node) -> bool:
    """Whether it is ``x.view(x.size(0), -1)``: no number in it is a count of channels."""
    sizes: Any = node.args[1:] or node.kwargs.get("shape", ())
    if len(sizes) == 1 and isinstance(sizes[0], (list, tuple)):
        sizes = sizes[0]
    return len(sizes) == 2 and sizes[1] == -1 and sizes[0] != -1


def _argument(node: Node, place: int, name: str, default: Any) -> Any:
    return node.args[place] if len(node.args) > place else node.kwargs.get(name, default)
