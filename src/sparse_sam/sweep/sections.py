"""The sections of ``sweep.yaml``, each checked by itself; ``declaration`` checks them together."""

import json
import re
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import BeforeValidator, Field, model_validator

from sparse_sam.files import CountOrNull, Positive, Section, Seed

NAME = re.compile(r"[A-Za-z0-9][\w.+-]{0,99}", re.ASCII)
"""What a sweep, an arm or a place on an axis may be called."""
_DIGITS = 4
"""Drawn values are rounded to so many significant digits: they are read by people."""


def _named(value: Any) -> Any:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise ValueError("must be a mapping with names as its keys")
    try:
        json.dumps(value)
    except (TypeError, ValueError) as error:  # a date, say
        raise ValueError(f"holds a value that no parameter can have ({error})") from None
    return value


def _plain(value: Any) -> Any:
    if not isinstance(value, str) or not NAME.fullmatch(value):
        raise ValueError("must be a name: letters, digits and . _ + - only")
    return value


def _different_seeds(value: Any) -> Any:
    if isinstance(value, list):
        if any(value.count(one) > 1 for one in value):
            raise ValueError("a seed is listed twice; list each once")
        return tuple(value)
    return value


Named = Annotated[dict[str, Any], BeforeValidator(_named)]
Seeds = Annotated[tuple[Seed, ...], BeforeValidator(_different_seeds)]


class SeedsParams(Section):
    """Which seeds choose, and which are reported: never the same."""

    choosing: Seeds
    reporting: Seeds

    @model_validator(mode="after")
    def _are_disjoint(self) -> Self:
        both = sorted(set(self.choosing) & set(self.reporting))
        if both:
            raise ValueError(
                f"reporting = {list(self.reporting)}: {', '.join(map(str, both))} is in choosing "
                "too; a seed that chose a setting cannot report on it"
            )
        if not (self.choosing or self.reporting):
            raise ValueError("reporting = []: list at least one seed in choosing or reporting")
        return self


class SearchParams(Section):
    """How many candidates are drawn for every arm. With null all of them are tried."""

    samples: CountOrNull
    seed: Seed


class FlatnessParams(Section):
    """How sharpness is measured in the cells that are reported; with ``images`` null it is not."""

    images: CountOrNull
    rho: Positive
    steps: Annotated[int, Field(ge=1, le=1000)]


class RangeParams(Section):
    """A candidate's setting that is drawn from an interval."""

    low: float
    high: float
    log: bool

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if not self.low < self.high:
            raise ValueError(f"high = {self.high!r}: must be more than low = {self.low!r}")
        if self.log and self.low <= 0:
            raise ValueError(f"low = {self.low!r}: must be more than 0 when log is true")
        return self

    def draw(self, generator: np.random.Generator) -> float:
        """One value, uniform on the interval or on its logarithm."""
        if self.log:
            value = float(np.exp(generator.uniform(np.log(self.low), np.log(self.high))))
        else:
            value = float(generator.uniform(self.low, self.high))
        return float(f"{value:.{_DIGITS}g}")


class ArmParams(Section):
    """One arm: what the library calls it, what it changes, and what it chooses from."""

    arm: Literal["sgd", "sgd_2x", "sam"]
    fixed: Named
    choose: Named


class SweepParams(Section):
    """The whole of ``sweep.yaml``, as it is written."""

    name: Annotated[str, BeforeValidator(_plain)]
    seeds: SeedsParams
    search: SearchParams
    flatness: FlatnessParams
    equivalence_margin: Annotated[float, Field(gt=0, lt=1)]
    base: Named
    axes: Named
    arms: Named
