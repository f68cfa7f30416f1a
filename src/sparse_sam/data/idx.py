"""A strict reader of MNIST's idx format, plain or gzip.

Our own, because torchvision's reader asserts on malformed input and reads no gzip. Nothing here
trusts a file: sizes are checked before memory is taken, and a gzip stream is inflated to the size
that its header announces and no further.
"""

import gzip
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, cast

import numpy as np
from numpy.typing import NDArray

from sparse_sam.errors import DataError

Bytes = NDArray[np.uint8]

NAMES = {
    "train_images": "train-images-idx3-ubyte",
    "train_labels": "train-labels-idx1-ubyte",
    "test_images": "t10k-images-idx3-ubyte",
    "test_labels": "t10k-labels-idx1-ubyte",
}
"""The four files of a data set, under the names that MNIST gave them.

Some copies spell them with a dot (``train-images.idx3-ubyte``); both are found.
"""

_UNSIGNED_BYTE = 0x08
_LARGEST = 2 * 1024**3
_CURE = "Download the file again, or set data.folder to a folder with the complete data set."


def read_idx(path: Path, dimensions: int) -> Bytes:
    """The array of an idx file of unsigned bytes.

    Args:
        path: the file; gzip is recognised by its first bytes, not by its name.
        dimensions: 3 for images (N, height, width), 1 for labels (N,).

    Raises:
        DataError: missing, unreadable, damaged, or not an idx file of that shape.
    """
    try:
        with path.open("rb") as plain:
            zipped = plain.read(2) == b"\x1f\x8b"
            plain.seek(0)
            if not zipped:
                return _read(path, plain, dimensions)
            with gzip.open(plain) as inflated:
                return _read(path, cast("IO[bytes]", inflated), dimensions)
    except FileNotFoundError:
        raise DataError(f"{path} is missing. {_CURE}") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is damaged (gzip: {error}). {_CURE}") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}). {_CURE}") from None


def _read(path: Path, file: IO[bytes], dimensions: int) -> Bytes:
    size = 4 + 4 * dimensions
    header = file.read(size)
    magic = header[:4].hex()
    expected = bytes([0, 0, _UNSIGNED_BYTE, dimensions]).hex()
    if magic != expected:
        raise DataError(
            f"{path} is not an idx file of bytes with {dimensions} dimensions: it starts with "
            f"{magic or 'nothing'}, not {expected}. {_CURE}"
        )
    if len(header) < size:
        raise DataError(f"{path} is damaged: it ends within its header. {_CURE}")
    shape = tuple(int(value) for value in np.frombuffer(header, ">u4", offset=4))
    count = 1
    for side in shape:
        count *= side  # exact, where NumPy's product would wrap around
    if not 0 < count <= _LARGEST:
        raise DataError(
            f"{path} announces {'×'.join(map(str, shape))} values; allowed: 1 to {_LARGEST}. "
            f"{_CURE}"
        )
    # One byte more than announced tells a file that goes on from one that ends where it should.
    content = _read_at_most(file, count + 1)
    if len(content) != count:
        what = f"only {len(content)}" if len(content) < count else "more"
        raise DataError(
            f"{path} is damaged: its header announces {count} bytes of data, but it holds "
            f"{what}. {_CURE}"
        )
    return np.frombuffer(content, np.uint8).reshape(shape)


def _read_at_most(file: IO[bytes], limit: int) -> bytearray:
    """Read in pieces, so that memory follows what is there and not what a header announces.

    A bytearray, because arrays over it can be written, and torch warns of tensors that cannot.
    """
    content = bytearray()
    while len(content) < limit and (piece := file.read(min(limit - len(content), 1 << 20))):
        content += piece
    return content


def read_folder(folder: Path) -> tuple[dict[str, Bytes], dict[str, Path]]:
    """The four arrays of a data set, by the keys of ``NAMES``, and the files that hold them.

    Each file may be plain or end in ``.gz``.

    Raises:
        DataError: the folder or a file is missing, a file is a link out of the folder, or the
            files are not a data set (see ``read_files``).
    """
    try:
        if not folder.is_dir():
            raise DataError(
                f"data.folder = {str(folder)!r} is not a folder. It must hold {_listing()}."
            )
        files = {key: _find(folder, name) for key, name in NAMES.items()}
    except OSError as error:
        raise DataError(
            f"data.folder = {str(folder)!r} cannot be read: {error.strerror}. It must be a "
            f"folder with {_listing()}."
        ) from None
    return read_files(files), files


def read_files(files: Mapping[str, Path]) -> dict[str, Bytes]:
    """The four arrays of a data set from the files that ``files`` names by the keys of ``NAMES``.

    Raises:
        DataError: a file is missing or damaged, images and labels disagree in number, or training
            and test images in shape.
    """
    arrays = {key: read_idx(path, 3 if "images" in key else 1) for key, path in files.items()}
    for part in ("train", "test"):
        images, labels = arrays[f"{part}_images"], arrays[f"{part}_labels"]
        if len(images) != len(labels):
            raise DataError(
                f"{files[f'{part}_images']} holds {len(images)} images, but "
                f"{files[f'{part}_labels']} holds {len(labels)} labels. {_CURE}"
            )
    shapes = arrays["train_images"].shape[1:], arrays["test_images"].shape[1:]
    if shapes[0] != shapes[1]:
        raise DataError(
            f"{files['train_images']} holds images of {shapes[0]}, but {files['test_images']} "
            f"holds images of {shapes[1]}. {_CURE}"
        )
    return arrays


def _find(folder: Path, name: str) -> Path:
    for spelling in (name, name.replace("-idx", ".idx")):
        for path in (folder / spelling, folder / f"{spelling}.gz"):
            if not path.exists():
                continue
            if not path.resolve().is_relative_to(folder.resolve()):
                raise DataError(
                    f"{path} is a link to a place outside its folder. Replace it by a copy of "
                    "the file."
                )
            return path
    raise DataError(
        f"{folder / name} is missing, and {name}.gz too. The folder must hold {_listing()}."
    )


def _listing() -> str:
    return ", ".join(NAMES.values()) + " (each plain or .gz)"
