"""The idx reader: what was written is read, and everything else is an error that says why."""

import gzip
import shutil
import struct
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from sparse_sam.data.idx import NAMES, read_files, read_folder, read_idx
from sparse_sam.errors import DataError

Write = Callable[[Path, NDArray[np.uint8]], Path]

SHAPES = st.one_of(array_shapes(min_dims=1, max_dims=1), array_shapes(min_dims=3, max_dims=3))
ARRAYS = arrays(np.uint8, SHAPES)
NAME = st.sampled_from(["file", "file.gz"])
LABELS = np.arange(10, dtype=np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")


def header(*shape: int, kind: int = 8) -> bytes:
    return struct.pack(f">BBBB{len(shape)}I", 0, 0, kind, len(shape), *shape)


def assert_refused(path: Path, reason: str, dimensions: int = 1) -> None:
    with pytest.raises(DataError) as raised:
        read_idx(path, dimensions)
    message = str(raised.value)
    assert message.startswith(str(path))
    assert reason in message
    assert message.endswith(
        "Download the file again, or set data.folder to a folder with the complete data set."
    )


@given(array=ARRAYS, name=NAME)
def test_what_is_written_is_read(folder: Path, write_idx: Write, array: Any, name: str) -> None:
    read = read_idx(write_idx(folder / name, array), array.ndim)
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, array)
    # torch warns of arrays that are read-only.
    assert read.flags.writeable


@given(array=ARRAYS, name=NAME, data=st.data())
def test_no_part_of_a_file_is_taken_for_the_whole(
    folder: Path, write_idx: Write, array: Any, name: str, data: st.DataObject
) -> None:
    path = write_idx(folder / name, array)
    whole = path.read_bytes()
    path.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(DataError, match=path.name):
        read_idx(path, array.ndim)


@given(array=ARRAYS, data=st.data())
def test_a_flipped_bit_never_changes_what_a_gzip_file_holds(
    folder: Path, write_idx: Write, array: Any, data: st.DataObject
) -> None:
    path = write_idx(folder / "file.gz", array)
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    # Some bits of gzip's header, such as the time, say nothing of the content.
    with suppress(DataError):
        np.testing.assert_array_equal(read_idx(path, array.ndim), array)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param(b"", "it starts with nothing, not 00000801", id="empty"),
        pytest.param(b"\0\0", "it starts with 0000, not", id="cut within the magic"),
        pytest.param(b"\0\0\x08\x01\0\0", "ends within its header", id="cut within the header"),
        pytest.param(b"\x89PNG\r\n", "it starts with 89504e47", id="another format"),
        pytest.param(header(10, kind=13), "it starts with 00000d01", id="floats"),
        pytest.param(header(1, 2, 5) + bytes(10), "starts with 00000803", id="images"),
        pytest.param(header(10) + bytes(9), "announces 10 bytes of data, but it holds only 9"),
        pytest.param(header(10) + bytes(11), "10 bytes of data, but it holds more"),
        pytest.param(header(0), "announces 0 values; allowed: 1 to 2147483648"),
        pytest.param(header(2**31 + 1), "announces 2147483649 values"),
    ],
)
@pytest.mark.parametrize("zipped", [False, True])
def test_a_file_that_is_not_idx_is_refused(
    tmp_path: Path, content: bytes, reason: str, zipped: bool
) -> None:
    path = tmp_path / "labels"
    path.write_bytes(gzip.compress(content) if zipped else content)
    assert_refused(path, reason)


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param((2**31, 2**31, 4), id="0 in 64 bits"),
        pytest.param((2**32 - 1, 2**32 - 1, 2**32 - 1), id="largest"),
        pytest.param((0, 28, 28), id="no images"),
        pytest.param((60_000, 0, 28), id="no pixels"),
    ],
)
def test_sizes_that_cannot_be_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    path = tmp_path / "images"
    path.write_bytes(header(*shape))
    assert_refused(path, f"announces {'×'.join(map(str, shape))} values", dimensions=3)


def test_labels_are_not_taken_for_images(tmp_path: Path, write_idx: Write) -> None:
    path = write_idx(tmp_path / "labels", LABELS)
    assert_refused(path, "it starts with 00000801, not 00000803", dimensions=3)


def test_a_gzip_file_with_a_wrong_checksum_is_refused(tmp_path: Path, write_idx: Write) -> None:
    path = write_idx(tmp_path / "labels.gz", LABELS)
    content = bytearray(path.read_bytes())
    content[-8] ^= 1
    path.write_bytes(content)
    assert_refused(path, "is damaged (gzip: CRC check failed")


@pytest.mark.parametrize("rest", [b"rest", gzip.compress(b"rest", mtime=0)], ids=["text", "gzip"])
def test_what_follows_a_gzip_file_is_refused(tmp_path: Path, write_idx: Write, rest: bytes) -> None:
    path = write_idx(tmp_path / "labels.gz", LABELS)
    path.write_bytes(path.read_bytes() + rest)
    assert_refused(path, "is damaged")


@pytest.mark.parametrize(
    ("announced", "held"), [(10, 200 << 20), (2 << 30, 10)], ids=["gzip bomb", "empty promise"]
)
def test_memory_follows_neither_the_header_nor_the_stream(
    tmp_path: Path, announced: int, held: int
) -> None:
    path = tmp_path / "labels.gz"
    path.write_bytes(gzip.compress(header(announced) + bytes(held), compresslevel=1))
    tracemalloc.start()
    try:
        assert_refused(path, "is damaged")
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_a_file_that_is_missing_or_a_folder_is_refused(tmp_path: Path) -> None:
    assert_refused(tmp_path / "nothing", "is missing")
    assert_refused(tmp_path, "cannot be read (Is a directory)")


