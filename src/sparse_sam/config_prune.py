"""The section ``prune`` of ``params.yaml``: one choice on every axis (docs/pruning.md)."""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, model_validator

from sparse_sam.config_base import (
    BelowOne,
    BelowOneOrNull,
    CountOrNull,
    FractionOrNull,
    Section,
    in_words,
)

Criterion = Literal["magnitude", "random", "saliency"]
Scope = Literal["layerwise", "global", "erk"]
PruneScheduleName = Literal["one-shot", "iterative", "gradual"]
Rewind = Literal["none", "dense", "initial"]

SCHEDULE_SETTINGS: dict[str, tuple[str, ...]] = {
    "one-shot": (),
    "iterative": ("rounds", "rewind"),
    "gradual": ("initial", "end", "updates"),
}


def _known_structure(value: Any) -> Any:
    known = isinstance(value, str) and value in {"unstructured", "channels"}
    if not known and not kept_of_group(value):
        raise ValueError("must be unstructured, channels, or N:M such as '2:4' (quoted), N < M")
    return value


def kept_of_group(structure: Any) -> tuple[int, int] | None:
    """(N, M) of a structure that is called N:M; None of another."""
    text = structure if isinstance(structure, str) else ""
    found = re.fullmatch(r"([1-9]\d{0,3}):([1-9]\d{0,3})", text, re.ASCII)
    n, m = (int(found[1]), int(found[2])) if found else (0, 0)
    return (n, m) if n < m else None


class PruneScheduleParams(Section):
    """When weights go. Exactly the settings of the schedule that is named are not null."""

    name: PruneScheduleName
    rounds: CountOrNull
    rewind: Rewind | None
    initial: BelowOneOrNull
    end: FractionOrNull
    updates: CountOrNull

    @model_validator(mode="after")
    def _settings_are_the_schedules(self) -> Self:
        own = SCHEDULE_SETTINGS[self.name]
        for name in (name for names in SCHEDULE_SETTINGS.values() for name in names):
            value = getattr(self, name)
            if value is not None and name not in own:
                raise ValueError(
                    f"{name} = {value!r}: schedule {self.name} has no such setting (it has "
                    f"{', '.join(own) or 'none'}); allowed: null"
                )
            if value is None and name in own:
                words = in_words(type(self).model_fields[name]).replace(" or null", "")
                raise ValueError(f"{name} = None: schedule {self.name} needs it; allowed: {words}")
        return self

    @property
    def settings(self) -> dict[str, Any]:
        """The schedule's own settings."""
        return {name: getattr(self, name) for name in SCHEDULE_SETTINGS[self.name]}


class PruneParams(Section):
    """How many weights become zero, which ones, and when."""

    sparsity: BelowOne
    criterion: Criterion
    scope: Scope
    structure: Annotated[str, BeforeValidator(_known_structure)]
    batchnorm: bool
    biases: bool
    schedule: PruneScheduleParams
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
    def _initial_is_not_above_the_final(self) -> Self:
        initial = self.schedule.initial
        if initial is not None and initial > self.sparsity:
            raise ValueError(
                f"schedule.initial = {initial!r}: must be at most sparsity = {self.sparsity!r}"
            )
        return self
