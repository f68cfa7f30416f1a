"""One-shot magnitude pruning, the most common pruner."""

from torch import nn

from sparse_sam.errors import MaskError
from sparse_sam.pruning.masks import Masks, attached_masks
from sparse_sam.pruning.pruner import Pruner


def magnitude_masks(
    model: nn.Module,
    sparsity: float,
    scope: str = "layerwise",
    *,
    batchnorm: bool = False,
    biases: bool = False,
) -> Masks:
    """Return masks that prune the smallest weights (Han et al. 2015, arXiv:1506.02626).

    Args:
        model: a dense model, which is not changed.
        sparsity: the share to prune, in [0, 1).
        scope: ``layerwise`` prunes that share of each tensor, ``global`` of all tensors together,
            ``erk`` more of large tensors than of small ones.
        batchnorm: whether BatchNorm scales may be pruned too.
        biases: whether biases may be pruned too.

    Raises:
        MaskError: the sparsity is out of range, the model is already pruned or has nothing to
            prune, or a tensor would lose all its weights; the message names it.
    """
    check_dense(model)
    return Pruner("magnitude", scope, batchnorm=batchnorm, biases=biases).masks(model, sparsity)


def check_dense(model: nn.Module) -> None:
    """Raise MaskError if ``model`` is pruned."""
    if attached_masks(model):
        raise MaskError("the model is already pruned")
