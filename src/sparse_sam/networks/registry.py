"""The networks by name: ``model.name``."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from sparse_sam.files import Registry

if TYPE_CHECKING:
    from torch import nn

ImageShape = tuple[int, int, int]
"""(channels, height, width) of one image."""

NETWORKS: "Registry[Callable[..., nn.Module]]" = Registry(
    "model.name",
    {
        "classifier": "sparse_sam.networks.classifier:classifier",
        "lenet-300-100": "sparse_sam.networks.lenet:lenet_300_100",
        "lenet-5": "sparse_sam.networks.lenet:lenet_5",
        "mlpnet": "sparse_sam.networks.mlpnet:mlpnet",
        "resnet-20": "sparse_sam.networks.resnet:resnet_20",
        "resnet-56": "sparse_sam.networks.resnet:resnet_56",
        "vgg-16-bn": "sparse_sam.networks.vgg:vgg_16_bn",
        "vit": "sparse_sam.networks.vit:vit",
    },
    arguments=2,
    families={"torchvision": "sparse_sam.networks.torchvision_models"},
)
"""Factories: (image shape, number of classes, arguments by name) → a network with fresh weights.

Arguments are keywords, with defaults and types that ``networks.arguments`` checks.
"""
