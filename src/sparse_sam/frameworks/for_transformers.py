"""SAM in the loop of Hugging Face transformers' Trainer."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

from torch import Tensor, nn

from sparse_sam.frameworks.micro_batches import MicroBatches
from sparse_sam.frameworks.wrapped import sam_within
from sparse_sam.sam import SAM


class SAMTrainer:
    """To be inherited before ``transformers.Trainer``, or a subclass of it, for training with SAM.

    ``class Finetuning(SAMTrainer, Trainer): pass`` takes all that ``Trainer`` takes and does all
    that it does, with the optimizer that its arguments name as the base optimizer:
    ``gradient_accumulation_steps``, ``max_grad_norm``, which bounds the gradient that moves the
    weights (the logged ``grad_norm`` is its), ``bf16``, ``fp16`` with its scaler, label smoothing,
    schedulers, callbacks, checkpoints and resuming, several processes.

    The second pass goes through the same micro-batches again, with the same number of items that
    the loss is divided by, and with the random state that each had (so dropout takes the same units
    in both passes). In it BatchNorm statistics are frozen, ``self.log`` says nothing, and
    ``self.in_second_pass`` is True. The logged loss is that at w.

    Args:
        arguments: as for ``Trainer``. An optimizer that is given in ``optimizers`` may be a ``SAM``
            itself, and is then taken as it is.
        rho: the radius ρ.
        variant: ``SAM``, or a class of its variants.
        sam_options: what else the variant is made with, such as ``{"sync_perturbation": True}``.
        options: as for ``Trainer``.
    """

    optimizer: Any
    in_second_pass = False

    def __init__(
        self,
        *arguments: Any,
        rho: float = 0.05,
        variant: Callable[..., SAM] = SAM,
        sam_options: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        self._sam_of = partial(variant, rho=rho, **(sam_options or {}))
        self._sam_micro_batches = MicroBatches()
        super().__init__(*arguments, **options)

    def create_optimizer(self, model: nn.Module | None = None) -> Any:
        """Trainer's optimizer, in a SAM."""
        base = self._sam_inherited.create_optimizer(*([] if model is None else [model]))
        if sam_within(base) is None:
            network = model or cast("Any", self).model
            self.optimizer = self._sam_of(base.param_groups, base, model=network)
        return self.optimizer

    def training_step(
        self, model: nn.Module, inputs: Any, num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """A micro-batch's loss at w, and its gradient; with the last one, make the second pass.

        Raises:
            RuntimeError: there is no SAM in ``self.optimizer``.
        """
        sam = sam_within(self.optimizer)
        if sam is None:
            kind = type(self.optimizer).__name__
            raise RuntimeError(
                f"SAMTrainer finds no SAM in its optimizer, which is {kind}. It makes one in "
                "create_optimizer: call super().create_optimizer() if you override it. "
                "DeepSpeed is not supported"
            )
        sam.model = model
        kept = self._sam_micro_batches.passing(sam, model, inputs, num_items_in_batch)
        with kept, sam.first_pass():
            loss: Tensor = self._sam_inherited.training_step(model, inputs, num_items_in_batch)
        accelerator = cast("Any", self).accelerator
        if accelerator.sync_gradients:
            again = self._sam_inherited.training_step
            no_sync = partial(accelerator.no_sync, model)
            with self._sam_second_pass():
                sam.replace_gradient(partial(self._sam_micro_batches.again, again, no_sync))
        return loss

    def log(self, *arguments: Any, **options: Any) -> None:
        """As Trainer's; nothing in the second pass."""
        if not self.in_second_pass:
            self._sam_inherited.log(*arguments, **options)

    @property
    def _sam_inherited(self) -> Any:
        return super()

    @contextmanager
    def _sam_second_pass(self) -> Iterator[None]:
        self.in_second_pass = True
        try:
            yield
        finally:
            self.in_second_pass = False
