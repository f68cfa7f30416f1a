"""What an axis can be, by name."""

from collections.abc import Mapping
from typing import TypeVar

from sparse_sam.errors import MaskError

Value = TypeVar("Value")


def look_up(registry: Mapping[str, Value], name: str, axis: str) -> Value:
    """The entry ``name`` of an axis. Raises MaskError, which lists the names that there are."""
    if name not in registry:
        raise MaskError(f"{axis} = {name!r}: must be one of {', '.join(registry)}")
    return registry[name]
