"""One file of NumPy's, with the arrays that Keras names: ``x_train``, ``y_train`` and so on."""

import stat
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparse_sam.data.outer import outer_path
from sparse_sam.data.params import DataParams
from sparse_sam.data.raw import Images, Labels, RawData, Source
from sparse_sam.errors import DataError
from sparse_sam.files import file_hash

_PARTS = {"train": "train", "test": "test", "validation": "val"}
_CLASSES = "classes"
_LARGEST = 2**36
"""Bytes of an array: a file that announces more would take all memory before it is known."""


def read_npz(params: DataParams) -> RawData:
    """The arrays of the file that ``data.folder`` names.

    ``x_train`` and, if they are there, ``x_test`` and ``x_val``: uint8, (N, height, width) or (N,
    height, width, channels). ``y_…``: whole numbers, (N,) or (N, 1). ``classes``, if it is there:
    their names.

    Raises:
        DataError: the file is missing, damaged, holds other arrays or would have to be unpickled.
    """
    path = outer_path(params.folder or "")
    arrays = _arrays(path)
    known = {f"{kind}_{name}" for kind in "xy" for name in _PARTS.values()} | {_CLASSES}
    if unknown := sorted(arrays.keys() - known):
        raise DataError(
            f"{path} holds {', '.join(unknown[:5])}; allowed: {', '.join(sorted(known))}"
        )
    for name in ("x_train", "y_train"):
        if name not in arrays:
            raise DataError(f"{path} holds no {name}; it needs x_train and y_train")
    found: dict[str, Any] = {}
    for part, name in _PARTS.items():
        for kind, what, read in (("x", "images", _images), ("y", "labels", _labels)):
            if f"{kind}_{name}" in arrays:
                key = f"{kind}_{name}"
                found[f"{part}_{what}"] = read(f"{path}: {key}", arrays[key])
    names = arrays.get(_CLASSES)
    return RawData(
        params.source,
        **found,
        files={path.name: file_hash(path, "sha256")},
        classes=() if names is None else tuple(map(str, names.tolist())),
    )


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise DataError(
                f"data.folder = {str(path)!r} is no file; source npz reads an .npz file"
            )
        with zipfile.ZipFile(path) as file:
            for member in file.infolist():
                if member.file_size > _LARGEST:
                    raise DataError(
                        f"{path}: {member.filename} announces {member.file_size:,} bytes; allowed "
                        f"are {_LARGEST:,}"
                    )
        # Never unpickled: arrays of objects are refused.
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except FileNotFoundError:
        raise DataError(
            f"data.folder = {str(path)!r} is missing; it must be an .npz file"
        ) from None
    except MemoryError:
        raise DataError(f"{path} announces more than fits into memory") from None
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        if "allow_pickle" in reason:
            reason = "an array of objects, which would have to be unpickled; save numbers or text"
        raise DataError(f"{path} cannot be read as .npz: {reason}") from None


def _images(what: str, array: NDArray[Any]) -> Images:
    if array.dtype != np.uint8 or array.ndim not in {3, 4}:
        raise DataError(
            f"{what} is {array.dtype} {array.shape}; allowed: uint8, (N, height, width) or (N, "
            "height, width, 1 or 3)"
        )
    if array.ndim == 3:
        return array[:, np.newaxis]
    if array.shape[3] not in {1, 3}:
        cure = ": transpose(0, 2, 3, 1) puts channels last" if array.shape[1] in {1, 3} else ""
        raise DataError(f"{what} has {array.shape[3]} channels, and 1 or 3 are allowed{cure}")
    return np.ascontiguousarray(array.transpose(0, 3, 1, 2))


def _labels(what: str, array: NDArray[Any]) -> Labels:
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.integer):
        raise DataError(f"{what} is {array.dtype} {array.shape}; allowed: whole numbers, (N,)")
    return array.astype(np.int64)


NPZ = Source(read_npz, reads_folder=True)
