"""Torchvision's networks for classification, as ``torchvision:NAME``: each an attribute of this.

They are built as torchvision's code says, for the classes of the data set, with fresh weights:
nothing is downloaded, and no file of weights is read. Only the keywords of the network's own class
can be set, none of the function that would load weights.
"""

import difflib
import inspect
import warnings
from collections.abc import Callable
from typing import Any, get_type_hints

import torch
from torch import nn

from sparse_sam.errors import ConfigError
from sparse_sam.files import brief, import_torchvision
from sparse_sam.networks.modes import in_evaluation_mode
from sparse_sam.networks.registry import ImageShape

_CHANNELS = 3
_OF_IMAGES: dict[str, Callable[[ImageShape], Any]] = {
    "image_size": lambda shape: shape[1],  # vision transformers take squares only
    "input_size": lambda shape: shape[1:],
}
"""Keywords that say how large images are, by name: taken from the data."""


def __getattr__(name: str) -> Callable[..., nn.Module]:
    if name.startswith("_"):
        raise AttributeError(name)
    try:
        models = import_torchvision().models
    except ModuleNotFoundError:
        raise AttributeError(
            "torchvision is not installed: pip install 'sparse-sam[pipeline]'"
        ) from None
    names = models.list_models(module=models)  # of classification, of nothing else
    if name not in names:
        near = difflib.get_close_matches(name, names, 3) or ["resnet18", "resnet50"]
        raise AttributeError(
            f"torchvision.models has no classification network {name!r}; try {', '.join(near)}"
        )
    return _factory(name, models.get_model_builder(name))


def _factory(name: str, builder: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """A factory as ``NETWORKS`` has them, of one of torchvision's."""
    known = inspect.signature(get_type_hints(builder)["return"]).parameters
    # Those without a default are what tells the networks of a class apart, as its layers.
    settable = {
        key: one.replace(kind=one.KEYWORD_ONLY)
        for key, one in known.items()
        if one.default is not one.empty and key not in {"num_classes", *_OF_IMAGES}
    }

    def factory(image_shape: ImageShape, num_classes: int, **arguments: Any) -> nn.Module:
        _check_channels(name, image_shape)
        if "aux_logits" in known and arguments.get("aux_logits") is not False:
            raise ConfigError(
                f"model.name = 'torchvision:{name}': returns auxiliary logits in training, and "
                f"no loss here takes them; set model.arguments: {{aux_logits: false}}"
            )
        sizes = {key: of(image_shape) for key, of in _OF_IMAGES.items() if key in known}
        try:
            with warnings.catch_warnings():
                # Two say that another torchvision may begin with other weights.
                warnings.simplefilter("ignore", FutureWarning)
                model = builder(num_classes=num_classes, **sizes, **arguments)
            logits = _of_one_image(model, image_shape)
        except (RuntimeError, ValueError, AssertionError) as error:
            given = f" with arguments {brief(arguments)}" if arguments else ""
            reason = " ".join(str(error).split())[:200]
            raise ConfigError(
                f"model.name = 'torchvision:{name}': cannot take images of {image_shape[1]} × "
                f"{image_shape[2]} pixels{given} ({reason})"
            ) from None
        if not isinstance(logits, torch.Tensor) or logits.shape != (1, num_classes):
            raise ConfigError(
                f"model.name = 'torchvision:{name}': does not return one row of logits per image"
            )
        return model

    given = [one for one in inspect.signature(factory).parameters.values() if one.kind.value == 1]
    signature = inspect.Signature([*given, *settable.values()])
    factory.__signature__ = signature  # type: ignore[attr-defined]
    return factory


def _check_channels(name: str, image_shape: ImageShape) -> None:
    """Raise ConfigError unless images are in colour."""
    if image_shape[0] != _CHANNELS:
        raise ConfigError(
            f"model.name = 'torchvision:{name}': takes images of {_CHANNELS} channels, but those "
            f"of the data set have {image_shape[0]}. Choose a data.source in colour, a network "
            "that takes any number of channels, such as resnet-20, or a factory of your own "
            "that makes three channels (docs/extending.md)"
        )


def _of_one_image(model: nn.Module, image_shape: ImageShape) -> Any:
    """What the model makes of an empty image: layers say then that it is too small for them."""
    with in_evaluation_mode(model), torch.no_grad():
        return model(torch.zeros(1, *image_shape))
