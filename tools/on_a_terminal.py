"""Commands on a pseudo-terminal, as somebody at a desk has it."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from ptyprocess import PtyProcess


def played(
    command: Sequence[str], folder: Path, env: Mapping[str, str], size: tuple[int, int]
) -> tuple[int, list[tuple[float, bytes]]]:
    """Run a command on a terminal: its exit code; and what it wrote, and when, in seconds.

    The exit code is −N where signal N ended it.

    Args:
        command: what runs.
        folder: where.
        env: its whole environment.
        size: lines and columns.
    """
    process = PtyProcess.spawn(list(command), str(folder), dict(env), dimensions=size)
    began, found = time.monotonic(), []
    try:
        while True:
            piece = process.read(1 << 16)
            found.append((time.monotonic() - began, piece))
    except EOFError:
        process.wait()
        return -process.signalstatus if process.signalstatus else process.exitstatus, found
