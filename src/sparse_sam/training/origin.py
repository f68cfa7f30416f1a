"""What a network on disk says of itself, and how much of that is believed.

A header may come from anywhere, with the seals that make it well formed. So every field is checked,
and a file names no code: it may name a registered network, or the one that its reader names too.
The arguments of a registered one are plain values, within the bounds of its factory's signature.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparse_sam.data import MOST_CLASSES, is_class_name
from sparse_sam.errors import CheckpointError, SparseSamError
from sparse_sam.networks import NETWORKS, ImageShape, Network, build_model, check_plain
from sparse_sam.training.arms import ARMS

_FACTORY = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")
_LONGEST_TEXT = 200
_COUNT_BELOW, _SEED_BELOW = 2**31, 2**32


@dataclass(frozen=True)
class Origin:
    """What a checkpoint belongs to.

    Attributes:
        model: its network; a name alone is one without arguments.
        image_shape: (channels, height, width) of one input.
        classes: names of what the logits stand for, in their order.
        mean: mean of the training pixels in each channel, on the scale from 0 to 1; inputs are
            (x/255 − mean)/std.
        std: their standard deviations.
        dataset: fingerprint of the data set that trained it.
        arm: ``dense``, ``pruned``, ``sgd``, ``sgd_2x`` or ``sam``.
        seed: the seed of its initialisation and batch order.
    """

    model: Network
    image_shape: ImageShape
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    dataset: str
    arm: str
    seed: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "model", Network.of(self.model))

    @property
    def num_classes(self) -> int:
        """How many logits come out."""
        return len(self.classes)

    def content(self) -> dict[str, Any]:
        """As plain values, which ``parse_origin`` reads; no ``arguments`` where there are none."""
        shape = list(self.image_shape)
        return {**vars(self), "image_shape": shape, **self.model.content()}


def read_origin(
    path: Path, header: Mapping[str, Any], *, model: str | Network | None, cure: str
) -> Origin:
    """The origin in a file's header, if it is one and names no code that its reader does not name.

    Nothing is imported here.

    Args:
        path: the file, named in errors.
        header: what ``load_tensors`` gave.
        model: the network that it must be of, from a source that is trusted: params.yaml, or who
            calls. None allows the registered ones.
        cure: how to get a sound file.

    Raises:
        CheckpointError: a field is missing, unknown or cannot be, or the network is another.
    """
    try:
        origin = parse_origin(header.get("origin"))
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged ({error}). {cure}") from None
    if model is not None and origin.model != Network.of(model):
        raise CheckpointError(
            f"{path} is of the network {origin.model}; the caller, or model.name and "
            f"model.arguments in params.yaml, asks for {model}. {cure}"
        )
    if model is None and origin.model.name not in NETWORKS:
        raise CheckpointError(
            f"{path} names the network {origin.model}, which is not one of "
            f"{', '.join(NETWORKS)}. A file may not choose what code runs. If that code is "
            "yours, or from a package that you trust, name it when you load the file: "
            'model="package.module:factory" (with arguments: Network.of(name, width=8)).'
        )
    return origin


def parse_origin(values: Any) -> Origin:
    """An origin from plain values, such as JSON's. Raises ValueError that names the field."""
    if not isinstance(values, dict):
        raise ValueError(f"origin = {_brief(values)}: must be a mapping")
    names = [field.name for field in fields(Origin)]
    for name in names:
        if name not in values:
            raise ValueError(f"origin.{name} is missing")
    for name in values:
        if name not in {*names, "arguments"}:
            raise ValueError(f"origin.{ascii(name)[1:40].rstrip(chr(39))} is unknown")
    for name, (holds, allowed) in _ALLOWED.items():
        if name in values and not holds(values[name]):
            raise ValueError(f"origin.{name} = {_brief(values[name])}: must be {allowed}")
    channels = values["image_shape"][0]
    for name in ("mean", "std"):
        if len(values[name]) != channels:
            raise ValueError(f"origin.{name} = {_brief(values[name])}: must be {channels} numbers")
    lists = {name: tuple(values[name]) for name in ("image_shape", "classes", "mean", "std")}
    network = Network.of(values["model"], **values.get("arguments", {}))
    return Origin(**{**{name: values[name] for name in names}, **lists, "model": network})


