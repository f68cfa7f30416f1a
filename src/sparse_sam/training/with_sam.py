"""A variant of SAM for a recipe."""

from torch import nn

from sparse_sam.sam import SAM, SGD, SAMParams, build_sam
from sparse_sam.training.params import TrainingParams


def make_sam(model: nn.Module, recipe: TrainingParams, sam: SAMParams) -> SAM:
    """The variant of SAM that ``sam`` names, over every parameter of ``model``, around SGD."""
    return build_sam(
        sam.variant,
        model,
        SGD,
        sam.rho,
        settings=sam.settings,
        lr=recipe.lr,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
    )
