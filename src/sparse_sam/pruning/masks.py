"""Masks that hold: which weights a sparse network keeps, and the proof that the rest are zero.

A mask is a parametrization (``torch.nn.utils.parametrize``): whoever reads ``layer.weight``, the
layer's own forward pass or another's, is given original · mask, computed anew. So the gradient of
a pruned weight is exactly 0. With the original itself set to 0 there, momentum and weight decay
leave it at 0 as well. (``torch.nn.utils.prune`` computes the product in a hook before the layer's
forward pass. A layer that is read without one, as ``nn.MultiheadAttention`` reads its output
projection, then never sees its weight move.)

This module alone knows how a mask is found in a network: ``attached_masks``.
"""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from sparse_sam.errors import MaskError
from sparse_sam.pruning.shards import drop_gathered, is_sharded, local_part, matching_part


class Masks(Mapping[str, Tensor]):
    """One boolean tensor per pruned parameter, by its plain name; True keeps a weight.

    Raises:
        MaskError: a mask is not boolean, or keeps nothing.
    """

    def __init__(self, masks: Mapping[str, Tensor]) -> None:
        for name, mask in masks.items():
            if mask.dtype != torch.bool:
                raise MaskError(f"the mask of {name} must be boolean, not {mask.dtype}")
            if not mask.any():
                raise MaskError(
                    f"the mask of {name} prunes all {mask.numel()} weights; it must keep at "
                    "least one"
                )
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
        """The number of weights kept, among those that could be pruned."""
        return sum(int(mask.sum()) for mask in self._masks.values())

    @property
    def total(self) -> int:
        """The number of weights that could be pruned."""
        return sum(mask.numel() for mask in self._masks.values())

    @property
    def sparsity(self) -> float:
        """The share of weights that are pruned, in [0, 1)."""
        return 1 - self.kept / self.total if self.total else 0.0


class Masked(nn.Module):
    """The parametrization: original · mask, at every access to the weight."""

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, original: Tensor) -> Tensor:  # noqa: D102
        # Of the weight's dtype: fully_shard's MixedPrecisionPolicy gives it another one.
        return original * self.mask.to(original.dtype)


@dataclass(frozen=True, eq=False)
class AttachedMask:
    """A mask as a network holds it.

    Attributes:
        name: the weight's plain name, as in a dense network.
        original: what is trained: the weight before the mask.
        holder: the module that multiplies by what it finds under ``attribute``, at the next access.
        attribute: the name of the holder's buffer, 1 where a weight is kept and 0 where it is not.
        keys: the names in the network's state of the original and of the mask.
        place: the module whose parameter the original is.
    """

    name: str
    original: nn.Parameter
    holder: nn.Module
    attribute: str
    keys: tuple[str, str]
    place: nn.Module

    @property
    def is_stale(self) -> bool:
        """Whether the network has another parameter there by now.

        The whole weights that ``fully_shard`` puts there for a while do not count.
        """
        now = getattr(self.place, self.keys[0].rpartition(".")[2], self.original)
        return now is not self.original and (is_sharded(now) or not is_sharded(self.original))

    @property
    def mask(self) -> Tensor:
        """The buffer itself, in the dtype of the weight."""
        return cast("Tensor", getattr(self.holder, self.attribute))


def attached_masks(model: nn.Module, *, every_name: bool = False) -> list[AttachedMask]:
    """The masks in ``model``, each once: those of ``attach``, and of ``torch.nn.utils.prune``.

    A weight that several layers share has one mask, under the first of its names.

    Args:
        model: any network; nothing is found in a dense one.
        every_name: a shared weight's mask under each of the names, too.
    """
    drop_gathered(model)
    found = [
        one
        for prefix, module in model.named_modules(remove_duplicate=False)
        for one in _attached_to(module, f"{prefix}." if prefix else "")
    ]
    if every_name:
        return found
    first: dict[tuple[int, str], AttachedMask] = {}
    for one in found:
        first.setdefault((id(one.holder), one.attribute), one)
    return list(first.values())


