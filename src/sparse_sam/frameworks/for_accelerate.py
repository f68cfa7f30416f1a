"""SAM in a loop of Hugging Face's accelerate."""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn

from sparse_sam.frameworks.micro_batches import MicroBatches
from sparse_sam.frameworks.wrapped import sam_within


class SAMPasses:
    """Both passes of SAM, with ``backward`` in the place of ``accelerator.backward``.

    Everything else of the loop stays: ``accelerator.accumulate(model)``, clipping, which bounds the
    gradient that moves the weights, ``optimizer.step()`` without a closure, the gradient scaler of
    fp16, schedulers, ``save_state``. The second pass is made with the last micro-batch of a step.

    Both passes are of the same micro-batches: one whose pass raises, and those whose gradients the
    loop zeroes in the middle of a step, are left out of the second pass too.

    BatchNorm statistics are frozen in the second pass, and each process has the ε of its own
    examples unless the optimizer says ``sync_perturbation=True``. Dropout takes the same units in
    both passes.

    Args:
        accelerator: accelerate's.
        model: what ``accelerator.prepare`` made of the network.
        optimizer: what it made of a ``SAM``.

    Raises:
        TypeError: there is no SAM in ``optimizer``.
    """

    def __init__(self, accelerator: Any, model: nn.Module, optimizer: Any) -> None:
        sam = sam_within(optimizer)
        if sam is None:
            raise TypeError(
                f"optimizer is {type(optimizer).__name__}: SAMPasses needs the object that "
                "accelerator.prepare returns for a sparse_sam.sam.SAM"
            )
        self._accelerator, self._model, self._sam = accelerator, model, sam
        self._sam.model = model
        self._micro_batches = MicroBatches()

    def backward(self, compute_loss: Callable[..., Tensor], *batch: Any) -> Tensor:
        """Compute a micro-batch's loss and its gradient; with the last one, make the second pass.

        Args:
            compute_loss: gives the loss of what follows, and is called again for it in the second
                pass. It must not read the micro-batch from variables of the loop: they have others
                by then.
            batch: what it is called with.

        Returns:
            The loss at w, of no dimension, without its graph.
        """
        backward = partial(self._pass, compute_loss)
        kept = self._micro_batches.passing(self._sam, compute_loss, *batch)
        with kept, self._sam.first_pass():
            loss = backward(*batch)
        if self._accelerator.sync_gradients:
            no_sync = partial(self._accelerator.no_sync, self._model)
            self._sam.replace_gradient(partial(self._micro_batches.again, self._pass, no_sync))
        return loss

    def _pass(self, compute_loss: Callable[..., Tensor], *batch: Any) -> Tensor:
        loss = compute_loss(*batch)
        self._accelerator.backward(loss)
        return loss.detach()
