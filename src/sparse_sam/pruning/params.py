"""The section ``prune`` of ``params.yaml``: one choice on every axis (docs/pruning.md)."""

from typing import Annotated, Any, Self

from pydantic import SerializeAsAny, model_validator

from sparse_sam.files import BelowOne, Section
from sparse_sam.pruning.registry import CRITERIA, SCHEDULES, SCOPES, STRUCTURES, kept_of_group
from sparse_sam.pruning.schedules import PruningSchedule

_TRIED = 20
"""At so many moments of the finetuning, and at its end, a schedule is asked before any work."""


class PruneParams(Section):
    """How many weights become zero, which ones, and when."""

    sparsity: BelowOne
    criterion: Annotated[str, CRITERIA]
    scope: Annotated[str, SCOPES]
    structure: Annotated[str, STRUCTURES]
    batchnorm: bool
    biases: bool
    schedule: Annotated[SerializeAsAny[PruningSchedule], SCHEDULES]
    reestimate_batchnorm: bool

    @model_validator(mode="after")
    def _fits_its_structure(self) -> Self:
        for name in ("batchnorm", "biases") if self.structure != "unstructured" else ():
            if getattr(self, name):
                raise ValueError(
                    f"{name} = True: structure {self.structure} prunes weights only; allowed: false"
                )
        if group := kept_of_group(self.structure):
            only = 1 - group[0] / group[1]
            if abs(self.sparsity - only) > 1e-9:
                raise ValueError(
                    f"sparsity = {self.sparsity!r}: structure {self.structure} has its own; "
                    f"allowed: {only!r}"
                )
        return self

    @model_validator(mode="after")
    def _starts_at_most_at_its_sparsity(self) -> Self:
        asked = [self._tried(step / _TRIED) for step in range(_TRIED + 1)]
        if asked[0] > self.sparsity:
            raise ValueError(
                f"schedule.initial = {asked[0]!r}: must be at most sparsity = {self.sparsity!r}"
            )
        if sorted(asked) != asked or asked[-1] != self.sparsity:
            raise ValueError(
                f"schedule.name = {self.schedule.name!r}: its sparsity must never fall, and end at "
                f"sparsity = {self.sparsity!r}; it asks for {asked[0]:.4g} at first and "
                f"{asked[-1]:.4g} at last"
            )
        return self

    def _tried(self, progress: float) -> float:
        try:
            asked = self.sparsity_at(progress)
        except Exception as error:  # noqa: BLE001 - whatever a schedule of one's own does
            raise ValueError(
                f"schedule.name = {self.schedule.name!r}: cannot say its sparsity: {error!r}"
            ) from None
        known: Any = asked  # a schedule of one's own may say anything
        if not isinstance(known, int | float) or not 0 <= asked < 1:
            raise ValueError(
                f"schedule.name = {self.schedule.name!r}: says {asked!r} for its sparsity, which "
                "must be at least 0 and less than 1"
            )
        return asked

    def sparsity_at(self, progress: float) -> float:
        """What the schedule asks for, from 0 (before finetuning) to 1 (its last step)."""
        return self.schedule.sparsity(self.sparsity, progress)
