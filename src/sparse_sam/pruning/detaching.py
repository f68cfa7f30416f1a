"""A pruned network made plain: its masks taken off, and 0 in their place."""

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune

from sparse_sam.errors import MaskError
from sparse_sam.pruning.forgetting import zero_weights_
from sparse_sam.pruning.masks import Masked, attached_masks, plain_parameters


def detach(model: nn.Module) -> nn.Module:
    """Take the masks off a network, in place; pruned weights are 0, and may be trained again.

    Modules have the classes that they had, and the state the names that it had, in the same order.
    The parameters stay the same objects, so that an optimizer goes on. Masks of
    ``torch.nn.utils.prune`` are taken off too.

    Raises:
        MaskError: somebody parametrized a pruned weight further; the message names it.
    """
    masks = attached_masks(model)
    for one in masks:
        if isinstance(one.holder, Masked):
            _check_alone(model, one.holder, one.name)
    zero_weights_(masks)
    for module in list(model.modules()):
        if parametrize.is_parametrized(module):
            _unmask(module)
        for name, _ in list(module.named_buffers(recurse=False)):
            own = name.removesuffix("_mask")
            if own != name and isinstance(getattr(module, f"{own}_orig", None), nn.Parameter):
                prune.remove(module, own)  # type: ignore[no-untyped-call]
    return model


def _check_alone(model: nn.Module, masked: Masked, name: str) -> None:
    for module in model.modules():
        steps = list(module) if isinstance(module, parametrize.ParametrizationList) else []
        if masked in steps and len(steps) > 1:
            others = ", ".join(type(one).__name__ for one in steps[1:])
            raise MaskError(
                f"{name} has other parametrizations on top of its mask ({others}): remove them "
                "first, with torch.nn.utils.parametrize.remove_parametrizations"
            )


def _unmask(module: nn.Module) -> None:
    steps = cast("nn.ModuleDict", module.parametrizations)
    order: tuple[str, ...] = getattr(steps, "order", ())
    # A copy of a parametrized module has the very class of the module, from which torch would take
    # the property that reads the weight: away from both.
    shared = type(module)
    module.__class__ = type(shared.__name__, shared.__bases__, dict(vars(shared)))
    for own, one in list(steps.items()):
        if isinstance(cast("Any", one)[0], Masked):
            parametrize.remove_parametrizations(module, own, leave_parametrized=False)
    here = dict(module.named_parameters(recurse=False, remove_duplicate=False))
    for own in sorted((own for own in here if own in order), key=order.index):
        delattr(module, own)
        module.register_parameter(own, here[own])
    if isinstance(module, nn.RNNBase):
        module._init_flat_weights()  # noqa: SLF001 - it remembers the products


@torch.no_grad()
def put_masks(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Set weights of a network, dense or pruned, to 0 where masks say so.

    The masks that the network holds become these.

    Args:
        model: the network itself.
        masks: bool, by plain names; True keeps.

    Raises:
        MaskError: the network has not these parameters, or they have other shapes.
    """
    _put(model, masks, "")


@torch.no_grad()
def put_masks_in_copy(copy: nn.Module, model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Put the masks of a network into a copy of it, as ``put_masks`` does.

    Args:
        copy: dense or pruned. It may stand within another module, as ``AveragedModel`` and
            ``DistributedDataParallel`` hold it, so that all names begin with something more.
        model: the network. Every parameter of it must be in the copy, under one prefix.
        masks: bool, by plain names; True keeps.

    Raises:
        MaskError: it is no copy of the network, or holds several.
    """
    names = dict.fromkeys([*masks, *plain_parameters(model)])
    _put(copy, masks, _prefix(plain_parameters(copy), list(names)))


def _put(model: nn.Module, masks: Mapping[str, Tensor], prefix: str) -> None:
    parameters, held = plain_parameters(model), {one.name: one for one in attached_masks(model)}
    for name, mask in masks.items():
        weight = parameters.get(prefix + name)
        if weight is None:
            raise MaskError(
                f"the masks do not fit the network: it has no parameter {prefix + name}"
            )
        if weight.shape != mask.shape:
            raise MaskError(
                f"the mask of {name} has shape {tuple(mask.shape)}, but the parameter has "
                f"{tuple(weight.shape)}"
            )
    for name, mask in masks.items():
        weight = parameters[prefix + name]
        weight.masked_fill_(~mask.to(weight.device), 0.0)
        if one := held.get(prefix + name):
            one.mask.copy_(mask)


def _prefix(there: Mapping[str, Tensor], here: list[str]) -> str:
    """What stands before every name of a network among the names of a copy.

    All names are compared, not those of masks alone: a part of the network may have these, too.
    """
    first = here[0]
    # "" first: a network that holds the copy of a part of itself is still itself.
    for found in ([""], [one.removesuffix(first) for one in there if one.endswith(f".{first}")]):
        fits = [one for one in found if all(one + name in there for name in here)]
        if len(fits) > 1:
            raise MaskError(
                f"this holds several copies of the pruned network, under {', '.join(fits)}: pass "
                "one of them"
            )
        if fits:
            return fits[0]
    missing = next((name for name in here if name not in there), first)
    raise MaskError(f"this is not a copy of the pruned network: it has no parameter {missing}")
