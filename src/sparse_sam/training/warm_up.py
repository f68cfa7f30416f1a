"""The warm-up of the learning rate, before whatever schedule a recipe has."""

from collections.abc import Callable, Sequence

from torch.optim import Optimizer
from torch.optim.lr_scheduler import ChainedScheduler, LinearLR, LRScheduler, SequentialLR

from sparse_sam.errors import ConfigError

Make = Callable[[Optimizer, int, Sequence[int]], LRScheduler]


def warmed_up(
    make: Make, optimizer: Optimizer, steps: int, restarts: Sequence[int], warmup: int
) -> LRScheduler:
    """A schedule whose rate first rises linearly, as Goyal et al. 2017 (arXiv:1706.02677) warm up.

    Step i of ``warmup`` steps, from 1, takes i / (warmup + 1) of the recipe's rate; the schedule
    has the steps that are left. Where the schedule begins anew, so does the warm-up: weights and
    optimizer are then as fresh as they were at first, which is what it is for.

    Args:
        make: the schedule, an entry of ``LEARNING_RATES``.
        optimizer: whose rate it is.
        steps: of the training.
        restarts: the steps, from 0 and rising, at which the schedule begins anew.
        warmup: of how many steps, at least 1.

    Raises:
        ConfigError: a part of the training has no step after its warm-up; or the schedule is itself
            one of several, which torch cannot begin late.
    """
    starts = [0, *restarts]
    lengths = [end - start for start, end in zip(starts, [*restarts, steps], strict=True)]
    if min(lengths) <= warmup:
        raise ConfigError(
            f"warmup_epochs: the warm-up of {warmup} steps leaves none of the {min(lengths)} "
            "steps before the learning rate ends or restarts; allowed: a shorter warm-up, more "
            "epochs, or fewer rounds that rewind"
        )
    schedules: list[LRScheduler] = []
    for length in lengths:
        rise = LinearLR(optimizer, start_factor=1 / (warmup + 1), total_iters=warmup)
        schedules += [rise, make(optimizer, length - warmup, ())]
    if any(isinstance(one, (SequentialLR, ChainedScheduler)) for one in schedules):
        raise ConfigError("warmup_epochs: must be 0, because schedule combines several schedulers")
    milestones = [place for start in starts for place in (start, start + warmup)]
    return SequentialLR(optimizer, schedules, milestones[1:])
