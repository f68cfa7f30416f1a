"""Folders of pictures: read as they are, or refused by the name of the file that is wrong."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from sparse_sam.data.loading import load_raw
from sparse_sam.data.params import DataParams
from sparse_sam.data.raw import RawData
from sparse_sam.data.torchvision_files import import_torchvision
from sparse_sam.errors import DataError

MakeParams = Callable[..., DataParams]
CLASSES = ("ant", "bee", "cat")


def drawn(seed: int, *shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def fill(root: Path, *, each: int = 4, shape: tuple[int, ...] = (6, 5, 3), first: int = 0) -> Path:
    """A folder for each class, with so many PNGs of random pixels."""
    for number, name in enumerate(CLASSES):
        folder = root / name
        folder.mkdir(parents=True)
        for index in range(each):
            seed = first + number * each + index
            Image.fromarray(drawn(seed, *shape)).save(folder / f"{index}.png")
    return root


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    root = tmp_path / "pictures"
    fill(root / "train")
    fill(root / "test", each=2, first=100)
    return root


@pytest.fixture
def read(data_params: MakeParams) -> Callable[..., RawData]:
    def load(folder: Path, **changes: Any) -> RawData:
        return load_raw(data_params(source="image-folder", folder=str(folder), **changes))

    return load


def test_every_pixel_is_read_under_its_class(parts: Path, read: Callable[..., RawData]) -> None:
    raw = read(parts)
    assert raw.classes == CLASSES
    assert raw.train_images.shape == (12, 3, 6, 5)
    for index in range(12):
        expected = drawn(index, 6, 5, 3).transpose(2, 0, 1)
        np.testing.assert_array_equal(raw.train_images[index], expected)
    assert raw.train_labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert raw.test_labels is not None
    assert raw.test_labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert set(raw.files) == {"train", "test"}


def test_the_order_is_that_of_torchvision(parts: Path, read: Callable[..., RawData]) -> None:
    nested = parts / "train" / "bee" / "a deeper one"
    nested.mkdir()
    for name in ("B.png", "a.png", "10.png", "9.png"):
        Image.fromarray(drawn(len(name) + ord(name[0]), 6, 5, 3)).save(nested / name)
    theirs = import_torchvision().datasets.ImageFolder(str(parts / "train"))
    ours = read(parts)
    assert ours.train_labels.tolist() == [label for _, label in theirs]
    for image, (expected, _) in zip(ours.train_images, theirs, strict=True):
        np.testing.assert_array_equal(image.transpose(1, 2, 0), np.asarray(expected))


def test_one_folder_is_split_later(tmp_path: Path, read: Callable[..., RawData]) -> None:
    raw = read(fill(tmp_path / "all"))
    assert (len(raw.train_images), raw.test_images) == (12, None)


@pytest.mark.parametrize("spelling", ["val", "valid", "validation"])
def test_a_validation_part_has_three_names(
    parts: Path, read: Callable[..., RawData], spelling: str
) -> None:
    fill(parts / spelling, each=1, first=50)
    raw = read(parts)
    assert raw.validation_labels is not None
    assert raw.validation_labels.tolist() == [0, 1, 2]


@pytest.mark.parametrize("mode", ["L", "1", "RGB", "P", "CMYK", "RGBA", "LA"])
def test_modes_become_grey_or_colour(
    tmp_path: Path, read: Callable[..., RawData], mode: str
) -> None:
    root = tmp_path / "all"
    for name in CLASSES:
        (root / name).mkdir(parents=True)
        suffix = "tiff" if mode == "CMYK" else "png"
        Image.fromarray(drawn(1, 4, 4, 3)).convert(mode).save(root / name / f"1.{suffix}")
    channels = 1 if mode in {"L", "1", "LA"} else 3
    assert read(root).train_images.shape == (3, channels, 4, 4)
    for wanted in (1, 3):
        assert read(root, channels=wanted).train_images.shape == (3, wanted, 4, 4)


def test_sizes_that_differ_are_cropped_and_scaled_where_asked(
    parts: Path, read: Callable[..., RawData]
) -> None:
    wide = np.zeros((8, 32, 3), np.uint8)
    wide[:, 12:20] = 200  # what is left of it when it is cropped about its centre
    Image.fromarray(wide).save(parts / "train" / "ant" / "9.png")
    with pytest.raises(DataError) as raised:
        read(parts)
    assert str(raised.value) == (
        f"{parts}/train/ant/9.png is 32 × 8 pixels, and {parts}/train/ant/0.png 5 × 6. Set "
        "data.image_size, and all are cropped and scaled to it."
    )
    raw = read(parts, image_size=4)
    assert raw.train_images.shape == (13, 3, 4, 4)
    assert (raw.train_images[4, :, :, 1:3] == 200).all()
    assert (raw.train_images[4] > 150).all()


def test_a_photograph_is_turned_as_its_camera_says(
    tmp_path: Path, read: Callable[..., RawData]
) -> None:
    root = fill(tmp_path / "all", each=1, shape=(4, 8, 3))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    pixels = drawn(7, 8, 4, 3)
    Image.fromarray(np.rot90(pixels)).save(root / "ant" / "0.png", exif=exif)
    for name in ("bee", "cat"):
        Image.fromarray(pixels).save(root / name / "0.png")
    images = read(root).train_images
    np.testing.assert_array_equal(images[0], images[1])


def test_hidden_files_are_left_out_and_named(
    parts: Path, read: Callable[..., RawData], capsys: pytest.CaptureFixture[str]
) -> None:
    (parts / "train" / "ant" / ".DS_Store").write_text("x")
    (parts / "test" / "bee" / "Thumbs.db").write_text("x")
    (parts / ".git").mkdir()
    assert len(read(parts).train_images) == 12
    assert "2 hidden files" in (said := capsys.readouterr().err)
    assert "train/ant/.DS_Store" in said


def spoil_truncated(root: Path) -> str:
    path = root / "train/bee/1.png"
    path.write_bytes(path.read_bytes()[:60])
    return f"{path} is broken ("


def spoil_empty(root: Path) -> str:
    (root / "train/bee/1.png").write_bytes(b"")
    return f"{root}/train/bee/1.png is empty."


def spoil_text(root: Path) -> str:
    (root / "test/bee/notes.txt").write_text("a dog, perhaps")
    return f"{root}/test/bee/notes.txt is no picture that Pillow reads. Remove it."


def spoil_pipe(root: Path) -> str:
    os.mkfifo(root / "train/bee/2b.png")
    return f"{root}/train/bee/2b.png is no file that can be read"


def spoil_link_out(root: Path) -> str:
    (root.parent / "elsewhere.png").write_bytes((root / "train/bee/1.png").read_bytes())
    (root / "train/bee/7.png").symlink_to(root.parent / "elsewhere.png")
    return f"{root}/train/bee/7.png is a link out of {root}."


def spoil_broken_link(root: Path) -> str:
    (root / "train/bee/7.png").symlink_to(root / "train/bee/nothing.png")
    return f"{root}/train/bee/7.png cannot be read: No such file"


def spoil_bomb(root: Path) -> str:
    Image.new("1", (8_000, 8_000)).save(root / "train/cat/9.png")
    return f"{root}/train/cat/9.png is of 8000 × 8000 pixels; allowed are 50,000,000"


def spoil_larger_bomb(root: Path) -> str:
    Image.new("1", (60_000, 20_000)).save(root / "train/cat/9.png")
    return f"{root}/train/cat/9.png is of "


def spoil_transparent(root: Path) -> str:
    pixels = drawn(1, 6, 5, 4)
    Image.fromarray(pixels, "RGBA").save(root / "train/cat/1.png")
    return f"{root}/train/cat/1.png has transparent pixels"


def spoil_deep(root: Path) -> str:
    Image.fromarray(np.full((6, 5), 40_000, np.uint16)).save(root / "train/cat/1.png")
    return f"{root}/train/cat/1.png is of mode I;16, of more than 8 bits"


def spoil_grey(root: Path) -> str:
    Image.fromarray(drawn(1, 6, 5)).save(root / "train/cat/1.png")
    return f"{root}/train/cat/1.png is grey, and {root}/train/ant/0.png is in colour. Set data.chan"


def spoil_animated(root: Path) -> str:
    frames = [Image.fromarray(drawn(seed, 6, 5, 3)) for seed in range(2)]
    frames[0].save(root / "train/cat/1.gif", save_all=True, append_images=frames[1:])
    return f"{root}/train/cat/1.gif holds 2 pictures. Choose one."


def spoil_class_emptied(root: Path) -> str:
    for path in (root / "test/bee").iterdir():
        path.unlink()
    return f"{root}: class bee of test holds no picture."


def spoil_class_missing(root: Path) -> str:
    for path in (root / "test/bee").iterdir():
        path.unlink()
    (root / "test/bee").rmdir()
    return f"{root}, test: there is no folder bee."


def spoil_class_more(root: Path) -> str:
    (root / "test/dog").mkdir()
    (root / "test/dog/1.png").write_bytes((root / "train/ant/0.png").read_bytes())
    return f"{root}, test: dog is no class of train"


def spoil_train_missing(root: Path) -> str:
    (root / "train").rename(root / "training")
    return f"{root} holds the folders test, training. It must hold train"


def spoil_name(root: Path) -> str:
    for part in ("train", "test"):
        (root / part / "bee").rename(root / part / "b\x1b[31m")
    return "cannot be the name of a class"


def spoil_linked_class(root: Path) -> str:
    (root / "train/ant/more").symlink_to(root / "train/bee")
    return f"{root}/train/ant/more is a link to a folder."


SPOILED = [one for name, one in sorted(globals().items()) if name.startswith("spoil_")]


@pytest.mark.parametrize("spoil", SPOILED, ids=lambda one: one.__name__)
def test_what_is_wrong_is_named_with_its_cure(
    parts: Path, read: Callable[..., RawData], spoil: Callable[[Path], str]
) -> None:
    expected = spoil(parts)
    with pytest.raises(DataError) as raised:
        read(parts)
    assert expected in str(raised.value)
    assert "\x1b" not in str(raised.value)
    assert str(raised.value).count("\n") == 0


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda _: None, "is not a folder. It must hold a folder of pictures for every class"),
        (lambda path: path.write_text("x"), "is not a folder."),
        (lambda path: path.mkdir(), "holds no folder. Every class needs one"),
    ],
)
def test_a_folder_that_is_none_is_told_so(
    tmp_path: Path, read: Callable[..., RawData], make: Callable[[Path], Any], expected: str
) -> None:
    make(tmp_path / "there")
    with pytest.raises(DataError) as raised:
        read(tmp_path / "there")
    assert f"{tmp_path / 'there'}" in str(raised.value)
    assert expected in str(raised.value)


@pytest.mark.parametrize("changes", [{"channels": 3}, {"image_size": 32}])
def test_sources_that_decode_nothing_take_no_such_wish(
    data_params: MakeParams, changes: dict[str, int]
) -> None:
    with pytest.raises(ValueError, match="gives pixels as they are; allowed: null"):
        data_params(**changes)
