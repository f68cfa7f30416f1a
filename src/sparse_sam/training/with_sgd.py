"""SGD for a recipe."""

from torch import nn

from sparse_sam.sam import SGD
from sparse_sam.training.params import TrainingParams


def make_sgd(model: nn.Module, recipe: TrainingParams) -> SGD:
    """SGD over every parameter of ``model``."""
    return SGD(
        model.parameters(),
        lr=recipe.lr,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
    )
