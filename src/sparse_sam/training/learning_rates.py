"""Schedules of the learning rate over the steps of a training.

Each takes the optimizer, how many steps the training has, and ``restarts``: steps, from 0 and
rising, at which the schedule begins anew, for as long as the next.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence

from torch.optim import Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LRScheduler


def constant(
    optimizer: Optimizer,
    steps: int,  # noqa: ARG001
    restarts: Sequence[int] = (),  # noqa: ARG001
) -> LRScheduler:
    """The recipe's rate in every step."""
    return LambdaLR(optimizer, lambda _: 1.0)


def cosine(optimizer: Optimizer, steps: int, restarts: Sequence[int] = ()) -> LRScheduler:
    """Half a cosine from the recipe's rate to 0 (Loshchilov and Hutter 2017, arXiv:1608.03983)."""
    if not restarts:
        return CosineAnnealingLR(optimizer, T_max=steps)
    starts = [0, *restarts]
    ends = [*restarts, steps]

    def factor(step: int) -> float:
        part = bisect_right(starts, step) - 1
        share = (step - starts[part]) / (ends[part] - starts[part])
        return (1 + math.cos(math.pi * share)) / 2

    return LambdaLR(optimizer, factor)
