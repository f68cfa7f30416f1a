"""What seals a safetensors file of ours: one JSON header, and digests of it and of every tensor.

The header is kept under a single metadata key: safetensors writes several keys in random order,
and the same content must give the same bytes. With the digests damage is an error and never a
slightly different network. Arrays can be written without torch; ``tensorfile`` reads them.
"""

import errno
import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from sparse_sam.files.atomic import atomic_path
from sparse_sam.files.rows import Rows, pieces

HEADER = "sparse_sam"
"""The metadata key."""
_DTYPES = {
    "uint64": "U64",
    "int64": "I64",
    "float64": "F64",
    "float32": "F32",
    "uint32": "U32",
    "int32": "I32",
    "float16": "F16",
    "uint16": "U16",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}
"""What safetensors calls NumPy's types, in the order in which it writes tensors of them."""


def save_arrays(
    path: Path,
    arrays: Mapping[str, Rows],
    *,
    kind: str,
    version: int,
    header: dict[str, Any],
) -> None:
    """Write arrays as ``save_tensors`` writes the tensors of the same bytes, to the byte.

    A piece at a time, for they may be larger than memory. Raises OSError if the disk does not take
    it.
    """
    order = list(_DTYPES)
    names = sorted(arrays, key=lambda name: (order.index(str(arrays[name].dtype)), name))
    # What comes first is known last: digests, which are as long as what stands in for them.
    digests = dict.fromkeys(names, _sha256(b""))

    def begin() -> bytes:
        sealed = seal(digests, kind=kind, version=version, header=header)
        return _beginning({name: arrays[name] for name in names}, sealed)

    with written(path) as temporary, temporary.open("wb") as file:
        file.write(begin())
        for name in names:
            rows = arrays[name]
            found = hashlib.sha256(_announced(f"torch.{rows.dtype}", rows.shape))
            for piece in pieces(rows):
                found.update(piece.data)
                file.write(piece.data)
            digests[name] = found.hexdigest()
        file.seek(0)
        file.write(begin())


def _beginning(arrays: Mapping[str, Rows], sealed: str) -> bytes:
    """What a safetensors file has before its tensors: a length, and JSON without spaces.

    The format: https://huggingface.co/docs/safetensors, and byte for byte what the package writes.
    """
    entries: dict[str, Any] = {"__metadata__": {HEADER: sealed}}
    start = 0
    for name, rows in arrays.items():
        end = start + math.prod(rows.shape) * rows.dtype.itemsize
        dtype = _DTYPES[str(rows.dtype)]
        entries[name] = {"dtype": dtype, "shape": [*rows.shape], "data_offsets": [start, end]}
        start = end
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


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
        raise ValueError("its header is not one of ours")
    if not (isinstance(header.get("kind"), str) and type(header.get("version")) is int):
        raise ValueError("its header names no kind and version")
    return header, digests


def digest(dtype: str, shape: tuple[int, ...], data: Any) -> str:
    """SHA-256 of a tensor: its dtype as torch names it, its shape, its bytes."""
    return _sha256(_announced(dtype, shape), data)


def _announced(dtype: str, shape: tuple[int, ...]) -> bytes:
    return f"{dtype} {shape} ".encode()


def _sha256(*pieces: Any) -> str:
    found = hashlib.sha256()
    for piece in pieces:
        found.update(piece)
    return found.hexdigest()
