"""The two networks of the published pruning tables."""

import torch
from torch import nn

from sparse_sam.networks.registry import ImageShape
from sparse_sam.networks.sizes import positions_left


def lenet_300_100(image_shape: ImageShape, num_classes: int) -> nn.Module:
    """LeNet-300-100 (LeCun et al. 1998): a multilayer perceptron, ReLU as in Han et al. 2015."""
    inputs = image_shape[0] * image_shape[1] * image_shape[2]
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(inputs, 300),
        nn.ReLU(),
        nn.Linear(300, 100),
        nn.ReLU(),
        nn.Linear(100, num_classes),
    )


def lenet_5(image_shape: ImageShape, num_classes: int, *, relu: bool = False) -> nn.Module:
    """LeNet-5 as Caffe ships it (20-50-500-10), the network of the published pruning tables.

    A pixel's channels lie side by side in memory: so that a CPU pools vectors of them.

    Args:
        image_shape: channels, height, width.
        num_classes: how many.
        relu: also rectify what the convolutions give. Caffe's network does not, but those of many
            papers do that give its name: sparse momentum (Dettmers and Zettlemoyer 2019,
            arXiv:1907.04840) among them. It matters where few weights are left.
    """
    positions = positions_left(image_shape, [(5, 1, 0), (2, 2, 0), (5, 1, 0), (2, 2, 0)])
    # (Pooled first: the same comes out, and there is a quarter to rectify.)
    rectified = [nn.ReLU] if relu else []
    model = nn.Sequential(
        nn.Conv2d(image_shape[0], 20, kernel_size=5),
        nn.MaxPool2d(2),
        *(kind() for kind in rectified),
        nn.Conv2d(20, 50, kernel_size=5),
        nn.MaxPool2d(2),
        *(kind() for kind in rectified),
        nn.Flatten(),
        nn.Linear(50 * positions, 500),
        nn.ReLU(),
        nn.Linear(500, num_classes),
    )
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]
