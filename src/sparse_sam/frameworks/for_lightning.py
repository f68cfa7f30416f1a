"""SAM in Lightning's loop."""

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, cast

from torch import Tensor, nn

from sparse_sam.frameworks.micro_batches import MicroBatches
from sparse_sam.frameworks.wrapped import sam_within
from sparse_sam.sam import SAM


class SAMModule:
    """To be inherited before ``LightningModule`` by one that is trained with SAM.

    ``configure_optimizers`` returns a ``SAM``, and nothing else changes: ``training_step``, and
    of the trainer ``precision`` with its gradient scaler, ``accumulate_grad_batches``, both ways of
    clipping, which bound the gradient that moves the weights, ``strategy="ddp"``, callbacks and
    checkpoints. With another optimizer, and with manual optimization, it does nothing.

    The second pass goes through the same micro-batches again, with the random state that each had
    (so dropout takes the same units in both passes). In it BatchNorm statistics are frozen,
    ``self.log`` says nothing, metrics of torchmetrics that are attributes of the module count
    nothing, and ``self.in_second_pass`` is True. Hooks around a backward pass are called for it.

    Who overrides ``on_train_batch_start`` or ``optimizer_step`` calls it of ``super()`` too.
    """

    in_second_pass = False

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> Any:
        """Remember the micro-batch. Lightning calls it before ``training_step``."""
        if batch_idx % self._sam_trainer.accumulate_grad_batches == 0:
            self._sam_micro_batches.forget()
        sam = sam_within(next(iter(self._sam_trainer.optimizers), None))
        if sam is not None:
            self._sam_micro_batches.before_pass(sam, batch, batch_idx)
        inherited = getattr(super(), "on_train_batch_start", None)
        return inherited(batch, batch_idx) if inherited else None

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Any,
        optimizer_closure: Callable[[], Tensor | None] | None = None,
    ) -> None:
        """Make the last pass at w and those at w + ε*; let Lightning unscale, clip and step.

        Raises:
            RuntimeError: earlier micro-batches are not known, or their gradients are of no use.
        """
        sam = sam_within(optimizer)
        if sam is None or optimizer_closure is None:
            cast("Any", super()).optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
            return
        sam.model = self._sam_trainer.strategy.model
        self._sam_check(sam)
        with sam.first_pass():
            loss = optimizer_closure()
        self._sam_micro_batches.drop_if_empty(sam)
        if not self._sam_micro_batches:  # no training_step of this step gave a loss
            return
        again, one = self._sam_micro_batches.again, partial(self._sam_pass, sam)
        with self._sam_second_pass():
            sam.replace_gradient(partial(again, one, self._sam_unsynchronised))
        self._sam_micro_batches.forget()
        optimizer.step(closure=lambda: loss)

    def log(self, *arguments: Any, **options: Any) -> None:
        """As Lightning's; nothing in the second pass."""
        if not self.in_second_pass:
            cast("Any", super()).log(*arguments, **options)

    @property
    def _sam_trainer(self) -> Any:
        return cast("Any", self).trainer

    @property
    def _sam_micro_batches(self) -> MicroBatches:
        kept: MicroBatches = self.__dict__.setdefault("_kept_micro_batches", MicroBatches())
        return kept

    def _sam_pass(self, sam: SAM, batch: Any, batch_idx: int) -> None:
        """What Lightning's loop does with a micro-batch."""
        strategy = self._sam_trainer.strategy
        takes_index = _takes_index(cast("Any", self).training_step)
        output = strategy.training_step(*((batch, batch_idx) if takes_index else (batch,)))
        loss = output["loss"] if isinstance(output, dict) else output
        if loss is not None:
            strategy.backward(loss / self._sam_trainer.accumulate_grad_batches, sam)

    def _sam_unsynchronised(self) -> Any:
        block = getattr(self._sam_trainer.strategy, "block_backward_sync", nullcontext)
        return block()

    @contextmanager
    def _sam_second_pass(self) -> Iterator[None]:
        self.in_second_pass = True
        try:
            with _uncounted(cast("nn.Module", self)):
                yield
        finally:
            self.in_second_pass = False

    def _sam_check(self, sam: SAM) -> None:
        """Raise RuntimeError unless the second pass can do as the first did."""
        if not self._sam_micro_batches:
            raise RuntimeError(
                "SAMModule does not know this step's micro-batches: call "
                "super().on_train_batch_start(batch, batch_idx) in on_train_batch_start of your "
                "module, and inherit SAMModule before LightningModule"
            )
        if len(self._sam_micro_batches) > 1 and (sam.dense_gradient or sam.track_kept_share):
            raise RuntimeError(
                "dense_gradient and track_kept_share need the gradients of pruned weights too, "
                "which Lightning does not give for the first micro-batches: set "
                "accumulate_grad_batches=1"
            )


def _takes_index(training_step: Callable[..., Any]) -> bool:
    """Whether a ``training_step`` takes ``batch_idx`` too, under whatever name."""
    taken = inspect.signature(training_step).parameters.values()
    positional = [
        one for one in taken if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)
    ]
    return len(positional) > 1 or any(one.kind is one.VAR_POSITIONAL for one in taken)


@contextmanager
def _uncounted(module: nn.Module) -> Iterator[None]:
    """A block in which metrics of torchmetrics within a module work on copies of what they hold."""
    known = sys.modules.get("torchmetrics")
    metrics = [one for one in module.modules() if known and isinstance(one, known.Metric)]
    before = [dict(metric.__dict__) for metric in metrics]
    try:
        for metric in metrics:
            copies = {name: _copied(state) for name, state in metric.metric_state.items()}
            metric.__dict__.update(copies)
        yield
    finally:
        for metric, held in zip(metrics, before, strict=True):
            metric.__dict__.update(held)


def _copied(state: Any) -> Any:
    return state.clone() if isinstance(state, Tensor) else list(state)
