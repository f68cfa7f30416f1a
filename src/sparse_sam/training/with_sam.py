"""A variant of SAM for a recipe."""

from torch import nn

from sparse_sam.errors import ConfigError
from sparse_sam.sam import SAM, SAMParams, build_sam
from sparse_sam.training.base_optimizer import make_base
from sparse_sam.training.params import TrainingParams


def make_sam(model: nn.Module, recipe: TrainingParams, sam: SAMParams) -> SAM:
    """The variant of SAM that ``sam`` names, over all of ``model``, around the recipe's base.

    Raises:
        ConfigError: the base is none for it: it has no momentum, or holds other parameters.
    """
    base = make_base(model, recipe)
    try:
        return build_sam(sam.variant, model, base, sam.rho, settings=sam.settings)
    except ValueError as error:
        raise ConfigError(f"base_optimizer = {recipe.base_optimizer!r}: {error}") from None
