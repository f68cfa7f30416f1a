"""A data set as its source gives it, and what a source is."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sparse_sam.data.registry import SOURCES
from sparse_sam.errors import DataError

if TYPE_CHECKING:
    from sparse_sam.data.params import DataParams


@dataclass(frozen=True)
class RawData:
    """A data set before it is split for validation.

    Attributes:
        source: the name of the source.
        train_images: uint8, (N, height, width).
        train_labels: int64, (N,), from 0; every class has an image.
        test_images: uint8, (M, height, width).
        test_labels: int64, (M,).
        files: SHA-256 of the files that it was read from, by name.

    Raises:
        DataError: the arrays do not fit together, a label is negative, or a class is empty.
    """

    source: str
    train_images: NDArray[np.uint8]
    train_labels: NDArray[np.int64]
    test_images: NDArray[np.uint8]
    test_labels: NDArray[np.int64]
    files: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        parts = (
            ("training", self.train_images, self.train_labels),
            ("test", self.test_images, self.test_labels),
        )
        for part, images, labels in parts:
            if images.ndim != 3 or images.dtype != np.uint8:
                raise DataError(
                    f"{self.source}: the {part} images must be bytes (N, height, width)"
                )
            if images.shape[1:] != self.train_images.shape[1:]:
                raise DataError(f"{self.source}: the {part} images have another shape")
            if labels.shape != (len(images),) or labels.dtype != np.int64:
                raise DataError(f"{self.source}: there must be one {part} label an image, int64")
            if not images.size:
                raise DataError(f"{self.source}: there is no {part} image")
            if labels.min() < 0:
                raise DataError(
                    f"{self.source}: a {part} label is {labels.min()}; labels must not be negative"
                )
        classes = self.num_classes
        for part, _, labels in parts:
            counts = np.bincount(labels, minlength=classes)
            if len(counts) > classes:
                raise DataError(
                    f"{self.source}: the {part} labels go up to {len(counts) - 1}, and those of "
                    f"training up to {classes - 1}"
                )
            if not counts.all():
                empty = np.flatnonzero(counts == 0).tolist()
                raise DataError(
                    f"{self.source}: no {part} image has the label "
                    f"{', '.join(map(str, empty))}; labels must be 0 to {classes - 1}, each used"
                )

    @property
    def num_classes(self) -> int:
        """How many classes the training labels name."""
        return int(self.train_labels.max()) + 1


@dataclass(frozen=True)
class Source:
    """Where data come from: a function of the parameters, and which of them it uses.

    A plain function will do for a source of one's own; it may use ``folder`` and ``mirror`` as it
    likes.

    Attributes:
        read: reads the data, and downloads them if need be.
        reads_folder: whether ``data.folder`` says where they lie; it must be null otherwise.
        has_mirrors: whether ``data.mirror`` may say where else they are.
    """

    read: "Callable[[DataParams], RawData]"
    reads_folder: bool = False
    has_mirrors: bool = False

    def __call__(self, params: "DataParams") -> RawData:
        """Read the data. Raises DataError."""
        return self.read(params)


def load_raw(params: "DataParams") -> RawData:
    """The data set that ``params.source`` names.

    Raises:
        ConfigError: the source cannot be imported.
        DataError: it has no sound data, or a function of one's own gives something else.
    """
    raw = SOURCES.load(params.source)(params)
    if not isinstance(raw, RawData):
        raise DataError(f"data.source = {params.source!r} gave {type(raw).__name__}, not RawData")
    return raw
