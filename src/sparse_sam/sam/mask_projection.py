"""Which weights a sparse network keeps, as SAM sees it.

A network pruned with ``sparse_sam.pruning`` or ``torch.nn.utils.prune`` computes with
weight · mask, so the gradient of a pruned weight is exactly 0 and nothing need be done to keep ε
off it. Masks of another kind are given, and gradients are projected on the kept weights.

The *dense* gradient, which the mask in the graph hides, is what an implementation that ignores
masks would perturb along. For that ablation, and to measure how much of the gradient's norm lies
on kept weights, the masks can be opened for a block.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn

from sparse_sam.errors import MaskError
from sparse_sam.pruning import (
    AttachedMask,
    attached_masks,
    local_part,
    matching_part,
    pruned_part,
)
from sparse_sam.sam import shards, vectors
from sparse_sam.sam.shards import Vector


class MaskProjection:
    """The masks of a network: those given, and those that ``attached_masks`` finds in it.

    Args:
        model: where to look, anew whenever masks are needed: a network may be pruned further
            during training.
        masks: for parameters that are pruned by other means, a tensor of the parameter's shape
            each, True (or not 0) where the weight is kept; by parameter or, with a model, by the
            parameter's name.

    Raises:
        MaskError: a name is not the model's, or a mask has another shape than its parameter.
    """

    def __init__(
        self,
        model: nn.Module | None = None,
        masks: Mapping[nn.Parameter, Tensor] | Mapping[str, Tensor] | None = None,
    ) -> None:
        self._model = model
        self._given: list[tuple[Tensor, Tensor]] = []
        names = dict(model.named_parameters()) if model is not None else {}
        for key, mask in (masks or {}).items():
            parameter = names.get(key) if isinstance(key, str) else key
            if parameter is None:
                why = (
                    "the model has no such parameter"
                    if model is not None
                    else "to use names, pass model= too"
                )
                raise MaskError(f"masks: {key}: {why}")
            if mask.shape != parameter.shape:
                raise MaskError(
                    f"masks: a mask has shape {tuple(mask.shape)}, but its parameter has "
                    f"{tuple(parameter.shape)}"
                )
            pruned = mask.to(parameter.device) == 0
            self._given.append((parameter, matching_part(pruned, parameter)))

    def project_(self, *, found: bool = False) -> None:
        """Set the gradients of pruned weights to 0, in place.

        Args:
            found: those of the masks that were found, too. It is needed only after they were
                opened.
        """
        for parameter, pruned in self._all(found=found):
            if parameter.grad is not None:
                local_part(parameter.grad).masked_fill_(pruned, 0.0)

    def share(self, weights: Vector) -> Tensor:
        """‖g on kept weights‖ / ‖g‖ for the gradients g of ``weights``, of no dimension."""
        pruned = dict(self._all(found=True))
        gradients = [cast("Tensor", weight.grad) for weight in weights]
        kept = [
            part.masked_fill(pruned[weight], 0.0) if weight in pruned else part
            for weight, part in zip(weights, shards.local_parts(gradients), strict=True)
        ]
        return vectors.vector_norm(kept, gradients) / vectors.vector_norm(gradients)

    def refuse_closed(self) -> None:
        """Raise RuntimeError if the model holds masks, for they hid what is wanted of them."""
        if self._found():
            raise RuntimeError(
                "dense_gradient and track_kept_share need the gradients of pruned weights too, "
                "which the masks hide: use step(closure), or run the first backward pass inside "
                "`with optimizer.first_pass():`"
            )

    @torch.no_grad()
    def zero_pruned_(self) -> None:
        """Set pruned weights of the found masks to 0, which no output shows."""
        for one in self._found():
            local_part(one.original).masked_fill_(pruned_part(one), 0.0)

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Let weights and gradients through the masks that were found, for a block.

        With pruned weights at 0 the outputs do not change, and gradients are dense.
        """
        closed = [(one.holder, one.attribute, one.mask) for one in self._found()]
        try:
            for holder, name, mask in closed:
                setattr(holder, name, mask.new_ones(()).expand_as(mask))
            yield
        finally:
            for holder, name, mask in closed:
                setattr(holder, name, mask)

    def _all(self, *, found: bool) -> Iterator[tuple[Tensor, Tensor]]:
        """Every pruned parameter, and where its local part is pruned."""
        yield from self._given
        for one in self._found() if found else ():
            yield one.original, pruned_part(one)

    def _found(self) -> list[AttachedMask]:
        return attached_masks(self._model) if self._model is not None else []
