"""How much is pruned when: the sparsity that is asked for after a share of the finetuning.

Every schedule is a staircase over the progress from 0 to 1, so arms that train for different
times lose the same shares of their weights at the same shares of their training.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import floor
from typing import Protocol

from sparse_sam.config_prune import PruneParams
from sparse_sam.pruning.registry import look_up


class Schedule(Protocol):
    """The sparsity over the finetuning; it never falls."""

    def sparsity(self, progress: float) -> float:
        """The sparsity, in [0, 1), at a progress from 0 (before the first step) to 1 (the last)."""


@dataclass(frozen=True)
class OneShot:
    """All at once, before finetuning."""

    final: float

    def sparsity(self, progress: float) -> float:  # noqa: ARG002, D102
        return self.final


@dataclass(frozen=True)
class Iterative:
    """Rounds of pruning and finetuning, which divide the finetuning evenly.

    Every round prunes the same share of the weights that are left (Frankle and Carbin 2019,
    arXiv:1803.03635): after i of k rounds the sparsity is 1 − (1 − s)^(i/k). The first round
    begins before finetuning; in the last the network is finetuned at the final sparsity.
    """

    final: float
    rounds: int

    def sparsity(self, progress: float) -> float:  # noqa: D102
        done = min(floor(progress * self.rounds) + 1, self.rounds)
        # (The last is exact: powers are not.)
        return self.final if done == self.rounds else 1 - (1 - self.final) ** (done / self.rounds)


@dataclass(frozen=True)
class Gradual:
    """Cubic: fast while there are many weights to choose from, and ever slower.

    s(t) = s_f + (s_i − s_f)(1 − t/n)³ (Zhu and Gupta 2017, arXiv:1710.01878, equation 1).

    Attributes:
        final: s_f.
        initial: s_i, before the first step.
        end: the progress, in (0, 1], at which s_f is reached.
        updates: n, how often masks shrink until then, at equal distances.
    """

    final: float
    initial: float
    end: float
    updates: int

    def sparsity(self, progress: float) -> float:  # noqa: D102
        done = floor(min(progress / self.end, 1.0) * self.updates)
        if done == self.updates:
            return self.final
        return self.final + (self.initial - self.final) * (1 - done / self.updates) ** 3


SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "one-shot": OneShot,
    "iterative": Iterative,
    "gradual": Gradual,
}


def make_schedule(params: PruneParams) -> Schedule:
    """The schedule that ``params`` names, up to its final sparsity."""
    final, given = params.sparsity, params.schedule.settings
    given = {name: value for name, value in given.items() if name != "rewind"}
    return look_up(SCHEDULES, params.schedule.name, "schedule")(final, **given)
