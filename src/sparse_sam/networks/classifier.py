"""The reference network."""

from torch import nn

from sparse_sam.networks.registry import ImageShape
from sparse_sam.networks.sizes import positions_left


def classifier(image_shape: ImageShape, num_classes: int) -> nn.Module:
    """The discriminator of a DCGAN (Radford et al. 2016) for 28×28 images, with a class head.

    Two 4×4 convolutions of stride 2 (64 and 128 channels), BatchNorm after the second,
    LeakyReLU 0.2, and one linear layer. The second convolution has no bias: BatchNorm removes it.
    """
    positions = positions_left(image_shape, [(4, 2, 1), (4, 2, 1)])
    return nn.Sequential(
        nn.Conv2d(image_shape[0], 64, kernel_size=4, stride=2, padding=1),
        nn.LeakyReLU(0.2, inplace=True),
        nn.Conv2d(64, 128, kernel_size=4, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(128),
        nn.LeakyReLU(0.2, inplace=True),
        nn.Flatten(),
        nn.Linear(128 * positions, num_classes),
    )
