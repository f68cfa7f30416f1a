"""Channels that are one number whatever the image: what it comes to, and what can stand for it.

Where a layer reads such a channel, its bias can stand for it, or another such channel.
"""

import copy
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.fx.node import map_arg

from sparse_sam.export.streams import Followed, Stream, Weighted, layer_name


@dataclass(frozen=True)
class Reading:
    """How a layer reads the channels of a stream.

    Attributes:
        layer: its weight is read as (outputs, channels, numbers of a channel).
        values: what a channel is whose weights are zero, (channels, its numbers or 1).
        unread: channels that it reads with zeros only.
        varies: channels that are not the same at every position.
        stuck: channels without weights for which its bias cannot stand.
    """

    layer: Weighted
    values: Tensor
    unread: Tensor
    varies: Tensor
    stuck: Tensor


def without_weights(layer: Weighted) -> Tensor:
    """Which output channels have no weights, booleans."""
    return (layer.weight == 0).flatten(1).all(1)


def layer_of(model: nn.Module, name: str) -> Weighted:
    """A weighted layer by its name."""
    return cast("Weighted", model.get_submodule(name))


def readings(model: nn.Module, stream: Stream, followed: Followed, dead: Tensor) -> list[Reading]:
    """How each reader of a stream reads it.

    Args:
        model: the network, as narrow as it is by now.
        stream: of it, with writers and readers.
        followed: as it was followed when it was whole.
        dead: channels without weights in every layer that writes them.
    """
    found = []
    for call, values in _constants(model, stream, followed).items():
        layer, width = layer_of(model, layer_name(call)), len(dead)
        unread = (layer.weight.reshape(len(layer.weight), width, -1) == 0).all(2).all(0)
        if isinstance(layer, nn.Linear):
            by_place = values.reshape(-1, width, values.shape[-1] // width)
        else:
            by_place = values.reshape(width, -1).T.unsqueeze(2)
        first = by_place[0]
        same = torch.isclose(by_place, first, rtol=1e-9, atol=0).all(0).all(1)
        varies = ~(same & first.isfinite().all(1))
        pads = (
            isinstance(layer, nn.Conv2d)
            and layer.padding not in ((0, 0), "valid")
            and layer.padding_mode == "zeros"
        )
        stuck = dead & ~unread & (varies | (first != 0).any(1) if pads else varies)
        found.append(Reading(layer, first, unread, varies, stuck))
    return found


def _constants(model: nn.Module, stream: Stream, followed: Followed) -> dict[Node, Tensor]:
    """What arrives at each reader where a channel's weights are zero: biases, passed on.

    The network's own calls are made again in their order, so that those in place do here what they
    do there; in double precision. (Of channels with weights nothing is said.)
    """
    made: dict[Node, Tensor] = {}
    arriving: dict[Node, Tensor] = {}
    sources = dict(stream.readers)
    for node in followed.graph.nodes:
        if node in sources:
            arriving[node] = made[sources[node]].clone()
        if node not in stream.nodes:
            continue
        if node.op == "call_module" and layer_name(node) in stream.writers:
            made[node] = _bias(layer_of(model, layer_name(node)), followed.shapes[node])
            continue
        given, named = map_arg(
            (node.args, node.kwargs), lambda one: made.get(one, followed.values.get(one))
        )
        if node.op == "call_module":
            module = copy.deepcopy(model.get_submodule(layer_name(node))).double()
            made[node] = module(*given, **named)
        elif node.op == "call_method":
            made[node] = getattr(given[0], str(node.target))(*given[1:], **named)
        else:
            made[node] = node.target(*given, **named)
    return arriving


def _bias(layer: Weighted, shape: torch.Size) -> Tensor:
    """What a layer without weights gives for one image; its outputs had this shape once."""
    width = len(layer.weight)
    values = torch.zeros(width) if layer.bias is None else layer.bias
    if isinstance(layer, nn.Linear):
        return values.double().expand(*shape[:-1], width).clone()
    return values.double().view(1, width, 1, 1).expand(1, width, *shape[2:]).clone()


def fold(reading: Reading, going: Tensor) -> None:
    """Move what channels contribute into the bias of the layer that reads them."""
    layer = reading.layer
    by_channel = layer.weight.detach().double().reshape(len(layer.weight), len(going), -1)
    contribution = (by_channel * reading.values)[:, going].sum((1, 2))
    if contribution.any():
        bias = contribution if layer.bias is None else layer.bias.double() + contribution
        layer.bias = nn.Parameter(bias.to(layer.weight.dtype), requires_grad=False)


def standing_for_others(readings: list[Reading], stuck: Tensor) -> tuple[int | None, Tensor]:
    """The constant channel that stands for others, and for which.

    What is padded is 0 for each of them, so that weighted by their values they are one channel, at
    the image's border too. It must not be 0 itself where another one is needed.
    """
    nobody = torch.zeros_like(stuck)
    varies = torch.stack([one.varies & one.stuck for one in readings]).any(0)
    needed = [one for one in readings if (one.stuck & ~varies).any()]
    if not needed:
        return None, nobody
    sizes = torch.stack([_size(one) for one in needed])
    shares = sizes / sizes.max(1, keepdim=True).values
    candidates = stuck & ~varies
    one = int(torch.where(candidates, shares.min(0).values, -1.0).argmax())
    others = candidates.clone()
    others[one] = False
    for reading, size in zip(needed, sizes, strict=True):
        if size[one] == 0:
            others &= ~reading.stuck
    return one, others


def _size(reading: Reading) -> Tensor:
    """How large each constant is, where it is one: only the largest loses no digits."""
    return torch.where(reading.varies, 0.0, reading.values[:, 0].abs())


def merge(reading: Reading, going: Tensor, one: int) -> None:
    """Let a constant channel stand for others in a convolution that pads."""
    if not going.any():
        return
    values = reading.values[:, 0]
    weight = reading.layer.weight.detach().double()
    shares = torch.where(going, values / values[one], 0.0)
    weight[:, one] += (weight * shares.view(1, -1, 1, 1)).sum(1)
    reading.layer.weight = nn.Parameter(weight.to(reading.layer.weight.dtype), requires_grad=False)
