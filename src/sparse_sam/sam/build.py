"""A variant of SAM by its name, and what it can be set."""

import inspect
from collections.abc import Mapping
from typing import Any, get_type_hints

import torch
from torch import nn
from torch.optim import Optimizer

from sparse_sam.errors import ConfigError
from sparse_sam.files import brief, fits, hint_in_words
from sparse_sam.sam.optimizer import SAM
from sparse_sam.sam.registry import VARIANTS
from sparse_sam.sam.uncompiled import SGD


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
    """Check settings of a variant as its class will; None stands for its default, the paper's.

    Raises:
        ConfigError: the variant has no such setting, or not of this value; the message begins with
            the setting's name.
    """
    chosen, allowed = VARIANTS.load(variant), variant_settings(variant)
    hints = get_type_hints(chosen.__init__)
    has = ", ".join(("rho", *allowed))
    for name, value in settings.items():
        if name not in allowed:
            raise ConfigError(
                f"{name} = {brief(value)}: variant {variant} has no such setting (it has {has})"
                + ("; remove it" if value is None else "")
            )
        hint = hints.get(name, Any)
        if allowed[name].default is not inspect.Parameter.empty:
            _check_value(name, value, hint | None)
        elif value is not None:
            _check_value(name, value, hint)
    given = {name: value for name, value in settings.items() if value is not None}
    check_is_whole(variant, given)
    try:
        chosen([nn.Parameter(torch.zeros(1))], SGD, rho, lr=1.0, momentum=0.9, **given)
    except (TypeError, ValueError) as error:
        raise ConfigError(str(error)) from None


def check_is_whole(variant: str, given: Mapping[str, Any]) -> None:
    """Raise ConfigError if a setting for which a variant has no default is not given."""
    for name, parameter in variant_settings(variant).items():
        if parameter.default is parameter.empty and name not in given:
            raise ConfigError(f"{name} is missing: variant {variant} has no default for it")


def _check_value(name: str, value: Any, hint: Any) -> None:
    """Raise ConfigError unless a setting is of its type, finite, and within what can be counted."""
    if not fits(value, hint):
        raise ConfigError(f"{name} = {brief(value)}: must be {hint_in_words(hint)}")
    most = 2**31 - 1 if isinstance(value, int) else 1_000_000
    if isinstance(value, int | float) and abs(value) > most:
        raise ConfigError(f"{name} = {brief(value)}: must be at most {most}")


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
        ConfigError: the variant or one of its settings is unknown, or one is missing.
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
    given = {name: value for name, value in (settings or {}).items() if value is not None}
    together: dict[str, Any] = {**given, **options}
    check_is_whole(variant, together)
    return chosen(model.parameters(), base_optimizer, rho, model=model, **together)
