"""Layers made smaller, and a network given the widths of what a file holds."""

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from sparse_sam.errors import CheckpointError
from sparse_sam.export.channelwise import BATCHNORM

_RESIZABLE = (nn.Linear, nn.Conv2d, *BATCHNORM)


def keep_outputs(module: nn.Module, keep: Tensor) -> None:
    """Leave a layer only some of its output channels.

    Args:
        module: a weighted layer or BatchNorm.
        keep: booleans, one a channel. Of BatchNorm each may be several numbers in a row.
    """
    for name, parameter in list(module.named_parameters(recurse=False)):
        left = parameter.detach()[_of_numbers(keep, parameter)].clone()
        module.register_parameter(name, nn.Parameter(left, requires_grad=False))
    for name, buffer in list(module.named_buffers(recurse=False)):
        if buffer.dim() > 0:
            module.register_buffer(name, buffer[_of_numbers(keep, buffer)].clone())
    _say_widths(module)


def keep_inputs(layer: nn.Linear | nn.Conv2d, keep: Tensor) -> None:
    """Leave a layer only some of the channels that it reads: booleans, one a channel."""
    weight = layer.weight.detach()
    by_channel = weight.reshape(len(weight), len(keep), -1)[:, keep]
    left = by_channel.reshape(len(weight), -1, *weight.shape[2:]).clone()
    layer.weight = nn.Parameter(left, requires_grad=False)
    _say_widths(layer)


def _of_numbers(keep: Tensor, tensor: Tensor) -> Tensor:
    return keep.repeat_interleave(len(tensor) // len(keep))


def possible_biases(model: nn.Module) -> set[str]:
    """Biases that a narrowed network may have and this one has not, by name."""
    return {
        f"{name}.bias" if name else "bias"
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, nn.Conv2d)) and module.bias is None
    }


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
            weight = None
            if isinstance(module, _RESIZABLE):  # (BatchNorm may have statistics alone)
                weight = state.get(f"{prefix}weight", state.get(f"{prefix}running_mean"))
            for kind, holder in (("parameter", module._parameters), ("buffer", module._buffers)):  # noqa: SLF001
                for own in list(holder):
                    given = state.get(f"{prefix}{own}")
                    old = holder[own]
                    if given is not None and _takes(old, given, weight):
                        value = _room(given, old)
                        holder[own] = nn.Parameter(value) if kind == "parameter" else value
            if weight is not None:
                _say_widths(module)
    try:
        model.load_state_dict(dict(state))
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"the weights do not fit the model: {reason}") from None
    return model


def _takes(old: Tensor | None, given: Tensor, weight: Tensor | None) -> bool:
    """Whether a tensor of a layer is to be made anew, as large as what is given.

    Args:
        old: the layer's own.
        given: what comes in its place.
        weight: the weight that the layer is given; None of a layer that keeps its widths.
    """
    if weight is None:
        return old is not None and old.is_meta and old.shape == given.shape
    if old is None:  # a bias that came of channels that are gone: as long as the layer is wide
        return given.shape == weight.shape[:1] and given.dtype == weight.dtype
    return old.dim() == given.dim()


def _room(given: Tensor, old: Tensor | None) -> Tensor:
    """Memory for a tensor, laid out as that in whose place it comes."""
    layout = torch.contiguous_format
    if old is not None and old.dim() == 4:
        # (Of a tensor with one channel ``is_contiguous`` says that it is in every layout.)
        form = torch.empty(old.shape, device="meta", memory_format=torch.channels_last)
        layout = torch.channels_last if form.stride() == old.stride() else layout
    return torch.empty(given.shape, dtype=given.dtype, memory_format=layout)


def _say_widths(module: nn.Module) -> None:
    """Bring what a layer says of itself up to date with its weights."""
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, nn.Conv2d):
        module.out_channels, module.in_channels = module.weight.shape[:2]
    elif isinstance(module, BATCHNORM):
        module.num_features = len(cast("Tensor", module.running_mean))
