"""The section ``model`` of ``params.yaml``."""

from typing import Annotated

from sparse_sam.files import Section
from sparse_sam.networks.registry import NETWORKS


class ModelParams(Section):
    """Which network."""

    name: Annotated[str, NETWORKS]