def _attached_to(module: nn.Module, prefix: str) -> Iterator[AttachedMask]:
    if parametrize.is_parametrized(module):
        for own, steps in cast("nn.ModuleDict", module.parametrizations).items():
            masked, key = cast("Any", steps)[0], f"{prefix}parametrizations.{own}"
            if isinstance(masked, Masked):
                keys, original = (f"{key}.original", f"{key}.0.mask"), cast("Any", steps).original
                yield AttachedMask(prefix + own, original, masked, "mask", keys, steps)
    for buffer, _ in module.named_buffers(recurse=False):
        own = buffer.removesuffix("_mask")
        original = getattr(module, f"{own}_orig", None)
        if own != buffer and isinstance(original, nn.Parameter):
            keys = f"{prefix}{own}_orig", f"{prefix}{buffer}"
            yield AttachedMask(prefix + own, original, module, buffer, keys, module)


def plain_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Every parameter once, by plain name; of a pruned weight what stands before its mask."""
    names = {one.original: one.name for one in reversed(attached_masks(model))}
    return {names.get(parameter, name): parameter for name, parameter in model.named_parameters()}


def attach(model: nn.Module, masks: Masks) -> None:
    """Prune ``model`` in place: from now on its pruned weights are 0 and stay 0.

    The parameters stay the same objects. A parameter that layers share is pruned in all of them.

    Raises:
        MaskError: a mask names no parameter of the model, uses another name than the first of a
            shared one, or has another shape; or the model is already pruned or sharded.
    """
    parameters = dict(model.named_parameters())
    _check_fit(model, parameters, masks)
    uses: dict[nn.Parameter, list[tuple[nn.Module, str]]] = {}
    for module in model.modules():
        for own, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            uses.setdefault(parameter, []).append((module, own))
    with torch.no_grad():
        for name, mask in masks.items():
            original = parameters[name]
            keep = mask.to(original.device)
            original.masked_fill_(~keep, 0.0)
            # As the weight lies in memory, so that their product does, too.
            masked = Masked(torch.ones_like(original) * keep)
            for module, own in uses[original]:
                named = module.named_parameters(recurse=False, remove_duplicate=False)
                order = tuple(own_name for own_name, _ in named)
                parametrize.register_parametrization(module, own, masked, unsafe=True)
                steps = cast("Any", module.parametrizations)
                if not hasattr(steps, "order"):
                    steps.order = order  # which ``detach`` restores
                if isinstance(module, nn.RNNBase):
                    type(module).__deepcopy__ = _copy_recurrent  # type: ignore[attr-defined]


def _check_fit(model: nn.Module, parameters: Mapping[str, nn.Parameter], masks: Masks) -> None:
    for name, mask in masks.items():
        if name not in parameters:
            raise MaskError(_no_parameter(model, name))
        if parameters[name].shape != mask.shape:
            raise MaskError(
                f"the mask of {name} has shape {tuple(mask.shape)}, but the parameter has "
                f"{tuple(parameters[name].shape)}"
            )
    sharded = [name for name in masks if is_sharded(parameters[name])]
    if sharded:
        raise MaskError(
            f"{', '.join(sharded[:3])}{', ...' if len(sharded) > 3 else ''}: already sharded. "
            "Attach masks before fully_shard, and the same masks on every process"
        )


def _no_parameter(model: nn.Module, name: str) -> str:
    """Why no parameter can be pruned under ``name``."""
    if any(one.name == name for one in attached_masks(model, every_name=True)):
        return f"{name} is already pruned"
    everywhere = dict(model.named_parameters(remove_duplicate=False))
    for first, parameter in model.named_parameters():
        if parameter is everywhere.get(name):
            return f"{name} and {first} are one parameter: name its mask {first}"
    return f"the model has no parameter {name}"


def _copy_recurrent(layer: nn.RNNBase, memo: dict[int, Any]) -> nn.RNNBase:
    """Copy a pruned recurrent layer. It remembers the weights that it was last read with.

    They are products with a graph, which torch refuses to copy; without one it does.
    """
    with torch.no_grad():
        layer._init_flat_weights()  # noqa: SLF001
    twin = type(layer).__new__(type(layer))
    memo[id(layer)] = twin
    twin.__dict__ = copy.deepcopy(layer.__dict__, memo)
    return twin


def check_only_shrinks(before: Masks, after: Masks) -> None:
    """Raise MaskError if ``after`` keeps a weight that ``before`` does not, or is of others."""
    if before.keys() != after.keys():
        raise MaskError(
            f"the new masks are of {', '.join(after)}; they must be of {', '.join(before)}"
        )
    for name, mask in before.items():
        if mask.shape != after[name].shape:
            raise MaskError(
                f"the new mask of {name} has shape {tuple(after[name].shape)}; it must have "
                f"{tuple(mask.shape)}"
            )
        revived = int((after[name] & ~mask).sum())
        if revived:
            raise MaskError(
                f"the new mask of {name} brings back {revived} pruned weights; masks may only "
                "shrink"
            )


@torch.no_grad()
def tighten(model: nn.Module, masks: Masks) -> None:
    """Prune a pruned ``model`` further, in place: also the buffers that hold its masks.

    What an optimizer remembers of the weights that go is not known here: see ``forget_pruned``.

    Raises:
        MaskError: the model is dense, or a mask keeps a weight that is pruned already.
    """
    before = masks_of(model)
    if before is None:
        raise MaskError("the model is dense: attach masks first")
    check_only_shrinks(before, masks)
    for one in attached_masks(model):
        one.mask.copy_(masks[one.name])
        local_part(one.original).masked_fill_(pruned_part(one), 0.0)


def pruned_part(one: AttachedMask) -> Tensor:
    """Where the local part of a parameter is pruned; all of it, if it is not sharded."""
    return matching_part(one.mask == 0, one.original)


def masks_of(model: nn.Module) -> Masks | None:
    """The masks in ``model``, of ``attach`` or ``torch.nn.utils.prune``; None when it is dense."""
    found = {one.name: one.mask.bool() for one in attached_masks(model)}
    return Masks(found) if found else None


def plain_state(model: nn.Module) -> dict[str, Tensor]:
    """A copy of the state under plain names: pruned weights as one tensor with zeros.

    What is sharded stays so.
    """
    state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    for one in attached_masks(model, every_name=True):
        original, mask = (state.pop(key) for key in one.keys)
        local_part(original).masked_fill_(matching_part(mask == 0, original), 0.0)
        state[one.name] = original
    return state


def check_plain(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Raise MaskError unless ``load_plain`` would take a state: its names, and their shapes."""
    _places(model, state)


