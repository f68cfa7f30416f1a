"""Channels that are really removed: a network that gives the same outputs with smaller layers.

An output channel whose weights are all zero computes one number, whatever the image. It is removed,
and what that number came to after BatchNorm and activations is moved into the next layer's bias.
So is a channel that the next layer reads with zeros only. Before a convolution with padding, which
sees 0 and not that number at the image's border, no bias can do it: there one constant channel is
kept and stands for all of them. The network's own outputs are kept, and everything beside a plain
``nn.Sequential`` of the layers below.
"""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

from sparse_sam.errors import CheckpointError

Weighted = nn.Linear | nn.Conv2d
_BatchNorm = (nn.BatchNorm1d, nn.BatchNorm2d)
_ELEMENTWISE = (
    nn.Identity,
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.ELU,
    nn.GELU,
    nn.SiLU,
    nn.Mish,
    nn.Hardswish,
    nn.Hardtanh,
    nn.Sigmoid,
    nn.Softplus,
    nn.Tanh,
)
_POOLING = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)
_RESIZABLE = (nn.Linear, nn.Conv2d, *_BatchNorm)


@dataclass(frozen=True)
class Narrowed:
    """A network after its removable channels are gone.

    Attributes:
        model: for inference; a new module, the one that was given is as it was.
        removed: how many output channels each layer lost; layers that lost none are left out.
        kept: why channels that could have gone are still there, by layer, in words.
    """

    model: nn.Module
    removed: dict[str, int]
    kept: dict[str, str]


@dataclass(frozen=True)
class _Link:
    """Two weighted layers and what lies between them."""

    name: str
    producer: Weighted
    between: list[nn.Module]
    consumer: Weighted


def narrow(model: nn.Module, image_shape: tuple[int, int, int]) -> Narrowed:
    """Remove the channels that can be removed without changing what the network computes.

    Sums have fewer terms afterwards, so outputs agree within rounding and not bit for bit.

    Args:
        model: plain weights (masks folded in), on the CPU.
        image_shape: (channels, height, width) of one input.
    """
    model = copy.deepcopy(model).eval()
    if not isinstance(model, nn.Sequential):
        why = f"{type(model).__name__} is not a plain nn.Sequential"
        return Narrowed(model, {}, {"": why, **_staying(model, "what reads them is not known")})
    removed: dict[str, int] = {}
    kept: dict[str, str] = {}
    with torch.no_grad():
        shapes = _output_shapes(model, image_shape)
        found = True
        while found:  # a channel that goes may leave others before it that nobody reads
            found = False
            for link in _links(model):
                lost, reason = _narrow_link(link, shapes[link.name])
                if lost:
                    found = True
                    removed[link.name] = removed.get(link.name, 0) + lost
                if reason:
                    kept[link.name] = reason
        weighted = [name for name, one in model.named_children() if isinstance(one, Weighted)]
        seen = {*(link.name for link in _links(model)), *weighted[-1:]}
        staying = _staying(model, "what lies behind it is not understood")
        kept |= {name: reason for name, reason in staying.items() if name not in seen}
    return Narrowed(model, removed, kept)


def _staying(model: nn.Module, why: str) -> dict[str, str]:
    """By layer, how many channels are still there without weights, and why."""
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, Weighted):
            dead = int((module.weight == 0).flatten(1).all(1).sum())
            if dead:
                count = f"{dead} of {len(module.weight)} channels"
                found[name] = f"{count} have no weights and stay: {why}"
    return found


