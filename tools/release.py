"""Release a version: ``make release VERSION=0.2.0``.

Writes the version and the date to where they live, turns the changelog's unreleased part into this
version's, commits, builds the wheel and tags. It does all of it in a worktree beside this one, and
moves the branch last: a release that fails leaves nothing behind. It publishes nothing.
"""

import argparse
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, date, datetime
from pathlib import Path

from packaging.version import InvalidVersion, Version

VERSION_FILE = "src/sparse_sam/__init__.py"
CHANGELOG, CITATION = "CHANGELOG.md", "CITATION.cff"
WHEEL = ("make", "--no-print-directory", "wheel")
_VERSION = re.compile(r'^__version__ = "(.+)"$', re.MULTILINE)
_UNRELEASED = re.compile(r"^## (?:(.+) \(unreleased\)|Unreleased)$", re.MULTILINE | re.IGNORECASE)
_HEADING = re.compile(r"^## .+$", re.MULTILINE)


class ReleaseError(Exception):
    """Why there is no release; the repository is as it was."""


def release(root: Path, wanted: str, today: date, build: Sequence[str] = WHEEL) -> str:
    """Make the release, and return what to do next.

    Args:
        root: the repository, at its top.
        wanted: the version, as ``0.2.0``.
        today: the date that the changelog and the citation say.
        build: the command that builds ``dist/*.whl``, run in a checkout of the release.

    Raises:
        ReleaseError: it is refused, or a step failed.
    """
    branch = _git(root, "branch", "--show-current")
    tag = f"v{wanted}"
    if not branch:
        raise ReleaseError("HEAD is detached: check out the branch to release from")
    if changed := _git(root, "status", "--porcelain"):
        raise ReleaseError(f"the working tree is not clean:\n{changed}")
    check_version(wanted, current_version(root), _git(root, "tag", "--list", "v*").split())
    before = _git(root, "rev-parse", "HEAD")
    skipped = skipped_version(_read(root / CHANGELOG), wanted)
    with tempfile.TemporaryDirectory(prefix="sparse-sam-release-") as folder:
        tree = Path(folder) / "tree"
        try:
            _git(root, "worktree", "add", "--quiet", "--detach", str(tree), before)
            made = _commit(tree, wanted, today)
            wheel = _wheel(tree, wanted, build)
            with _ready_in(root / "dist", wheel) as put, ExitStack() as undo:
                message = f"sparse-sam {wanted}"
                _git(root, "tag", "--annotate", "--message", message, tag, made)
                undo.callback(_git, root, "tag", "--delete", tag)
                _move(root, branch, before, made)
                undo.pop_all()
                put()
        finally:
            # (Twice, as one that was broken off is locked; one that was never made is no matter.)
            with suppress(ReleaseError):
                _git(root, "worktree", "remove", "--force", "--force", str(tree))
    return (
        f"sparse-sam {wanted} is commit {made[:10]} on {branch}, tag {tag}, dist/{wheel.name}.\n"
        f"{skipped}"
        f"Nothing is published. To publish: git push --atomic origin {branch} {tag}\n"
        f"To take it back: git tag -d {tag} && git reset --hard HEAD~1\n"
    )


def check_version(wanted: str, current: str, tags: Sequence[str]) -> None:
    """Raise ReleaseError unless a version is well written, new, and newer than every tag."""
    try:
        version = Version(wanted)
    except InvalidVersion:
        raise ReleaseError(f"{wanted!r} is no version (VERSION=0.2.0)") from None
    if str(version) != wanted or version.local:
        raise ReleaseError(f"write the version as {version.public}, not {wanted}")
    if f"v{wanted}" in tags:
        raise ReleaseError(f"version {wanted} exists: it is tagged v{wanted}")
    # The version in the code may be the one to come, as before the first release.
    if version < Version(current):
        raise ReleaseError(f"{wanted} is older than {current}, the version in {VERSION_FILE}")
    for tag in tags:
        try:
            released = Version(tag)
        except InvalidVersion:
            continue
        if version <= released:
            raise ReleaseError(f"{wanted} is not newer than {tag}")


def current_version(root: Path) -> str:
    """The version that the code says it is."""
    found = _VERSION.findall(_read(root / VERSION_FILE))
    if len(found) != 1:
        raise ReleaseError(f"{VERSION_FILE} does not say the version once")
    return str(found[0])


def with_version(text: str, wanted: str) -> str:
    """The package's front page with its version."""
    return _VERSION.sub(f'__version__ = "{wanted}"', text)


