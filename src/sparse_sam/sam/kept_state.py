"""What a SAM optimizer keeps between steps, and how it is saved, loaded and copied."""

from typing import Any

from torch.optim import Optimizer

from sparse_sam.sam import vectors
from sparse_sam.sam.base_optimizer import complete_group
from sparse_sam.sam.gradients import LeftGradients
from sparse_sam.sam.own_state import with_own, without_own
from sparse_sam.sam.replaced_gradient import ReplacedGradient


class KeepsState:
    """What ``SAM`` keeps: its base optimizer's state, and what a variant adds. To be inherited."""

    base_optimizer: Optimizer
    param_groups: list[dict[str, Any]]
    state: Any
    _own_group_defaults: dict[str, Any]

    def state_dict(self) -> dict[str, Any]:
        """Return the base optimizer's state, including what a variant keeps between steps."""
        return with_own(self.base_optimizer.state_dict(), self._own_state())

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue exactly where ``state_dict`` was taken.

        The state of a base optimizer alone works too; ``rho`` and ``adaptive`` then keep their
        values, and a variant starts afresh.
        """
        before = self.param_groups
        base, own = without_own(state_dict)
        self.base_optimizer.load_state_dict(base)
        self._share_with_base()
        for group, old in zip(self.param_groups, before, strict=True):
            complete_group(group, {name: old[name] for name in self._own_group_defaults})
        self._load_own_state(own)

    def __getstate__(self) -> dict[str, Any]:
        """All of it, so that a copy of model and optimizer trains on.

        But for a ``step`` that a scheduler, or whoever else, has put in the place of the class's:
        it is bound to this optimizer, and the copy's would move this one's weights.
        """
        state = {
            **self.__dict__,
            "_left": LeftGradients(),
            "_replaced": ReplacedGradient(),
        }
        state.pop("step", None)
        return state

    # What variants do otherwise:

    def _own_state(self) -> dict[str, Any]:
        """Between steps: values by name, or dicts of tensors by their parameter's place."""
        return {}

    def _load_own_state(self, state: dict[str, Any]) -> None:
        """Take what ``_own_state`` gave, or nothing."""

    def _make_own_state(self) -> None:
        """Have in ``_own_state`` what a checkpoint can be loaded into."""

    def _make_first_state(self) -> None:
        """Take a step without a closure for what ``torch.distributed.checkpoint`` means by it.

        It only wants the state to exist, and calls ``step`` before there is one, at a learning rate
        of 0 and with gradients of 0. Any other such call is a mistake of the loop's.

        Raises:
            ValueError: it is such a mistake.
        """
        rates_are_zero = all(float(group["lr"]) == 0 for group in self.param_groups)
        if (
            not rates_are_zero
            or any(self.state.values())
            or any(vectors.any_nonzero(LeftGradients().came(self.param_groups)))
        ):
            raise ValueError(
                f"{type(self).__name__}.step needs a closure that computes the loss, calls "
                "backward and returns the loss. In a loop that makes its own backward passes, "
                "call replace_gradient(backward) before step(), or first_step() and "
                "second_step() instead. In Lightning, accelerate or transformers, use the "
                "adapters of sparse_sam.frameworks."
            )
        self.base_optimizer.step()
        self._make_own_state()

    def _share_with_base(self) -> None:
        self.param_groups = self.base_optimizer.param_groups
        self.state = self.base_optimizer.state
