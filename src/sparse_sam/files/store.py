"""Results by what made them: a folder, shared or not, in which nothing is computed twice.

::

    STORE/entries/<kind>/<key>.json   what is known of a result (``sealing``); names its files
    STORE/blobs/<2 digits>/<sha256>   those files

A key is the SHA-256 of everything that makes a result, so what is there never changes, and any
number of processes and computers may read and write at once: each file appears whole or not at all,
and two writers of one key write the same. Whatever is read is compared with its hashes; what is
damaged is said, removed, and counts as not there; what may not be read counts as not there and
stays. Nothing is unpickled.

Who may write to a store is trusted: a hash shows damage and no author.
"""

import errno
import hashlib
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from sparse_sam.errors import DataError
from sparse_sam.files.atomic import atomic_path, file_hash, write_text
from sparse_sam.files.sealing import open_seal, seal

_KEY = re.compile("[0-9a-f]{64}")
_VERSION = 1
_BLOCK = 2**20
_LARGEST_ENTRY = 64 * 2**20
"""In bytes; an entry is read whole, so what is larger is refused unread."""
_TOO_LARGE = "the entry is larger than 64 MB"


class Remote(Protocol):
    """Where else entries and blobs are kept, under the names that they have here."""

    def pull(self, name: str, place: Path) -> bool:
        """Write what is kept under a name; False if there is nothing."""
        ...

    def push(self, name: str, file: Path, *, replace: bool = False) -> None:
        """Keep a file. What is kept under that name already stays, unless it is to be replaced."""
        ...


class _Entry(NamedTuple):
    about: dict[str, Any]
    files: dict[str, str]


class _Absent(Exception):  # noqa: N818 - never leaves this module
    """A remote does not have it."""


class _Damaged(Exception):  # noqa: N818 - never leaves this module
    """A file of the store is not what was written."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"{path} is damaged ({why})")
        self.path, self.why = path, why


class _Unreadable(_Damaged):
    """A file of the store may be sound, and cannot be read: it may be somebody else's."""


