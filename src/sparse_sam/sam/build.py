"""A variant of SAM by its name, and what it can be set."""

import inspect
from collections.abc import Mapping
from typing import Any, get_type_hints

import torch
from pydantic import ConfigDict, TypeAdapter, ValidationError
from torch import nn
from torch.optim import Optimizer

from sparse_sam.errors import ConfigError
from sparse_sam.files import brief
from sparse_sam.sam.optimizer import SAM
from sparse_sam.sam.registry import VARIANTS
from sparse_sam.sam.uncompiled import SGD

_PLAIN = ConfigDict(strict=True, allow_inf_nan=False)


def variant_settings(variant: str) -> dict[str, inspect.Parameter]:
    """What a variant can be set beside ``rho``: the keyword-only arguments of its class.

    Raises:
        ConfigError: there is no such variant.
    """
    chosen = VARIANTS.load(variant)
    if chosen is SAM:
        return {}
    parameters = inspect.signature(chosen).parameters.values()
    return {one.name: one for one in parameters if one.kind is one.KEYWORD_ONLY}


def check_settings(variant: str, rho: float, settings: Mapping[str, Any]) -> None:
    """Check settings of a variant as its class will; None stands for the paper's value.

    Raises:
        ConfigError: the variant has no such setting, or not of this value; the message begins with
            the setting's name.
    """
    allowed, hints = variant_settings(variant), get_type_hints(VARIANTS.load(variant).__init__)
    for name, value in settings.items():
        if name not in allowed:
            has = ", ".join(("rho", *allowed))
            raise ConfigError(
                f"{name} = {brief(value)}: variant {variant} has no such setting (it has {has})"
            )
        try:
            TypeAdapter(hints.get(name, Any) | None, config=_PLAIN).validate_python(value)
        except ValidationError as error:
            reason = error.errors(include_url=False)[0]["msg"]
            raise ConfigError(f"{name} = {brief(value)}: {reason}") from None
    given = {name: value for name, value in settings.items() if value is not None}
    try:
        weight = nn.Parameter(torch.zeros(1))
        VARIANTS.load(variant)([weight], SGD, rho, lr=1.0, momentum=0.9, **given)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def build_sam(
    variant: str,
    model: nn.Module,
    base_optimizer: type[Optimizer] | Optimizer,
    rho: float = 0.05,
    *,
    settings: Mapping[str, float | int | None] | None = None,
    **options: Any,
) -> SAM:
    """A variant of SAM over all parameters of ``model``.

    Args:
        variant: a name in ``VARIANTS``.
        model: the network; see ``SAM`` for what is done with it.
        base_optimizer: a class, or an instance over the parameters of ``model``.
        rho: the radius ρ.
        settings: what the variant itself can be set; see ``variant_settings``.
        options: options of ``SAM``, and settings of the base optimizer.

    Raises:
        ConfigError: the variant or one of its settings is unknown.
        ValueError: a value is out of range, or the base optimizer does not fit.
        MaskError: a mask does not fit its parameter.
    """
    chosen, allowed = VARIANTS.load(variant), variant_settings(variant)
    unknown = [name for name in settings or {} if name not in allowed]
    if unknown:
        raise ConfigError(
            f"SAM variant {variant!r} has no setting {unknown[0]!r}; "
            f"allowed: {', '.join(allowed) or 'none'}"
        )
    together: dict[str, Any] = {**(settings or {}), **options}
    return chosen(model.parameters(), base_optimizer, rho, model=model, **together)
