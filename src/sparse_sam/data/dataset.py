"""A data set before it is tensors: its parts as arrays, what it is, and how it is written.

Nothing here needs torch, whose import takes longer than the digits do.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from sparse_sam.errors import DataError
from sparse_sam.files import save_arrays

KIND, VERSION = "data set", 1
PARTS = ("train", "validation", "test")

Part = tuple[NDArray[np.uint8], NDArray[np.int64]]
"""Images, (N, height, width), and labels, (N,)."""


@dataclass(frozen=True)
class DataInfo:
    """What a data set is.

    Attributes:
        source: the name of the source.
        fingerprint: SHA-256 over the shapes and bytes of every part.
        image_shape: (channels, height, width).
        num_classes: how many classes the labels name.
        mean: mean of the training part's pixels, on the scale from 0 to 1.
        std: their standard deviation.
        counts: how many images of every class each part holds.
        files: SHA-256 of the files that the source read, by name.
    """

    source: str
    fingerprint: str
    image_shape: tuple[int, int, int]
    num_classes: int
    mean: float
    std: float
    counts: dict[str, list[int]]
    files: dict[str, str]

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """Read back what ``to_json`` gave. Raises KeyError or TypeError if it is not that."""
        channels, height, width = fields["image_shape"]
        return cls(**{**fields, "image_shape": (channels, height, width)})

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {**asdict(self), "image_shape": list(self.image_shape)}


@dataclass(frozen=True)
class Dataset:
    """A whole data set before it is written, by the names in ``PARTS``.

    Raises:
        DataError: a class is missing from a part: it could not be learned, chosen for, or tested.
    """

    parts: dict[str, Part]
    info: DataInfo

    def __post_init__(self) -> None:
        for part, counts in self.info.counts.items():
            empty = [str(label) for label, count in enumerate(counts) if not count]
            if empty:
                raise DataError(
                    f"{self.info.source}: no {part} image is left of class {', '.join(empty)}; "
                    f"the {part} part would hold {sum(counts)} images. Choose a larger "
                    "data.fraction or another data.validation_fraction (0 holds nothing out)."
                )


def save_dataset(path: Path, dataset: Dataset) -> None:
    """Write a data set atomically; equal data sets give equal bytes."""
    arrays: dict[str, NDArray[Any]] = {}
    for name, (images, labels) in dataset.parts.items():
        arrays[f"{name}.images"] = images[:, np.newaxis]
        arrays[f"{name}.labels"] = labels
    header = {"info": dataset.info.to_json()}
    save_arrays(path, arrays, kind=KIND, version=VERSION, header=header)
