"""Pruning between the steps of a training, as a schedule asks for it."""

from collections.abc import Mapping

from torch import Tensor, nn
from torch.optim import Optimizer

from sparse_sam.errors import MaskError
from sparse_sam.pruning import (
    Asked,
    Evidence,
    Masks,
    PruneParams,
    Pruner,
    load_plain,
    masks_of,
    tighten,
)
from sparse_sam.training.optimizers import forget_everything, forget_pruned


class ScheduledPruning:
    """Shrinks the masks of a model that is being trained, to what a schedule asks for.

    What happens before a step depends on the model, the number of the step and the seed only, so
    nothing is to be saved for a training to be resumed: the model's state holds its masks.

    Args:
        params: which of the weights that are left go, how many, and when.
        evidence: what the criterion may look at.
        model: the network, with masks of the schedule's first sparsity attached.
        optimizer: what trains it.
        steps: how many steps the whole training has.
        rewind_to: weights and buffers under plain names that the model is put back to whenever
            masks shrink, with a fresh optimizer's state. The learning rate's schedule begins anew
            then, too (Renda et al. 2020, arXiv:2003.02389, section 2): see ``rewinds``.
    """

    def __init__(
        self,
        params: PruneParams,
        evidence: Evidence,
        model: nn.Module,
        optimizer: Optimizer,
        steps: int,
        rewind_to: Mapping[str, Tensor] | None = None,
    ) -> None:
        self._pruner, self._asked_at, self._evidence = (
            Pruner.of(params),
            params.asked_at,
            evidence,
        )
        self._model, self._optimizer, self._steps = model, optimizer, steps
        self._rewind_to = rewind_to

    def before_step(self, step: int) -> bool:
        """Prune if the schedule asks for more at this step, from 0, than at the one before.

        Returns:
            Whether weights were put back where they were: the schedule rewinds.

        Raises:
            MaskError: a tensor would lose all its weights; the message names it.
        """
        if not self._shrinks_at(step):
            return False
        masks = self._masks(self._asked(step))
        if self._rewind_to is not None:
            load_plain(self._model, self._rewind_to)
            forget_everything(self._optimizer)
        tighten(self._model, masks)
        forget_pruned(self._optimizer, self._model)
        return self._rewind_to is not None

    @property
    def rewinds(self) -> list[int]:
        """The steps, from 0, before which the model is rewound."""
        if self._rewind_to is None:
            return []
        return [step for step in range(self._steps) if self._shrinks_at(step)]

    def check_met(self) -> None:
        """Raise MaskError if the model has not exactly the sparsity that the schedule ends at."""
        asked = self._asked_at(1.0)
        masks = masks_of(self._model)
        wanted = self._masks(asked)
        if masks is None or any(masks[one].sum() != wanted[one].sum() for one in wanted):
            raise MaskError(
                f"the network was to have a sparsity of {asked.sparsity} and is {masks!r}"
            )

    def _masks(self, asked: Asked) -> Masks:
        return self._pruner.masks(self._model, asked.sparsity, self._evidence, asked.overrides)

    def _shrinks_at(self, step: int) -> bool:
        before = self._asked(step - 1) if step else self._asked_at(0.0)
        return self._asked(step) != before

    def _asked(self, step: int) -> Asked:
        # Of the last step the progress is 1, so that a training of any length ends well.
        return self._asked_at(step / (self._steps - 1) if self._steps > 1 else 1.0)
