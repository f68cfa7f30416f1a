"""Files from mirrors, whole and with the right checksum, or an error that says what each lacked.

torchvision's own transfer takes a cut connection for the end of the file, waits without end for a
server that stalls, and does not try the next mirror when a checksum is wrong.
"""

import hashlib
import time
import urllib.error
from collections.abc import Generator, Sequence
from contextlib import closing
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path

from sparse_sam.data.logins import cure, open_url
from sparse_sam.errors import DataError
from sparse_sam.files import atomic_path, file_hash
from sparse_sam.terminal import activity

Resources = Sequence[tuple[str, str]]
"""File names and their MD5 digests."""

_SCHEMES = ("http", "https", "file")
_PASSING = {408, 429}  # request timeout, too many requests; and whatever is wrong with a server
_TRIES = 3
_PIECE = 1 << 16


def fetch(
    files: Resources,
    mirrors: Sequence[str],
    folder: Path,
    *,
    root: Path = Path(),
    timeout: float = 30.0,
    pause: float = 1.0,
) -> None:
    """Bring ``files`` into ``folder``; those that lie there whole are left as they are.

    Args:
        files: names and MD5 digests; a file with another digest is never put in place.
        mirrors: where to look, in order: URLs (http, https, file) or folders.
        folder: where the files go.
        root: what a relative folder among the mirrors is relative to.
        timeout: seconds without a byte after which a server counts as stalled.
        pause: seconds before a server is asked again after an error that may pass.

    Raises:
        DataError: no mirror gave a file (the message says what was wrong with each), a mirror can
            be neither URL nor folder, or ``folder`` cannot be written.
    """
    for name, digest in files:
        path = folder / name
        try:
            if not (path.is_file() and file_hash(path) == digest):
                _fetch_one(
                    path, digest, {one: _url(one, name, root) for one in mirrors}, timeout, pause
                )
        except OSError as error:
            raise DataError(
                f"{path} cannot be written: {error.strerror or error}. Free some space, check "
                "the permissions, or set SPARSE_SAM_CACHE to another folder."
            ) from None


def _fetch_one(path: Path, digest: str, urls: dict[str, str], timeout: float, pause: float) -> None:
    faults = []
    for mirror, url in urls.items():
        for attempt in range(1, _TRIES + 1):
            try:
                _download(url, path, digest, timeout)
            except _MirrorError as error:
                fault, again = str(error), error.passing
            else:
                return
            if not again:
                break
            if attempt < _TRIES:
                time.sleep(pause)
        faults.append(f"  {mirror}: {fault}" + (f" ({attempt} tries)" if attempt > 1 else ""))
    raise DataError(
        f"{path.name} could not be downloaded:\n" + "\n".join(faults) + "\nSet data.mirror to a "
        "URL or folder that has the file, or set data.source to idx or mnist-sample."
    )


class _MirrorError(Exception):
    """A mirror did not give the file; ``passing`` if it may when it is asked again."""

    def __init__(self, fault: str, *, passing: bool = False) -> None:
        # One line, whatever words the server chose.
        super().__init__(" ".join(fault.split()))
        self.passing = passing


def _url(mirror: str, name: str, root: Path) -> str:
    if "://" in mirror:
        return f"{mirror.rstrip('/')}/{name}"
    try:
        return ((root / Path(mirror).expanduser()).resolve() / name).as_uri()
    except (OSError, RuntimeError, ValueError) as error:
        raise DataError(
            f"data.mirror = {mirror!r} is neither a URL nor a valid path: {error}"
        ) from None


def _download(url: str, path: Path, digest: str, timeout: float) -> None:
    """Put in place what ``url`` holds, if its MD5 is ``digest``.

    Raises:
        _MirrorError: the fault is the mirror's.
        OSError: the fault is this computer's.
    """
    found = hashlib.md5(usedforsecurity=False)
    with atomic_path(path) as temporary:
        with temporary.open("wb") as file, closing(_pieces(url, path.name, timeout)) as pieces:
            for piece in pieces:
                file.write(piece)
                found.update(piece)
        if found.hexdigest() != digest:
            raise _MirrorError(f"wrong checksum: MD5 {found.hexdigest()}, expected {digest}")


def _pieces(url: str, name: str, timeout: float) -> Generator[bytes, None, None]:
    """What ``url`` holds, with a progress bar under ``name``. Raises _MirrorError."""
    scheme = url.partition("://")[0].lower()
    if scheme not in _SCHEMES:
        raise _MirrorError(f"{scheme}:// is not supported; use {', '.join(_SCHEMES)} or a folder")
    try:
        with open_url(url, timeout) as response:
            announced = int(response.headers.get("Content-Length") or 0)
            received = 0
            with activity(f"downloading {name}", announced, "B") as doing:
                while piece := response.read(_PIECE):
                    received += len(piece)
                    doing.advance(len(piece))
                    yield piece
        if received < announced:
            raise ConnectionError(f"the connection was lost after {received} of {announced} bytes")
    except urllib.error.HTTPError as error:
        error.close()
        login = f"; {cure()}" if error.code == HTTPStatus.UNAUTHORIZED else ""
        raise _MirrorError(
            f"HTTP {error.code} {error.reason}{login}",
            passing=error.code >= 500 or error.code in _PASSING,
        ) from None
    except (OSError, HTTPException, ValueError) as error:
        fault = str(getattr(error, "reason", error)) or type(error).__name__
        # A file that is not there will not be there in a second.
        raise _MirrorError(fault, passing=scheme != "file") from None
