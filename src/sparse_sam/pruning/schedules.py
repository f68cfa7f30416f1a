"""How much is pruned when: the sparsity that is asked for after a share of the finetuning.

Every schedule is a staircase over the progress from 0 to 1, so arms that train for different
times lose the same shares of their weights at the same shares of their training. A schedule is a
section of ``params.yaml``: its fields are the keys that it takes there beside its name, and it
checks them itself.
"""

from math import floor
from typing import Literal

from sparse_sam.files import BelowOne, Checked, Count, Fraction
from sparse_sam.pruning.registry import SCHEDULES

Rewind = Literal["none", "dense", "initial"]


class PruningSchedule(Checked):
    """Base of all schedules, and the simplest: nothing happens after the first pruning.

    A class that inherits is a frozen dataclass with keyword-only fields, without a decorator.

    Attributes:
        name: as in ``params.yaml``; by itself that of the class, registered or by its place.

    Raises:
        ValueError: a field is not of its type or out of its bounds; says what is allowed.
    """

    name: str = ""

    def __post_init__(self) -> None:
        """Check the fields, and name what has no name yet."""
        super().__post_init__()
        if not self.name:
            kind = type(self)
            place = f"{kind.__module__}:{kind.__qualname__}"
            names = {one: name for name, one in SCHEDULES.places.items()}
            object.__setattr__(self, "name", names.get(place, place))

    def sparsity(self, final: float, progress: float) -> float:  # noqa: ARG002
        """The sparsity that is asked for; it never falls.

        Args:
            final: that of the end, in [0, 1).
            progress: from 0 (before the first step) to 1 (the last).
        """
        return final

    @property
    def rewinds_to(self) -> Rewind:
        """Where weights that are kept are put back to whenever masks shrink."""
        return "none"


class OneShot(PruningSchedule):
    """Prunes all at once, before finetuning."""


class Iterative(PruningSchedule):
    """Rounds of pruning and finetuning, of equal length.

    Each round prunes the same share of the weights that are left (Frankle and Carbin 2019,
    arXiv:1803.03635): after i of k rounds the sparsity is 1 − (1 − s)^(i/k). The first round
    begins before finetuning; the last finetunes the network at the final sparsity.

    Attributes:
        rounds: k.
        rewind: where each round but the first begins: ``none`` continues, ``dense`` goes back to
            the trained weights, ``initial`` to the untrained ones.
    """

    rounds: Count
    rewind: Rewind

    @property
    def rewinds_to(self) -> Rewind:
        """What ``rewind`` says."""
        return self.rewind

    def sparsity(self, final: float, progress: float) -> float:
        """1 − (1 − s)^(i/k) in round i."""
        done = min(floor(progress * self.rounds) + 1, self.rounds)
        # (The last is exact: powers are not.)
        return final if done == self.rounds else 1 - (1 - final) ** (done / self.rounds)


class Gradual(PruningSchedule):
    """Cubic: prunes fast while many weights are left, then ever more slowly.

    s(t) = s_f + (s_i − s_f)(1 − t/n)³ (Zhu and Gupta 2017, arXiv:1710.01878, equation 1).

    Attributes:
        initial: s_i, before the first step.
        end: the progress, in (0, 1], at which s_f is reached.
        updates: n, how often masks shrink until then, at equal intervals.
    """

    initial: BelowOne
    end: Fraction
    updates: Count

    def sparsity(self, final: float, progress: float) -> float:
        """The cubic, taken in ``updates`` steps."""
        done = floor(min(progress / self.end, 1.0) * self.updates)
        if done == self.updates:
            return final
        return final + (self.initial - final) * (1 - done / self.updates) ** 3
