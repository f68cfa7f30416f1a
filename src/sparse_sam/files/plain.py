"""Names and values of others as plain text: on a terminal, in a pipe, and in Markdown."""

import re
from typing import Any

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]+")
"""Line breaks, escape sequences' first characters, what turns the direction, halves of pairs."""
_MARKUP = re.compile(
    r"[\\`*\[\]<>|~#&!$@]"
    r"|(?<![^\W_])_|_(?![^\W_])"  # within a word it is no emphasis
    r"|:(?=//)|(?<=www)\."  # what would become a link by itself
)


def printable(value: Any) -> str:
    """A value as one line that no terminal takes for a command."""
    return _CONTROL.sub(" ", str(value))


def as_markdown(value: Any) -> str:
    """A value as Markdown that shows its characters, also in a table: no link, no HTML."""
    return _MARKUP.sub(r"\\\g<0>", printable(value))
