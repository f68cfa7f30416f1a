"""BatchNorm's running statistics: not touched by a second pass, and estimated anew."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from sparse_sam.networks.modes import in_evaluation_mode

BATCHNORM_BATCH = 250
"""How many images statistics are taken of at once."""


@contextmanager
def frozen_batchnorm_statistics(model: nn.Module) -> Iterator[None]:
    """Leave running statistics and ``num_batches_tracked`` as they are for a block.

    Layers in training mode go on normalising with the statistics of the batch, as SAM's gradient
    at the perturbed weights needs, but for the block they do not track them. Only the layers'
    ``track_running_stats`` is touched: a momentum that is never changed cannot come back wrong,
    and with momentum None, where the average depends on the count, the count is still right.

    Blocks may be nested, a layer being released by the block that froze it, and an exception
    releases them too. A layer that is switched between training and evaluation inside the block
    stays frozen; in evaluation mode it uses its statistics as ever.

    Args:
        model: any module, also inside DistributedDataParallel. BatchNorm of every dimension,
            synchronised and lazy, is found, and InstanceNorm that tracks statistics; other layers
            are left alone.
    """
    tracking = [
        module
        for module in model.modules()
        if isinstance(module, _BatchNorm) and module.track_running_stats
    ]
    # InstanceNorm tracks whatever that flag says: what it writes is taken back.
    written = [
        buffer
        for module in model.modules()
        if isinstance(module, _InstanceNorm) and module.track_running_stats
        for buffer in module.buffers(recurse=False)
    ]
    before = [buffer.clone() for buffer in written]
    try:
        for layer in tracking:
            layer.track_running_stats = False
        yield
    finally:
        for layer in tracking:
            layer.track_running_stats = True
        with torch.no_grad():
            for buffer, value in zip(written, before, strict=True):
                buffer.copy_(value)


@torch.no_grad()
def reestimate_batchnorm(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Forget the running statistics, and take the mean of those of batches, in place.

    Pruning changes what layers hand on, and statistics of the dense network do not fit it any
    more. The average is cumulative, every batch counting alike, as in
    ``torch.optim.swa_utils.update_bn``; unlike there the other layers are in evaluation mode, so
    that no dropout is in it. Weights, momenta and modes stay as they are.

    Args:
        model: any network; without BatchNorm that tracks statistics nothing happens.
        batches: images of the training part, on the device of the model, (N, ...), which it may
            change; ``BATCHNORM_BATCH`` at once is a good number. One that is smaller than the first
            is left out.
    """
    layers = [
        module
        for module in model.modules()
        if isinstance(module, _BatchNorm) and module.track_running_stats
    ]
    if not layers:
        return
    momenta = [layer.momentum for layer in layers]
    with in_evaluation_mode(model):
        try:
            for layer in layers:
                layer.reset_running_stats()
                layer.momentum = None
                layer.train()
            size = 0
            for batch in batches:
                size = size or len(batch)
                if len(batch) == size:
                    model(batch)
        finally:
            for layer, momentum in zip(layers, momenta, strict=True):
                layer.momentum = momentum