def fit(model: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """Give a network's layers the widths of ``state``, and load it: the inverse of ``narrow``.

    Layers keep their layout in memory, which no file holds and by which a CPU chooses kernels. A
    network of shapes alone is given memory, for what ``state`` holds of it.

    Raises:
        CheckpointError: the state is of another network.
    """
    with torch.no_grad():
        for name, module in model.named_modules():
            prefix = f"{name}." if name else ""
            resizable = isinstance(module, _RESIZABLE) and f"{prefix}weight" in state
            for kind, holder in (("parameter", module._parameters), ("buffer", module._buffers)):  # noqa: SLF001
                for own in list(holder):
                    given = state.get(f"{prefix}{own}")
                    old = holder[own]
                    if given is not None and _takes(old, given, resizable=resizable):
                        value = _room(given, old)
                        holder[own] = nn.Parameter(value) if kind == "parameter" else value
            if resizable:
                _say_widths(module)
    try:
        model.load_state_dict(dict(state))
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"the weights do not fit the model: {reason}") from None
    return model


def _takes(old: Tensor | None, given: Tensor, *, resizable: bool) -> bool:
    """Whether a tensor of a layer is to be made anew, as large as what is given."""
    if resizable:
        return old is None or old.dim() == given.dim()
    return old is not None and old.is_meta and old.shape == given.shape


def _room(given: Tensor, old: Tensor | None) -> Tensor:
    """Memory for a tensor, laid out as that in whose place it comes."""
    layout = torch.contiguous_format
    if old is not None and old.dim() == 4:
        # (Of a tensor with one channel ``is_contiguous`` says that it is in every layout.)
        form = torch.empty(old.shape, device="meta", memory_format=torch.channels_last)
        layout = torch.channels_last if form.stride() == old.stride() else layout
    return torch.empty(given.shape, dtype=given.dtype, memory_format=layout)


def _links(model: nn.Sequential) -> Iterator[_Link]:
    """Every weighted layer whose outputs reach the next one by layers that are understood."""
    modules = list(model.named_children())
    places = [i for i, (_, module) in enumerate(modules) if isinstance(module, Weighted)]
    for first, second in pairwise(places):
        name, producer = modules[first]
        between = [module for _, module in modules[first + 1 : second]]
        consumer = modules[second][1]
        if not isinstance(producer, Weighted) or not isinstance(consumer, Weighted):
            continue
        plain = all(
            not isinstance(one, nn.Conv2d) or (one.groups == 1 and one.padding_mode == "zeros")
            for one in (producer, consumer)
        )
        if plain and all(map(_is_understood, between)):
            yield _Link(name, producer, between, consumer)


def _is_understood(module: nn.Module) -> bool:
    """Whether each channel of its output depends on that channel alone, constant for constant."""
    if isinstance(module, _BatchNorm):
        return module.running_mean is not None
    if isinstance(module, nn.Flatten):
        return module.start_dim == 1 and module.end_dim == -1
    if isinstance(module, nn.AvgPool2d):
        return module.padding in (0, (0, 0))
    return type(module) in _ELEMENTWISE or type(module) in _POOLING


def _narrow_link(link: _Link, shape: torch.Size) -> tuple[int, str]:
    """Remove a layer's channels; how many went, and why others did not."""
    width, consumer = len(link.producer.weight), link.consumer
    if isinstance(link.producer, nn.Linear) and len(shape) != 2:
        return 0, "its channels are not the second dimension of what it gives"
    arriving = _constants(link, shape)
    a_channel = arriving.numel() // width  # inputs of the next layer, or positions
    fans = consumer.weight.shape[1] if isinstance(consumer, nn.Linear) else width
    if fans % width or (isinstance(consumer, nn.Linear) and arriving.dim() != 2):
        return 0, "the next layer does not read its channels one after the other"
    reading = consumer.weight.reshape(len(consumer.weight), width, -1)  # (out, width, the rest)
    unread = (reading == 0).all(2).all(0)
    dead = (link.producer.weight == 0).flatten(1).all(1)
    reason = ""
    merged = torch.zeros_like(dead)
    if isinstance(consumer, nn.Conv2d) and consumer.padding not in ((0, 0), "valid"):
        values = arriving.view(width, a_channel)[:, 0]
        stuck = dead & ~unread & (values != 0)
        dead &= ~stuck
        if stuck.any():
            merged = _merge(consumer, values, stuck)
            reason = "one constant channel stands for all of them, for the next convolution pads"
    going = dead | unread | merged
    if going.all():
        going[0] = False  # a layer of no channels is none
    if not going.any():
        return 0, reason
    _fold(consumer, arriving, going & dead, width)
    _keep_outputs([link.producer, *link.between], ~going)
    _keep_inputs(consumer, ~going, width)
    return int(going.sum()), reason


