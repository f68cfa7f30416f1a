"""Directions of weight normalisation: each needs a weight, for without one it is 0/0.

The weight is g · v/‖v‖, with a norm for each output (Salimans and Kingma 2016, arXiv:1602.07868).
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import _WeightNorm
from torch.nn.utils.parametrize import ParametrizationList
from torch.nn.utils.weight_norm import WeightNorm

WHOLE = -1
"""In place of a dimension: there is one norm of the whole tensor."""


def is_gain(module: nn.Module, own: str) -> bool:
    """Whether a parameter is the g of weight normalisation, which has the dimensions of v."""
    if isinstance(module, ParametrizationList):
        return own == "original0" and any(isinstance(one, _WeightNorm) for one in module)
    return own.endswith("_g") and hasattr(module, f"{own[:-2]}_v")


def directions(model: nn.Module, names: Iterable[str]) -> dict[str, int]:
    """Which of these parameters are directions, by plain name, and along which dimension."""
    found = {name: _dimension(model, name) for name in names}
    return {name: dim for name, dim in found.items() if dim is not None}


def _dimension(model: nn.Module, name: str) -> int | None:
    place, _, own = name.rpartition(".")
    module = model.get_submodule(place)
    if isinstance(module, ParametrizationList):
        norms = [one.dim for one in module if isinstance(one, _WeightNorm)]
    else:
        hooks = module._forward_pre_hooks.values()  # noqa: SLF001 - where torch keeps its own
        norms = [one.dim for one in hooks if isinstance(one, WeightNorm) and f"{one.name}_v" == own]
        own = "original1" if norms else own
    return norms[0] if norms and own == "original1" else None


def largest_of_each(scores: Tensor, dim: int) -> Tensor:
    """Where the largest score of each direction is, and pruned weights' are not.

    Args:
        scores: of the shape of the tensor, −∞ where a weight is pruned.
        dim: the dimension that norms are taken along, or ``WHOLE``.

    Returns:
        A bool tensor of the shape of ``scores``.
    """
    rows = scores.reshape(1, -1) if dim == WHOLE else scores.movedim(dim, 0).flatten(1)
    chosen = torch.zeros_like(rows, dtype=torch.bool)
    chosen.scatter_(1, rows.argmax(dim=1, keepdim=True), True)
    chosen &= rows != -torch.inf
    if dim == WHOLE:
        return chosen.view(scores.shape)
    return chosen.view(scores.movedim(dim, 0).shape).movedim(0, dim)
