"""Exact counts: the so many smallest of several tensors, ties broken by position.

Neither ``torch.quantile`` (which refuses large tensors) nor an index for every weight: beside the
scores there is one copy of them, and the masks.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

_PIECE = 2**20


def pruned_count(sparsity: float, size: int) -> int:
    """How many of ``size`` weights a ``sparsity`` in [0, 1) prunes: the nearest whole number."""
    return round(sparsity * size)


def keep_largest(scores: Sequence[Tensor], count: int) -> list[Tensor]:
    """Masks that drop exactly the ``count`` smallest of all scores together.

    Of equal scores those that stand first go first.

    Args:
        scores: one dimension each; NaN counts as the largest.
        count: from 0 to the number of all scores.

    Returns:
        A bool tensor for each, True where the score is not among the smallest.
    """
    if not count:
        return [torch.ones_like(one, dtype=torch.bool) for one in scores]
    limit = _smallest(torch.cat(list(scores)), count)
    kept = [(one < limit).logical_not_() for one in scores]
    ties = count - sum(
        int(one.numel() - mask.sum()) for one, mask in zip(scores, kept, strict=True)
    )
    for one, mask in zip(scores, kept, strict=True):
        for values, part in zip(torch.split(one, _PIECE), torch.split(mask, _PIECE), strict=True):
            if ties:
                equal = (values == limit).nonzero().squeeze(1)[:ties]
                part[equal] = False
                ties -= len(equal)
    return kept


def _smallest(values: Tensor, count: int) -> Tensor:
    """The ``count``-th smallest; ``values`` are put into another order where that saves a copy."""
    if values.device.type != "cpu":
        return values.kthvalue(count).values
    if values.dtype not in {torch.float32, torch.float64}:  # numpy has no bfloat16
        values = values.float()
    try:
        in_place = values.numpy()
    except RuntimeError:  # torch has no NumPy: the same value, with a copy
        return values.kthvalue(count).values
    in_place.partition(count - 1)
    return values[count - 1].clone()
