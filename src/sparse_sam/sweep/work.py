"""What makes a result, and nothing else: the frozen values that every key is the hash of.

A cell's key is the SHA-256 of its parameters, of the fingerprint of its data and of the version
of the code that computes it. Parameters that an arm does not use are left out, so that SGD is not
computed once for every ρ.
"""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from sparse_sam.pruning import PruneParams
from sparse_sam.sweep.code_version import code_version
from sparse_sam.sweep.sections import FlatnessParams
from sparse_sam.training import SAM_ARM, DenseParams, FinetuneParams


@dataclass(frozen=True)
class Dense:
    """A dense network: the prefix that many cells share.

    Attributes:
        data: fingerprint of the data set.
        model: name of the network, or ``package.module:factory``.
        recipe: how it is trained.
        seed: of initialisation and batch order.
    """

    data: str
    model: str
    recipe: DenseParams
    seed: int

    def content(self) -> dict[str, Any]:
        """What makes it, as plain values."""
        recipe = self.recipe.model_dump(mode="json")
        if self.recipe.optimizer == "sgd":
            del recipe["sam"]
        return {"data": self.data, "model": self.model, "recipe": recipe, "seed": self.seed}


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

    def content(self) -> dict[str, Any]:
        """What makes it, as plain values."""
        finetune = self.finetune.model_dump(mode="json")
        if self.arm != SAM_ARM:
            del finetune["sam"]
        return {
            "dense": self.dense.content(),
            "prune": self.prune.model_dump(mode="json"),
            "arm": self.arm,
            "finetune": finetune,
            "flatness": self.flatness and self.flatness.model_dump(mode="json"),
            "tested": self.tested,
        }


def identity(task: Dense | Work) -> str:
    """SHA-256 of parameters and data: the same from version to version of the code."""
    text = json.dumps(task.content(), sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def key_of(task: Dense | Work) -> str:
    """SHA-256 of parameters, data and the code's version: where its result is kept."""
    code = code_version(task.content())
    return hashlib.sha256(f"{identity(task)} {code}".encode()).hexdigest()
