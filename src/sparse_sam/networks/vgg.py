"""VGG-16 for small images."""

from torch import nn

from sparse_sam.networks.registry import ImageShape
from sparse_sam.networks.sizes import Width

_STAGES = ((1, 1), (2, 2), (4, 4, 4), (8, 8, 8), (8, 8, 8))
"""Channels of each convolution in multiples of the width (configuration D of the paper)."""


def vgg_16_bn(image_shape: ImageShape, num_classes: int, *, width: Width = 64) -> nn.Module:
    """VGG-16 (Simonyan and Zisserman 2015, arXiv:1409.1556) as pruning papers adapt it to 32×32.

    Thirteen 3×3 convolutions with BatchNorm, and one linear layer in place of three (Li et al.
    2017, arXiv:1608.08710). Poolings round up, and what is left of the positions is averaged: at
    32×32, where one is left, neither changes anything, and images may be of any size.
    Convolutions begin as in He et al. 2015 (arXiv:1502.01852), and the head as in the paper:
    normal, of standard deviation 0.01. A convolution has no bias: BatchNorm removes it.
    """
    layers: list[nn.Module] = []
    inputs = image_shape[0]
    for stage in _STAGES:
        for multiple in stage:
            convolution = nn.Conv2d(inputs, multiple * width, 3, padding=1, bias=False)
            nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
            inputs = multiple * width
            layers += [convolution, nn.BatchNorm2d(inputs), nn.ReLU(inplace=True)]
        layers.append(nn.MaxPool2d(2, ceil_mode=True))
    head = nn.Linear(inputs, num_classes)
    nn.init.normal_(head.weight, std=0.01)
    nn.init.zeros_(head.bias)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)