def build_on_meta(origin: Origin) -> nn.Module:
    """A registered network of names and shapes alone, in evaluation mode: it takes no memory.

    Raises:
        CheckpointError: there can be no such network, or the origin's is not registered.
    """
    if origin.model.name not in NETWORKS:
        raise CheckpointError(f"{origin.model} is not registered")
    try:
        with torch.device("meta"):
            return build_model(origin.model, origin.image_shape, origin.num_classes).eval()
    except (RuntimeError, TypeError, SparseSamError) as error:
        raise CheckpointError(_one_line(error)) from None


def check_state(origin: Origin, state: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError if a registered network cannot hold ``state``; takes no memory.

    Of a network of one's own only its factory knows how large it is.
    """
    if origin.model.name not in NETWORKS:
        return
    form = build_on_meta(origin)
    check_types(form, state)
    try:
        form.load_state_dict(dict(state), assign=True)
    except RuntimeError as error:
        raise CheckpointError(_one_line(error)) from None


def check_types(form: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError if a tensor of ``state`` is of another type than the network's."""
    for name, own in form.state_dict().items():
        if name in state and state[name].dtype != own.dtype:
            raise CheckpointError(f"{name} is {state[name].dtype}, not {own.dtype}")


def _is_whole(value: Any, least: int = 1, below: int = _COUNT_BELOW) -> bool:
    return type(value) is int and least <= value < below


def _is_finite(value: Any) -> bool:
    try:
        return type(value) in {int, float} and math.isfinite(value)
    except OverflowError:  # a whole number that no float can be
        return False


def _all(holds: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """Whether a value is a list of what another test allows."""
    return lambda value: isinstance(value, (list, tuple)) and all(map(holds, value))


def _are_classes(value: Any) -> bool:
    return (
        isinstance(value, (list, tuple))
        and 0 < len(value) <= MOST_CLASSES
        and all(map(is_class_name, value))
        and len(set(value)) == len(value)
    )


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _LONGEST_TEXT and value.isprintable()


def _is_model(value: Any) -> bool:
    return _is_text(value) and (value in NETWORKS or _FACTORY.fullmatch(value) is not None)


def _are_arguments(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    try:
        check_plain(value)
    except ValueError:
        return False
    return True


def _is_image_shape(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 3 and all(map(_is_whole, value))


_ALLOWED = {
    "model": (_is_model, "the name of a network, or package.module:factory"),
    "arguments": (
        _are_arguments,
        "a mapping from names to plain values, not too long",
    ),
    "image_shape": (_is_image_shape, "three whole numbers: channels, height, width, from 1"),
    "classes": (_are_classes, f"different names, up to {MOST_CLASSES} of them"),
    "mean": (_all(_is_finite), "finite numbers, one a channel"),
    "std": (
        _all(lambda value: _is_finite(value) and value > 0),
        "finite numbers above 0, one a channel",
    ),
    "dataset": (_is_text, f"the fingerprint of a data set, up to {_LONGEST_TEXT} characters"),
    "arm": (lambda value: isinstance(value, str) and value in ARMS, f"one of {', '.join(ARMS)}"),
    "seed": (lambda value: _is_whole(value, 0, _SEED_BELOW), "a whole number from 0"),
}


def _brief(value: Any) -> str:
    """A value for a message: without control characters, and not long."""
    text = ascii(value) if not isinstance(value, int) or abs(value) < 10**40 else "a huge number"
    return text if len(text) <= 60 else f"{text[:57]}..."


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
