"""What seals a safetensors file of ours: one JSON header, and digests of it and of every tensor.

The header is kept under a single metadata key: safetensors writes several keys in random order,
and the same content must give the same bytes. With the digests damage is an error and never a
slightly different network. Arrays can be written without torch; ``tensorfile`` reads them.
"""

import errno
import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import save_file

from sparse_sam.files.atomic import atomic_path

HEADER = "sparse_sam"
"""The metadata key."""


def save_arrays(
    path: Path,
    arrays: Mapping[str, NDArray[Any]],
    *,
    kind: str,
    version: int,
    header: dict[str, Any],
) -> None:
    """Write arrays as ``save_tensors`` writes the tensors of the same bytes, to the byte.

    Raises OSError if the disk does not take it.
    """
    contiguous = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    digests = {
        name: digest(f"torch.{array.dtype}", array.shape, array.data)
        for name, array in contiguous.items()
    }
    sealed = seal(digests, kind=kind, version=version, header=header)
    with written(path) as temporary:
        save_file(contiguous, temporary, {HEADER: sealed})


@contextmanager
def written(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Where to write a file that is whole or not there; as ``atomic_path``. Raises OSError."""
    with atomic_path(path, durable=durable) as temporary:
        try:
            yield temporary
        except SafetensorError as error:  # which is how it reports a disk that is full
            raise OSError(errno.EIO, str(error), str(path)) from None


def seal(digests: Mapping[str, str], *, kind: str, version: int, header: Mapping[str, Any]) -> str:
    """The header and the digests as text, with a digest of it all in front."""
    content = {"header": {"kind": kind, "version": version, **header}, "digests": dict(digests)}
    text = json.dumps(content, sort_keys=True, allow_nan=False)
    return _sha256(text.encode()) + text


def open_seal(sealed: str) -> tuple[dict[str, Any], dict[str, str]]:
    """The header, with its ``kind`` and ``version``, and the digests.

    A seal shows damage and no author, so that what is sealed need not be what ``seal`` writes.

    Raises:
        ValueError: they are not as they were sealed, or are none.
    """
    size = len(_sha256(b""))
    if _sha256(sealed[size:].encode()) != sealed[:size]:
        raise ValueError("its header has changed")
    try:
        content = json.loads(sealed[size:])
    except RecursionError:
        raise ValueError("its header is nested too deeply") from None
    header, digests = (
        (content.get("header"), content.get("digests")) if isinstance(content, dict) else (0, 0)
    )
    if not (isinstance(header, dict) and isinstance(digests, dict)):
        raise ValueError("its header is none of ours")
    if not (isinstance(header.get("kind"), str) and type(header.get("version")) is int):
        raise ValueError("its header names no kind and version")
    return header, digests


def digest(dtype: str, shape: tuple[int, ...], data: Any) -> str:
    """SHA-256 of a tensor: its dtype as torch names it, its shape, its bytes."""
    return _sha256(f"{dtype} {shape} ".encode(), data)


def _sha256(*pieces: Any) -> str:
    found = hashlib.sha256()
    for piece in pieces:
        found.update(piece)
    return found.hexdigest()
