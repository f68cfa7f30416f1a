"""The networks by name: ``model.name``."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from sparse_sam.files import Registry

if TYPE_CHECKING:
    from torch import nn

ImageShape = tuple[int, int, int]
"""(channels, height, width) of one image."""

NETWORKS: "Registry[Callable[[ImageShape, int], nn.Module]]" = Registry(
    "model.name",
    {
        "classifier": "sparse_sam.networks.classifier:classifier",
        "lenet-300-100": "sparse_sam.networks.lenet:lenet_300_100",
        "lenet-5": "sparse_sam.networks.lenet:lenet_5",
        "mlpnet": "sparse_sam.networks.mlpnet:mlpnet",
    },
    arguments=2,
)
"""Factories: (image shape, number of classes) → a network with fresh weights."""
