"""The data set: written byte for byte, and loaded only if it is whole."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from sparse_sam.data.dataset import DataInfo, Dataset, save_dataset
from sparse_sam.data.loading import load_raw
from sparse_sam.data.params import DataParams
from sparse_sam.data.raw import RawData
from sparse_sam.data.stratify import build_dataset
from sparse_sam.data.tensors import Split, load_test_data, load_training_data
from sparse_sam.errors import DataError, SparseSamError
from sparse_sam.files import tensorfile
from sparse_sam.files.tensorfile import TensorFileError

MakeParams = Callable[..., DataParams]
CURE = "Run `dvc repro download`, or `dvc checkout` to restore it."


@pytest.fixture(scope="module")
def dataset(digits: RawData, data_params: MakeParams) -> Dataset:
    return build_dataset(digits, data_params())


@pytest.fixture(scope="module")
def saved(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "dataset.safetensors"
    save_dataset(path, dataset)
    return path


class TestFile:
    def test_what_is_saved_is_loaded_and_standardised(self, saved: Path, dataset: Dataset) -> None:
        training, test = load_training_data(saved), load_test_data(saved)
        assert training.info == test.info == dataset.info
        assert training.validation is not None
        splits = {"train": training.train, "validation": training.validation, "test": test.test}
        for part, split in splits.items():
            images, labels = dataset.parts[part]
            expected = (np.asarray(images) / 255 - dataset.info.mean[0]) / dataset.info.std[0]
            taken = split.taken(slice(None))
            np.testing.assert_allclose(taken.numpy(), expected, rtol=1e-5, atol=1e-6)
            np.testing.assert_array_equal(split.images.numpy(), images)
            assert split.labels.tolist() == labels.tolist()
        standardised = training.train.taken(slice(None))
        assert standardised.mean().item() == pytest.approx(0, abs=1e-4)
        assert standardised.std().item() == pytest.approx(1, abs=1e-4)

    def test_equal_data_sets_give_equal_bytes(
        self, saved: Path, digits: RawData, data_params: MakeParams, tmp_path: Path
    ) -> None:
        save_dataset(tmp_path / "another name", build_dataset(digits, data_params()))
        assert (tmp_path / "another name").read_bytes() == saved.read_bytes()

    def test_the_description_survives_json(self, dataset: Dataset) -> None:
        text = json.dumps(dataset.info.to_json(), allow_nan=False)
        assert DataInfo.from_json(json.loads(text)) == dataset.info

    def test_training_data_has_no_test_part_and_reads_none(
        self, saved: Path, tmp_path: Path
    ) -> None:
        with safe_open(saved, framework="pt") as file:
            needle = bytes(file.get_tensor("test.images").numpy())
        content = bytearray(saved.read_bytes())
        at = content.index(needle)
        content[at] ^= 1
        damaged = tmp_path / "damaged"
        damaged.write_bytes(content)
        training = load_training_data(damaged)
        assert not hasattr(training, "test")
        assert "test" not in vars(training)
        with pytest.raises(TensorFileError, match=r"test\.images has changed"):
            load_test_data(damaged)
        assert set(vars(load_test_data(saved))) == {"test", "info"}

    def test_without_a_validation_part_every_digit_trains(
        self, digits: RawData, data_params: MakeParams, tmp_path: Path
    ) -> None:
        path = tmp_path / "dataset"
        save_dataset(path, build_dataset(digits, data_params(validation_fraction=0.0)))
        training = load_training_data(path)
        assert len(training.train) == 4000
        assert training.validation is None
        assert training.to(torch.device("cpu")).validation is None
        assert set(training.info.counts) == {"train", "test"}

    def test_data_can_be_brought_to_a_device(self, saved: Path) -> None:
        there = torch.device("meta")
        training, test = load_training_data(saved).to(there), load_test_data(saved).to(there)
        assert training.validation is not None
        for split in (training.train, training.validation, test.test):
            assert split.images.device == split.labels.device == there

    @pytest.mark.filterwarnings("error")
    def test_all_of_mnist_trains_from_a_folder(
        self, shared_mnist: Path, data_params: MakeParams, tmp_path: Path
    ) -> None:
        params = data_params(source="idx", folder=str(shared_mnist), validation_fraction=0.0)
        dataset = build_dataset(load_raw(params), params)
        save_dataset(tmp_path / "dataset", dataset)
        info = load_test_data(tmp_path / "dataset").info
        assert {part: sum(counts) for part, counts in info.counts.items()} == {
            "train": 60_000,
            "test": 10_000,
        }
        # The figures that the field knows.
        assert (round(info.mean[0], 4), round(info.std[0], 4)) == (0.1307, 0.3081)


def parts() -> dict[str, Tensor]:
    return {
        "train.images": torch.arange(16, dtype=torch.uint8).view(4, 1, 2, 2),
        "train.labels": torch.tensor([0, 1, 0, 1]),
        "test.images": torch.zeros(2, 1, 2, 2, dtype=torch.uint8),
        "test.labels": torch.tensor([1, 0]),
    }


def description(**changes: Any) -> dict[str, Any]:
    fields = {
        "source": "here",
        "fingerprint": "0",
        "image_shape": [1, 2, 2],
        "classes": ["cat", "dog"],
        "mean": [0.5],
        "std": [0.5],
        "counts": {"train": [2, 2], "test": [1, 1]},
        "files": {},
    }
    return {name: value for name, value in {**fields, **changes}.items() if value is not None}


class TestDamage:
    """Files that are whole as tensor files, and are no data sets."""

    def write(self, path: Path, tensors: dict[str, Tensor], info: Any) -> Path:
        header = {} if info is None else {"info": info}
        tensorfile.save_tensors(path, tensors, kind="data set", version=2, header=header)
        return path

    def assert_refused(self, path: Path, reason: str) -> None:
        with pytest.raises(SparseSamError) as raised:
            load_training_data(path)
        message = str(raised.value)
        assert message.startswith(str(path))
        assert reason in message
        assert message.endswith(CURE)

    def test_the_example_is_whole(self, tmp_path: Path) -> None:
        assert (
            len(load_training_data(self.write(tmp_path / "x", parts(), description())).train) == 4
        )

    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"train.images": None}, "it holds ['train.labels'], but its header names"),
            ({"train.extra": torch.zeros(1)}, "it holds ['train.extra', 'train.images'"),
            ({"train.images": torch.zeros(4, 1, 2, 2)}, "train.images must be bytes"),
            ({"train.images": torch.zeros(4, 1, 2, 3).byte()}, "of shape (1, 2, 2)"),
            ({"train.images": torch.zeros(3, 1, 2, 2).byte()}, "int64, one per image"),
            ({"train.labels": torch.tensor([0, 1, 0, 1]).int()}, "labels must be int64"),
            ({"train.labels": torch.tensor([0, 1, 0, 2])}, "train.labels must be 0 to 1"),
            ({"train.labels": torch.tensor([0, 1, 0, -1])}, "train.labels must be 0 to 1"),
            ({"train.labels": torch.tensor([0, 1, 1, 1])}, "train.labels do not match the counts"),
            (
                {
                    "train.images": torch.zeros(0, 1, 2, 2).byte(),
                    "train.labels": torch.zeros(0, dtype=torch.int64),
                },
                "must hold at least one image",
            ),
        ],
    )
    def test_tensors_that_do_not_fit_are_refused(
        self, tmp_path: Path, changes: dict[str, Tensor | None], reason: str
    ) -> None:
        tensors = {
            name: value for name, value in {**parts(), **changes}.items() if value is not None
        }
        self.assert_refused(self.write(tmp_path / "dataset", tensors, description()), reason)

    @pytest.mark.parametrize(
        ("info", "reason"),
        [
            (None, "its header lacks source, fingerprint, image_shape"),
            (description(mean=None, files=None), "its header lacks mean, files"),
            (description(surprise=1), "surprise"),
            (description(image_shape=[2, 2]), "damaged ("),
            (description(std=[0.0]), "standard deviation (0.0,) is not valid"),
            (description(std="wide"), "damaged ("),
            (description(classes="ten"), "its counts are not those of 3 classes"),
            (description(std=[0.5] * 3), "is not valid"),
            (description(classes=["cat", "\x1b[31m"]), "a class name is not valid"),
            (description(classes=["cat", 3]), "a class name is not valid"),
            (description(counts=[2, 2]), "damaged ("),
            (description(classes=["only"]), "its counts are not those of 1 classes"),
            (description(classes=2), "damaged ("),
            (description(image_shape=[1.0, 2, 2]), "must be whole numbers"),
            (description(mean=[10**400]), "is not valid"),
            (description(mean=[True]), "is not valid"),
            (description(source=["here"]), "source must be text"),
            (description(source="a\x1b[31m"), "source must be text"),
            (description(fingerprint="0" * 1000), "fingerprint must be text"),
            ([1], "its header lacks"),
            (["source"], "its header lacks"),
            (7, "damaged ("),
            (description(counts={"train": [2, 2]}), "its parts are ['train']"),
            (description(counts={"test": [1, 1]}), "its parts are ['test']"),
            (
                description(counts={"train": [2, 2], "test": [1, 1], "more": [1, 1]}),
                "its parts are ['more', 'test', 'train']",
            ),
            (
                description(counts={"train": [2, 2], "validation": [1, 1], "test": [1, 1]}),
                "its header names",
            ),
        ],
    )
    def test_headers_that_do_not_fit_are_refused(
        self, tmp_path: Path, info: dict[str, Any] | None, reason: str
    ) -> None:
        self.assert_refused(self.write(tmp_path / "dataset", parts(), info), reason)

    def test_other_files_are_refused(self, tmp_path: Path, saved: Path) -> None:
        self.assert_refused(tmp_path / "nothing", "is missing")
        (tmp_path / "cut").write_bytes(saved.read_bytes()[:-1])
        self.assert_refused(tmp_path / "cut", "is damaged")
        tensorfile.save_tensors(tmp_path / "mask", {}, kind="mask", version=1, header={})
        self.assert_refused(tmp_path / "mask", "is a mask, not a data set")
        tensorfile.save_tensors(tmp_path / "new", parts(), kind="data set", version=3, header={})
        self.assert_refused(tmp_path / "new", "has format version 3")


IMAGES, LABELS = torch.zeros(2, 1, 2, 2), torch.tensor([0, 1])


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (IMAGES.byte(), LABELS),
        (IMAGES.double(), LABELS),
        (IMAGES[0], LABELS),
        (IMAGES, LABELS.int()),
        (IMAGES, LABELS[:1]),
        (IMAGES, LABELS[:, None]),
        (IMAGES[:0], LABELS[:0]),
    ],
)
def test_a_split_that_cannot_be_is_refused(images: Tensor, labels: Tensor) -> None:
    assert len(Split(IMAGES, LABELS)) == 2
    with pytest.raises(DataError):
        Split(images, labels)


def test_loading_imports_nothing_that_only_downloading_needs() -> None:
    """A training stage would wait seconds for them."""
    code = (
        "import sys\n"
        "import sparse_sam.data.tensors, sparse_sam.data.idx, sparse_sam.data.sources\n"
        "import sparse_sam.data.downloads\n"
        "print({'mlxtend', 'sklearn', 'torchvision'} & set(sys.modules))"
    )
    assert run_alone(code) == "set()"


def test_digits_are_split_and_written_without_torch(tmp_path: Path) -> None:
    """Its import takes longer than they do."""
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "import sparse_sam.stages.download, sparse_sam.stages.runner\n"
        "from sparse_sam.config import REFERENCE, load_params\n"
        "from sparse_sam.data.dataset import save_dataset\n"
        "from sparse_sam.data.loading import load_raw\n"
        "from sparse_sam.data.stratify import build_dataset\n"
        "params = load_params(REFERENCE).data\n"
        f"save_dataset(Path({str(tmp_path / 'data')!r}), build_dataset(load_raw(params), params))\n"
        "print('torch' in sys.modules)"
    )
    assert run_alone(code) == "False"
    assert len(load_training_data(tmp_path / "data").train) == 3500


def run_alone(code: str) -> str:
    """What a process of its own prints."""
    root = Path(tensorfile.__file__).parents[3]
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=root,
        env={"PYTHONPATH": f"{root / 'src'}{os.pathsep}{root}", "PATH": ""},
    )
    return run.stdout.strip()
