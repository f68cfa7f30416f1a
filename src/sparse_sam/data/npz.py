"""One file of NumPy's, with the arrays that Keras names: ``x_train``, ``y_train`` and so on."""

import math
import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from sparse_sam.data.mapped import mapped
from sparse_sam.data.outer import outer_path
from sparse_sam.data.params import DataParams
from sparse_sam.data.raw import MOST_CLASSES, Images, Labels, RawData, Source, named
from sparse_sam.errors import DataError
from sparse_sam.files import file_hash

_PARTS = {"train": "train", "test": "test", "validation": "val"}
_CLASSES = "classes"
_LARGEST = 2**36
"""Bytes of an array: a file that announces more would take all room before it is known."""
_AT_ONCE = 2**20
_LARGEST_LABEL = np.iinfo(np.int64).max
_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def read_npz(params: DataParams, folder: Path | None = None) -> RawData:
    """The arrays of the file that ``data.folder`` names.

    ``x_train`` and, if they are there, ``x_test`` and ``x_val``: uint8, (N, height, width) or (N,
    height, width, channels). ``y_…``: whole numbers, (N,) or (N, 1). ``classes``, if it is there:
    their names. The pixels are ``mapped`` in ``folder``.

    Raises:
        DataError: the file is missing, damaged, holds other arrays or would have to be unpickled.
        OSError: the disk does not take the pixels.
    """
    path = outer_path(params.folder or "")
    members = _members(path)
    known = {f"{kind}_{name}" for kind in "xy" for name in _PARTS.values()} | {_CLASSES}
    if unknown := sorted(members.keys() - known):
        raise DataError(
            f"{path} holds {', '.join(unknown[:5])}; allowed: {', '.join(sorted(known))}"
        )
    for name in ("x_train", "y_train"):
        if name not in members:
            raise DataError(f"{path} holds no {name}; it needs x_train and y_train")
    found: dict[str, Any] = {}
    for part, name in _PARTS.items():
        if member := members.get(f"x_{name}"):
            found[f"{part}_images"] = _images(path, member, folder)
        if member := members.get(f"y_{name}"):
            found[f"{part}_labels"] = _labels(f"{path}: y_{name}", _array(path, member))
    names = _names(path, _array(path, members[_CLASSES])) if _CLASSES in members else ()
    return RawData(
        params.source,
        **found,
        files={path.name: file_hash(path, "sha256")},
        classes=names,
    )


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Within it, what is wrong with the file is said."""
    try:
        yield
    except FileNotFoundError:
        raise DataError(
            f"data.folder = {str(path)!r} does not exist; it must be an .npz file"
        ) from None
    except MemoryError:
        raise DataError(f"{path} announces more data than fits into memory") from None
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        if "allow_pickle" in reason:
            reason = "an array of objects, which would have to be unpickled; save numbers or text"
        raise DataError(f"{path} cannot be read as .npz: {reason}") from None


def _members(path: Path) -> dict[str, str]:
    """The arrays' names, and what the archive calls their files."""
    with _explained(path):
        if not stat.S_ISREG(path.stat().st_mode):
            raise DataError(
                f"data.folder = {str(path)!r} is not a file; source npz reads an .npz file"
            )
        with zipfile.ZipFile(path) as file:
            for member in file.infolist():
                if member.file_size > _LARGEST:
                    raise DataError(
                        f"{path}: {member.filename} announces {member.file_size:,} bytes; at "
                        f"most {_LARGEST:,} are allowed"
                    )
            return {name.removesuffix(".npy"): name for name in file.namelist()}


def _array(path: Path, member: str) -> NDArray[Any]:
    """A small array: labels, names."""
    with _explained(path), zipfile.ZipFile(path) as file, file.open(member) as content:
        # Never unpickled: arrays of objects are refused.
        array: NDArray[Any] = npy.read_array(content, allow_pickle=False)
        return array


def _images(path: Path, member: str, folder: Path | None) -> Images:
    """An array of any size, which goes from file to file."""
    with _explained(path), zipfile.ZipFile(path) as file, file.open(member) as content:
        shape, is_fortran, dtype = _header(content)
    what = f"{path}: {member.removesuffix('.npy')}"
    if dtype != np.uint8 or len(shape) not in {3, 4}:
        raise DataError(
            f"{what} is {dtype} {shape}; allowed: uint8, (N, height, width) or (N, height, "
            "width, 1 or 3)"
        )
    if len(shape) == 4 and shape[3] not in {1, 3}:
        cure = ". transpose(0, 2, 3, 1) puts channels last" if shape[1] in {1, 3} else ""
        raise DataError(f"{what} has {shape[3]} channels; allowed: 1 or 3{cure}")
    pixels = mapped(_content(path, member, math.prod(shape)), folder)
    array = pixels.reshape(shape, order="F" if is_fortran else "C")
    return array[:, np.newaxis] if array.ndim == 3 else array.transpose(0, 3, 1, 2)


def _header(content: IO[bytes]) -> tuple[tuple[int, ...], bool, "np.dtype[Any]"]:
    """Shape, whether the first index is the fastest, and type. Raises ValueError."""
    version = npy.read_magic(content)
    if version not in _HEADERS:
        raise ValueError(f"version {version} of NumPy's format is not known")
    shape, is_fortran, dtype = _HEADERS[version](content)
    if dtype.hasobject:
        raise ValueError("objects are not read (allow_pickle)")
    return shape, is_fortran, dtype


def _content(path: Path, member: str, size: int) -> Iterator[bytes]:
    """The bytes of an array, which must be ``size`` bytes, and as many as the archive says."""
    with _explained(path), zipfile.ZipFile(path) as file, file.open(member) as content:
        _header(content)
        left = size
        while piece := content.read(_AT_ONCE):  # to its end, where its checksum is compared
            left -= len(piece)
            if left < 0:
                break
            yield piece
        if left:
            raise ValueError(f"{member} does not hold the {size:,} bytes that it announces")


def _labels(what: str, array: NDArray[Any]) -> Labels:
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        raise DataError(f"{what} is {array.dtype} {array.shape}; allowed: whole numbers, (N,)")
    if array.dtype == np.uint64 and array.size and array.max() > _LARGEST_LABEL:
        raise DataError(f"{what}: a label is {array.max()}; allowed: 0 to {MOST_CLASSES - 1:,}")
    return array.astype(np.int64)


def _names(path: Path, array: NDArray[Any]) -> tuple[str, ...]:
    if array.ndim != 1:
        raise DataError(
            f"{path}: {_CLASSES} is {array.dtype} {array.shape}; allowed: one name per class, "
            "(classes,)"
        )
    return named(array.tolist())


NPZ = Source(read_npz, reads_folder=True, on_disk=True)
