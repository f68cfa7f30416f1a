"""``params.yaml`` as typed, frozen values: read once, checked whole, before any work.

The file is read as YAML 1.2, as DVC reads it, so that ``1e-3`` is a number in both. No key has a
default here: what is not in the file is an error, so the file alone says what was run, and no
stage depends on this module.
"""

import importlib.util
import re
import sys
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, Self, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from sparse_sam.errors import ConfigError

SourceName = Literal["mnist-sample", "mnist", "fashion-mnist", "kmnist", "idx"]
ModelName = Literal["classifier", "lenet-300-100", "lenet-5", "mlpnet"]
Criterion = Literal["magnitude", "random", "saliency"]
Scope = Literal["layerwise", "global", "erk"]
PruneScheduleName = Literal["one-shot", "iterative", "gradual"]
Rewind = Literal["none", "dense", "initial"]
DenseOptimizer = Literal["sgd", "sam"]
Variant = Literal["sam", "asam", "periodic", "looksam", "momentum", "gsam"]
Schedule = Literal["constant", "cosine"]
Device = Literal["auto", "cpu", "cuda"]

MODEL_NAMES: tuple[str, ...] = get_args(ModelName)
VARIANT_SETTINGS: dict[str, tuple[str, ...]] = {
    "sam": (),
    "asam": ("eta",),
    "periodic": ("k",),
    "looksam": ("k", "alpha"),
    "momentum": (),
    "gsam": ("alpha", "rho_min"),
}

SCHEDULE_SETTINGS: dict[str, tuple[str, ...]] = {
    "one-shot": (),
    "iterative": ("rounds", "rewind"),
    "gradual": ("initial", "end", "updates"),
}

