"""The network of the published tables of one-shot pruning."""

from torch import nn

from sparse_sam.networks.registry import ImageShape


def mlpnet(image_shape: ImageShape, num_classes: int) -> nn.Module:
    """A small perceptron 784-40-20-10 without biases."""
    inputs = image_shape[0] * image_shape[1] * image_shape[2]
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(inputs, 40, bias=False),
        nn.ReLU(),
        nn.Linear(40, 20, bias=False),
        nn.ReLU(),
        nn.Linear(20, num_classes, bias=False),
    )
