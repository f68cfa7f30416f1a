"""What stands in a file of metrics where a measure could not be taken: that, and why.

A measure that is missing is an object ``{"not_measured": "why"}`` in the measure's own place, so
that nobody who reads the file takes it for a number, or has to look for the reason elsewhere.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

KEY = "not_measured"
_LISTS = {"rows"}
"""Names that say nothing: of what is in such a list, what the list is of does."""


@dataclass(frozen=True)
class NotMeasured:
    """A measure that could not be taken, and why: one line, without a full stop."""

    why: str

    def as_json(self) -> dict[str, str]:
        """What stands in its place in a file."""
        return {KEY: self.why}


def why_not(value: Any) -> str | None:
    """Why there is no measure in a place of a file of metrics; None if there is one."""
    return value[KEY] if isinstance(value, dict) and KEY in value else None


def gaps(content: Any) -> dict[str, str]:
    """By reason, what was not measured for it, in words: ``{"why": "trace, slice"}``."""
    names: dict[str, dict[str, None]] = {}
    for name, why in _gaps(content, ""):
        names.setdefault(why, {})[name.replace("_", " ")] = None
    return {why: ", ".join(of) for why, of in names.items()}


def _gaps(content: Any, name: str) -> Iterator[tuple[str, str]]:
    why = why_not(content)
    if why is not None:
        yield name, why
    elif isinstance(content, dict):
        for key, value in content.items():
            yield from _gaps(value, name if key in _LISTS else key)
    elif isinstance(content, list):
        for value in content:
            yield from _gaps(value, name)
