"""The section ``model`` of ``params.yaml``."""

from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, model_validator

from sparse_sam.errors import ConfigError
from sparse_sam.files import FROM_LIST, Section
from sparse_sam.networks.network import Network, check_plain
from sparse_sam.networks.registry import NETWORKS


def _by_name(value: Any) -> Any:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise ValueError("must be a mapping from names of arguments to their values")
    return value


class ModelParams(Section):
    """Which network, and with which arguments of its factory."""

    name: Annotated[str, NETWORKS]
    arguments: Annotated[dict[str, Any], BeforeValidator(_by_name)]
    files: Annotated[tuple[str, ...], FROM_LIST]
    checkpoint: Annotated[str | None, Field(min_length=1)]

    @model_validator(mode="after")
    def _arguments_are_the_factorys(self) -> Self:
        if self.arguments:
            # Only here, for it imports the factory, and torch.
            from sparse_sam.networks.arguments import check_arguments

            try:
                check_plain(self.arguments)
            except ValueError as error:
                raise ValueError(f"arguments.{error}") from None
            try:
                check_arguments(self.network)
            except ConfigError as error:
                raise ValueError(str(error).removeprefix("model.")) from None
        return self

    @property
    def network(self) -> Network:
        """The network that the section names."""
        return Network.of(self.name, **self.arguments)
