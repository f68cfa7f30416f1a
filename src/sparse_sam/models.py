"""The networks, one registry. Every factory takes ``(image_shape, num_classes)``.

``image_shape`` is (channels, height, width); a network maps a float32 batch (N, *image_shape) to
logits (N, num_classes).
"""

from collections.abc import Callable, Sequence
from importlib import import_module

import torch
from torch import nn

from sparse_sam.errors import ConfigError

ImageShape = tuple[int, int, int]
ModelFactory = Callable[[ImageShape, int], nn.Module]


def _positions(image_shape: ImageShape, layers: Sequence[tuple[int, int, int]]) -> int:
    """How many positions are left after convolution or pooling layers (kernel, stride, padding)."""
    positions = 1
    for side in image_shape[1:]:
        left = side
        for kernel, stride, padding in layers:
            left = (left + 2 * padding - kernel) // stride + 1
        if left < 1:
            raise ConfigError(f"images of {side} pixels a side are too small for this model")
        positions *= left
    return positions


def classifier(image_shape: ImageShape, num_classes: int) -> nn.Module:
    """The discriminator of a DCGAN (Radford et al. 2016) for 28×28 images, with a class head.

    Two 4×4 convolutions of stride 2 (64 and 128 channels), BatchNorm after the second,
    LeakyReLU 0.2, and one linear layer. The second convolution has no bias: BatchNorm removes it.
    """
    positions = _positions(image_shape, [(4, 2, 1), (4, 2, 1)])
    return nn.Sequential(
        nn.Conv2d(image_shape[0], 64, kernel_size=4, stride=2, padding=1),
        nn.LeakyReLU(0.2, inplace=True),
        nn.Conv2d(64, 128, kernel_size=4, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(128),
        nn.LeakyReLU(0.2, inplace=True),
        nn.Flatten(),
        nn.Linear(128 * positions, num_classes),
    )


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


def lenet_5(image_shape: ImageShape, num_classes: int) -> nn.Module:
    """LeNet-5 as Caffe ships it (20-50-500-10), the network of the published pruning tables.

    A pixel's channels lie side by side in memory: so that a CPU pools vectors of them.
    """
    positions = _positions(image_shape, [(5, 1, 0), (2, 2, 0), (5, 1, 0), (2, 2, 0)])
    model = nn.Sequential(
        nn.Conv2d(image_shape[0], 20, kernel_size=5),
        nn.MaxPool2d(2),
        nn.Conv2d(20, 50, kernel_size=5),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(50 * positions, 500),
        nn.ReLU(),
        nn.Linear(500, num_classes),
    )
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


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


MODELS: dict[str, ModelFactory] = {
    "classifier": classifier,
    "lenet-300-100": lenet_300_100,
    "lenet-5": lenet_5,
    "mlpnet": mlpnet,
}


def model_factory(name: str) -> ModelFactory:
    """The factory for a registered name or ``package.module:factory``. Raises ConfigError."""
    if name in MODELS:
        return MODELS[name]
    module, _, attribute = name.partition(":")
    allowed = f"allowed: {', '.join(MODELS)}, or package.module:factory"
    try:
        factory = getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"model.name = {name!r} cannot be imported ({error}); {allowed}"
        ) from None
    if not callable(factory):
        raise ConfigError(f"model.name = {name!r} is not callable; {allowed}")
    return factory  # type: ignore[no-any-return]


def build_model(name: str, image_shape: ImageShape, num_classes: int) -> nn.Module:
    """A freshly initialised network, from torch's global generator. Raises ConfigError."""
    model = model_factory(name)(image_shape, num_classes)
    if not isinstance(model, nn.Module):
        raise ConfigError(f"model.name = {name!r} made a {type(model).__name__}, not a Module")
    for key, value in model.state_dict().items():
        if not isinstance(value, torch.Tensor):
            raise ConfigError(
                f"model.name = {name!r}: {key} is {type(value).__name__} and no tensor, as "
                "get_extra_state gives it; checkpoints hold tensors only: register a buffer instead"
            )
    return model
