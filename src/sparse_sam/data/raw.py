"""A data set as its source gives it, and what a source is."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sparse_sam.errors import DataError

if TYPE_CHECKING:
    from sparse_sam.data.params import DataParams

LONGEST_CLASS_NAME, MOST_CLASSES = 100, 10_000

Images = NDArray[np.uint8]
"""(N, channels, height, width), of 1 or 3 channels."""
Labels = NDArray[np.int64]
"""(N,), from 0."""


@dataclass(frozen=True)
class RawData:
    """A data set before it is split.

    Attributes:
        source: the name of the source.
        train_images: uint8, (N, channels, height, width) of 1 or 3 channels, or (N, height, width).
        train_labels: int64, (N,), from 0; every class has an image.
        test_images: uint8, (M, …); None where the source has no test part: ``data.test_fraction``
            of the training images are split off then.
        test_labels: int64, (M,), or None.
        files: SHA-256 of the files that it was read from, by name.
        classes: their names, in the order of the labels; () calls them by their numbers.
        validation_images: uint8, (K, …), or None: ``data.validation_fraction`` is held out then.
        validation_labels: int64, (K,), or None.

    Raises:
        DataError: the arrays do not fit together, a label is negative or too large, there are
            fewer than two classes or too many, one is empty, or a name cannot be one.
    """

    source: str
    train_images: Images
    train_labels: Labels
    test_images: Images | None = None
    test_labels: Labels | None = None
    files: dict[str, str] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    validation_images: Images | None = None
    validation_labels: Labels | None = None

    def __post_init__(self) -> None:
        for part in ("train", "test", "validation"):
            images = getattr(self, f"{part}_images")
            if isinstance(images, np.ndarray) and images.ndim == 3:
                object.__setattr__(self, f"{part}_images", images[:, np.newaxis])
        for part, (images, labels) in self.parts.items():
            self._check_arrays(part, images, labels)
            self._check_bounds(part, labels)  # before a table is made of so many classes
        if not self.classes:
            numbers = map(str, range(int(self.train_labels.max()) + 1))
            object.__setattr__(self, "classes", tuple(numbers))
        self._check_classes()
        for part, (_, labels) in self.parts.items():
            self._check_labels(part, labels)

    @property
    def parts(self) -> dict[str, tuple[Images, Labels]]:
        """Images and labels of the parts that the source has: train, and test and validation."""
        pairs = {
            "train": (self.train_images, self.train_labels),
            "test": (self.test_images, self.test_labels),
            "validation": (self.validation_images, self.validation_labels),
        }
        for part, (images, labels) in pairs.items():
            if (images is None) != (labels is None):
                raise DataError(f"{self.source}: the {part} part needs both images and labels")
        return {
            part: (images, labels)
            for part, (images, labels) in pairs.items()
            if images is not None and labels is not None
        }

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.classes)

    def _check_arrays(self, part: str, images: Images, labels: Labels) -> None:
        if images.ndim != 4 or images.dtype != np.uint8 or images.shape[1] not in {1, 3}:
            raise DataError(
                f"{self.source}: the {part} images must be uint8, (N, height, width) or (N, "
                f"channels, height, width) with 1 or 3 channels, not {images.dtype} "
                f"{images.shape}"
            )
        if images.shape[1:] != self.train_images.shape[1:]:
            raise DataError(
                f"{self.source}: the {part} images have the shape {images.shape[1:]}, but the "
                f"training images have {self.train_images.shape[1:]} (channels, height, width)"
            )
        if labels.shape != (len(images),) or labels.dtype != np.int64:
            raise DataError(
                f"{self.source}: the {part} part needs one int64 label per image; it has "
                f"{len(images)} images, and labels {labels.dtype} {labels.shape}"
            )
        if not images.size:
            raise DataError(f"{self.source}: the {part} part has no images")

    def _check_classes(self) -> None:
        if not 2 <= len(self.classes) <= MOST_CLASSES:
            names = ", ".join(str(name)[:LONGEST_CLASS_NAME] for name in self.classes[:3])
            raise DataError(
                f"{self.source}: the data set has {len(self.classes)} classes ({names}"
                f"{', …' if len(self.classes) > 3 else ''}); allowed: 2 to {MOST_CLASSES:,}. "
                "Change what is in data.folder, or what your function returns."
            )
        for name in self.classes:
            if not is_class_name(name):
                raise DataError(
                    f"{self.source}: {str(name)[:120]!a} cannot be a class name; use printable "
                    f"text of 1 to {LONGEST_CLASS_NAME} characters"
                )
        if len(set(self.classes)) < len(self.classes):
            twice = next(name for name in self.classes if self.classes.count(name) > 1)
            raise DataError(f"{self.source}: two classes are called {twice!r}")

    def _check_bounds(self, part: str, labels: Labels) -> None:
        for label in (int(labels.min()), int(labels.max())):
            if not is_label(label):
                raise DataError(
                    f"{self.source}: the {part} label {label} is out of range; allowed: 0 to "
                    f"{MOST_CLASSES - 1:,}"
                )

    def _check_labels(self, part: str, labels: Labels) -> None:
        counts = np.bincount(labels, minlength=self.num_classes)
        if len(counts) > self.num_classes:
            raise DataError(
                f"{self.source}: the {part} labels go up to {len(counts) - 1}, but there are "
                f"only {self.num_classes} classes, 0 to {self.num_classes - 1}"
            )
        if not counts.all():
            empty = [self.classes[label] for label in np.flatnonzero(counts == 0)]
            raise DataError(
                f"{self.source}: the {part} part has no image of class "
                f"{', '.join(empty[:5])}{', …' if len(empty) > 5 else ''}; every part needs "
                f"images of all {self.num_classes} classes"
            )


def is_class_name(name: object) -> bool:
    """Whether a class may be called so, where names are shown and written into headers."""
    return isinstance(name, str) and 0 < len(name) <= LONGEST_CLASS_NAME and name.isprintable()


def is_label(label: int) -> bool:
    """Whether a label can be one, however many classes there are."""
    return 0 <= label < MOST_CLASSES


def named(classes: Iterable[Any]) -> tuple[str, ...]:
    """Names of classes as text; bytes, as NumPy keeps them, are UTF-8."""
    return tuple(
        name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)
        for name in classes
    )


@dataclass(frozen=True)
class Source:
    """Where data come from: a function of the parameters, and which of them it uses.

    A plain function will do for a source of one's own; it may use them as it likes.

    Attributes:
        read: reads the data, and downloads them if need be.
        reads_folder: whether ``data.folder`` says where they lie; it must be null otherwise.
        has_mirrors: whether ``data.mirror`` may say where else they are.
        decodes: whether it decodes pictures, so that ``data.channels`` and ``data.image_size`` may
            say how; they must be null otherwise.
        on_disk: whether it keeps pixels in files that are mapped, and not in memory: ``read`` is
            told in which folder, too.
    """

    read: "Callable[..., RawData]"
    reads_folder: bool = False
    has_mirrors: bool = False
    decodes: bool = False
    on_disk: bool = False

    def __call__(self, params: "DataParams", folder: Path | None = None) -> RawData:
        """Read the data; ``folder`` is that of ``mapped``. Raises DataError."""
        return self.read(params, folder) if self.on_disk else self.read(params)
