"""The sections ``train_dense`` and ``finetune`` of ``params.yaml``, and where they are computed."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from sparse_sam.errors import ConfigError
from sparse_sam.files import BelowOne, Count, NotNegative, Positive, Section
from sparse_sam.sam import VARIANTS, SAMParams
from sparse_sam.training.registry import LEARNING_RATES

Precision = Literal["float32", "bfloat16"]
Device = Literal["auto", "cpu", "cuda"]
Threads = Annotated[int, Field(ge=1, le=1024)]


class TrainingParams(Section):
    """One training recipe: SGD as the base optimizer, and how long and how fast."""

    epochs: Count
    batch_size: Annotated[int, Field(ge=2, lt=2**31)]
    lr: Positive
    momentum: BelowOne
    weight_decay: NotNegative
    schedule: Annotated[str, LEARNING_RATES]
    label_smoothing: BelowOne
    shift_pixels: Annotated[int, Field(ge=0, lt=2**15)]
    precision: Precision


def _check_momentum(sam: SAMParams, recipe: TrainingParams, key: str) -> None:
    # (Asked of the variant's class, whose import takes torch's; plain SAM needs none.)
    if recipe.momentum or sam.variant == "sam":
        return
    try:
        needs_momentum = VARIANTS.load(sam.variant).needs_momentum
    except ConfigError as error:
        raise ValueError(str(error)) from None
    if needs_momentum:
        raise ValueError(
            f"sam.variant = {sam.variant!r}: perturbs along the momentum, and {key} is 0; "
            f"allowed: another variant, or a {key} above 0, such as 0.9"
        )


class DenseParams(TrainingParams):
    """The recipe of the dense network, which SAM may train too."""

    optimizer: Literal["sgd", "sam"]
    sam: SAMParams

    @model_validator(mode="after")
    def _variant_fits(self) -> Self:
        if self.optimizer == "sam":
            _check_momentum(self.sam, self, "momentum")
        return self


class FinetuneParams(Section):
    """The recipe that every finetuning arm shares, and what only SAM has."""

    training: TrainingParams
    sam: SAMParams

    @model_validator(mode="after")
    def _variant_fits(self) -> Self:
        _check_momentum(self.sam, self.training, "training.momentum")
        return self
