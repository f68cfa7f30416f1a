"""The optimizer that takes the step in every arm: the recipe's base, with its gradients clipped."""

from torch import nn
from torch.optim import Optimizer

from sparse_sam.errors import ConfigError
from sparse_sam.sam import SAMParams
from sparse_sam.training.clipping import Clipped
from sparse_sam.training.params import TrainingParams
from sparse_sam.training.registry import BASE_OPTIMIZERS


def make_base(model: nn.Module, recipe: TrainingParams, sam: SAMParams | None = None) -> Optimizer:
    """The recipe's base optimizer over every parameter of ``model``; ``sam`` is not used.

    Whoever is trained with it, alone or within SAM, gets it here, so that arms cannot differ in it.

    Raises:
        ConfigError: code of one's own made something else than an optimizer.
    """
    del sam
    base = BASE_OPTIMIZERS.load(recipe.base_optimizer)(model, recipe)
    if not isinstance(base, Optimizer):
        raise ConfigError(
            f"base_optimizer = {recipe.base_optimizer!r}: must return a torch.optim.Optimizer, "
            f"not {type(base).__name__}"
        )
    return base if recipe.clip_norm is None else Clipped(base, recipe.clip_norm)
