"""How much is pruned when: the sparsity that is asked for after a share of the finetuning.

Every schedule is a staircase over the progress from 0 to 1, so arms that train for different
times lose the same shares of their weights at the same shares of their training. A schedule is a
section of ``params.yaml``: its fields are the keys that it takes there beside its name.
"""

from math import floor
from typing import Literal

from sparse_sam.files import BelowOne, Count, Fraction, Section

Rewind = Literal["none", "dense", "initial"]


class PruningSchedule(Section):
    """Base of all schedules, and the simplest: nothing happens after the first pruning."""

    name: str

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
    """All at once, before finetuning."""


class Iterative(PruningSchedule):
    """Rounds of pruning and finetuning, which divide the finetuning evenly.

    Every round prunes the same share of the weights that are left (Frankle and Carbin 2019,
    arXiv:1803.03635): after i of k rounds the sparsity is 1 − (1 − s)^(i/k). The first round
    begins before finetuning; in the last the network is finetuned at the final sparsity.

    Attributes:
        rounds: k.
        rewind: where every round but the first begins: ``none`` goes on, ``dense`` goes back to
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
    """Cubic: fast while there are many weights to choose from, and ever slower.

    s(t) = s_f + (s_i − s_f)(1 − t/n)³ (Zhu and Gupta 2017, arXiv:1710.01878, equation 1).

    Attributes:
        initial: s_i, before the first step.
        end: the progress, in (0, 1], at which s_f is reached.
        updates: n, how often masks shrink until then, at equal distances.
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
