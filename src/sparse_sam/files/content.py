"""What files outside the project hold: by content, as DVC knows its own, and quickly again."""

import hashlib
import json
import os
import stat
import time
from collections.abc import Iterator
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
            digest.update(f"{file.relative_to(path).as_posix()}\0{self._file(file)}\0".encode())
        return digest.hexdigest()

    def remember(self) -> None:
        """Write down what was hashed, for the next time."""
        if self._memory is not None and self._used != self._known:
            write_text(self._memory, json.dumps(self._used) + "\n")

    def _file(self, path: Path) -> str:
        about = path.stat()
        # Nobody can set the time of the last change of the inode.
        mark: list[object] = [about.st_size, about.st_mtime_ns, about.st_ctime_ns, about.st_ino]
        name = str(path.absolute())
        known = self._known.get(name)
        is_known = isinstance(known, list) and known[:-1] == mark
        digest = known[-1] if known and is_known else file_hash(path, "sha256")
        if time.time_ns() - about.st_ctime_ns > _SETTLED_NANOSECONDS:
            self._used[name] = [*mark, digest]
        return str(digest)


def _remembered(memory: Path | None) -> dict[str, list[object]]:
    try:
        known = json.loads(memory.read_text(encoding="utf-8")) if memory else {}
    except (OSError, ValueError, RecursionError):
        return {}
    return known if isinstance(known, dict) else {}


def _files(folder: Path) -> Iterator[Path]:
    """The regular files below a folder, links followed, each folder once."""
    seen = set()
    for place, folders, names in os.walk(folder, followlinks=True, onerror=_raise):
        about = Path(place).stat()
        if (about.st_dev, about.st_ino) in seen:
            folders.clear()
            continue
        seen.add((about.st_dev, about.st_ino))
        folders.sort()  # of a folder that two links lead to, the same is taken everywhere
        for name in names:
            path = Path(place) / name
            try:
                if stat.S_ISREG(path.stat().st_mode):
                    yield path
            except FileNotFoundError:  # a link that leads nowhere
                continue


def _raise(error: OSError) -> None:
    raise error
