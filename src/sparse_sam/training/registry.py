"""The schedules of the learning rate by name, ``train_dense.schedule``, and the optimizers."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from sparse_sam.files import Registry

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

    from sparse_sam.sam import SAMParams
    from sparse_sam.training.engine_params import EngineParams
    from sparse_sam.training.params import TrainingParams

LEARNING_RATES: "Registry[Callable[[Optimizer, int, Sequence[int]], LRScheduler]]" = Registry(
    "schedule",
    {
        "constant": "sparse_sam.training.learning_rates:constant",
        "cosine": "sparse_sam.training.learning_rates:cosine",
    },
    arguments=3,
)
"""(Optimizer, steps of the training, steps at which it begins anew) → torch's scheduler."""

BASE_OPTIMIZERS: "Registry[Callable[[nn.Module, TrainingParams], Optimizer]]" = Registry(
    "base_optimizer",
    {
        "sgd": "sparse_sam.training.with_sgd:make_sgd",
        "adamw": "sparse_sam.training.with_adamw:make_adamw",
    },
    arguments=2,
)
"""(Model, recipe) → a fresh optimizer over all its parameters. By name, so that what a training
with SGD is made by (``made_by``) does not hold AdamW."""

OPTIMIZERS: "Registry[Callable[[nn.Module, TrainingParams, SAMParams], Optimizer]]" = Registry(
    "optimizer",
    {
        "sgd": "sparse_sam.training.base_optimizer:make_base",
        "sam": "sparse_sam.training.with_sam:make_sam",
    },
    arguments=3,
)
"""(Model, recipe, SAM's settings) → an optimizer over all its parameters: the recipe's base alone
(``sgd``, whatever it is), or SAM around it. By name, so that the former does not hold SAM."""

ENGINES: "Registry[type[EngineParams]]" = Registry(
    "engine.name",
    {
        "processes": "sparse_sam.training.engine_params:ProcessesParams",
        "ray": "sparse_sam.training.engine_params:RayParams",
    },
    base="sparse_sam.training.engine_params:EngineParams",
)
"""Where trainings run: ``engine``. Not in any key."""
