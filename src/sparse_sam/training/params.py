"""The sections ``train_dense`` and ``finetune`` of ``params.yaml``, and where they are computed."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from sparse_sam.errors import ConfigError
from sparse_sam.files import BelowOne, Count, NotNegative, Positive, Section
from sparse_sam.sam import VARIANTS, SAMParams
from sparse_sam.training.registry import BASE_OPTIMIZERS, LEARNING_RATES

Precision = Literal["float32", "bfloat16"]
Device = Literal["auto", "cpu", "cuda"]
Threads = Annotated[int, Field(ge=1, le=1024)]
Pixels = Annotated[int, Field(ge=0, lt=2**15)]
SGD_BASE = "sgd"
"""The base optimizer that has the key ``momentum``."""


class TrainingParams(Section):
    """One training recipe: the base optimizer, how long, how fast, and on what images."""

    epochs: Count
    batch_size: Annotated[int, Field(ge=2, lt=2**31)]
    base_optimizer: Annotated[str, BASE_OPTIMIZERS]
    lr: Positive
    momentum: BelowOne
    weight_decay: NotNegative
    schedule: Annotated[str, LEARNING_RATES]
    warmup_epochs: NotNegative
    clip_norm: Annotated[float | None, Field(gt=0, le=1_000_000)]
    label_smoothing: BelowOne
    shift_pixels: Pixels
    flip: bool
    cutout_pixels: Pixels
    precision: Precision

    @model_validator(mode="after")
    def _momentum_is_sgds(self) -> Self:
        if self.momentum and self.base_optimizer != SGD_BASE:
            raise ValueError(
                f"momentum = {self.momentum!r}: only SGD has it, and base_optimizer is "
                f"{self.base_optimizer!r}; allowed: 0.0"
            )
        return self

    @model_validator(mode="after")
    def _warms_up_within_its_epochs(self) -> Self:
        if self.warmup_epochs >= self.epochs:
            raise ValueError(
                f"warmup_epochs = {self.warmup_epochs!r}: must be less than epochs = {self.epochs}"
            )
        return self


def _check_momentum(sam: SAMParams, recipe: TrainingParams, key: str) -> None:
    # (Asked of the variant's class, whose import takes torch's; plain SAM needs none. Another base
    # than SGD has momentum or not: the variant asks it itself.)
    if recipe.momentum or sam.variant == "sam" or recipe.base_optimizer != SGD_BASE:
        return
    try:
        needs_momentum = VARIANTS.load(sam.variant).needs_momentum
    except ConfigError as error:
        raise ValueError(str(error)) from None
    if needs_momentum:
        raise ValueError(
            f"sam.variant = {sam.variant!r}: perturbs along the momentum, but {key} is 0; "
            f"allowed: another variant, or {key} above 0, such as 0.9"
        )


class DenseParams(TrainingParams):
    """The recipe of the dense network; ``optimizer`` ``sgd`` is the base alone, as in the arms."""

    optimizer: Literal["sgd", "sam"]
    sam: SAMParams

    @model_validator(mode="after")
    def _variant_fits(self) -> Self:
        if self.optimizer == "sam":
            _check_momentum(self.sam, self, "momentum")
        return self


class DistillationParams(Section):
    """How much of the loss comes from the dense network's outputs, and how soft they are."""

    weight: Annotated[float, Field(ge=0, le=1)]
    temperature: Positive


class FinetuneParams(Section):
    """The recipe that every finetuning arm shares, and what only SAM has."""

    training: TrainingParams
    distillation: DistillationParams
    sam: SAMParams

    @model_validator(mode="after")
    def _variant_fits(self) -> Self:
        _check_momentum(self.sam, self.training, "training.momentum")
        return self
