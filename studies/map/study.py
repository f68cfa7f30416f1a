"""What the study declares (``params.yaml``), as values."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from ruamel.yaml import YAML

from sparse_sam.data import DataParams
from sparse_sam.errors import ConfigError
from sparse_sam.pruning import PruneParams
from sparse_sam.sam import SAMParams
from sparse_sam.training import (
    SAM_ARM,
    SGD_ARM,
    DenseParams,
    DistillationParams,
    FinetuneParams,
    TrainingParams,
)
from studies.map.search import Line, Point
from studies.rows import digest_of

HERE = Path(__file__).parent
DENSE, PRUNED = "dense", "pruned"
"""Rows of networks that are not finetuned."""
LR, RHO, WEIGHT_DECAY = "lr", "rho", "weight_decay"
_LATE = "late"
_MAKES = ("network", "source", "image_size", "dense_epochs", "finetune_epochs", "training")
"""What a network depends on, of what is declared of a task; others say how many there are."""

Values = Mapping[str, Any]


class Mask(NamedTuple):
    """By what criterion, and how far, a dense network is pruned."""

    criterion: str
    sparsity: float


NOT_PRUNED = Mask(DENSE, 0.0)


class Start(NamedTuple):
    """The dense network that a chain of cells begins with."""

    dense: str
    seed: int


class Setting(NamedTuple):
    """What is searched; ρ is None for SGD."""

    lr: float
    weight_decay: float
    rho: float | None


class Bounds(NamedTuple):
    """Differences that are not claimed, as shares.

    Attributes:
        nothing: what luck in choosing may be worth; no smaller difference is claimed.
        margin: below it a difference does not matter.
    """

    nothing: float
    margin: float


@dataclass(frozen=True)
class Method:
    """A way of training, of dense networks or of pruned ones.

    Attributes:
        name: what it is called.
        variant: of SAM; None is SGD.
        times: the epochs of plain SGD.
        cost: gradients, for each of plain SGD's.
    """

    name: str
    variant: str | None
    times: float
    cost: float


@dataclass(frozen=True)
class Study:
    """One task of the declaration.

    Attributes:
        name: of the task.
        values: the whole declaration.
    """

    name: str
    values: Values

    @cached_property
    def task(self) -> Values:
        """What the declaration says of this task alone."""
        found: Values = self.values["tasks"][self.name]
        return found

    @cached_property
    def dense(self) -> dict[str, Method]:
        """How dense networks are trained, by name."""
        return {name: Method(name, **how) for name, how in self.values["dense"].items()}

    @cached_property
    def arms(self) -> dict[str, Method]:
        """How pruned networks are finetuned, by name."""
        return {name: Method(name, **how) for name, how in self.values["arms"].items()}

    @property
    def within(self) -> Mapping[str, Sequence[str]]:
        """Names for whichever of some arms does best on held-out images, within a budget."""
        found: Mapping[str, Sequence[str]] = self.values["within"]
        return found

    @property
    def compared(self) -> list[tuple[str, str]]:
        """Pairs of arms, or of names of ``within``: the first minus the second."""
        return [(first, second) for first, second in self.values["compared"]]

    @property
    def choosing_dense(self) -> Sequence[int]:
        """The seeds with which the values of dense trainings are chosen; none is reported."""
        found: list[int] = self.values["choosing_seeds"]["dense"]
        return found

    def choosing(self, seed: int) -> int:
        """The seed with which a reported seed's values are chosen; it is not reported."""
        first: int = self.values["choosing_seeds"]["arms"]
        return first + seed

    @property
    def seeds(self) -> Sequence[int]:
        """The seeds that are reported."""
        found: list[int] = self.task["seeds"]
        return found

    @property
    def bounds(self) -> Bounds:
        """What luck may be worth, and what does not matter."""
        return Bounds(self.task["nothing"], self.task["margin"])

    @property
    def in_float32(self) -> "Study | None":
        """The part that is also computed in float32; None where all of it is."""
        part = self.task.get("float32")
        if part is None:
            return None
        task = {
            **self.task,
            "training": {**self.task["training"], "precision": "float32"},
            "criteria": {part["criterion"]: part["dense"]},
        }
        changed = {"sparsities": part["sparsities"], "tasks": {self.name: task}}
        dense = {kind: self.values["dense"][kind] for kind in part["dense"]}
        return Study(self.name, {**self.values, **changed, "dense": dense})

    @property
    def digest(self) -> str:
        """Of what a row depends on, beside what it names: others are not mixed with them."""
        of_task = {name: self.task[name] for name in _MAKES}
        shared = {name: self.values[name] for name in ("dense", "arms", "prune")}
        return digest_of({**of_task, **shared})

    def data(self, folder: str | None) -> DataParams:
        """Where its images come from."""
        return DataParams(
            source=self.task["source"],
            fraction=1.0,
            validation_fraction=0.0,
            test_fraction=0.0,
            split_seed=0,
            folder=folder,
            mirror=None,
            channels=None,
            image_size=self.task["image_size"],
        )

    def masks(self, dense: str) -> Iterator[Mask]:
        """Every way of pruning networks of a dense training; at sparsity 0 all criteria are one."""
        criteria = [name for name, kinds in self.task["criteria"].items() if dense in kinds]
        for sparsity, criterion in product(self.values["sparsities"], criteria):
            if sparsity or criterion == criteria[0]:
                yield Mask(criterion, sparsity)

    @property
    def searched_of(self) -> Sequence[str]:
        """Of which dense trainings values are searched: of the first all, of others lr alone."""
        found: list[str] = next(iter(self.task["criteria"].values()))
        return found

    def anchors(self) -> list[Mask]:
        """For what masks values are searched."""
        return [Mask(next(iter(self.task["criteria"])), one) for one in self.task["anchors"]]

    def controlled(self) -> list[Mask]:
        """For what masks SGD's dense networks are also made with SAM's values."""
        criterion = next(iter(self.task["criteria"]))
        return [Mask(criterion, one) for one in self.values["sparsities"] if one]

    def anchor(self, mask: Mask) -> Mask:
        """The anchor whose values a mask takes: of its sparsity or the next higher, or the last."""
        anchors = self.anchors()
        above = [one for one in anchors if one.sparsity >= mask.sparsity]
        return min(above) if above else max(anchors)

    def starts(self) -> list[Start]:
        """The chains of the reported cells, those that take longest first within a seed."""
        kinds = sorted(self.dense.values(), key=lambda kind: kind.cost, reverse=True)
        return [Start(kind.name, seed) for seed in self.seeds for kind in kinds]

    def lines(self, method: Method) -> list[Line]:
        """What is searched for a method, in the order of ``setting``."""
        asked = self.values["search"]
        names = [LR, WEIGHT_DECAY] if method.variant is None else [LR, RHO, WEIGHT_DECAY]
        lines = []
        for name in names:
            how = dict(asked[name])
            if isinstance(how["start"], dict):
                how["start"] = how["start"][method.variant]
            lines.append(Line(name, **how))
        return lines

    def setting(self, method: Method, point: Point) -> Setting:
        """What a point of the search stands for."""
        names = [line.name for line in self.lines(method)]
        values = dict(zip(names, point, strict=True))
        return Setting(values[LR], values[WEIGHT_DECAY], values.get(RHO))

    def dense_recipe(self, method: Method, setting: Setting) -> DenseParams:
        """The recipe of a dense network."""
        training = self._training(self.task["dense_epochs"], method, setting)
        name = SGD_ARM if method.variant is None else SAM_ARM
        sam = self._sam(method, setting, 0)
        return DenseParams.model_validate({**training, "optimizer": name, "sam": sam})

    def finetuning(self, method: Method, setting: Setting, steps: int) -> FinetuneParams:
        """The recipe of a finetuning whose epochs have so many steps."""
        epochs = self.task["finetune_epochs"]
        return FinetuneParams(
            training=TrainingParams(**self._training(epochs, method, setting)),
            distillation=DistillationParams(weight=0.0, temperature=1.0),
            sam=self._sam(method, setting, epochs * steps),
        )

    def prune(self, mask: Mask) -> PruneParams:
        """How a network is pruned."""
        chosen = {"criterion": mask.criterion, "sparsity": mask.sparsity}
        return PruneParams.model_validate({**self.values["prune"], **chosen})

    def _training(self, epochs: int, method: Method, setting: Setting) -> dict[str, Any]:
        searched = {LR: setting.lr, WEIGHT_DECAY: setting.weight_decay}
        return {**self.task["training"], **searched, "epochs": round(epochs * method.times)}

    def _sam(self, method: Method, setting: Setting, before: int) -> SAMParams:
        own = {"after": before} if method.variant == _LATE else {}
        return SAMParams(variant=method.variant or "sam", rho=setting.rho or 0.0, **own)


def _declared() -> Values:
    found: Values = YAML(typ="safe", pure=True).load(HERE / "params.yaml")
    return found


def tasks() -> list[str]:
    """The tasks that are reported together."""
    return [name for name, task in _declared()["tasks"].items() if not task.get("alone")]


def load_study(task: str) -> Study:
    """Read the declaration. Raises ConfigError if it has no such task."""
    values = _declared()
    if task not in values["tasks"]:
        raise ConfigError(f"task = {task!r}: allowed: {', '.join(values['tasks'])}")
    return Study(task, values)
