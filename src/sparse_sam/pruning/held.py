"""The masks of a network, remembered: so zeros are held, and what others did to them is found."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from sparse_sam.errors import MaskError
from sparse_sam.pruning.detaching import put_masks
from sparse_sam.pruning.forgetting import forget_pruned, optimizers_of, zero_state_, zero_weights_
from sparse_sam.pruning.masks import Masks, attached_masks, masks_of, plain_parameters


class HeldMasks:
    """The masks that a network has now.

    Attributes:
        masks: bool, by plain names; True keeps. A byte a weight.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model, self._attached = model, attached_masks(model)
        self.masks = masks_of(model) or Masks({})

    def hold(self, optimizers: Iterable[Optimizer]) -> None:
        """Put pruned weights back to 0, and what optimizers remember of them.

        Raises:
            StaleOptimizerError: the network has other parameters by now, as after
                ``load_state_dict(…, assign=True)``, and an optimizer holds none of them.
        """
        if any(one.is_stale for one in self._attached):
            optimizers = optimizers_of(self._model, optimizers)
            self._attached = attached_masks(self._model)
        zero_weights_(self._attached)
        zero_state_(self._attached, optimizers)

    def forget(self, optimizers: Iterable[Optimizer]) -> None:
        """As ``hold``, and whatever else an optimizer keeps; to be called when masks shrank."""
        for one in optimizers:
            forget_pruned(one, self._model)

    def put(self, masks: Mapping[str, Tensor]) -> None:
        """Let the network have other masks, of the same parameters.

        Raises:
            MaskError: they are of others.
        """
        if self.masks.keys() != masks.keys():
            names = ", ".join(sorted(self.masks.keys() ^ masks.keys()))
            raise MaskError(
                f"the state is of another network: only one of the two has masks of {names}"
            )
        put_masks(self._model, masks)

    def check_unchanged(self) -> None:
        """Raise MaskError, which names the tensor, if the network has other masks by now."""
        here = masks_of(self._model) or Masks({})
        for name, mask in self.masks.items():
            found = here.get(name)
            wrong = -1 if found is None else int((found.to(mask.device) != mask).sum())
            if wrong:
                what = "was removed" if wrong < 0 else f"was changed in {wrong} places"
                raise MaskError(
                    f"the mask of {name} {what}, and not by the Sparsifier. Load state_dicts of "
                    "model and sparsifier from the same step, and do not attach or remove masks "
                    "yourself"
                )

    def check_zeros(self) -> None:
        """Raise MaskError, which names the tensor, if a pruned weight is not exactly 0."""
        parameters = plain_parameters(self._model)
        for name, mask in self.masks.items():
            weight = parameters[name].detach()
            if revived := int(weight[~mask.to(weight.device)].count_nonzero()):
                raise MaskError(
                    f"{revived} of the {int((~mask).sum())} pruned weights of {name} are not 0: "
                    "call sparsifier.step() after every step of the optimizer"
                )

    def counts(self) -> dict[str, Any]:
        """What is pruned, in all and in each tensor: plain values."""
        layers = {name: _counts(int(one.sum()), one.numel()) for name, one in self.masks.items()}
        return {**_counts(self.masks.kept, self.masks.total), "layers": layers}

    def metrics(self) -> dict[str, float]:
        """The same as numbers by name."""
        counts = self.counts()
        layers = {f"sparsity/{name}": one["sparsity"] for name, one in counts["layers"].items()}
        names = ("sparsity", "weights_kept", "weights_total")
        return {**{name: float(counts[name]) for name in names}, **layers}


def _counts(kept: int, total: int) -> dict[str, Any]:
    sparsity = (total - kept) / total if total else 0.0
    return {"sparsity": sparsity, "weights_kept": kept, "weights_total": total}
