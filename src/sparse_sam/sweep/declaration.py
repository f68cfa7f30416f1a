"""What a sweep is: ``sweep.yaml`` as checked values, before any work and any data.

A sweep asks the same question at every combination of its **axes** (sparsity, scope, network, …).
At each, every **arm** first chooses among its own **candidates** (ρ, lr, …) on validation, with
seeds of its own; then the chosen ones are measured on the test set, with other seeds. The base is
``params.yaml`` without what a sweep sets itself; axes, arms and candidates change it by dotted
names. Every combination is checked here, with the errors that ``params.yaml`` has.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from sparse_sam.config import Params, parse_params
from sparse_sam.errors import ConfigError
from sparse_sam.evaluation import BudgetParams
from sparse_sam.files import parse_section, read_yaml
from sparse_sam.sweep.sections import (
    NAME,
    ArmParams,
    FlatnessParams,
    RangeParams,
    SearchParams,
    SeedsParams,
    SweepParams,
)

Scalar = bool | int | float | str | None
Changes = tuple[tuple[str, Scalar], ...]
"""Dotted names of parameters, and what they become."""

SET_BY_SWEEP: dict[str, Any] = {
    "seeds": [0],
    "device": "cpu",
    "threads": 1,
    "save_every_steps": None,
    "engine": {"name": "processes"},
    "evaluate": {
        "equivalence_margin": 0.005,
        "latency_seconds": 0.0,
        "budget_seconds": dict.fromkeys(BudgetParams.model_fields, 0.0),
    },
    "registry": {"name": "sparse-sam"},
}
"""The parts of ``params.yaml`` that a base does not have: cells neither read nor need them."""


@dataclass(frozen=True)
class Point:
    """A place on an axis: how it is called in tables, and what it changes."""

    label: Scalar
    changes: Changes


@dataclass(frozen=True)
class Axis:
    """One of the things that are varied together with all others."""

    name: str
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Arm:
    """A way of finetuning, and its candidates."""

    name: str
    arm: str
    candidates: tuple[Changes, ...]
    fixed: Changes


@dataclass(frozen=True)
class Regime:
    """A combination of the axes: the label on every axis, and all changes."""

    labels: Changes
    changes: Changes


@dataclass(frozen=True)
class Sweep:
    """A declared sweep whose every combination of axes, arm and candidate is allowed."""

    name: str
    origin: str
    seeds: SeedsParams
    flatness: FlatnessParams | None
    equivalence_margin: float
    base: Mapping[str, Any]
    axes: tuple[Axis, ...]
    arms: tuple[Arm, ...]

    def regimes(self) -> Iterator[Regime]:
        """Every combination of the axes, the last varying fastest."""
        for points in product(*(axis.points for axis in self.axes)):
            named = zip(self.axes, points, strict=True)
            labels = tuple((axis.name, point.label) for axis, point in named)
            yield Regime(labels, tuple(change for point in points for change in point.changes))

    def params(self, regime: Regime, arm: Arm, candidate: Changes, seed: int) -> Params:
        """All parameters of one cell, as the pipeline would have them for one seed.

        Raises:
            ConfigError: a value is not allowed, or a name is unknown; the message says where.
        """
        where = ", ".join(f"{name} = {label}" for name, label in regime.labels)
        origin = f"{self.origin} ({where + ', ' if where else ''}arm {arm.name})"
        content = json.loads(json.dumps({**self.base, **SET_BY_SWEEP, "seeds": [seed]}))
        for path, value in (*regime.changes, *arm.fixed, *candidate):
            _put(content, path, value, origin)
        params = parse_params(content, origin)
        if params.model.checkpoint:
            raise ConfigError(
                f"{origin}: model.checkpoint = {params.model.checkpoint!r}: a sweep trains its "
                "dense networks itself; allowed: null"
            )
        return params

    @property
    def identity(self) -> str:
        """SHA-256 of what the sweep asks for, wherever its file lies."""
        content = {
            "name": self.name,
            "seeds": self.seeds.model_dump(mode="json"),
            "flatness": self.flatness and self.flatness.model_dump(mode="json"),
            "base": self.base,
            "axes": [[axis.name, [one.changes for one in axis.points]] for axis in self.axes],
            "arms": [[arm.name, arm.arm, arm.fixed, arm.candidates] for arm in self.arms],
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def load_sweep(path: Path) -> Sweep:
    """Read and check ``sweep.yaml``. Raises ConfigError, with a line for every fault."""
    return parse_sweep(read_yaml(path), origin=str(path))


def parse_sweep(content: Any, origin: str = "sweep") -> Sweep:
    """Check an already parsed sweep, every combination of it. Raises ConfigError."""
    read = parse_section(SweepParams, content, origin)
    for key in sorted(SET_BY_SWEEP.keys() & read.base.keys()):
        raise ConfigError(f"{origin}: base.{key}: is set by the sweep; remove it")
    axes = tuple(_axis(name, value, origin) for name, value in read.axes.items())
    if not read.arms:
        raise ConfigError(f"{origin}: arms = {{}}: must name at least one arm")
    arms = tuple(_arm(name, value, read.search, origin) for name, value in read.arms.items())
    sweep = Sweep(
        name=read.name,
        origin=origin,
        seeds=read.seeds,
        flatness=read.flatness if read.flatness.images is not None else None,
        equivalence_margin=read.equivalence_margin,
        base=read.base,
        axes=axes,
        arms=arms,
    )
    _check_paths(sweep)
    _check_choice(sweep)
    for regime, arm in product(sweep.regimes(), sweep.arms):
        for candidate in arm.candidates:
            sweep.params(regime, arm, candidate, 0)
    return sweep


def _axis(name: str, value: Any, origin: str) -> Axis:
    key = f"{origin}: axes.{name}"
    if isinstance(value, list):
        points = [Point(one, ((name, one),)) for one in _scalars(value, key)]
    elif isinstance(value, dict):
        _check_names(value, key)
        points = [Point(label, _changes(one, f"{key}.{label}")) for label, one in value.items()]
    else:
        points = []
    if not points:
        raise ConfigError(
            f"{key} = {value!r}: must be a list of values for the parameter {name}, or a mapping "
            "from names to the parameters that each of them changes"
        )
    return Axis(name, tuple(points))


def _arm(name: str, value: Any, search: SearchParams, origin: str) -> Arm:
    key = f"{origin}: arms.{name}"
    _check_names({name: value}, f"{origin}: arms")
    read = parse_section(ArmParams, value, key)
    choices: dict[str, list[Scalar] | RangeParams] = {}
    for path, one in read.choose.items():
        if isinstance(one, dict):
            choices[path] = parse_section(RangeParams, one, f"{key}.choose.{path}")
        elif isinstance(one, list) and one:
            choices[path] = _scalars(one, f"{key}.choose.{path}")
        else:
            raise ConfigError(
                f"{key}.choose.{path} = {one!r}: must be a list of one or more values, or a "
                "mapping with the keys low, high, log"
            )
    if search.samples is None:
        candidates = _grid(choices, key)
    else:
        candidates = _drawn(name, choices, search.samples, search.seed)
    return Arm(name, read.arm, candidates, _changes(read.fixed, f"{key}.fixed"))


def _grid(choices: Mapping[str, list[Scalar] | RangeParams], key: str) -> tuple[Changes, ...]:
    lists: list[list[Scalar]] = []
    for path, values in choices.items():
        if isinstance(values, RangeParams):
            raise ConfigError(
                f"{key}.choose.{path}: a range needs random search; set search.samples, or list "
                "the values"
            )
        lists.append(values)
    return tuple(tuple(zip(choices, values, strict=True)) for values in product(*lists))


def _drawn(
    name: str, choices: Mapping[str, list[Scalar] | RangeParams], samples: int, seed: int
) -> tuple[Changes, ...]:
    """So many candidates, all different; fewer if the lists have no more combinations."""
    generator = np.random.default_rng([seed, *name.encode()])
    if not any(isinstance(values, RangeParams) for values in choices.values()):
        everything = _grid(choices, name)
        count = min(samples, len(everything))
        places = generator.choice(len(everything), count, replace=False)
        return tuple(everything[place] for place in sorted(places))
    found: dict[Changes, None] = {}
    for _ in range(samples):
        found[
            tuple(
                (path, values.draw(generator))
                if isinstance(values, RangeParams)
                else (path, values[int(generator.integers(len(values)))])
                for path, values in choices.items()
            )
        ] = None
    return tuple(found)


def _scalars(values: list[Any], key: str) -> list[Scalar]:
    for value in values:
        if not (value is None or isinstance(value, bool | int | float | str)):
            raise ConfigError(f"{key}: {value!r} must be a number, text, true, false or null")
        if sum(type(one) is type(value) and one == value for one in values) > 1:
            raise ConfigError(f"{key}: {value!r} is listed twice")
    return values


def _changes(value: Any, key: str) -> Changes:
    if not isinstance(value, dict):
        raise ConfigError(f"{key} = {value!r}: must be a mapping of parameters, such as lr: 0.1")
    for path, one in value.items():
        if not isinstance(path, str):
            raise ConfigError(
                f"{key}: {path!r} must be the name of a parameter, such as prune.sparsity"
            )
        _scalars([one], f"{key}.{path}")
    return tuple(value.items())


def _check_names(value: Mapping[Any, Any], key: str) -> None:
    for name in value:
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise ConfigError(f"{key}: {name!r} must be a name: letters, digits and . _ + - only")


def _check_paths(sweep: Sweep) -> None:
    """No parameter may be changed from two places: one would silently win."""
    taken: dict[str, str] = {}
    for axis in sweep.axes:
        own = {path for point in axis.points for path, _ in point.changes}
        for path in own:
            _check_path(path, f"axes.{axis.name}", taken, sweep.origin)
        taken |= dict.fromkeys(own, f"axes.{axis.name}")
    for arm in sweep.arms:
        seen = dict(taken)
        for where, changes in (("fixed", arm.fixed), ("choose", arm.candidates[0])):
            for path, _ in changes:
                _check_path(path, f"arms.{arm.name}.{where}", seen, sweep.origin)
                seen[path] = f"arms.{arm.name}.{where}"


def _check_path(path: str, where: str, taken: Mapping[str, str], origin: str) -> None:
    if path in taken:
        raise ConfigError(
            f"{origin}: {where}: {path} is already changed by {taken[path]}; change it in one place"
        )
    if path.partition(".")[0] in SET_BY_SWEEP:
        raise ConfigError(f"{origin}: {where}: {path} is set by the sweep and cannot be varied")


def _check_choice(sweep: Sweep) -> None:
    for arm in sweep.arms:
        if sweep.seeds.reporting and len(arm.candidates) > 1 and not sweep.seeds.choosing:
            raise ConfigError(
                f"{sweep.origin}: seeds.choosing = []: arm {arm.name} has {len(arm.candidates)} "
                "candidates; give at least one seed to choose among them"
            )


def _put(content: dict[str, Any], path: str, value: Scalar, origin: str) -> None:
    *sections, last = path.split(".")
    for section in sections:
        content = content.setdefault(section, {})
        if not isinstance(content, dict):
            raise ConfigError(f"{origin}: {path}: {section} is not a section of the parameters")
    content[last] = value
