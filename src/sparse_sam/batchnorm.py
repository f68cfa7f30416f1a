"""BatchNorm during the second pass of a SAM step: normalise as always, remember nothing."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


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
            synchronised and lazy, is found; other layers are left alone.
    """
    tracking = [
        module
        for module in model.modules()
        if isinstance(module, _BatchNorm) and module.track_running_stats
    ]
    try:
        for layer in tracking:
            layer.track_running_stats = False
        yield
    finally:
        for layer in tracking:
            layer.track_running_stats = True
