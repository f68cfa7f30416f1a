"""What makes a cell's result, and nothing else: a frozen value with a key (``training.key_of``)."""

from dataclasses import dataclass
from typing import Any

from sparse_sam.pruning import PruneParams
from sparse_sam.sweep.sections import FlatnessParams
from sparse_sam.training import Dense, FinetuneParams, finetuning_code, finetuning_content


@dataclass(frozen=True)
class Work:
    """A cell's work: prune a dense network, finetune it as an arm does, measure.

    Attributes:
        dense: what it starts from.
        prune: how it is pruned.
        arm: ``sgd``, ``sgd_2x`` or ``sam``.
        finetune: the recipe, and SAM's settings.
        flatness: how sharpness is measured; None does not.
        tested: whether it sees the test set, which cells that choose never do.
    """

    dense: Dense
    prune: PruneParams
    arm: str
    finetune: FinetuneParams
    flatness: FlatnessParams | None
    tested: bool

    @property
    def recipe(self) -> FinetuneParams:
        """The same as ``finetune``, by the name that a training has for it."""
        return self.finetune

    @property
    def files(self) -> tuple[str, ...]:
        """Those that the network reads."""
        return self.dense.files

    def content(self) -> dict[str, Any]:
        """What makes it, as plain values."""
        return {
            "dense": self.dense.content(),
            "prune": self.prune.model_dump(mode="json"),
            "arm": self.arm,
            "finetune": finetuning_content(self),
            "flatness": self.flatness and self.flatness.model_dump(mode="json"),
            "tested": self.tested,
        }

    def code(self) -> tuple[str, ...]:
        """Where its code begins: it computes the dense network too."""
        return ("sparse_sam.sweep.compute", *self.dense.code(), *finetuning_code(self))