def _constants(link: _Link, shape: torch.Size) -> Tensor:
    """What arrives at the next layer where a channel's weights are zero: its bias, passed on."""
    bias = link.producer.bias
    width = len(link.producer.weight)
    values = torch.zeros(width) if bias is None else bias
    constant = values.double().view(1, width, *[1] * (len(shape) - 2))
    # (A copy: layers may work in place.)
    tensor = constant.expand(1, width, *shape[2:]).clone()
    for module in link.between:
        tensor = copy.deepcopy(module).double()(tensor)
    return tensor


def _fold(consumer: Weighted, arriving: Tensor, going: Tensor, width: int) -> None:
    """Move what the channels contribute into the next layer's bias, in double precision."""
    only = torch.where(
        going.view(1, width, 1), arriving.reshape(1, width, -1), torch.zeros(())
    ).view_as(arriving)
    if not only.any():
        return
    layer = copy.deepcopy(consumer).double()
    contribution = layer(only)
    if contribution.dim() > 2:  # the same at every position, for there is no padding
        contribution = contribution[:, :, 0, 0]
    # With the bias that the layer has already, for the copy adds it.
    consumer.bias = nn.Parameter(contribution[0].to(consumer.weight.dtype), requires_grad=False)


def _merge(consumer: Weighted, values: Tensor, stuck: Tensor) -> Tensor:
    """Let one constant channel stand for all; which others may go.

    What is padded is 0 for each of them, so that weighted by their values they are one channel,
    at the image's border too.
    """
    one = int((values.abs() * stuck).argmax())
    others = stuck.clone()
    others[one] = False
    weight = consumer.weight.detach().double()
    shares = torch.where(others, values / values[one], torch.zeros(()))
    weight[:, one] += (weight * shares.view(1, -1, 1, 1)).sum(1)
    consumer.weight = nn.Parameter(weight.to(consumer.weight.dtype), requires_grad=False)
    return others


def _keep_outputs(modules: list[nn.Module], keep: Tensor) -> None:
    for module in modules:
        for holder in (module._parameters, module._buffers):  # noqa: SLF001
            for name, tensor in list(holder.items()):
                if tensor is not None and tensor.dim() > 0:
                    left = tensor.detach()[keep].clone()
                    parameter = holder is module._parameters  # noqa: SLF001
                    holder[name] = nn.Parameter(left, requires_grad=False) if parameter else left  # type: ignore[assignment]
        _say_widths(module)


def _keep_inputs(consumer: Weighted, keep: Tensor, width: int) -> None:
    weight = consumer.weight.detach()
    by_channel = weight.reshape(len(weight), width, -1)[:, keep]
    left = by_channel.reshape(len(weight), -1, *weight.shape[2:]).clone()
    consumer.weight = nn.Parameter(left, requires_grad=False)
    _say_widths(consumer)


def _say_widths(module: nn.Module) -> None:
    """Bring what a layer says of itself up to date with its weights."""
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, nn.Conv2d):
        module.out_channels, module.in_channels = module.weight.shape[:2]
    elif isinstance(module, _BatchNorm):
        module.num_features = len(cast("Tensor", module.running_mean))


def _output_shapes(
    model: nn.Sequential, image_shape: tuple[int, int, int]
) -> dict[str, torch.Size]:
    shapes, tensor = {}, torch.zeros(1, *image_shape)
    for name, module in model.named_children():
        tensor = module(tensor)
        shapes[name] = tensor.shape
    return shapes