_Fraction = Annotated[float, Field(gt=0, le=1)]
_BelowOne = Annotated[float, Field(ge=0, lt=1)]
# The upper bounds are far beyond all use, and within what torch can count and compute with.
_NotNegative = Annotated[float, Field(ge=0, le=1_000_000)]
_Positive = Annotated[float, Field(gt=0, le=1_000_000)]
_Count = Annotated[int, Field(ge=1, lt=2**31)]
_NotNegativeOrNull = Annotated[float | None, Field(ge=0, le=1_000_000)]
_FractionOrNull = Annotated[float | None, Field(gt=0, le=1)]
_BelowOneOrNull = Annotated[float | None, Field(ge=0, lt=1)]
_CountOrNull = Annotated[int | None, Field(ge=1, lt=2**31)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


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


def _known_structure(value: Any) -> Any:
    known = isinstance(value, str) and value in {"unstructured", "channels"}
    if not known and not kept_of_group(value):
        raise ValueError("must be unstructured, channels, or N:M such as '2:4' (quoted), N < M")
    return value


def kept_of_group(structure: Any) -> tuple[int, int] | None:
    """(N, M) of a structure that is called N:M; None of another."""
    text = structure if isinstance(structure, str) else ""
    found = re.fullmatch(r"([1-9]\d{0,3}):([1-9]\d{0,3})", text, re.ASCII)
    n, m = (int(found[1]), int(found[2])) if found else (0, 0)
    return (n, m) if n < m else None


def _list_as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class DataParams(_Section):
    """Which digits, how many of them, and how they are split."""

    source: SourceName
    fraction: _Fraction
    validation_fraction: _BelowOne
    split_seed: Seed
    folder: str | None
    mirror: str | None

    @model_validator(mode="after")
    def _fits_its_source(self) -> Self:
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


class ModelParams(_Section):
    """Which network."""

    name: Annotated[str, BeforeValidator(_known_model)]


class TrainingParams(_Section):
    """One training recipe: SGD as the base optimizer, and how long and how fast."""

    epochs: _Count
    batch_size: Annotated[int, Field(ge=2, lt=2**31)]
    lr: _Positive
    momentum: _BelowOne
    weight_decay: _NotNegative
    schedule: Schedule
    label_smoothing: _BelowOne


class SAMParams(_Section):
    """Which variant of sharpness-aware minimization, its radius, and what only some variants have.

    A setting that is null has the value of the variant's paper (docs/sam.md); one that the variant
    does not have must be null.
    """

    variant: Variant
    rho: _NotNegative
    eta: _NotNegativeOrNull
    k: _CountOrNull
    alpha: _NotNegativeOrNull
    rho_min: _NotNegativeOrNull

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


class PruneScheduleParams(_Section):
    """When weights go. Exactly the settings of the schedule that is named are not null."""

    name: PruneScheduleName
    rounds: _CountOrNull
    rewind: Rewind | None
    initial: _BelowOneOrNull
    end: _FractionOrNull
    updates: _CountOrNull

    @model_validator(mode="after")
    def _settings_are_the_schedules(self) -> Self:
        own = SCHEDULE_SETTINGS[self.name]
        for name in (name for names in SCHEDULE_SETTINGS.values() for name in names):
            value = getattr(self, name)
            if value is not None and name not in own:
                raise ValueError(
                    f"{name} = {value!r}: schedule {self.name} has no such setting (it has "
                    f"{', '.join(own) or 'none'}); allowed: null"
                )
            if value is None and name in own:
                allowed = _allowed(type(self).model_fields[name])
                raise ValueError(
                    f"{name} = None: schedule {self.name} needs it; allowed: "
                    f"{allowed.replace(' or null', '')}"
                )
        return self

    @property
    def settings(self) -> dict[str, Any]:
        """The schedule's own settings."""
        return {name: getattr(self, name) for name in SCHEDULE_SETTINGS[self.name]}


class PruneParams(_Section):
    """How many weights become zero, which ones, and when."""

    sparsity: _BelowOne
    criterion: Criterion
    scope: Scope
    structure: Annotated[str, BeforeValidator(_known_structure)]
    batchnorm: bool
    biases: bool
    schedule: PruneScheduleParams
    reestimate_batchnorm: bool

    @model_validator(mode="after")
    def _fits_its_structure(self) -> Self:
        for name in ("batchnorm", "biases") if self.structure != "unstructured" else ():
            if getattr(self, name):
                raise ValueError(
                    f"{name} = True: structure {self.structure} prunes weights only; allowed: false"
                )
        if group := kept_of_group(self.structure):
            only = 1 - group[0] / group[1]
            if abs(self.sparsity - only) > 1e-9:
                raise ValueError(
                    f"sparsity = {self.sparsity!r}: structure {self.structure} has its own; "
                    f"allowed: {only!r}"
                )
        return self

    @model_validator(mode="after")
    def _initial_is_not_above_the_final(self) -> Self:
        initial = self.schedule.initial
        if initial is not None and initial > self.sparsity:
            raise ValueError(
                f"schedule.initial = {initial!r}: must be at most sparsity = {self.sparsity!r}"
            )
        return self


class FinetuneParams(_Section):
    """The recipe that every finetuning arm shares, and what only SAM has."""

    training: TrainingParams
    sam: SAMParams

    @model_validator(mode="after")
    def _variant_fits(self) -> Self:
        _check_momentum(self.sam, self.training, "training.momentum")
        return self


class EvaluateParams(_Section):
    """What the comparison calls no difference, and how long inference is timed."""

    equivalence_margin: Annotated[float, Field(gt=0, lt=1)]
    latency_seconds: Annotated[float, Field(ge=0, le=3600)]


class Params(_Section):
    """The whole of ``params.yaml``."""

    seeds: Annotated[tuple[Seed, ...], Field(min_length=1), BeforeValidator(_list_as_tuple)]
    device: Device
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
    try:
        content = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path} is missing. Run from the repository's root.") from None
    except MarkedYAMLError as error:
        where = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{path}{where}: not valid YAML: {error.problem}") from None
    except (YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    return parse_params(content, origin=str(path))


def parse_params(content: Any, origin: str = "params") -> Params:
    """Check already parsed parameters; ``origin`` is named in errors. Raises ConfigError."""
    if not isinstance(content, dict):
        raise ConfigError(f"{origin} must hold a mapping of parameters, not {_brief(content)}")
    try:
        return Params.model_validate(content)
    except ValidationError as error:
        faults = error.errors()
    # A list with a bad item is reported as too short besides.
    inner = {fault["loc"][:-1] for fault in faults}
    faults = [one for one in faults if one["type"] != "too_short" or one["loc"] not in inner]
    raise ConfigError("\n".join(f"{origin}: {_explain(fault)}" for fault in faults))


def _explain(fault: Any) -> str:
    location, value, kind = fault["loc"], fault["input"], fault["type"]
    key = ".".join(map(str, location))
    if kind in {"extra_forbidden", "invalid_key"}:
        return f"{key} = {_brief(value)}: unknown key; allowed here: {_keys(location[:-1])}"
    if kind == "missing":
        return f"{key} is missing; allowed: {_allowed(_field(location))}"
    # The other faults with a number in their location are those of a list's items.
    key = re.sub(r"\.(\d+)$", r"[\1]", key)
    message = fault["msg"].removeprefix("Value error, ")
    if kind != "value_error":
        return f"{key} = {_brief(value)}: must be {_allowed(_field(location))}"
    if _is_section(_field(location)):  # a check over several of its keys names one of them
        return f"{key}.{message}".removeprefix(".")
    return f"{key} = {_brief(value)}: {message}"


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _field(location: tuple[Any, ...]) -> FieldInfo:
    """The field at a fault's location, or the item of a list."""
    field = FieldInfo.from_annotation(Params)
    for part in location:
        hint: Any = field.annotation
        if isinstance(part, int):
            field = FieldInfo.from_annotation(get_args(hint)[0])
        else:
            field = hint.model_fields[part]
    return field


def _keys(location: tuple[Any, ...]) -> str:
    section: Any = _field(location).annotation
    return ", ".join(section.model_fields)


def _is_section(field: FieldInfo) -> bool:
    return isinstance(field.annotation, type) and issubclass(field.annotation, _Section)


_TYPES = {int: "a whole number", float: "a finite number", bool: "true or false", str: "text"}
_BOUNDS = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}


def _allowed(field: FieldInfo) -> str:
    """What a field takes, in words: its type and its bounds."""
    hint: Any = field.annotation
    if _is_section(field):
        return f"a mapping with the keys {', '.join(hint.model_fields)}"
    if get_origin(hint) is Literal:
        return f"one of {', '.join(get_args(hint))}"
    if get_origin(hint) is tuple:
        item = FieldInfo.from_annotation(get_args(hint)[0])
        return f"a list of one or more, each {_allowed(item)}"
    types = get_args(hint) or (hint,)
    words = " or ".join(map(_type_in_words, types))
    bounds = [
        f"{word} {getattr(limit, bound)}"
        for limit in field.metadata
        for bound, word in _BOUNDS.items()
        if hasattr(limit, bound)
    ]
    return f"{words}, {' and '.join(bounds)}" if bounds else words


def _type_in_words(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return f"one of {', '.join(get_args(hint))}"
    return "null" if hint is NoneType else _TYPES[hint]


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
