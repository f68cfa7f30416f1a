"""SGD for a recipe: what the arms that are no SAM train with. Apart, for they depend on no SAM."""

from torch import nn

from sparse_sam.sam import SGD, SAMParams
from sparse_sam.training.params import TrainingParams


def make_sgd(model: nn.Module, recipe: TrainingParams, sam: SAMParams | None = None) -> SGD:
    """SGD over every parameter of ``model``; ``sam`` is not used."""
    del sam
    return SGD(
        model.parameters(),
        lr=recipe.lr,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
    )
