"""Pixels that lie on disk and are mapped: a data set is made in no more memory than a few images.

The file has no name, so that nothing is left of it when the process ends, however it ends.
"""

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray


def mapped(content: Iterable[Any], folder: Path | None) -> NDArray[np.uint8]:
    """What buffers hold, one after the other, in a file that is mapped: read-only, (bytes,).

    Args:
        content: buffers, such as contiguous arrays; each is written before the next is asked for.
        folder: where the disk has room for all of it; None takes the system's temporary folder,
            which may lie in memory.

    Raises:
        OSError: the disk does not take it.
    """
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder) as file:
        # Written and then mapped: a page that is mapped and has no room on a full disk ends the
        # process without a word.
        for piece in content:
            _write(file, piece)
        _write(file, None)
        if not file.tell():
            return np.empty(0, np.uint8)
        return np.memmap(file, np.uint8, "r")


def _write(file: IO[bytes], piece: Any) -> None:
    """Write a piece, or with None what has not reached the disk; the error says what was meant."""
    try:
        if piece is None:
            file.flush()
        else:
            file.write(piece)
    except OSError as error:
        where = "the images, in a temporary file"
        raise OSError(error.errno, error.strerror, where) from None
