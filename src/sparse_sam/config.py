"""``params.yaml`` as typed, frozen values: read once, checked whole, before any work.

The file is read as YAML 1.2, as DVC reads it, so that ``1e-3`` is a number in both. No key has a
default here: what is not in the file is an error, so the file alone says what was run, and no
stage depends on this module or on those that it is made of.
"""

import importlib.util
import sys
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BeforeValidator, Field, model_validator

from sparse_sam.config_base import (
    BelowOne,
    Count,
    CountOrNull,
    Fraction,
    NotNegative,
    NotNegativeOrNull,
    Positive,
    Section,
    Seed,
)
from sparse_sam.config_prune import PruneParams
from sparse_sam.config_read import parse_section, read_yaml
from sparse_sam.errors import ConfigError
from sparse_sam.redaction import has_login

SourceName = Literal["mnist-sample", "mnist", "fashion-mnist", "kmnist", "idx"]
ModelName = Literal["classifier", "lenet-300-100", "lenet-5", "mlpnet"]
DenseOptimizer = Literal["sgd", "sam"]
Variant = Literal["sam", "asam", "periodic", "looksam", "momentum", "gsam"]
Schedule = Literal["constant", "cosine"]
Precision = Literal["float32", "bfloat16"]
Device = Literal["auto", "cpu", "cuda"]
Threads = Annotated[int, Field(ge=1, le=1024)]

MODEL_NAMES: tuple[str, ...] = get_args(ModelName)
VARIANT_SETTINGS: dict[str, tuple[str, ...]] = {
    "sam": (),
    "asam": ("eta",),
    "periodic": ("k",),
    "looksam": ("k", "alpha"),
    "momentum": (),
    "gsam": ("alpha", "rho_min"),
}


def _known_model(value: Any) -> Any:
    if isinstance(value, str) and value in MODEL_NAMES:
        return value
    allowed = f"one of {', '.join(MODEL_NAMES)}, or package.module:factory"
    module, colon, factory = value.partition(":") if isinstance(value, str) else ("", "", "")
    if not (colon and factory.isidentifier() and all(map(str.isidentifier, module.split(".")))):
        raise ValueError(f"must be {allowed}")
    try:
        found = importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        found = False
    except Exception as error:  # noqa: BLE001 - it runs the packages above the module
        raise ValueError(
            f"names the module {module!r}, which cannot be imported: {error!r}"
        ) from None
    if not found:
        raise ValueError(
            f"names the module {module!r}, which Python does not find from {Path.cwd().name}/; "
            f"allowed: {allowed}"
        )
    return value


def _list_as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _check_open(key: str, value: str | None) -> None:
    """Parameters are written into dvc.lock and shown in MLflow."""
    if value and (has_login(value) or ("://" in value and ("?" in value or "#" in value))):
        raise ValueError(
            f"{key} holds a login, a query or a fragment, and is not shown here: parameters are "
            "written into dvc.lock and MLflow. Allowed: null, a folder, or a URL without these. A "
            "login goes into ~/.netrc: machine HOST login NAME password PASSWORD"
        )


class DataParams(Section):
    """Which digits, how many of them, and how they are split."""

    source: SourceName
    fraction: Fraction
    validation_fraction: BelowOne
    split_seed: Seed
    folder: str | None
    mirror: str | None

    @model_validator(mode="after")
    def _fits_its_source(self) -> Self:
        _check_open("mirror", self.mirror)
        _check_open("folder", self.folder)
        if self.source == "idx" and not self.folder:
            raise ValueError(
                f"folder = {self.folder!r}: source idx needs the folder of the four files"
            )
        if self.source != "idx" and self.folder is not None:
            raise ValueError(
                f"folder = {self.folder!r}: only source idx reads a folder; allowed: null"
            )
        if self.mirror is not None and self.source in {"mnist-sample", "idx"}:
            raise ValueError(
                f"mirror = {self.mirror!r}: source {self.source} downloads nothing; allowed: null"
            )
        return self


