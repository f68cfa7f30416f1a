"""Channels that are really removed: a network that gives the same outputs with smaller layers.

An output channel whose weights are all zero computes one number, whatever the image. It is removed,
and what that number came to after BatchNorm and activations is moved into the bias of the layers
that read it. So is a channel that they read with zeros only. Before a convolution with padding,
which sees 0 and not that number at the image's border, no bias can do it: there one constant
channel is kept and stands for all of them.

Which layers write and read a channel is found in the network's graph (``streams``). Where outputs
are added, as in a residual network, a channel goes that is without weights in every layer that
writes it, or unread in every layer that reads it. What stays is said layer by layer: the outputs of
the network, whatever reaches a call that is not understood (attention, concatenation, layer
normalisation, grouped convolutions; shortcut A of ``resnet-20``, which lays the channels of one
stage into some of the next), and networks that ``torch.fx`` cannot follow.
"""

import copy
from dataclasses import dataclass

import torch
from torch import nn

from sparse_sam.errors import ExportError
from sparse_sam.export.constants import (
    fold,
    layer_of,
    merge,
    readings,
    standing_for_others,
    without_weights,
)
from sparse_sam.export.streams import Followed, Stream, Weighted, find_streams, follow
from sparse_sam.export.widths import keep_inputs, keep_outputs

_AGREES = 1e-3
"""How far outputs may be from the network's, relative to the largest of them."""


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


def narrow(model: nn.Module, image_shape: tuple[int, int, int]) -> Narrowed:
    """Remove the channels that can be removed without changing what the network computes.

    Sums have fewer terms afterwards, so outputs agree within rounding and not bit for bit.

    Args:
        model: plain weights (masks folded in), on the CPU.
        image_shape: (channels, height, width) of one input.
    """
    whole, model = model, copy.deepcopy(model).eval()
    try:
        followed = follow(model, image_shape)
    except ExportError as error:
        return _as_it_is(whole, str(error))
    removed: dict[str, int] = {}
    with torch.no_grad():
        streams = find_streams(model, followed)
        able = [one for one in streams if one.writers and one.readers and not one.stays]
        found = True
        while found:  # a channel that goes may leave others before it that nobody reads
            found = False
            for stream in able:
                lost = _narrow_stream(model, stream, followed)
                found = found or lost > 0
                for name in stream.writers if lost else ():
                    removed[name] = removed.get(name, 0) + lost
        if removed and not _agree(copy.deepcopy(whole).eval(), model, image_shape):
            return _as_it_is(whole, "with smaller layers its code computes something else")
        kept = _staying(model, "it is not known what reads them")
        for stream in streams:
            for name in stream.writers:
                if stream.gives:
                    kept.pop(name, None)
                elif name in kept:
                    kept[name] = _reason(model, stream, name, followed)
    names = [name for name, _ in model.named_modules() if name in removed]
    return Narrowed(model, {name: removed[name] for name in names}, kept)


def _as_it_is(model: nn.Module, why: str) -> Narrowed:
    said = {
        "": f"{type(model).__name__}: {why}",
        **_staying(model, "it is not known what reads them"),
    }
    return Narrowed(copy.deepcopy(model).eval(), {}, said)


def _staying(model: nn.Module, why: str) -> dict[str, str]:
    """By layer, how many channels are still there without weights, and why."""
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, Weighted):
            dead = int(without_weights(module).sum())
            if dead:
                count = f"{dead} of {len(module.weight)} channels"
                found[name] = f"{count} have no weights and stay: {why}"
    return found


def _reason(model: nn.Module, stream: Stream, name: str, followed: Followed) -> str:
    """Why a layer still has channels without weights."""
    layer = layer_of(model, name)
    own = without_weights(layer)
    said = f"{int(own.sum())} of {len(own)} channels have no weights and stay: "
    added = "its outputs are added to others, and " if len(stream.writers) > 1 else ""
    if stream.stays:
        return f"{said}{added}{stream.stays}"
    for other in stream.writers:
        if (own & ~without_weights(layer_of(model, other))).any():
            return f"{said}{added}{other} has weights there"
    if not stream.readers:
        return f"{said}nothing reads them"
    reads = readings(model, stream, followed, own)
    if any((one.stuck & ~one.varies).any() for one in reads):
        if own.sum() == 1 and len(reads) == 1:
            return "one constant channel replaces all of them, because the next convolution pads"
        return f"{said}they are constant, and a convolution that reads them pads"
    if any(one.stuck.any() for one in reads):
        return f"{said}they are not the same at every position"
    return f"{said}a layer keeps at least one channel"


def _narrow_stream(model: nn.Module, stream: Stream, followed: Followed) -> int:
    """Remove channels from all layers that write or read them; how many went."""
    writers = [layer_of(model, name) for name in stream.writers]
    dead = torch.stack([without_weights(one) for one in writers]).all(0)
    reads = readings(model, stream, followed, dead)
    unread = torch.stack([one.unread for one in reads]).all(0)
    stuck = torch.stack([one.stuck for one in reads]).any(0)
    one, merged = standing_for_others(reads, stuck)
    going = unread | (dead & ~stuck) | merged
    if going.all():
        going[0] = False  # a layer of no channels is none
    if not going.any():
        return 0
    for reading in reads:
        fold(reading, going & dead & ~reading.stuck)
        if one is not None:
            merge(reading, going & merged & reading.stuck, one)
    for writer in writers:
        keep_outputs(writer, ~going)
    for name in stream.norms:
        keep_outputs(model.get_submodule(name), ~going)
    for reading in reads:
        keep_inputs(reading.layer, ~going)
    return int(going.sum())


def _agree(one: nn.Module, other: nn.Module, image_shape: tuple[int, int, int]) -> bool:
    """Whether two networks give the same for random images, within rounding."""
    images = torch.randn(4, *image_shape, generator=torch.Generator().manual_seed(0))
    try:
        given, expected = other(images.clone()), one(images.clone())
    except Exception:  # noqa: BLE001 - whatever a network's code does
        return False
    difference = float((given - expected).abs().max())
    return difference <= _AGREES * float(expected.abs().max())
