"""A data set before it is tensors: its parts as arrays, what it is, and how it is written.

Nothing here needs torch, whose import takes longer than the digits do.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from sparse_sam.data.chosen import Chosen
from sparse_sam.data.raw import Images
from sparse_sam.errors import DataError
from sparse_sam.files import Rows, save_arrays

KIND, VERSION = "data set", 2
PARTS = ("train", "validation", "test")

Part = tuple[Images | Chosen, NDArray[np.int64]]
"""Images, uint8 (N, channels, height, width), and labels, (N,).

Images may lie in files, and are read a few at once.
"""


_TUPLES = ("image_shape", "classes", "mean", "std")


@dataclass(frozen=True)
class DataInfo:
    """What a data set is.

    Attributes:
        source: the name of the source.
        fingerprint: SHA-256 over the classes' names, and the shapes and bytes of every part.
        image_shape: (channels, height, width).
        classes: their names, in the order of the labels.
        mean: mean of the training part's pixels in each channel, on the scale from 0 to 1.
        std: their standard deviations.
        counts: how many images of every class each part holds.
        files: SHA-256 of the files that the source read, by name.
    """

    source: str
    fingerprint: str
    image_shape: tuple[int, int, int]
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    counts: dict[str, list[int]]
    files: dict[str, str]

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """Read back what ``to_json`` gave. Raises KeyError or TypeError if it is not that."""
        channels, height, width = fields["image_shape"]
        lists = {name: tuple(fields[name]) for name in ("classes", "mean", "std")}
        return cls(**{**fields, **lists, "image_shape": (channels, height, width)})

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        lists = {name: list(getattr(self, name)) for name in _TUPLES}
        return {**asdict(self), **lists}

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.classes)


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
            named = zip(self.info.classes, counts, strict=True)
            empty = [name for name, count in named if not count]
            if empty:
                raise DataError(
                    f"{self.info.source}: the {part} part of {sum(counts)} images has none of "
                    f"class {', '.join(empty)}. Increase data.fraction, or change "
                    "data.validation_fraction (0 splits off no validation part)."
                )


def save_dataset(path: Path, dataset: Dataset) -> None:
    """Write a data set atomically, a piece at a time; equal data sets give equal bytes."""
    arrays: dict[str, Rows] = {}
    for name, (images, labels) in dataset.parts.items():
        arrays[f"{name}.images"] = images
        arrays[f"{name}.labels"] = labels
    header = {"info": dataset.info.to_json()}
    save_arrays(path, arrays, kind=KIND, version=VERSION, header=header)