def _places(
    model: nn.Module, state: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The tensors of a model that a state is of, by plain name; and where they are pruned."""
    places, pruned = dict(model.state_dict()), {}
    for one in attached_masks(model, every_name=True):
        places[one.name], mask = (places.pop(key) for key in one.keys)
        pruned[one.name] = mask == 0
    if places.keys() != state.keys():
        names = ", ".join(sorted(places.keys() ^ state.keys()))
        raise MaskError(f"the state does not fit the model: only one of the two has {names}")
    for name, tensor in places.items():
        if tensor.shape != state[name].shape:
            raise MaskError(
                f"the state does not fit the model: {name} has shape {tuple(state[name].shape)} "
                f"in the state and {tuple(tensor.shape)} in the model"
            )
    return places, pruned


@torch.no_grad()
def load_plain(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Put a model, dense or pruned, at a state under plain names, in place; its masks stay.

    A model that is sharded takes its parts of whole tensors.

    Raises:
        MaskError: the state has not exactly the model's names and shapes.
    """
    places, pruned = _places(model, state)
    for name, tensor in places.items():
        part = local_part(tensor)
        part.copy_(matching_part(state[name], tensor))
        if name in pruned:
            part.masked_fill_(matching_part(pruned[name], tensor), 0.0)


def check_pruned_weights_are_zero(model: nn.Module) -> None:
    """Raise MaskError if any pruned weight of ``model`` is not exactly 0.

    Of a model that several processes share each looks at what it holds.
    """
    for one in attached_masks(model):
        revived = int(local_part(one.original.detach())[pruned_part(one)].count_nonzero())
        if revived:
            raise MaskError(f"{revived} pruned weights of {one.name} are not 0")