def test_a_gzip_file_may_have_several_members(tmp_path: Path) -> None:
    content = header(10) + LABELS.tobytes()
    path = tmp_path / "labels.gz"
    path.write_bytes(b"".join(gzip.compress(part) for part in (content[:6], content[6:])))
    np.testing.assert_array_equal(read_idx(path, 1), LABELS)


@given(data=st.data(), name=NAME)
def test_whatever_a_file_holds_it_is_read_or_refused(
    folder: Path, write_idx: Write, data: st.DataObject, name: str
) -> None:
    path = write_idx(folder / name, np.arange(24, dtype=np.uint8).reshape(2, 3, 4))
    content = bytearray(path.read_bytes())
    # The header most of all: sixteen bytes of idx, ten of gzip.
    positions = st.one_of(st.integers(0, 15), st.integers(0, len(content) - 1))
    for position in data.draw(st.lists(positions, max_size=4), label="positions"):
        content[position] = data.draw(st.integers(0, 255), label="byte")
    end = data.draw(st.integers(0, 2 * len(content)), label="end")
    path.write_bytes(content[:end] + data.draw(st.binary(max_size=4), label="rest"))
    try:
        read = read_idx(path, 3)
    except DataError as error:
        assert str(error).startswith(str(path))  # noqa: PT017 - whether it is raised is the data's
    else:
        assert read.dtype == np.uint8
        assert read.ndim == 3
        assert read.size > 0


def test_a_folder_is_read(idx_folder: Path) -> None:
    arrays, files = read_folder(idx_folder)
    assert {key: array.shape for key, array in arrays.items()} == {
        "train_images": (200, 28, 28),
        "train_labels": (200,),
        "test_images": (50, 28, 28),
        "test_labels": (50,),
    }
    assert files == {key: idx_folder / f"{name}.gz" for key, name in NAMES.items()}


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("spelling", ["-idx", ".idx"])
def test_both_spellings_are_found_plain_and_zipped(
    tmp_path: Path, idx_folder: Path, spelling: str, suffix: str
) -> None:
    for name in NAMES.values():
        content = (idx_folder / f"{name}.gz").read_bytes()
        path = tmp_path / f"{name.replace('-idx', spelling)}{suffix}"
        path.write_bytes(content if suffix else gzip.decompress(content))
    arrays, _ = read_folder(tmp_path)
    expected, _ = read_folder(idx_folder)
    for key, array in arrays.items():
        np.testing.assert_array_equal(array, expected[key])


@pytest.fixture
def copy(tmp_path: Path, idx_folder: Path) -> Path:
    return shutil.copytree(idx_folder, tmp_path / "copy")


@pytest.mark.parametrize("name", NAMES.values())
def test_a_missing_file_of_a_folder_is_named(copy: Path, name: str) -> None:
    (copy / f"{name}.gz").unlink()
    with pytest.raises(DataError, match=f"{name} is missing, and .*gz too. The folder must hold"):
        read_folder(copy)


def test_plain_and_zipped_files_may_stand_together(copy: Path) -> None:
    path = copy / "t10k-labels-idx1-ubyte.gz"
    path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
    path.unlink()
    assert read_folder(copy)[1]["test_labels"] == path.with_suffix("")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("nowhere", "is not a folder. It must hold train-images-idx3-ubyte, "),
        ("nul\0", "is not a folder. It must hold train-images-idx3-ubyte, "),
        ("x" * 5000, "cannot be read: File name too long. It must be a folder with train-"),
    ],
    ids=["nowhere", "nul", "too long"],
)
def test_a_folder_that_is_not_there_is_named(tmp_path: Path, name: str, reason: str) -> None:
    with pytest.raises(DataError) as raised:
        read_folder(tmp_path / name)
    assert str(raised.value).startswith(f"data.folder = {str(tmp_path / name)!r} ")
    assert reason in str(raised.value)


def test_a_link_to_a_folder_is_followed(copy: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(copy)
    assert len(read_folder(tmp_path / "link")[0]["train_images"]) == 200


def test_images_and_labels_must_be_as_many(copy: Path, write_idx: Write) -> None:
    write_idx(copy / "train-labels-idx1-ubyte.gz", LABELS)
    with pytest.raises(DataError, match=r"holds 200 images, but .*train-labels.* 10 labels"):
        read_folder(copy)


def test_training_and_test_images_must_have_one_shape(copy: Path, write_idx: Write) -> None:
    write_idx(copy / "t10k-images-idx3-ubyte.gz", np.zeros((50, 28, 27), np.uint8))
    with pytest.raises(DataError, match=r"images of \(28, 28\), but .*t10k.* of \(28, 27\)"):
        read_folder(copy)


def test_a_link_out_of_the_folder_is_refused_and_one_within_is_not(
    copy: Path, tmp_path: Path
) -> None:
    path = copy / "train-images-idx3-ubyte.gz"
    within, outside = copy / "elsewhere.gz", tmp_path / "outside.gz"
    shutil.copy(path, outside)
    path.rename(within)
    path.symlink_to(within.name)
    assert len(read_folder(copy)[0]["train_images"]) == 200
    path.unlink()
    path.symlink_to(outside)
    with pytest.raises(
        DataError, match=r"is a link to a place outside its folder. Replace it by a copy"
    ):
        read_folder(copy)


def test_only_the_named_files_are_read(copy: Path, write_idx: Write) -> None:
    files = {key: copy / f"{name}.gz" for key, name in NAMES.items()}
    write_idx(copy / "train-labels-idx1-ubyte", LABELS)
    assert len(read_files(files)["train_labels"]) == 200
