"""Files that are written whole or not at all, and their hashes."""

import csv
import glob
import hashlib
import io
import json
import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from sparse_sam.errors import DataError

_FORGOTTEN_SECONDS = 7 * 24 * 3600
"""After which a temporary file is no one's, if its writer cannot be asked."""


@contextmanager
def atomic_path(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that replaces it when the block ends well.

    A reader sees the old file or the whole new one, never a part; an exception or a kill inside
    the block leaves the old file as it was. The temporary file is removed under exceptions.

    Without ``durable`` the disk is not waited for, and a power cut may leave a damaged file.
    """
    handle, name = tempfile.mkstemp(prefix=_prefix(path), suffix=".tmp", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes private files; a result is as readable as any other file of its user.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        if durable:
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield an empty temporary folder that replaces ``path`` when the block ends well.

    An exception inside the block leaves the old folder as it was.
    """
    temporary = Path(tempfile.mkdtemp(prefix=_prefix(path), suffix=".tmp", dir=path.parent))
    content, old = temporary / "new", temporary / "old"
    content.mkdir()
    try:
        yield content
        if path.exists():
            path.rename(old)
        try:
            content.rename(path)
        except BaseException:
            if old.exists():
                old.rename(path)
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _prefix(path: Path) -> str:
    """How the names of temporary files beside ``path`` begin: with who writes them, and where.

    Makes the folder, and removes what writers left there that were killed: here, or anywhere if it
    has not changed for a week, for other computers and containers may share the disk.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        named = re.fullmatch(r"([0-9a-f]{12})\.(\d+)\.[^.]*", left.name[len(path.name) + 2 : -4])
        if not named:
            continue  # of a file whose name begins with this one's
        place, writer = named.groups()
        if _is_alive(int(writer)) if place == _here() else _age(left) < _FORGOTTEN_SECONDS:
            continue
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)
    return f".{path.name}.{_here()}.{os.getpid()}."


@cache
def _here() -> str:
    """A name for where numbers of processes mean what they mean here: host, boot and container."""
    known = [platform.node()]
    with suppress(OSError):
        known.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii"))
    with suppress(OSError):
        known.append(str(Path("/proc/self/ns/pid").readlink()))
    return hashlib.sha256("\0".join(known).encode()).hexdigest()[:12]


def _age(path: Path) -> float:
    """Seconds since a file, or anything in a folder, has changed; 0 where that cannot be told."""
    try:
        times = [one.lstat().st_mtime for one in (path, *path.rglob("*"))]
    except OSError:  # its writer is at work
        return 0.0
    return time.time() - max(times)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` atomically, in UTF-8."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically. Raises ValueError on NaN and infinity."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Iterable[Any]]) -> None:
    """Write a table with a line of column names, atomically."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    write_text(path, text.getvalue())


def read_json(path: Path, cure: str = "") -> Any:
    """Read JSON. Raises DataError, ending with ``cure``, if the file is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path} is missing. {cure}".strip()) from None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} is damaged ({error}). {cure}".strip()) from None


def file_hash(path: Path, algorithm: str = "md5") -> str:
    """The hexadecimal digest of a file's bytes; with ``md5``, what DVC records for it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def file_state(path: Path) -> tuple[int, ...]:
    """What changes when a file is written, and be it to what it was: nobody can set ctime."""
    about = path.stat()
    return about.st_size, about.st_mtime_ns, about.st_ctime_ns, about.st_ino


def dvc_hash(path: Path) -> str:
    """The hash that ``dvc.lock`` records for a file, or for a folder (``….dir``).

    A folder's hash is the MD5 of the JSON list of its files' hashes and relative paths, sorted by
    path (DVC 3 object format).
    """
    if not path.is_dir():
        return file_hash(path)
    entries = [
        {"md5": file_hash(file), "relpath": file.relative_to(path).as_posix()}
        for file in path.rglob("*")
        if file.is_file()
    ]
    entries.sort(key=lambda entry: entry["relpath"])
    listing = json.dumps(entries, sort_keys=True)
    return hashlib.md5(listing.encode(), usedforsecurity=False).hexdigest() + ".dir"
