"""Masks that hold: which weights a sparse network keeps, and the proof that the rest are zero.

A mask is applied with ``torch.nn.utils.prune``, which keeps it in the autograd graph: the network
computes with ``weight_orig · mask``, so the gradient of a pruned weight is exactly 0. With
``weight_orig`` itself set to 0 there, momentum and weight decay leave it at 0 as well.
"""

from collections import Counter
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from sparse_sam.errors import MaskError


class Masks(Mapping[str, Tensor]):
    """One boolean tensor per pruned parameter, by the parameter's plain name; True keeps.

    Raises:
        MaskError: a mask is not boolean, or keeps nothing.
    """

    def __init__(self, masks: Mapping[str, Tensor]) -> None:
        for name, mask in masks.items():
            if mask.dtype != torch.bool:
                raise MaskError(f"the mask of {name} must be boolean, not {mask.dtype}")
            if not mask.any():
                raise MaskError(f"the mask of {name} keeps none of its {mask.numel()} weights")
        self._masks = {name: mask.detach().clone() for name, mask in masks.items()}

    def __getitem__(self, name: str) -> Tensor:
        return self._masks[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._masks)

    def __len__(self) -> int:
        return len(self._masks)

    def __repr__(self) -> str:
        return f"Masks({len(self)} tensors, {self.kept} of {self.total} weights kept)"

    @property
    def kept(self) -> int:
        """How many weights the network keeps, among those that could be pruned."""
        return sum(int(mask.sum()) for mask in self._masks.values())

    @property
    def total(self) -> int:
        """How many weights could be pruned."""
        return sum(mask.numel() for mask in self._masks.values())

    @property
    def sparsity(self) -> float:
        """The share of weights that are pruned, in [0, 1)."""
        return 1 - self.kept / self.total if self.total else 0.0


def owner(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The submodule that holds the parameter ``name``, and the parameter's name there."""
    module, _, parameter = name.rpartition(".")
    return model.get_submodule(module), parameter


def attach(model: nn.Module, masks: Masks) -> None:
    """Prune ``model`` in place: from now on its pruned weights are 0 and stay 0.

    Raises:
        MaskError: a mask names no parameter of the model or one that several layers share, has
            another shape, or the model is pruned already.
    """
    parameters = dict(model.named_parameters())
    uses = Counter(id(one) for _, one in model.named_parameters(remove_duplicate=False))
    for name, mask in masks.items():
        if name not in parameters:
            pruned = f"{name}_orig" in parameters
            raise MaskError(f"{name} is pruned already" if pruned else f"no parameter is {name}")
        if parameters[name].shape != mask.shape:
            raise MaskError(
                f"the mask of {name} has shape {tuple(mask.shape)}, its parameter "
                f"{tuple(parameters[name].shape)}"
            )
        if uses[id(parameters[name])] > 1:
            raise MaskError(f"{name} is shared by several layers: its mask would hold in one only")
    # Without a graph, so that the model can still be copied before its first forward pass.
    with torch.no_grad():
        for name, mask in masks.items():
            module, parameter = owner(model, name)
            original = getattr(module, parameter)
            keep = mask.to(original.device)
            original.masked_fill_(~keep, 0.0)
            prune.custom_from_mask(module, parameter, keep.to(original.dtype))  # type: ignore[no-untyped-call]


def check_only_shrinks(before: Masks, after: Masks) -> None:
    """Raise MaskError if ``after`` keeps a weight that ``before`` does not, or is of others."""
    if before.keys() != after.keys():
        raise MaskError(f"the masks are of {', '.join(after)}, not of {', '.join(before)}")
    for name, mask in before.items():
        if mask.shape != after[name].shape:
            raise MaskError(f"the mask of {name} has shape {tuple(after[name].shape)}")
        revived = int((after[name] & ~mask).sum())
        if revived:
            raise MaskError(
                f"{revived} pruned weights of {name} would come back: masks only shrink"
            )


@torch.no_grad()
def tighten(model: nn.Module, masks: Masks) -> None:
    """Prune a pruned ``model`` further, in place: also the buffers that hold its masks.

    What an optimizer remembers of the weights that go is not known here: see
    ``optimizers.forget_pruned``.

    Raises:
        MaskError: the model is dense, or a mask keeps a weight that is pruned already.
    """
    before = masks_of(model)
    if before is None:
        raise MaskError("the model is dense: attach masks first")
    check_only_shrinks(before, masks)
    for name, mask in masks.items():
        module, parameter = owner(model, name)
        original = module.get_parameter(f"{parameter}_orig")
        held = module.get_buffer(f"{parameter}_mask")
        held.copy_(mask)
        original.masked_fill_(held == 0, 0.0)
        # What the next forward pass will make of it, for who looks before.
        setattr(module, parameter, original * held)


def masks_of(model: nn.Module) -> Masks | None:
    """The masks that ``torch.nn.utils.prune`` holds in ``model``; None when it is dense."""
    found = {
        name.removesuffix("_mask"): buffer.bool()
        for name, buffer in model.named_buffers()
        if name.endswith("_mask") and _is_pruned(model, name.removesuffix("_mask"))
    }
    return Masks(found) if found else None


def plain_state(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the state under plain names: pruned weights as one tensor with zeros."""
    masks: Mapping[str, Tensor] = masks_of(model) or {}
    state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    for name, mask in masks.items():
        del state[f"{name}_mask"]
        state[name] = state.pop(f"{name}_orig").masked_fill_(~mask, 0.0)
    return state


@torch.no_grad()
def load_plain(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Put a model, dense or pruned, at a state under plain names, in place; its masks stay.

    Raises:
        MaskError: the state has not exactly the model's names.
    """
    masks: Mapping[str, Tensor] = masks_of(model) or {}
    own = model.state_dict()
    places = {name: own.pop(f"{name}_orig") for name in masks}
    places |= {
        name: tensor for name, tensor in own.items() if name.removesuffix("_mask") not in masks
    }
    if places.keys() != state.keys():
        names = ", ".join(sorted(places.keys() ^ state.keys()))
        raise MaskError(f"the state does not fit the model: {names}")
    for name, tensor in places.items():
        tensor.copy_(state[name])
        if name in masks:
            tensor.masked_fill_(~masks[name], 0.0)


def check_pruned_weights_are_zero(model: nn.Module) -> None:
    """Raise MaskError if any pruned weight of ``model`` is not exactly 0."""
    parameters = dict(model.named_parameters())
    for name, mask in (masks_of(model) or {}).items():
        revived = int(parameters[f"{name}_orig"].detach()[~mask].count_nonzero())
        if revived:
            raise MaskError(f"{revived} pruned weights of {name} are not 0")


def _is_pruned(model: nn.Module, name: str) -> bool:
    module, parameter = owner(model, name)
    return parameter not in dict(module.named_parameters(recurse=False)) and all(
        hasattr(module, f"{parameter}{suffix}") for suffix in ("_orig", "_mask")
    )
