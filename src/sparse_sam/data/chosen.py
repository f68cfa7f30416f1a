"""Some of many images, which stay where they are until they are asked for."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from sparse_sam.data.raw import Images


@dataclass(frozen=True)
class Chosen:
    """Images of an array, in an order: no copy of them, which may lie in a file.

    Attributes:
        images: uint8, (N, channels, height, width).
        places: int64, (n,): which of them.
    """

    images: Images
    places: NDArray[np.int64]

    @classmethod
    def of(cls, images: "Images | Chosen", places: NDArray[np.int64]) -> Self:
        """Some of an array's images, or of some."""
        if isinstance(images, Chosen):
            return cls(images.images, images.places[places])
        return cls(images, places)

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, channels, height, width)."""
        return (len(self.places), *self.images.shape[1:])

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of bytes."""
        return self.images.dtype

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, rows: slice | NDArray[np.int64], /) -> Images:
        """A copy of some of them."""
        return self.images[self.places[rows]]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """All of them, in memory. Raises ValueError if no copy may be made."""
        if copy is False:
            raise ValueError("images that lie apart are copied to be one array")
        return np.asarray(self[:], dtype)