class ModelParams(Section):
    """Which network."""

    name: Annotated[str, BeforeValidator(_known_model)]


class TrainingParams(Section):
    """One training recipe: SGD as the base optimizer, and how long and how fast."""

    epochs: Count
    batch_size: Annotated[int, Field(ge=2, lt=2**31)]
    lr: Positive
    momentum: BelowOne
    weight_decay: NotNegative
    schedule: Schedule
    label_smoothing: BelowOne
    shift_pixels: Annotated[int, Field(ge=0, lt=2**15)]
    precision: Precision


class SAMParams(Section):
    """Which variant of sharpness-aware minimization, its radius, and what only some variants have.

    A setting that is null has the value of the variant's paper (docs/sam.md); one that the variant
    does not have must be null.
    """

    variant: Variant
    rho: NotNegative
    eta: NotNegativeOrNull
    k: CountOrNull
    alpha: NotNegativeOrNull
    rho_min: NotNegativeOrNull

    @model_validator(mode="after")
    def _settings_are_the_variants(self) -> Self:
        allowed = VARIANT_SETTINGS[self.variant]
        for name in sorted({name for names in VARIANT_SETTINGS.values() for name in names}):
            if getattr(self, name) is not None and name not in allowed:
                raise ValueError(
                    f"{name} = {getattr(self, name)!r}: variant {self.variant} has no such setting "
                    f"(it has {', '.join(('rho', *allowed))}); allowed: null"
                )
        return self

    @model_validator(mode="after")
    def _rho_min_is_below_rho(self) -> Self:
        if self.rho_min is not None and self.rho_min > self.rho:
            raise ValueError(f"rho_min = {self.rho_min!r}: must be at most rho = {self.rho!r}")
        return self

    @property
    def settings(self) -> dict[str, float | int]:
        """The variant's settings that are not left to its paper."""
        values = {name: getattr(self, name) for name in VARIANT_SETTINGS[self.variant]}
        return {name: value for name, value in values.items() if value is not None}


def _check_momentum(sam: SAMParams, recipe: TrainingParams, key: str) -> None:
    if sam.variant == "momentum" and recipe.momentum == 0:
        raise ValueError(
            f"sam.variant = 'momentum': perturbs along the momentum, and {key} is 0; "
            f"allowed: another variant, or a {key} above 0, such as 0.9"
        )


class DenseParams(TrainingParams):
    """The recipe of the dense network, which SAM may train too."""

    optimizer: DenseOptimizer
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


class EvaluateParams(Section):
    """What the comparison calls no difference, and how long inference is timed."""

    equivalence_margin: Annotated[float, Field(gt=0, lt=1)]
    latency_seconds: Annotated[float, Field(ge=0, le=3600)]


class Params(Section):
    """The whole of ``params.yaml``."""

    seeds: Annotated[tuple[Seed, ...], Field(min_length=1), BeforeValidator(_list_as_tuple)]
    device: Device
    threads: Threads
    save_every_steps: CountOrNull
    data: DataParams
    model: ModelParams
    train_dense: DenseParams
    prune: PruneParams
    finetune: FinetuneParams
    evaluate: EvaluateParams

    @model_validator(mode="after")
    def _seeds_differ(self) -> Self:
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds = {list(self.seeds)}: every seed may stand once only")
        return self


def load_params(path: Path) -> Params:
    """Read and check ``params.yaml``.

    Raises:
        ConfigError: the file is missing, is not YAML, or holds a value that is not allowed. The
            message has a line for every fault: file, key, value, what is allowed.
    """
    return parse_params(read_yaml(path), origin=str(path))


def parse_params(content: Any, origin: str = "params") -> Params:
    """Check already parsed parameters; ``origin`` is named in errors. Raises ConfigError."""
    return parse_section(Params, content, origin)


def main() -> int:
    """Check ``params.yaml`` of the current folder: the pipeline's first act."""
    try:
        load_params(Path("params.yaml"))
    except ConfigError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
