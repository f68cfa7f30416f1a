"""One .npz file: Keras's names and shapes, and never anything that is unpickled."""

import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from sparse_sam.data.loading import load_raw
from sparse_sam.data.params import DataParams
from sparse_sam.data.raw import RawData
from sparse_sam.errors import DataError

MakeParams = Callable[..., DataParams]
PIXELS = np.random.default_rng(0).integers(0, 256, (6, 5, 4, 3), np.uint8)
LABELS = np.array([0, 1, 2, 0, 1, 2])


@pytest.fixture
def read(data_params: MakeParams, tmp_path: Path) -> Callable[..., RawData]:
    def load(**arrays: NDArray[Any]) -> RawData:
        path = tmp_path / "images.npz"
        np.savez_compressed(path, **arrays)
        return load_raw(data_params(source="npz", folder=str(path)))

    return load


def test_arrays_are_read_with_channels_last(read: Callable[..., RawData]) -> None:
    names = np.array(["ant", "bee", "Käfer"])
    raw = read(
        x_train=PIXELS,
        y_train=LABELS.astype(np.uint8)[:, None],
        x_test=PIXELS[::-1],
        y_test=LABELS[::-1],
        x_val=PIXELS[:3],
        y_val=LABELS[:3],
        classes=names,
    )
    np.testing.assert_array_equal(raw.train_images, PIXELS.transpose(0, 3, 1, 2))
    assert raw.train_labels.tolist() == LABELS.tolist()
    assert raw.train_labels.dtype == np.int64
    assert raw.test_images is not None
    np.testing.assert_array_equal(raw.test_images, raw.train_images[::-1])
    assert raw.validation_labels is not None
    assert raw.validation_labels.tolist() == [0, 1, 2]
    assert raw.classes == ("ant", "bee", "Käfer")
    assert list(raw.files) == ["images.npz"]


def test_grey_needs_no_channel_and_classes_no_names(read: Callable[..., RawData]) -> None:
    for pixels in (PIXELS[..., 0], PIXELS[..., :1]):
        raw = read(x_train=pixels, y_train=LABELS)
        np.testing.assert_array_equal(raw.train_images[:, 0], PIXELS[..., 0])
        assert (raw.classes, raw.test_images) == (("0", "1", "2"), None)


def test_names_in_bytes_are_text(read: Callable[..., RawData]) -> None:
    names = np.array([name.encode() for name in ("ant", "bee", "Käfer")])
    assert read(x_train=PIXELS, y_train=LABELS, classes=names).classes == ("ant", "bee", "Käfer")


class Payload:
    def __reduce__(self) -> Any:
        return os.system, ("touch unpickled",)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"x_train": None}, "holds no x_train; it needs x_train and y_train"),
        ({"y_train": None}, "holds no y_train"),
        ({"X_train": PIXELS}, "holds X_train; allowed: classes, x_test"),
        ({"x_train": PIXELS / 255}, "x_train is float64 (6, 5, 4, 3); allowed: uint8"),
        ({"x_train": PIXELS.reshape(6, -1)}, "x_train is uint8 (6, 60); allowed"),
        ({"x_train": PIXELS.transpose(0, 3, 1, 2)}, "transpose(0, 2, 3, 1) puts channels last"),
        ({"x_train": np.zeros((6, 5, 4, 2), np.uint8)}, "x_train has 2 channels"),
        ({"y_train": LABELS / 2}, "y_train is float64 (6,); allowed: whole numbers"),
        ({"y_train": np.eye(6)[LABELS].astype(int)}, "y_train is int64 (6, 6)"),
        (
            {"y_train": LABELS[:5]},
            "the train part needs one int64 label per image; it has 6 images",
        ),
        ({"y_train": LABELS - 1}, "the train label -1 is out of range"),
        ({"y_train": LABELS - 5}, "the train label -5 is out of range; allowed: 0 to 9,999"),
        (
            {"y_train": LABELS * 10**9},
            "the train label 2000000000 is out of range; allowed: 0 to 9,999",
        ),
        ({"y_train": LABELS.astype(np.uint64) + np.uint64(2**63)}, "label is 9223372036854775810;"),
        ({"y_train": LABELS * 0}, "the data set has 1 classes (0); allowed: 2 to 10,000"),
        (
            {"classes": np.array("abc")},
            "classes is <U3 (); allowed: one name per class, (classes,)",
        ),
        ({"classes": np.array([["a", "b", "c"]])}, "classes is <U1 (1, 3); allowed: one name per"),
        ({"y_train": LABELS * 2}, "the train part has no image of class 1, 3;"),
        ({"x_test": PIXELS}, "the test part needs both images and labels"),
        ({"x_test": PIXELS[:, :4], "y_test": LABELS}, "the test images have the shape (3, 4, 4)"),
        ({"x_test": PIXELS[..., 0], "y_test": LABELS}, "the test images have the shape (1, 5, 4)"),
        ({"classes": np.array(["a", "b"])}, "labels go up to 2, but there are only 2 classes"),
        ({"classes": np.array(["a", "b", "c", "d"])}, "the train part has no image of class d"),
        ({"classes": np.array(["a", "b", "b"])}, "two classes are called 'b'"),
        ({"classes": np.array(["a", "b", ""])}, "'' cannot be a class name"),
        ({"classes": np.array(["a", "b", Payload()], object)}, "have to be unpickled"),
        ({"x_train": np.array([Payload()] * 6, object)}, "have to be unpickled"),
    ],
)
def test_what_is_wrong_is_said(
    read: Callable[..., RawData],
    changes: dict[str, Any],
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    arrays = {"x_train": PIXELS, "y_train": LABELS, **changes}
    with pytest.raises(DataError) as raised:
        read(**{name: array for name, array in arrays.items() if array is not None})
    assert reason in str(raised.value)
    assert not Path("unpickled").exists()


def test_files_that_are_no_archive_of_arrays_are_refused(
    data_params: MakeParams, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "text").write_text("x_train")
    (tmp_path / "pickle").write_bytes(pickle.dumps({"x_train": PIXELS}))
    np.savez(tmp_path / "whole.npz", x_train=PIXELS, y_train=LABELS)
    whole = (tmp_path / "whole.npz").read_bytes()
    (tmp_path / "cut").write_bytes(whole[: len(whole) // 2])
    damaged = bytearray(whole)
    damaged[300] ^= 1
    (tmp_path / "damaged").write_bytes(damaged)
    with zipfile.ZipFile(tmp_path / "bomb", "w", zipfile.ZIP_DEFLATED) as file:
        header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({2**50},), }}".ljust(117)
        file.writestr("x_train.npy", b"\x93NUMPY\x01\x00\x76\x00" + header.encode() + b"\n")
    for name in ("pipe", "folder", "text", "pickle", "cut", "damaged", "bomb", "nothing"):
        path = tmp_path / name
        with pytest.raises(DataError) as raised:
            load_raw(data_params(source="npz", folder=str(path)))
        assert str(path) in str(raised.value)
        assert "\n" not in str(raised.value)
