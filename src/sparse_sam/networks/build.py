"""Networks by name, freshly initialised.

A factory takes ``(image_shape, num_classes)``, and what ``model.arguments`` gives by name;
``image_shape`` is (channels, height, width), and the network maps a float32 batch
(N, *image_shape) to logits (N, num_classes).
"""

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from sparse_sam.errors import ConfigError
from sparse_sam.files import brief
from sparse_sam.networks.arguments import check_arguments
from sparse_sam.networks.modes import in_evaluation_mode
from sparse_sam.networks.network import Network
from sparse_sam.networks.registry import NETWORKS, ImageShape


def build_model(network: str | Network, image_shape: ImageShape, num_classes: int) -> nn.Module:
    """A freshly initialised network, from torch's global generator; a name has no arguments.

    A network of one's own is shown two empty images: lazy layers draw their weights then, and what
    gives no logits is refused before it costs a training.

    Raises:
        ConfigError: there is no such network, it takes no such arguments or images, or it does not
            map a batch to logits.
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
            f"model.arguments = {brief(arguments)}: {name} fails with them: {error}"
        ) from error
    if not isinstance(model, nn.Module):
        raise ConfigError(
            f"model.name = {name!r}: must return a torch.nn.Module, not {type(model).__name__}"
        )
    for key, value in model.state_dict().items():
        if not isinstance(value, torch.Tensor):
            raise ConfigError(
                f"model.name = {name!r}: {key} of its state dict is {type(value).__name__}, not "
                "a tensor (see its get_extra_state). Checkpoints hold tensors only: register a "
                "buffer instead"
            )
    if name not in NETWORKS and not any(one.is_meta for one in model.parameters()):
        _try(model, name, image_shape, num_classes)
    return model


def _try(model: nn.Module, name: str, image_shape: ImageShape, num_classes: int) -> None:
    with in_evaluation_mode(model), torch.no_grad():
        try:
            logits = model(torch.zeros(2, *image_shape))
        except Exception as error:  # whatever somebody's code does
            # (A network may have its reasons to refuse two images, or empty ones.)
            if any(map(is_lazy, (*model.parameters(), *model.buffers()))):
                raise ConfigError(
                    f"model.name = {name!r}: its lazy layers cannot be initialised with images "
                    f"of shape {image_shape}: {' '.join(str(error).split())[:200]}"
                ) from error
            return
    wanted = f"it must map a batch (N, {', '.join(map(str, image_shape))}) to logits (N, "
    if not isinstance(logits, Tensor):
        raise ConfigError(
            f"model.name = {name!r}: returns {type(logits).__name__}; {wanted}{num_classes}), as "
            "one tensor"
        )
    if logits.shape != (2, num_classes):
        raise ConfigError(
            f"model.name = {name!r}: returns shape {tuple(logits.shape)} for two images; "
            f"{wanted}{num_classes}), one for each class of the data set"
        )
