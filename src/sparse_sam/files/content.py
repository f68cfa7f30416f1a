"""What files outside the project hold: by content, as DVC knows its own, and quickly again."""

import errno
import hashlib
import os
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from sparse_sam.files.atomic import file_hash, file_state, write_text
from sparse_sam.files.sealing import open_seal, seal

_SETTLED_NANOSECONDS = 2 * 10**9
"""A file that changed so lately may change again within the same tick of its clock."""
MISSING = "missing"
_KIND, _VERSION = "contents", 1


class Contents:
    """Hashes of files and folders, remembered for as long as nothing about a file has changed.

    Args:
        memory: where they are remembered; None remembers nothing.
    """

    def __init__(self, memory: Path | None = None) -> None:
        self._memory = memory
        self._known: dict[str, list[object]] = _remembered(memory)
        self._used: dict[str, list[object]] = {}

    def of(self, path: Path) -> str:
        """SHA-256 of a file, or of the names and contents of all files in a folder.

        "missing" if there is nothing. Raises OSError if something cannot be read.
        """
        if path.is_file():
            return self._file(path)
        if not path.is_dir():
            return MISSING
        digest = hashlib.sha256()
        for file in sorted(_files(path)):
            name = os.fsencode(file.relative_to(path).as_posix())  # which may be no text
            digest.update(name + f"\0{self._file(file)}\0".encode())
        return digest.hexdigest()

    def remember(self) -> None:
        """Write down what was hashed, for the next time."""
        if self._memory is not None and self._used != self._known:
            header = {"known": self._used}
            write_text(self._memory, seal({}, kind=_KIND, version=_VERSION, header=header))

    def _file(self, path: Path) -> str:
        mark: list[object] = list(file_state(path))
        name = str(path.absolute())
        known = self._known.get(name)
        digest = known[-1] if known and known[:-1] == mark else file_hash(path, "sha256")
        if time.time_ns() - path.stat().st_ctime_ns > _SETTLED_NANOSECONDS:
            self._used[name] = [*mark, digest]
        return str(digest)


def _remembered(memory: Path | None) -> dict[str, list[object]]:
    """What was written down; nothing if a byte of it has changed."""
    known: dict[str, list[object]] = {}
    with suppress(OSError, ValueError):
        header, _ = open_seal(memory.read_text(encoding="utf-8") if memory else "")
        if (header["kind"], header["version"]) == (_KIND, _VERSION):
            known = header["known"]
    return known


def files_state(path: Path) -> list[str]:
    """The states of a file, or of all files in a folder; [] if there is nothing."""
    found = [path] if path.is_file() else sorted(_files(path)) if path.is_dir() else []
    return [f"{os.fsencode(one)!r} {file_state(one)}" for one in found]


def _files(folder: Path, above: tuple[tuple[int, int], ...] = ()) -> Iterator[Path]:
    """The regular files below a folder, links followed, but for those that lead back up."""
    about = folder.stat()
    mark = (about.st_dev, about.st_ino)
    if mark in above:
        return
    for path in folder.iterdir():
        try:
            mode = path.stat().st_mode
        except OSError as error:
            if error.errno in {errno.ENOENT, errno.ELOOP}:  # a link that leads nowhere
                continue
            raise
        if stat.S_ISREG(mode):
            yield path
        elif stat.S_ISDIR(mode):
            yield from _files(path, (*above, mark))