class Store:
    """A folder of results. Made when something is kept.

    Args:
        folder: where it is.
        remote: where else to look, and to keep what is kept.
    """

    def __init__(self, folder: Path, remote: Remote | None = None) -> None:
        self.folder, self._remote = folder, remote
        self._unsound: set[Path] = set()  # found damaged, and not seen sound since
        self._is_barred = False

    def about(self, kind: str, key: str) -> dict[str, Any] | None:
        """What is known of a result; None if it is not there, or damaged."""
        return self.take(kind, key, {})

    def take(self, kind: str, key: str, places: Mapping[str, Path]) -> dict[str, Any] | None:
        """Copy a result's files, each by its name, and say what is known of it.

        A place is written only when every byte is as it was kept. None, and nothing is written
        where a damaged file should be, if the result is not there or not sound.

        Raises:
            OSError: a place cannot be written.
        """
        for _ in range(2 if self._remote else 1):  # what is damaged here may be sound there
            try:
                entry = self._entry(kind, key)
                if entry is None:
                    return None
                if places.keys() - entry.files.keys():
                    raise _Damaged(self.entry_path(kind, key), "it names no such file")
                for name, place in places.items():
                    self._copy(entry.files[name], place)
            except _Unreadable as error:
                self._barred(error)
                break
            except _Damaged as damage:
                _say(f"{damage}; it is ignored, and its result is computed again")
                # (An entry goes with its files: what is computed again may have other bytes.)
                self._unsound |= {damage.path, self.entry_path(kind, key)}
                self._remove(damage.path)
            else:
                if places.keys() == entry.files.keys():
                    sound = map(self.blob_path, entry.files.values())
                    self._unsound -= {self.entry_path(kind, key), *sound}
                return entry.about
        return None

    def keep(
        self, kind: str, key: str, about: Mapping[str, Any], files: Mapping[str, Path] | None = None
    ) -> None:
        """Keep a result: first its files, then the entry that names them.

        A sound result of the same key stays as it is; if its files are others, that is said: then
        something makes results that no key knows of.

        Raises:
            OSError: the store cannot be written, or the entry is too large; what was there is as
                it was.
        """
        place = self.entry_path(kind, key)
        hashes = {name: file_hash(path, "sha256") for name, path in (files or {}).items()}
        try:
            known = self._entry(kind, key)
        except _Unreadable:
            known = None
        except _Damaged:
            known = None
            self._unsound.add(place)
        if known is not None and all(self._holds(digest) for digest in known.files.values()):
            if known.files != hashes:
                _say(
                    f"{place}: the same task gave different bytes when it was computed again; "
                    "the first result is kept. Does its code use random numbers without a seed, "
                    "or read files that the parameters do not name?"
                )
            return
        header = {"key": key, "about": dict(about)}
        text = seal(hashes, kind=kind, version=_VERSION, header=header)
        if len(text) > _LARGEST_ENTRY:
            raise OSError(errno.EFBIG, _TOO_LARGE, str(place))
        for name, path in (files or {}).items():
            self._keep_blob(hashes[name], path)
        self._make_way(place)
        write_text(place, text)
        self._push(place)

    def share(self, kind: str, key: str) -> None:
        """See that the remote has what is here: it may have been away when that was kept."""
        if self._remote is not None:
            with suppress(OSError):  # it could be read a moment ago
                for path in (*self.blobs_of(kind, key), self.entry_path(kind, key)):
                    self._push(path)

    def drop(self, kind: str, key: str) -> None:
        """Let go of what is known of a result; its files stay. Nothing happens if it cannot be."""
        with suppress(OSError):
            self.entry_path(kind, key).unlink(missing_ok=True)

    def keys(self, kind: str) -> set[str]:
        """The keys of all results of a kind that are here, sound or not."""
        found = (path.stem for path in (self.folder / "entries" / kind).glob("*.json"))
        return {key for key in found if _KEY.fullmatch(key)}

    def blobs_of(self, kind: str, key: str) -> list[Path]:
        """The files of a result that are here.

        Raises:
            OSError: what the result is may not be read, so which files are its own is not known.
        """
        try:
            entry = self._read(kind, key)
        except _Unreadable as error:
            raise OSError(errno.EACCES, error.why, str(error.path)) from None
        except _Damaged:
            return []
        found = [self.blob_path(digest) for digest in entry.files.values()] if entry else []
        return [path for path in found if not path.is_dir()]

    def files(self) -> Iterator[Path]:
        """All files that are no entries: blobs, and what killed writers left."""
        yield from sorted(path for path in (self.folder / "blobs").rglob("*") if path.is_file())
        yield from sorted((self.folder / "entries").rglob(".*.tmp"))

    def entry_path(self, kind: str, key: str) -> Path:
        """Where what is known of a result is, or will be. Raises DataError if that is no key."""
        if not _KEY.fullmatch(key):
            raise DataError(
                f"{key[:80]!a} is not the key of a result: it must be 64 digits of 0-9 a-f"
            )
        return self.folder / "entries" / kind / f"{key}.json"

    def blob_path(self, digest: str) -> Path:
        """Where a file of this content is, or will be."""
        return self.folder / "blobs" / digest[:2] / digest

    def _entry(self, kind: str, key: str) -> _Entry | None:
        found = self._read(kind, key)
        if found is None and self._pull(self.entry_path(kind, key)):
            found = self._read(kind, key)
        return found

    def _read(self, kind: str, key: str) -> _Entry | None:
        path = self.entry_path(kind, key)
        if not _is_file(path):
            return None
        try:
            if path.stat().st_size > _LARGEST_ENTRY:
                raise _Damaged(path, _TOO_LARGE)
            header, files = open_seal(path.read_text(encoding="utf-8"))
            if (header["kind"], header["version"], header["key"]) != (kind, _VERSION, key):
                raise _Damaged(path, "it belongs to another result")
            if not all(map(_KEY.fullmatch, files.values())):  # (TypeError, if one is no text)
                raise _Damaged(path, "its list of files is not valid")
            return _Entry(dict(header["about"]), files)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _Unreadable(path, str(error.strerror or error)) from None
        except (ValueError, TypeError, KeyError) as error:
            raise _Damaged(path, f"{type(error).__name__}: {error}") from None

    def _holds(self, digest: str) -> bool:
        """Whether a file of this content is here, and sound, and may be read."""
        path = self.blob_path(digest)
        try:
            return path.is_file() and file_hash(path, "sha256") == digest
        except OSError:
            return False

    def _keep_blob(self, digest: str, file: Path) -> None:
        place = self.blob_path(digest)
        if not self._holds(digest):
            self._make_way(place)
            try:
                _copy_checked(file, place, digest)
            except _Damaged as error:  # since its hash was taken
                raise OSError(errno.EIO, error.why, str(file)) from None
        self._push(place)

    def _make_way(self, place: Path) -> None:
        """Remove a folder that somebody made where a file is to be."""
        if place.is_dir():
            self._remove(place)

    def _remove(self, path: Path) -> None:
        """Remove what is in a file's place, if that can be; a folder only in the store's own."""
        with suppress(OSError):
            if path.is_symlink() or not path.is_dir():
                path.unlink(missing_ok=True)
            elif path.resolve().is_relative_to(self.folder.resolve()):
                shutil.rmtree(path)

    def _copy(self, digest: str, place: Path) -> None:
        blob = self.blob_path(digest)
        if not _is_file(blob) and not self._pull(blob):
            raise _Damaged(blob, "it is missing")
        _copy_checked(blob, place, digest)

    def _pull(self, path: Path) -> bool:
        if self._remote is None:
            return False
        try:
            with atomic_path(path) as temporary:
                name = path.relative_to(self.folder).as_posix()
                try:
                    is_there = self._remote.pull(name, temporary)
                except OSError as error:
                    is_there = self._lost(error)
                if not is_there:
                    raise _Absent
        except _Absent:
            return False
        except OSError as error:  # the folder takes nothing; what is in it can be used all the same
            return self._lost(OSError(f"{self.folder}: {error.strerror or error}"))
        return True

    def _push(self, path: Path) -> None:
        if self._remote is not None:
            name = path.relative_to(self.folder).as_posix()
            try:
                self._remote.push(name, path, replace=path in self._unsound)
            except OSError as error:
                self._lost(error)
            else:
                self._unsound.discard(path)

    def _lost(self, error: OSError) -> bool:
        """Go on without the remote, and say so once."""
        _say(f"the store continues without its remote: {error.strerror or error}")
        self._remote = None
        return False

    def _barred(self, error: _Unreadable) -> None:
        """Go on without what cannot be read, and say so once."""
        if not self._is_barred:
            _say(
                f"the store continues without a file that cannot be read: {error.path} "
                f"({error.why})"
            )
        self._is_barred = True


def _copy_checked(source: Path, place: Path, digest: str) -> None:
    """Copy a file if it is what its name says; ``place`` is as it was otherwise."""
    with atomic_path(place) as temporary:
        found = hashlib.sha256()
        with temporary.open("wb") as written:
            for block in _blocks(source):
                found.update(block)
                written.write(block)
        if found.hexdigest() != digest:
            raise _Damaged(source, "its content has changed")


def _blocks(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                yield block
    except FileNotFoundError:  # since it was looked for
        raise _Damaged(path, "it is missing") from None
    except OSError as error:
        raise _Unreadable(path, str(error.strerror or error)) from None


def _is_file(path: Path) -> bool:
    """Whether a file is there; a pipe that somebody put there would be waited for."""
    try:
        if path.is_dir() and not path.is_symlink():
            raise _Damaged(path, "it is a folder")
        return path.is_file()
    except OSError as error:
        raise _Unreadable(path, str(error.strerror or error)) from None


def _say(what: str) -> None:
    sys.stderr.write(f"warning: {what}\n")
