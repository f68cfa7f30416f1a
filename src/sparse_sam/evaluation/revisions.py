"""What the gate compares: files of a base revision, as git has them, and those of the workspace."""

import json
import shutil
from pathlib import Path
from typing import Any

from sparse_sam.errors import ConfigError
from sparse_sam.files import git_says

NO_COMMIT = "no commit"
"""The revision before the first, which holds nothing."""


def base_revision(named: str | None, files: frozenset[str] = frozenset()) -> str:
    """The commit to compare with. Raises ConfigError if there is no such revision.

    Without a name it is where this branch left the main branch. On the main branch itself it is
    the last commit if one of the files is not as there, and else the commit before; where that is
    the first, or none was made yet, ``NO_COMMIT``.
    """
    if shutil.which("git") is None:
        raise ConfigError("git cannot be run: it is not installed. The gate reads the base with it")
    if named:
        found = _revision("rev-parse", "--verify", "--quiet", f"{named}^{{commit}}")
        if not found:
            raise ConfigError(f"--base {named}: git does not know this revision")
        return found
    head = _revision("rev-parse", "--verify", "--quiet", "HEAD")
    for branch in ("origin/main", "main"):
        base = _revision("merge-base", "HEAD", branch)
        if base and base != head:
            return base
    if head and base_content(head, files) != workspace_content(files):
        return head
    before = _revision("rev-parse", "--verify", "--quiet", "HEAD^")
    if before:
        return before
    # "false" in a whole repository; nothing outside of one; in a shallow one the base may be cut.
    if _revision("rev-parse", "--is-shallow-repository") != "false":
        raise ConfigError("there is no base revision to compare with; name one with --base")
    return NO_COMMIT


def _revision(*arguments: str) -> str:
    """What git finds, or ""."""
    return (git_says(*arguments) or "").strip()


def base_content(revision: str, files: frozenset[str]) -> dict[str, Any]:
    """Files of a revision by name; one that is not there is left out."""
    found: dict[str, Any] = {}
    for file in _held(revision, files):
        text = git_says("show", f"{revision}:./{file}")
        if text is None:
            raise ConfigError(
                f"git does not give {file} of {revision[:10]}, which has it. Fetch the revision "
                "again, or compare with another one (BASE=REV)."
            )
        try:
            found[file] = json.loads(text)
        except ValueError as error:
            raise ConfigError(
                f"{file} of {revision[:10]} is damaged ({error}). Compare with another revision "
                "(BASE=REV)."
            ) from None
    return found


def _held(revision: str, files: frozenset[str]) -> list[str]:
    """Those of the files that a revision has."""
    if not files or revision == NO_COMMIT:
        return []
    listed = git_says("ls-tree", "--name-only", revision, "--", *sorted(files))
    if listed is None:
        raise ConfigError(
            f"git does not give the files of {revision[:10]}. Fetch the revision again, or compare "
            "with another one (BASE=REV)."
        )
    return listed.splitlines()


def workspace_content(files: frozenset[str]) -> dict[str, Any]:
    """Files of the working folder by name; one that is not there is left out."""
    found = {}
    for file in files:
        try:
            found[file] = json.loads(Path(file).read_text(encoding="utf-8"))
        except FileNotFoundError:
            continue
        except ValueError as error:
            raise ConfigError(f"{file} is damaged ({error}). Run `make repro`.") from None
        except OSError as error:
            raise ConfigError(f"{file} cannot be read: {error.strerror}") from None
    return found
