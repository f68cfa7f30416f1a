"""Commands on a real terminal: a pseudo-terminal of 100 columns, as somebody at a desk has it."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import sparse_sam
from tools.on_a_terminal import played

_OURS = ("NO_COLOR", "FORCE_COLOR", "CI", "COLUMNS", "LINES")
"""Variables that say how to write, and that whoever runs the tests may have set."""


def environment(env: Mapping[str, str]) -> dict[str, str]:
    """That of a person at a terminal, with this library and what is given."""
    clean = {name: value for name, value in os.environ.items() if name not in _OURS}
    library = str(Path(sparse_sam.__file__).parent.parent)
    return {**clean, "TERM": "xterm-256color", "PYTHONPATH": library, "PYTHONUTF8": "1", **env}


def watched(
    command: Sequence[str], folder: Path, env: Mapping[str, str], columns: int = 100
) -> tuple[int, str]:
    """Run a command on a terminal; its exit code, and all that it wrote there."""
    code, pieces = played(command, folder, environment(env), (40, columns))
    return code, b"".join(piece for _, piece in pieces).decode("utf-8").replace("\r\n", "\n")
