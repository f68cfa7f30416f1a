"""Fixtures that several test modules share."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    # Only for type checkers: tests that need no torch start without it.
    from collections.abc import Callable, Iterator

    import numpy as np
    import torch
    from numpy.typing import NDArray

    from sparse_sam.data.params import DataParams
    from sparse_sam.data.raw import RawData
    from sparse_sam.data.tensors import Split, TrainingData
    from sparse_sam.training.params import TrainingParams

# No deadline: the machines that run these tests do other things besides.
settings.register_profile("sparse-sam", deadline=None)
settings.register_profile("long", deadline=None, max_examples=2500, database=None)
settings.load_profile("sparse-sam")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the test that takes longest, so that no process waits for it at the end."""
    items.sort(key=lambda item: "six_launchers" not in item.name)


@pytest.fixture(scope="session", autouse=True)
def own_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A store of the tests' own: they neither take what this clone has trained, nor add to it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPARSE_SAM_STORE", str(tmp_path_factory.mktemp("store")))
        yield


TINY_NETS = """
from torch import nn

def with_batchnorm(image_shape, num_classes):
    pixels = image_shape[0] * image_shape[1] * image_shape[2]
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(pixels, 12, bias=False),
        nn.BatchNorm1d(12),
        nn.ReLU(),
        nn.Linear(12, num_classes),
    )
"""


@pytest.fixture(scope="session")
def tiny_net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The name, as in params.yaml, of a network of one's own: two small layers and BatchNorm."""
    folder = tmp_path_factory.mktemp("tiny_nets")
    (folder / "tiny_nets_for_tests.py").write_text(TINY_NETS)
    sys.path.insert(0, str(folder))
    yield "tiny_nets_for_tests:with_batchnorm"
    sys.path.remove(str(folder))


@pytest.fixture(scope="session")
def make_recipe() -> Callable[..., TrainingParams]:
    """A short training recipe, with what the test says otherwise."""
    from sparse_sam.training.params import TrainingParams
    from tests.recipes import training_values

    short = {"epochs": 2, "batch_size": 8, "lr": 0.1, "momentum": 0.0}

    def make(**changes: Any) -> TrainingParams:
        return TrainingParams(**training_values(**{**short, **changes}))

    return make


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's store as it is when new. Making one takes seconds, and a copy does as well."""
    from sparse_sam.tracking.mlflow_store import Tracker

    root = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        Tracker(root).client.search_experiments()
    return root / "mlflow.db"


def make_split(count: int, generator: torch.Generator) -> Split:
    """Images of 5 × 5 in three classes, which a network can learn: a row each is bright."""
    import torch

    from sparse_sam.data.tensors import Split

    labels = torch.arange(count) % 3
    images = 0.5 * torch.randn(count, 1, 5, 5, generator=generator)
    images[torch.arange(count), 0, labels] += 1.0
    return Split(images, labels)


@pytest.fixture(scope="session")
def make_data() -> Callable[..., TrainingData]:
    """A data set in memory: so many images for training and for validation (0: no such part)."""
    import torch

    from sparse_sam.data.dataset import DataInfo
    from sparse_sam.data.tensors import TrainingData

    def make(train: int = 30, validation: int = 15, seed: int = 0) -> TrainingData:
        generator = torch.Generator().manual_seed(seed)
        parts = {"train": make_split(train, generator)}
        if validation:
            parts["validation"] = make_split(validation, generator)
        counts: dict[str, list[int]] = {
            name: torch.bincount(part.labels, minlength=3).tolist() for name, part in parts.items()
        }
        info = DataInfo(
            source="made-for-tests",
            fingerprint=f"{train}/{validation}/{seed}",
            image_shape=(1, 5, 5),
            classes=("0", "1", "2"),
            mean=(0.25,),
            std=(0.5,),
            counts=counts,
            files={},
        )
        return TrainingData(parts["train"], parts.get("validation"), info)

    return make


@pytest.fixture(scope="session")
def data_params() -> Callable[..., DataParams]:
    """Parameters of a data set, those of params.yaml but for what the test says."""
    from sparse_sam.data.params import DataParams

    def make(**changes: Any) -> DataParams:
        values = {
            "source": "mnist-sample",
            "fraction": 1.0,
            "validation_fraction": 0.125,
            "test_fraction": 0.2,
            "split_seed": 0,
            "folder": None,
            "mirror": None,
            "channels": None,
            "image_size": None,
        }
        return DataParams(**{**values, **changes})

    return make


@pytest.fixture(scope="session")
def digits(data_params: Callable[..., DataParams]) -> RawData:
    """5,000 genuine digits, 4,000 of them for training."""
    from sparse_sam.data.loading import load_raw

    return load_raw(data_params())


@pytest.fixture(scope="session")
def write_idx() -> Callable[[Path, NDArray[np.uint8]], Path]:
    """Write bytes as an idx file; with gzip where the name ends in ``.gz``."""
    import gzip
    import struct

    def write(path: Path, array: NDArray[np.uint8]) -> Path:
        header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
        content = header + array.tobytes()
        path.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)
        return path

    return write


@pytest.fixture(scope="session")
def idx_folder(
    digits: RawData,
    write_idx: Callable[[Path, NDArray[np.uint8]], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A folder of four idx files, 200 genuine digits and 50: to be read only."""
    from sparse_sam.data.idx import NAMES

    folder = tmp_path_factory.mktemp("idx")
    for key, count in [
        ("train_images", 200),
        ("train_labels", 200),
        ("test_images", 50),
        ("test_labels", 50),
    ]:
        array = getattr(digits, key)[:count].astype("uint8")
        write_idx(folder / f"{NAMES[key]}.gz", array[:, 0] if "images" in key else array)
    return folder


@pytest.fixture(scope="session")
def shared_mnist() -> Path:
    """All 70,000 digits, where they lie beside the clone; elsewhere the test is skipped."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "mnist"
    if not folder.is_dir():
        pytest.skip("../shared/mnist is not there")
    return folder
