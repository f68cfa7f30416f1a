"""The schedules of the learning rate by name: ``train_dense.schedule``."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from sparse_sam.files import Registry

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

LEARNING_RATES: "Registry[Callable[[Optimizer, int, Sequence[int]], LRScheduler]]" = Registry(
    "schedule",
    {
        "constant": "sparse_sam.training.learning_rates:constant",
        "cosine": "sparse_sam.training.learning_rates:cosine",
    },
    arguments=3,
)
"""(Optimizer, steps of the training, steps at which it begins anew) → torch's scheduler."""
