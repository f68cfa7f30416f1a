"""Networks by name, freshly initialised.

A factory takes ``(image_shape, num_classes)``, and what ``model.arguments`` gives by name;
``image_shape`` is (channels, height, width), and the network maps a float32 batch
(N, *image_shape) to logits (N, num_classes).
"""

import torch
from torch import nn

from sparse_sam.errors import ConfigError
from sparse_sam.files import brief
from sparse_sam.networks.arguments import check_arguments
from sparse_sam.networks.network import Network
from sparse_sam.networks.registry import NETWORKS, ImageShape


def build_model(network: str | Network, image_shape: ImageShape, num_classes: int) -> nn.Module:
    """A freshly initialised network, from torch's global generator; a name has no arguments.

    Raises:
        ConfigError: there is no such network, or it takes no such arguments or images.
    """
    network = Network.of(network)
    name, arguments = network.name, network.arguments
    check_arguments(network)
    try:
        model = NETWORKS.load(name)(image_shape, num_classes, **arguments)
    except (TypeError, ValueError) as error:
        if not arguments:
            raise
        raise ConfigError(
            f"model.arguments = {brief(arguments)}: {name} does not take them: {error}"
        ) from error
    if not isinstance(model, nn.Module):
        raise ConfigError(f"model.name = {name!r} made a {type(model).__name__}, not a Module")
    for key, value in model.state_dict().items():
        if not isinstance(value, torch.Tensor):
            raise ConfigError(
                f"model.name = {name!r}: {key} is {type(value).__name__} and no tensor, as "
                "get_extra_state gives it; checkpoints hold tensors only: register a buffer instead"
            )
    return model
