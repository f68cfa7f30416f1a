"""The section ``sam`` of a training in ``params.yaml``."""

from typing import Annotated, Any, Self

from pydantic import ConfigDict, model_validator

from sparse_sam.errors import ConfigError
from sparse_sam.files import NotNegative, Section
from sparse_sam.sam.registry import VARIANTS


class SAMParams(Section):
    """Which variant of sharpness-aware minimization, its radius, and what only the variant has.

    The variant's own settings (docs/sam.md) stand beside these two keys. One that is left out, or
    null, has the value of the variant's paper, where that has one.
    """

    model_config = ConfigDict(extra="allow")

    variant: Annotated[str, VARIANTS]
    rho: NotNegative

    @model_validator(mode="after")
    def _settings_are_the_variants(self) -> Self:
        if self.model_extra or self.variant != "sam":
            # Only here, for it imports the variant, and torch; plain SAM has nothing to be set.
            from sparse_sam.sam.build import check_settings

            try:
                check_settings(self.variant, self.rho, self.model_extra or {})
            except ConfigError as error:
                raise ValueError(str(error).removeprefix("sam.")) from None
        return self

    @property
    def settings(self) -> dict[str, Any]:
        """The variant's settings that are not left to its paper."""
        given = self.model_extra or {}
        return {name: value for name, value in given.items() if value is not None}