def changelog(text: str, wanted: str, today: date) -> str:
    """The changes, where what was unreleased is this version's.

    Raises:
        ReleaseError: the first part is not an unreleased one, or it says nothing.
    """
    first = _HEADING.search(text)
    if first is None or not _UNRELEASED.fullmatch(first[0]):
        raise ReleaseError(
            f"{CHANGELOG} does not begin with a part `## Unreleased`. Add that heading above the "
            "newest version, and below it what changed, a line `- …` each. Commit it."
        )
    following = _HEADING.search(text, first.end())
    section = text[first.end() : following.start() if following else len(text)]
    if all(line.startswith("#") for line in section.split("\n") if line.strip()):
        raise ReleaseError(f"the unreleased part of {CHANGELOG} is empty")
    return f"{text[: first.start()]}## {wanted} ({today.isoformat()}){text[first.end() :]}"


def citation(text: str, wanted: str, today: date) -> str:
    """The citation with the version and the date; a date is added where there is none."""
    text = re.sub(r"^date-released: .*\n", "", text, flags=re.MULTILINE)
    said = f"version: {wanted}\ndate-released: {today.isoformat()}"
    text, count = re.subn(r"^version: .*$", said, text, flags=re.MULTILINE)
    if count != 1:
        raise ReleaseError(f"{CITATION} does not say the version once")
    return text


def skipped_version(text: str, wanted: str) -> str:
    """A line that says so if the changelog announces another version than this one; or ""."""
    first = _UNRELEASED.search(text)
    if first is None or first[1] in {None, wanted}:
        return ""
    return (
        f"{CHANGELOG} called these changes {first[1]} (unreleased). They are {wanted}'s now, and "
        f"{first[1]} is never released.\n"
    )


@contextmanager
def _ready_in(folder: Path, wheel: Path) -> Iterator[Callable[[], object]]:
    """Copy a wheel beside its place, where all that can fail has; what it gives puts it there."""
    part, place = folder / f"{wheel.name}.part", folder / wheel.name
    try:
        try:
            folder.mkdir(exist_ok=True)
            if place.is_dir():
                raise IsADirectoryError(f"{place} is a folder")
            shutil.copy2(wheel, part)
        except OSError as error:
            raise ReleaseError(f"the wheel cannot be put into {folder}: {error}") from None
        yield lambda: part.replace(place)
    finally:
        with suppress(OSError):
            part.unlink()


def _move(root: Path, branch: str, before: str, made: str) -> None:
    """Move the branch, and the working tree with it; both, or neither.

    ``git merge`` changes the tree first, and leaves it so if it cannot move the branch.
    """
    now = _git(root, "branch", "--show-current")
    if now != branch:
        raise ReleaseError(f"{now or 'a detached HEAD'} was checked out meanwhile, not {branch}")
    name = f"refs/heads/{branch}"
    try:
        _git(root, "update-ref", "-m", "release", name, made, before)
        with ExitStack() as undo:
            undo.callback(_git, root, "update-ref", name, before, made)
            _git(root, "read-tree", "-m", "-u", before, made)
            undo.pop_all()
    except ReleaseError as error:
        raise ReleaseError(f"{branch} cannot be moved to the release: {error}") from None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ReleaseError(f"{path.name} cannot be read: {error.strerror}") from None


def _commit(tree: Path, wanted: str, today: date) -> str:
    """Change the files, commit them, and return the commit."""
    edits: dict[str, Callable[[str], str]] = {
        VERSION_FILE: lambda text: with_version(text, wanted),
        CHANGELOG: lambda text: changelog(text, wanted, today),
        CITATION: lambda text: citation(text, wanted, today),
    }
    for name, edit in edits.items():
        path = tree / name
        path.write_text(edit(_read(path)), encoding="utf-8")
    _git(tree, "commit", "--quiet", "--all", "--message", f"Release {wanted}")
    return _git(tree, "rev-parse", "HEAD")


def _wheel(tree: Path, wanted: str, build: Sequence[str]) -> Path:
    _run(tree, build)
    found = list((tree / "dist").glob(f"sparse_sam-{wanted}-*.whl"))
    if len(found) != 1:
        raise ReleaseError(f"`{' '.join(build)}` built no wheel of version {wanted}")
    return found[0]


def _git(folder: Path, *arguments: str) -> str:
    return _run(folder, ("git", *arguments))


def _run(folder: Path, command: Sequence[str]) -> str:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except OSError as error:
        raise ReleaseError(f"`{command[0]}` cannot be run: {error.strerror}") from None
    if done.returncode:
        said = (done.stderr or done.stdout).strip()
        raise ReleaseError(f"`{' '.join(command)}` failed:\n{said[-2000:]}")
    return done.stdout.strip()


def main() -> None:
    """Release from the repository of the working folder."""
    parser = argparse.ArgumentParser(prog="make release", description=__doc__)
    parser.add_argument("version", metavar="VERSION")
    wanted = parser.parse_args().version
    # Whoever ends it, as a shutdown does, leaves nothing behind either.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("error: it was ended; there is no release"))
    try:
        top = Path(_git(Path(), "rev-parse", "--show-toplevel"))
        sys.stdout.write(release(top, wanted, datetime.now(UTC).date()))
    except ReleaseError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
