"""What an optimizer remembers of weights that are pruned, and how it forgets that."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sparse_sam.errors import StaleOptimizerError
from sparse_sam.pruning.masks import AttachedMask, attached_masks, plain_parameters

_LIKE_WEIGHTS = {"momentum_buffer", "exp_avg", "exp_avg_sq", "max_exp_avg_sq", "square_avg"}
"""What optimizers of torch remember of each weight by itself."""

_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def forget_pruned(optimizer: Optimizer, model: nn.Module) -> None:
    """Set what ``optimizer`` remembers of pruned weights to 0.

    To be called after masks have shrunk: momentum would move the weights that have just gone.
    """
    masks = attached_masks(model)
    zero_state_(masks, [optimizer])
    for layer in _layers([optimizer]):
        if forget := getattr(layer, "forget", None):  # what it remembers beside its state
            for one in masks:
                forget(one.original, one.mask == 0)


def forget_everything(optimizer: Optimizer) -> None:
    """Make ``optimizer`` as it was when it was new, but for its param groups."""
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": {}, "param_groups": groups})


def optimizers_of(
    model: nn.Module, given: Optimizer | Iterable[Optimizer] | None
) -> list[Optimizer]:
    """The optimizers that somebody gives, one or several or none.

    Raises:
        TypeError: something else is given.
        StaleOptimizerError: one holds no parameter of ``model``.
    """
    one_alone = given is None or hasattr(given, "param_groups") or not isinstance(given, Iterable)
    found: list[Any] = [given] if one_alone else list(cast("Iterable[Any]", given))
    found = [one for one in found if one is not None or not one_alone]
    for one in found:
        if not hasattr(one, "param_groups"):
            hint = f"; pass the number of steps as steps={one}" if type(one) is int else ""
            raise TypeError(
                "optimizer must be one torch.optim.Optimizer or several, not "
                f"{type(one).__name__}{hint}"
            )
    mine = {id(one) for one in model.parameters()}
    for one in found:
        if not mine & {id(weight) for group in one.param_groups for weight in group["params"]}:
            raise StaleOptimizerError(
                "the optimizer holds no parameter of this network: make it from "
                "model.parameters() after you build or load the network"
            )
    return found


def check_shapes(model: nn.Module, optimizers: Iterable[Optimizer]) -> None:
    """Check that what torch's optimizers remember has the shapes of the parameters that it is of.

    A pruned network lists its parameters in another order than a dense one. An optimizer's state
    goes by that order, and torch loads it into the other without a word.

    Raises:
        StaleOptimizerError: it is of other parameters; the message names one.
    """
    names: dict[Tensor, str] = {one: name for name, one in plain_parameters(model).items()}
    for optimizer in _layers(optimizers):
        if not type(optimizer).__module__.startswith("torch.optim"):
            continue  # others may remember in shapes of their own
        for parameter, state in optimizer.state.items():
            for key in _LIKE_WEIGHTS & state.keys() if parameter in names else ():
                there = state[key]
                if isinstance(there, Tensor) and there.shape != parameter.shape:
                    raise StaleOptimizerError(
                        f"the optimizer's {key} of {names[parameter]} has shape "
                        f"{tuple(there.shape)}, but the parameter has {tuple(parameter.shape)}. "
                        "prepare changes the order of the parameters, and this state was saved "
                        "by an optimizer made on the other side of it. Make the optimizer "
                        "before prepare in both runs, or after it in both"
                    )


@torch.no_grad()
def zero_weights_(masks: Iterable[AttachedMask]) -> None:
    """Set the weights behind masks to 0 where they are pruned, whatever they are there."""
    _zero_([(one.original, one.mask) for one in masks])


@torch.no_grad()
def zero_state_(masks: Sequence[AttachedMask], optimizers: Iterable[Optimizer]) -> None:
    """Set what optimizers remember of each pruned weight by itself to 0, in place."""
    found: dict[int, tuple[Tensor, Tensor]] = {}
    for optimizer in _layers(optimizers):
        for one in masks:
            for value in optimizer.state.get(one.original, {}).values():
                if (
                    isinstance(value, Tensor)
                    and value.shape == one.mask.shape
                    and (value.is_floating_point() or value.is_complex())
                ):
                    found[id(value)] = (value, one.mask)
    _zero_(found.values())


def _layers(optimizers: Iterable[Optimizer]) -> Iterator[Optimizer]:
    """Optimizers and those within them: SAM's base, what accelerate and Lightning wrap."""
    for optimizer in optimizers:
        inner: object = optimizer
        seen: set[int] = set()
        while isinstance(getattr(inner, "state", None), dict) and id(inner) not in seen:
            seen.add(id(inner))
            yield inner  # type: ignore[misc]
            names = ("base_optimizer", "optimizer", "base")
            inner = next((getattr(inner, name) for name in names if hasattr(inner, name)), None)


def _zero_(pairs: Iterable[tuple[Tensor, Tensor]]) -> None:
    """Set tensors to +0 wherever their mask is 0, and leave every other bit as it is.

    Products of integers over the bits, all tensors of a kind at once. Products of the numbers
    themselves would leave NaN and infinities, as 0 · NaN is NaN: Adam with ε = 0 makes one of every
    weight whose gradient was always 0. (``masked_fill_`` takes six times as long on a CPU, and a
    launch for each tensor on a GPU.)
    """
    kinds: dict[tuple[torch.dtype, torch.dtype, torch.device], list[tuple[Tensor, Tensor]]]
    kinds = defaultdict(list)
    for value, mask in pairs:
        if value.is_complex() or value.device != mask.device:
            value.masked_fill_(mask.to(value.device) == 0, 0.0)
        else:
            kinds[value.dtype, mask.dtype, value.device].append((value, mask))
    for (kind, _, _), group in kinds.items():
        bits = _BITS[kind.itemsize]
        values = [value.view(bits) for value, _ in group]
        masks = [mask for _, mask in group]
        # 1 where a weight is kept: the bits of 1.0 are a number above 0.
        kept = torch._foreach_sign(  # noqa: SLF001 - no name of its own, as _foreach_mul_ has none
            [mask.view(_BITS[mask.dtype.itemsize]) for mask in masks]
        )
        torch._foreach_mul_(values, [one.to(bits) for one in kept])
