"""Arrays that are larger than memory: gone through a few rows at a time."""

import math
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

_BYTES = 2**20
"""Of a piece; what is made of it (bytes as numbers of eight, to be counted) is larger."""


class Rows(Protocol):
    """What has rows, and gives some of them as an array: an array does."""

    @property
    def shape(self) -> tuple[int, ...]:
        """As an array has it."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Likewise."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice, /) -> NDArray[Any]: ...


def pieces(rows: Rows) -> Iterator[NDArray[Any]]:
    """All rows in order, contiguous, as many at once as 1 MiB holds, or one.

    One after the other they are the bytes of the whole array, however that is laid out.
    """
    if not rows.shape:
        yield np.ascontiguousarray(rows)
        return
    row = math.prod(rows.shape[1:]) * rows.dtype.itemsize
    step = max(1, _BYTES // max(1, row))
    for start in range(0, len(rows), step):
        yield np.ascontiguousarray(rows[start : start + step])
