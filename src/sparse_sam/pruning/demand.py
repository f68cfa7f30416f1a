"""What is asked for: a sparsity, others of some tensors, and when."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor, nn

from sparse_sam.errors import MaskError
from sparse_sam.pruning.arguments import check_schedule, check_sparsity, chosen
from sparse_sam.pruning.criteria import Evidence
from sparse_sam.pruning.masks import (
    Masks,
    attach,
    check_plain,
    load_plain,
    masks_of,
    tighten,
)
from sparse_sam.pruning.pruner import Pruner
from sparse_sam.pruning.registry import CRITERIA, SCOPES, STRUCTURES, kept_of_group
from sparse_sam.pruning.schedules import PruningSchedule, Rewind
from sparse_sam.pruning.shares import WrongCountError

_TRIED = 20
"""At so many moments, and at its end, a schedule is asked before any work."""


Asked = tuple[float, dict[str, float]]


@dataclass(frozen=True)
class Demand:
    """How a network is to be pruned, how far, and when.

    Attributes:
        pruner: which weights go.
        sparsity: that of the end; None takes zeros that are there.
        overrides: those of some tensors, by pattern.
        schedule: None asks for all of it at once.
        evidence: what the criterion may look at.

    Raises:
        ConfigError: there is no such criterion, scope or structure.
        MaskError: a sparsity is out of range, or does not go with structure or schedule.
    """

    pruner: Pruner
    sparsity: float | None
    overrides: Mapping[str, float]
    schedule: PruningSchedule | None = None
    evidence: Evidence | None = None

    def prune_first(
        self, model: nn.Module, steps: int | None, rewind_to: Mapping[str, Tensor] | None
    ) -> None:
        """Prune a network in place as far as is asked for before the first step.

        Masks that are there stay, if they are as many as are asked for or fewer. Weights that are
        kept become those of ``rewind_to``, if that is given.

        Raises:
            MaskError: the schedule rewinds to the initialisation, and nothing says what that was;
                or ``rewind_to`` does not fit the network.
        """
        here = masks_of(model)
        if self.rewinds_to == "initial" and rewind_to is None and here is None:
            raise MaskError(
                "the schedule rewinds to the initialisation, which the trained network does not "
                "hold: copy model.state_dict() before training, and pass it to prepare as "
                "rewind_to"
            )
        if rewind_to is not None:
            check_plain(model, rewind_to)  # before anything is changed
        if here is None and self.sparsity is None:
            attach(model, self.pruner.masks_of_zeros(model, self.evidence))
        elif here is None or not self._has_enough(here, steps):
            self.prune(model, 0, steps)
        if rewind_to is not None:
            load_plain(model, rewind_to)

    def _has_enough(self, masks: Masks, steps: int | None) -> bool:
        try:
            self.check_counts(masks, 0, steps)
        except WrongCountError as error:
            if error.missing > 0:
                return False
            raise
        return True

    def prune(
        self,
        model: nn.Module,
        step: int,
        steps: int | None,
        rewind_to: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Prune a network in place, as far as is asked for before a step.

        With ``rewind_to`` a pruned network has these weights and buffers then, under its masks.
        """
        sparsity, overrides = self.before(step, steps)
        if rewind_to is None:
            self.pruner.prune(model, sparsity, self.evidence, overrides)
        else:
            masks = self.pruner.masks(model, sparsity, self.evidence, overrides)
            load_plain(model, rewind_to)
            tighten(model, masks)

    def check_counts(self, masks: Masks, step: int, steps: int | None) -> None:
        """Raise WrongCountError unless masks prune exactly what is asked for before a step."""
        if self.sparsity is not None:
            self.pruner.check_counts(masks, *self.before(step, steps))

    def check_saved(self, state: Mapping[str, Any], steps: int | None) -> None:
        """Check that a state that was saved is of this demand, and of so many steps.

        Raises:
            MaskError: it is not; says what it is of.
        """
        missing = {"done", "steps", "settings", "masks", "rewind_to"} - state.keys()
        if missing:
            raise MaskError(f"this is not the state of a Sparsifier: it lacks {', '.join(missing)}")
        here, there = {**self.settings(), "steps": steps}, state["settings"]
        there = {**there, "steps": state["steps"]}
        for name, value in here.items():
            if there.get(name) != value:
                raise MaskError(
                    f"the state was saved with {name} = {there.get(name)!r}, but this Sparsifier "
                    f"has {value!r}"
                )

    def check_finished(self, step: int, steps: int | None, sparsity: float) -> None:
        """Raise MaskError unless all that is asked for in the end is asked for before a step."""
        if self.before(step, steps) != self.at(1.0):
            raise MaskError(
                f"{step} of {steps} steps are done, and the sparsity is {sparsity:.4g}, not "
                f"{self.sparsity}: call sparsifier.step() after every step of the optimizer "
                "until all steps are done, or accept the network as it is with "
                "finalize(unfinished=True)"
            )

    def check_steps_known(self, steps: int | None) -> None:
        """Raise RuntimeError if a schedule prunes on the way, and nobody said how long that is."""
        if steps is None and not self.is_constant:
            raise RuntimeError(
                "the schedule prunes during training: pass the number of steps, prepare(…, steps=…)"
            )

    def before(self, step: int, steps: int | None) -> Asked:
        """What is asked for before a step, from 0, of a training of so many; None if they are many.

        A training that goes on for longer is asked for what its last step was.
        """
        if steps is None:
            return self.at(0.0)
        # Of the last step the progress is 1, so that a training of any length ends well.
        return self.at(min(step / (steps - 1), 1.0) if steps > 1 else 1.0)

    def rises_before(self, step: int, steps: int | None) -> bool:
        """Whether more is asked for before a step, from 0, than was before."""
        earlier = self.before(step - 1, steps) if step else self.at(0.0)
        return self.before(step, steps) != earlier

    def rewinds(self, steps: int | None) -> list[int]:
        """The steps, from 0, before which a network is rewound."""
        several = range(steps or 0) if self.rewinds_to != "none" else ()
        return [step for step in several if self.rises_before(step, steps)]

    @property
    def rewinds_to(self) -> Rewind:
        """Where weights that are kept are put back to whenever masks shrink."""
        return self.schedule.rewinds_to if self.schedule else "none"

    @property
    def is_constant(self) -> bool:
        """Whether all is pruned before the first step."""
        return self.at(0.0) == self.at(1.0)

    def at(self, progress: float) -> Asked:
        """The sparsity that is asked for, and those of some tensors, at a progress in [0, 1]."""
        finals = {"": self.sparsity or 0.0, **self.overrides}
        if self.schedule is not None:
            at = self.schedule.sparsity
            finals = {pattern: at(final, progress) for pattern, final in finals.items()}
        return finals.pop(""), finals

    def settings(self) -> dict[str, Any]:
        """Plain values that tell one demand from another."""
        schedule = "" if self.schedule is None or self.is_constant else repr(self.schedule)
        return {
            **asdict(self.pruner),
            "ignore": list(self.pruner.ignore),
            "sparsity": self.sparsity,
            "overrides": dict(self.overrides),
            "schedule": schedule,
        }

    def __post_init__(self) -> None:
        """Check all that can be known without a network."""
        pruner = self.pruner
        chosen(CRITERIA, pruner.criterion)
        chosen(SCOPES, pruner.scope)
        chosen(STRUCTURES, pruner.structure)
        check_schedule(self.schedule)
        if self.sparsity is None:
            if pruner.structure != "unstructured" or self.overrides or not self.is_constant:
                raise MaskError(
                    "sparsity = None keeps the zeros that the network has: use structure "
                    "unstructured, no overrides and no schedule"
                )
            return
        group = kept_of_group(pruner.structure)
        only = 1 - group[0] / group[1] if group else self.sparsity
        if self.overrides and group:
            raise MaskError(
                f"structure {pruner.structure} has one sparsity for all tensors: use ignore, not "
                "overrides, to keep a tensor dense"
            )
        for name, final in {"sparsity": self.sparsity, **self.overrides}.items():
            check_sparsity(name, final)
            if group and abs(final - only) > 1e-9:
                raise MaskError(
                    f"{name} = {final}: must be {only} for structure {pruner.structure}"
                )
            if self.schedule is not None:
                asked = [self.schedule.sparsity(final, i / _TRIED) for i in range(_TRIED + 1)]
                if sorted(asked) != asked or asked[-1] != final or asked[0] < 0:
                    raise MaskError(
                        f"{type(self.schedule).__name__}: its sparsity must start at 0 or more, "
                        f"never fall, and end at {name} = {final}; it starts at {asked[0]:.4g} "
                        f"and ends at {asked[-1]:.4g}"
                    )
