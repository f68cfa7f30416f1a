"""What git says of a repository."""

import subprocess
from pathlib import Path


def git_says(*arguments: str, folder: Path | None = None, given: str = "") -> str | None:
    """What git prints; None if it refuses, or if there is no git.

    Args:
        arguments: of the command.
        folder: in which it runs; None: the current one.
        given: its standard input.
    """
    try:
        done = subprocess.run(
            ["git", *arguments], input=given.encode(), cwd=folder, capture_output=True, check=False
        )
    except OSError:
        return None
    return done.stdout.decode(errors="replace") if done.returncode == 0 else None
