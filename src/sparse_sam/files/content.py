"""What files outside the project hold: by content, as DVC knows its own, and quickly again."""

import errno
import hashlib
import json
import os
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from sparse_sam.files.atomic import file_hash, write_text

_SETTLED_NANOSECONDS = 2 * 10**9
"""A file that changed so lately may change again within the same tick of its clock."""
MISSING = "missing"


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
            text = json.dumps(self._used) + "\n"
            write_text(self._memory, f"{_seal(text)}\n{text}")

    def _file(self, path: Path) -> str:
        about = path.stat()
        # Nobody can set the time of the last change of the inode.
        mark: list[object] = [about.st_size, about.st_mtime_ns, about.st_ctime_ns, about.st_ino]
        name = str(path.absolute())
        known = self._known.get(name)
        digest = known[-1] if known and known[:-1] == mark else file_hash(path, "sha256")
        if time.time_ns() - about.st_ctime_ns > _SETTLED_NANOSECONDS:
            self._used[name] = [*mark, digest]
        return str(digest)


def _remembered(memory: Path | None) -> dict[str, list[object]]:
    """What was written down; nothing if a byte of it has changed."""
    known: dict[str, list[object]] = {}
    with suppress(OSError, ValueError):
        seal, _, text = memory.read_text(encoding="utf-8").partition("\n") if memory else ("",) * 3
        if seal == _seal(text):
            known = json.loads(text)
    return known


def _seal(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


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
