"""BatchNorm's running statistics: not touched by a second pass, and estimated anew."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from sparse_sam.networks.modes import in_evaluation_mode
from sparse_sam.terminal import beat

BATCHNORM_BATCH = 250
"""How many images statistics are taken of at once."""


@contextmanager
def frozen_batchnorm_statistics(model: nn.Module) -> Iterator[None]:
    """Keep running statistics and ``num_batches_tracked`` unchanged within a block.

    Layers in training mode still normalise with the statistics of the batch, as SAM's gradient at
    the perturbed weights needs, but do not track them within the block. Only the layers'
    ``track_running_stats`` is changed: a momentum that is never changed cannot come back wrong,
    and with momentum None, where the average depends on the count, the count stays right.

    Blocks may be nested: a layer is released by the block that froze it, also after an exception.
    A layer that you switch between training and evaluation mode inside the block stays frozen; in
    evaluation mode it uses its statistics as usual.

    Args:
        model: any module, also inside DistributedDataParallel. All kinds of BatchNorm are found,
            synchronised and lazy too, and InstanceNorm that tracks statistics; other layers are
            not changed.
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
    """Replace the running statistics by the mean of those of batches, in place.

    Pruning changes the outputs of layers, so the statistics of the dense network no longer fit.
    The average is cumulative and weighs all batches equally, as in
    ``torch.optim.swa_utils.update_bn``. Unlike there, all other layers are in evaluation mode, so
    dropout has no effect. Weights, momenta and modes do not change.

    Args:
        model: any network; without BatchNorm that tracks statistics, nothing happens.
        batches: images of the training part, on the device of the model, (N, ...), which the model
            may change; ``BATCHNORM_BATCH`` images are a good size. A batch smaller than the first
            is skipped.
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
                beat()
        finally:
            for layer, momentum in zip(layers, momenta, strict=True):
                layer.momentum = momentum
