"""This project's own network: ``model.name: networks:small`` in params.yaml."""

from torch import nn


def small(image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    """A convolution with BatchNorm and a linear layer, for images of any size."""
    channels, height, width = image_shape
    half = ((height + 1) // 2) * ((width + 1) // 2)
    return nn.Sequential(
        nn.Conv2d(channels, 8, kernel_size=3, stride=2, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * half, num_classes),
    )
