"""One-shot magnitude pruning, the pruner that most want."""

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
    """Masks that prune the weights of smallest magnitude (Han et al. 2015, arXiv:1506.02626).

    Args:
        model: a dense model, which is not touched.
        sparsity: the share to prune, in [0, 1).
        scope: ``layerwise`` prunes that share of every tensor, ``global`` of all tensors together,
            ``erk`` more of large tensors than of small ones.
        batchnorm: BatchNorm scales may be pruned too.
        biases: biases may be pruned too.

    Raises:
        MaskError: the sparsity is out of range, the model is pruned already or has nothing to
            prune, or a tensor would lose all its weights; the message names it.
    """
    check_dense(model)
    return Pruner("magnitude", scope, batchnorm=batchnorm, biases=biases).masks(model, sparsity)


def check_dense(model: nn.Module) -> None:
    """Raise MaskError if ``model`` is pruned."""
    if attached_masks(model):
        raise MaskError("the model is pruned already")
