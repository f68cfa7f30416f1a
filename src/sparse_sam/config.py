"""``params.yaml`` as typed, frozen values: read once, checked whole, before any work.

The file is read as YAML 1.2, as DVC reads it, so that ``1e-3`` is a number in both. No key has a
default here: what is not in the file is an error, so the file alone says what was run. Every
section belongs to the room that it is for, and is handed to it whole.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Self

from sparse_sam.files import needed_by

with needed_by("sparse_sam.config", "pipeline"):
    from pydantic import Field, SerializeAsAny, model_validator

from sparse_sam.data import DataParams
from sparse_sam.errors import ConfigError
from sparse_sam.evaluation import EvaluateParams
from sparse_sam.export import RegistryParams
from sparse_sam.files import (
    FROM_LIST,
    CountOrNull,
    Section,
    Seed,
    parse_section,
    read_yaml,
)
from sparse_sam.networks import ModelParams
from sparse_sam.pruning import Iterative, PruneParams
from sparse_sam.training import (
    ENGINES,
    DenseParams,
    Device,
    EngineParams,
    FinetuneParams,
    Threads,
)

REFERENCE = Path(__file__).parent / "template" / "params.yaml"
"""The reference protocol (docs/protocol.md), with which a new project begins: not what somebody's
``params.yaml`` says, which is theirs to change."""


class Params(Section):
    """The whole of ``params.yaml``."""

    seeds: Annotated[tuple[Seed, ...], Field(min_length=1), FROM_LIST]
    device: Device
    threads: Threads
    save_every_steps: CountOrNull
    engine: Annotated[SerializeAsAny[EngineParams], ENGINES]
    data: DataParams
    model: ModelParams
    train_dense: DenseParams
    prune: PruneParams
    finetune: FinetuneParams
    evaluate: EvaluateParams
    registry: RegistryParams

    @model_validator(mode="after")
    def _seeds_differ(self) -> Self:
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds = {list(self.seeds)}: a seed is listed twice; list each once")
        return self

    @model_validator(mode="after")
    def _engine_fits_the_device(self) -> Self:
        if self.engine.only_cpus and self.device == "cuda":
            raise ValueError(
                f"device = 'cuda': engine {self.engine.name} trains on the CPUs of its nodes; "
                "allowed: auto, cpu, or engine: {name: processes}"
            )
        return self

    @model_validator(mode="after")
    def _initialisation_is_known(self) -> Self:
        if self.model.checkpoint and self.prune.schedule.rewinds_to == "initial":
            raise ValueError(
                f"model.checkpoint = {self.model.checkpoint!r}: prune.schedule.rewind = "
                "'initial' goes back to the initialisation, which is unknown for a given "
                "network; allowed: null, or another rewind"
            )
        return self

    @model_validator(mode="after")
    def _zeros_are_somebodys(self) -> Self:
        if self.prune.takes_zeros and not self.model.checkpoint:
            raise ValueError(
                "prune.sparsity = None: keeps the zeros of model.checkpoint, but there is no "
                "checkpoint; allowed: a number, at least 0 and less than 1, or set "
                "model.checkpoint"
            )
        return self

    @model_validator(mode="after")
    def _warm_up_fits_the_rounds(self) -> Self:
        schedule, recipe = self.prune.schedule, self.finetune.training
        if isinstance(schedule, Iterative) and schedule.rewinds_to != "none":
            length = recipe.epochs / schedule.rounds
            if recipe.warmup_epochs >= length:
                raise ValueError(
                    f"finetune.training.warmup_epochs = {recipe.warmup_epochs!r}: each round of "
                    f"prune.schedule has {length:g} epochs and warms up again; allowed: less "
                    f"than {length:g}, fewer rounds, or rewind: none"
                )
        return self

    def flat(self, sections: Sequence[str] | None = None) -> dict[str, Any]:
        """The parameters under dotted names: those of some sections, or all."""
        flat = _flattened(self.model_dump(mode="json"))
        if sections is None:
            return flat
        return {
            key: value
            for key, value in flat.items()
            if any(key == section or key.startswith(f"{section}.") for section in sections)
        }


def _flattened(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Mappings by anything but plain names, such as patterns, are values: they stay whole."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and all(map(str.isidentifier, value)):
            flat |= _flattened(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


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
