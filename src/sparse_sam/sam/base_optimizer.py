"""The base optimizer that a SAM optimizer is built around."""

from collections.abc import Iterable
from typing import Any, cast

from torch import Tensor
from torch.optim import Optimizer

_OURS = ("rho", "adaptive")


def make_base(
    params: Iterable[Any],
    base_optimizer: type[Optimizer] | Optimizer,
    base_kwargs: dict[str, Any],
) -> Optimizer:
    """The base optimizer over ``params``.

    Raises:
        ValueError: an instance is given that holds other parameters, or with settings that only
            a class can take; or its settings have a name that SAM uses in ``param_groups``.
    """
    if isinstance(base_optimizer, Optimizer):
        base = base_optimizer
        given = {id(p) for entry in params for p in _parameters(entry)}
        held = {id(p) for group in base.param_groups for p in group["params"]}
        if given != held:
            raise ValueError(
                "the base optimizer instance does not hold the parameters in params: "
                "give both the same parameters"
            )
        if base_kwargs:
            raise ValueError(
                f"{', '.join(base_kwargs)}: pass settings only with a base optimizer class. An "
                "instance has its own: set them when you make it"
            )
    else:
        base = cast("Any", base_optimizer)(params, **base_kwargs)
    clashes = [name for name in _OURS if name in base.defaults]
    if clashes:
        raise ValueError(
            f"{type(base).__name__} keeps a setting {clashes[0]} in param_groups, and so does "
            "SAM: choose another base optimizer"
        )
    return base


def complete_group(group: dict[str, Any], ours: dict[str, Any]) -> dict[str, Any]:
    """Enter what SAM keeps in a param group, where the group does not have it already.

    Raises:
        ValueError: the group's rho is negative or NaN.
    """
    for name, value in ours.items():
        group.setdefault(name, value)
    if not group["rho"] >= 0:
        raise ValueError(f"rho = {group['rho']}: must be at least 0")
    return group


def _parameters(entry: Any) -> list[Tensor]:
    """The parameters in what an optimizer takes: a tensor, a named one, or a group of them."""
    if isinstance(entry, Tensor):
        return [entry]
    if isinstance(entry, tuple):
        return [entry[1]]
    held = entry["params"]
    return [held] if isinstance(held, Tensor) else [p for one in held for p in _parameters(one)]
