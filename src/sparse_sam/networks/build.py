"""Networks by name, freshly initialised.

A factory takes ``(image_shape, num_classes)``; ``image_shape`` is (channels, height, width), and
the network maps a float32 batch (N, *image_shape) to logits (N, num_classes).
"""

import torch
from torch import nn

from sparse_sam.errors import ConfigError
from sparse_sam.networks.registry import NETWORKS, ImageShape


def build_model(name: str, image_shape: ImageShape, num_classes: int) -> nn.Module:
    """A freshly initialised network, from torch's global generator. Raises ConfigError."""
    model = NETWORKS.load(name)(image_shape, num_classes)
    if not isinstance(model, nn.Module):
        raise ConfigError(f"model.name = {name!r} made a {type(model).__name__}, not a Module")
    for key, value in model.state_dict().items():
        if not isinstance(value, torch.Tensor):
            raise ConfigError(
                f"model.name = {name!r}: {key} is {type(value).__name__} and no tensor, as "
                "get_extra_state gives it; checkpoints hold tensors only: register a buffer instead"
            )
    return model
