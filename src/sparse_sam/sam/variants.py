"""The variants of SAM by name, for those who choose in a configuration file."""

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer

from sparse_sam.errors import ConfigError
from sparse_sam.sam.adaptive import ASAM
from sparse_sam.sam.gsam import GSAM
from sparse_sam.sam.momentum import MomentumSAM
from sparse_sam.sam.optimizer import SAM
from sparse_sam.sam.periodic import LookSAM, PeriodicSAM

VARIANTS: dict[str, type[SAM]] = {
    "sam": SAM,
    "asam": ASAM,
    "periodic": PeriodicSAM,
    "looksam": LookSAM,
    "momentum": MomentumSAM,
    "gsam": GSAM,
}


def variant_class(variant: str) -> type[SAM]:
    """The class of a variant. Raises ConfigError for an unknown one, listing those there are."""
    if variant not in VARIANTS:
        raise ConfigError(f"SAM variant {variant!r} is unknown; allowed: {', '.join(VARIANTS)}")
    return VARIANTS[variant]


def variant_settings(variant: str) -> dict[str, float | int | None]:
    """What a variant can be set beside ``rho``, with its defaults: ``k``, ``alpha`` and so on.

    Raises:
        ConfigError: there is no such variant.
    """
    chosen = variant_class(variant)
    if chosen is SAM:
        return {}
    parameters = inspect.signature(chosen).parameters.values()
    return {one.name: one.default for one in parameters if one.kind is one.KEYWORD_ONLY}


def build(
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
    chosen, allowed = variant_class(variant), variant_settings(variant)
    unknown = [name for name in settings or {} if name not in allowed]
    if unknown:
        raise ConfigError(
            f"SAM variant {variant!r} has no setting {unknown[0]!r}; "
            f"allowed: {', '.join(allowed) or 'none'}"
        )
    together: dict[str, Any] = {**(settings or {}), **options}
    return chosen(model.parameters(), base_optimizer, rho, model=model, **together)
