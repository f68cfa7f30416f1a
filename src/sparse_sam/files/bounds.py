"""Types with bounds, for sections of YAML and for classes that check themselves.

``Annotated[int, Bounds(ge=1)]`` is read by pydantic and by ``Checked`` alike; this module needs
neither pydantic nor anything else.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import isfinite
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

_TYPES = {int: "a whole number", float: "a finite number", bool: "true or false", str: "text"}
_BOUNDS = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}


@dataclass(frozen=True)
class Bounds:
    """Between what a number must lie. None, where that may be too, lies within all bounds.

    Attributes:
        ge: it is at least this.
        gt: it is more than this.
        le: it is at most this.
        lt: it is less than this.
    """

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None

    def hold(self, number: float) -> bool:
        """Whether a number lies within them."""
        return (
            (self.ge is None or number >= self.ge)
            and (self.gt is None or number > self.gt)
            and (self.le is None or number <= self.le)
            and (self.lt is None or number < self.lt)
        )

    def __get_pydantic_core_schema__(self, kind: Any, handler: Any) -> Any:
        """How pydantic asks what it is to check of a number: by its own bounds."""
        schema = handler(kind)
        own = {name: at for name in _BOUNDS if (at := getattr(self, name)) is not None}
        if schema["type"] == "nullable":
            return {**schema, "schema": {**schema["schema"], **own}}
        return {**schema, **own}


Fraction = Annotated[float, Bounds(gt=0, le=1)]
BelowOne = Annotated[float, Bounds(ge=0, lt=1)]
BelowOneOrNull = Annotated[float | None, Bounds(ge=0, lt=1)]
# The upper bounds are far beyond all use, and within what torch can count and compute with.
NotNegative = Annotated[float, Bounds(ge=0, le=1_000_000)]
Positive = Annotated[float, Bounds(gt=0, le=1_000_000)]
Count = Annotated[int, Bounds(ge=1, lt=2**31)]
CountOrNull = Annotated[int | None, Bounds(ge=1, lt=2**31)]
Seed = Annotated[int, Bounds(ge=0, lt=2**32)]


def hint_in_words(hint: Any, limits: Iterable[Any] = ()) -> str:
    """What a hint takes, in words: its type and its bounds.

    Args:
        hint: a type, a union of such, or a ``Literal``.
        limits: objects with any of ``ge``, ``gt``, ``le`` and ``lt``.
    """
    if get_origin(hint) is Literal:
        return f"one of {', '.join(map(str, get_args(hint)))}"
    words = " or ".join(map(_type_in_words, get_args(hint) or (hint,)))
    bounds = [
        f"{word} {at}"
        for limit in limits
        for name, word in _BOUNDS.items()
        if (at := getattr(limit, name, None)) is not None
    ]
    return f"{words}, {' and '.join(bounds)}" if bounds else words


def _type_in_words(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return f"one of {', '.join(map(str, get_args(hint)))}"
    return "null" if hint is NoneType else _TYPES.get(hint, getattr(hint, "__name__", str(hint)))


def parts_of(hint: Any) -> tuple[Any, list[Any]]:
    """A hint without what it is annotated with, and that."""
    if get_origin(hint) is not Annotated:
        return hint, []
    plain, *limits = get_args(hint)
    # (One of pydantic's ``Field`` holds several.)
    return plain, [inner for one in limits for inner in getattr(one, "metadata", [one])]


def is_plain(hint: Any) -> bool:
    """Whether ``fits`` knows all that a hint says: plain types, ``Literal``, unions, bounds."""
    plain, limits = parts_of(hint)
    if get_origin(plain) in {Union, UnionType}:
        return all(map(is_plain, get_args(plain)))
    known = plain in {*_TYPES, NoneType} or get_origin(plain) is Literal
    return known and all(isinstance(one, Bounds) or _is_bound(one) for one in limits)


def _is_bound(limit: Any) -> bool:
    """One of those that pydantic's ``Field`` makes."""
    return any(hasattr(limit, name) for name in _BOUNDS)


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is what a hint says, strictly: true is no number, nor is infinity.

    A whole number may stand where a float may. Of a hint that is no plain type, ``Literal``, union
    or bounded number, only the class counts.
    """
    plain, limits = parts_of(hint)
    origin = get_origin(plain)
    if origin is Literal:
        return any(value == one and type(value) is type(one) for one in get_args(plain))
    if origin in {Union, UnionType}:
        return any(fits(value, Annotated[one, None, *limits]) for one in get_args(plain))
    if plain is NoneType:
        return value is None
    if plain is float:
        allowed = isinstance(value, int | float) and not isinstance(value, bool) and _finite(value)
    elif plain is int:
        allowed = isinstance(value, int) and not isinstance(value, bool)
    else:
        return not isinstance(origin or plain, type) or isinstance(value, origin or plain)
    return allowed and all(_holds(limit, value) for limit in limits)


def _finite(number: float) -> bool:
    try:
        return isfinite(number)
    except OverflowError:  # a whole number that is larger than any float
        return False


def _holds(limit: Any, number: float) -> bool:
    return Bounds(**{name: getattr(limit, name, None) for name in _BOUNDS}).hold(number)
