"""The section ``prune`` of ``params.yaml``: one choice on every axis (docs/pruning.md)."""

from dataclasses import dataclass
from typing import Annotated, Any, Self

from pydantic import Field, SerializeAsAny, model_validator

from sparse_sam.files import FROM_LIST, BelowOne, BelowOneOrNull, Section
from sparse_sam.pruning.registry import CRITERIA, SCHEDULES, SCOPES, STRUCTURES, kept_of_group
from sparse_sam.pruning.schedules import PruningSchedule

_TRIED = 20
"""At so many moments of the finetuning, and at its end, a schedule is asked before any work."""


Pattern = Annotated[str, Field(min_length=1)]


@dataclass(frozen=True)
class Asked:
    """What is asked for at one moment: a sparsity, and others for some tensors, by pattern."""

    sparsity: float
    overrides: dict[str, float]


class PruneParams(Section):
    """How many weights become zero, which ones, and when.

    ``sparsity`` None: the zeros that the dense network has already are its masks.
    """

    sparsity: BelowOneOrNull
    criterion: Annotated[str, CRITERIA]
    scope: Annotated[str, SCOPES]
    structure: Annotated[str, STRUCTURES]
    batchnorm: bool
    biases: bool
    ignore: Annotated[tuple[Pattern, ...], FROM_LIST]
    overrides: dict[Pattern, BelowOne]
    schedule: Annotated[SerializeAsAny[PruningSchedule], SCHEDULES]
    reestimate_batchnorm: bool

    @model_validator(mode="after")
    def _takes_zeros_as_they_are(self) -> Self:
        if self.sparsity is None:
            why = "prune.sparsity: null keeps the zeros that the network has"
            if self.schedule.name != "one-shot":
                raise ValueError(
                    f"schedule.name = {self.schedule.name!r}: {why}; allowed: one-shot"
                )
            if self.structure != "unstructured":
                raise ValueError(
                    f"structure = {self.structure!r}: {why}; allowed: unstructured, which leaves "
                    "every zero where it is"
                )
            if self.overrides:
                raise ValueError(f"overrides = {self.overrides!r}: {why}; allowed: {{}}")
        return self

    @model_validator(mode="after")
    def _fits_its_structure(self) -> Self:
        for name in ("batchnorm", "biases") if self.structure != "unstructured" else ():
            if getattr(self, name):
                raise ValueError(
                    f"{name} = True: structure {self.structure} prunes weights only; allowed: false"
                )
        if group := kept_of_group(self.structure):
            only = 1 - group[0] / group[1]
            if self.overrides:
                raise ValueError(
                    f"overrides = {self.overrides!r}: structure {self.structure} has one "
                    "sparsity for all tensors; allowed: {}. Use prune.ignore to keep a tensor dense"
                )
            if self.sparsity is None or abs(self.sparsity - only) > 1e-9:
                raise ValueError(
                    f"sparsity = {self.sparsity!r}: must be {only!r} for structure {self.structure}"
                )
        return self

    @model_validator(mode="after")
    def _starts_at_most_at_its_sparsity(self) -> Self:
        if self.sparsity is not None:
            self._try_schedule("sparsity", self.sparsity)
        for pattern, own in self.overrides.items():
            self._try_schedule(f"overrides.{pattern}", own)
        return self

    def _try_schedule(self, key: str, final: float) -> None:
        asked = [self._tried(final, step / _TRIED) for step in range(_TRIED + 1)]
        if asked[0] > final:
            raise ValueError(f"schedule.initial = {asked[0]!r}: must be at most {key} = {final!r}")
        if sorted(asked) != asked or asked[-1] != final:
            raise ValueError(
                f"schedule.name = {self.schedule.name!r}: its sparsity must never fall, and must "
                f"end at {key} = {final!r}; it starts at {asked[0]:.4g} and ends at "
                f"{asked[-1]:.4g}"
            )

    def _tried(self, final: float, progress: float) -> float:
        try:
            asked = self.schedule.sparsity(final, progress)
        except Exception as error:  # noqa: BLE001 - whatever a schedule of one's own does
            raise ValueError(
                f"schedule.name = {self.schedule.name!r}: computing its sparsity failed: {error!r}"
            ) from None
        known: Any = asked  # a schedule of one's own may say anything
        if not isinstance(known, int | float) or not 0 <= asked < 1:
            raise ValueError(
                f"schedule.name = {self.schedule.name!r}: gives the sparsity {asked!r}, which "
                "must be at least 0 and less than 1"
            )
        return asked

    def __hash__(self) -> int:
        """By content: ``overrides`` is a mapping, which has no hash of its own."""
        return hash(self.model_dump_json())

    @property
    def takes_zeros(self) -> bool:
        """Whether the masks are those of the zeros that the network has already."""
        return self.sparsity is None

    def asked_at(self, progress: float) -> Asked:
        """What the schedule asks for, from 0 (before finetuning) to 1 (its last step).

        Raises:
            ValueError: nothing is asked for: the zeros are taken as they are.
        """
        if self.sparsity is None:
            raise ValueError("sparsity is None: the zeros of the network are its masks")
        at = self.schedule.sparsity
        own = {pattern: at(final, progress) for pattern, final in self.overrides.items()}
        return Asked(at(self.sparsity, progress), own)
