"""The section ``model`` of ``params.yaml``."""

from typing import Annotated, Any

from pydantic import BeforeValidator

from sparse_sam.files import Section
from sparse_sam.networks.registry import NETWORKS


def _files(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(value)
    return value


class ModelParams(Section):
    """Which network."""

    name: Annotated[str, NETWORKS]
    files: Annotated[tuple[str, ...], BeforeValidator(_files)]
    checkpoint: str | None
