"""Folders of pictures: read as they are, or refused by the name of the file that is wrong."""

import io
import os
import shutil
import struct
import unicodedata
import zlib
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
        f"{parts}/train/ant/9.png is 32 × 8 pixels, but {parts}/train/ant/0.png is 5 × 6. "
        "Set data.image_size to crop and scale all pictures to one size."
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


def test_what_is_hidden_or_in_no_class_is_left_out_and_named(
    parts: Path, read: Callable[..., RawData], capsys: pytest.CaptureFixture[str]
) -> None:
    before = read(parts).train_images.copy()
    assert not capsys.readouterr().err
    picture = (parts / "train/ant/0.png").read_bytes()
    for name in ("train/ant/.ipynb_checkpoints", "train/bee/deep/.Trash", "test/cat/__MACOSX"):
        (parts / name).mkdir(parents=True)
        (parts / name / "1.png").write_bytes(picture)
    for name in ("train/ant/.DS_Store", "test/bee/Thumbs.db", "train/loose.png", "test/9.jpg"):
        (parts / name).write_bytes(picture)
    (parts / ".git").mkdir()
    (parts / "README.md").write_text("from the garden")
    np.testing.assert_array_equal(read(parts).train_images, before)
    said = capsys.readouterr().err
    assert said.startswith(f"note: 9 entries are left out of {parts}, because hidden or not in")
    assert ": .git, README.md, train/loose.png, …" in said


@pytest.mark.parametrize("damaged", ["JPEG", "WEBP", "PNG"])
def test_a_sound_picture_with_a_damaged_exif_tag_is_read(
    tmp_path: Path, read: Callable[..., RawData], damaged: str
) -> None:
    root = fill(tmp_path / "all", each=1, shape=(8, 4, 3))
    exif = Image.Exif()
    exif[0x0112], exif[0x0131] = 6, "x" * 20
    tags = exif.tobytes().replace(b"\x01\x31\x00\x02", b"\x01\x00\x00\x02")  # text, as a width
    assert tags != exif.tobytes()
    pixels = drawn(7, 8, 4, 3)
    (root / "ant" / "0.png").unlink()
    path = root / "ant" / f"0.{damaged.lower()}"
    Image.fromarray(np.rot90(pixels)).save(path, damaged, exif=tags)
    images = read(root).train_images
    assert images.shape == (3, 3, 8, 4)  # turned, as the sound tag says
    if damaged == "PNG":
        np.testing.assert_array_equal(images[0], pixels.transpose(2, 0, 1))


def test_of_a_phones_two_pictures_the_first_is_taken(
    tmp_path: Path, read: Callable[..., RawData]
) -> None:
    root = fill(tmp_path / "all", each=1)
    pictures = [Image.fromarray(drawn(seed, 6, 5, 3)) for seed in range(2)]
    pictures[0].save(root / "ant/1.png", "JPEG")
    expected = read(root).train_images[1].copy()
    pictures[0].save(root / "ant/1.png", "MPO", save_all=True, append_images=[pictures[1]])
    with Image.open(root / "ant/1.png") as image:
        assert (image.format, image.n_frames) == ("MPO", 2)  # type: ignore[attr-defined]
    np.testing.assert_array_equal(read(root).train_images[1], expected)


@pytest.mark.parametrize("other", ["test", "val"])
def test_names_of_classes_are_the_same_however_their_letters_are_written(
    parts: Path, read: Callable[..., RawData], capsys: pytest.CaptureFixture[str], other: str
) -> None:
    (parts / "test").rename(parts / other)
    for part, form in (("train", "NFC"), (other, "NFD")):
        (parts / part / "ant").rename(parts / part / unicodedata.normalize(form, "zébu"))  # type: ignore[arg-type]
        (parts / part / "bee").rename(parts / part / unicodedata.normalize(form, "élan"))  # type: ignore[arg-type]
    raw = read(parts)
    assert raw.classes == ("cat", "zébu", "élan")
    found = raw.parts["test" if other == "test" else "validation"]
    assert found[1].tolist() == [0, 0, 1, 1, 2, 2]
    # Those of the class zébu, which was ant.
    np.testing.assert_array_equal(found[0][2], drawn(100, 6, 5, 3).transpose(2, 0, 1))
    part = "test" if other == "test" else "validation"
    assert f"note: {parts}, {part}: " in (said := capsys.readouterr().err)
    assert "NFC and NFD" in said


def spoil_truncated(root: Path) -> str:
    path = root / "train/bee/1.png"
    path.write_bytes(path.read_bytes()[:60])
    return f"{path} is broken ("


def spoil_empty(root: Path) -> str:
    (root / "train/bee/1.png").write_bytes(b"")
    return f"{root}/train/bee/1.png is empty."


def spoil_text(root: Path) -> str:
    (root / "test/bee/notes.txt").write_text("a dog, perhaps")
    return f"{root}/test/bee/notes.txt is not a picture that Pillow can read. Delete it."


def spoil_pipe(root: Path) -> str:
    os.mkfifo(root / "train/bee/2b.png")
    return f"{root}/train/bee/2b.png is not a regular file"


def spoil_link_out(root: Path) -> str:
    (root.parent / "elsewhere.png").write_bytes((root / "train/bee/1.png").read_bytes())
    (root / "train/bee/7.png").symlink_to(root.parent / "elsewhere.png")
    return f"{root}/train/bee/7.png is a link to a place outside {root}."


def spoil_broken_link(root: Path) -> str:
    (root / "train/bee/7.png").symlink_to(root / "train/bee/nothing.png")
    return f"{root}/train/bee/7.png cannot be read: No such file"


def spoil_bomb(root: Path) -> str:
    Image.new("1", (8_000, 8_000)).save(root / "train/cat/9.png")
    return f"{root}/train/cat/9.png has 8000 × 8000 pixels; at most 50,000,000"


def spoil_larger_bomb(root: Path) -> str:
    Image.new("1", (60_000, 20_000)).save(root / "train/cat/9.png")
    return f"{root}/train/cat/9.png has too many pixels"


def spoil_transparent(root: Path) -> str:
    pixels = drawn(1, 6, 5, 4)
    Image.fromarray(pixels, "RGBA").save(root / "train/cat/1.png")
    return f"{root}/train/cat/1.png has transparent pixels"


def spoil_deep(root: Path) -> str:
    Image.fromarray(np.full((6, 5), 40_000, np.uint16)).save(root / "train/cat/1.png")
    return f"{root}/train/cat/1.png has more than 8 bits per channel (mode I;16)"


def png(bits: int, colour: int, pixels: NDArray[Any]) -> bytes:
    """A PNG whose pixels are (height, width, channels) of so many bits, which Pillow writes not."""
    height, width = pixels.shape[:2]
    rows = b"".join(b"\0" + row.astype(f">u{bits // 8}").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def tiff(bits: int, pixels: NDArray[Any]) -> bytes:
    """A TIFF in colour, uncompressed."""
    height, width, _ = pixels.shape
    data = pixels.astype(f"<u{bits // 8}").tobytes()
    short, long = 3, 4
    tags = [(256, short, 1, width), (257, short, 1, height), (258, short, 3, 8)]
    tags += [(259, short, 1, 1), (262, short, 1, 2), (273, long, 1, 14), (277, short, 1, 3)]
    tags += [(278, short, 1, height), (279, long, 1, len(data))]
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    head = b"II*\0" + struct.pack("<I", 14 + len(data)) + struct.pack("<HHH", bits, bits, bits)
    return head + data + struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0)


def sgi(bits: int, pixels: NDArray[Any]) -> bytes:
    """An SGI file in colour, uncompressed: from below, a channel after the other."""
    height, width, _ = pixels.shape
    header = struct.pack(">hBBHHHH", 474, 0, bits // 8, 3, width, height, 3).ljust(512, b"\0")
    return header + pixels[::-1].transpose(2, 0, 1).astype(f">u{bits // 8}").tobytes()


def ppm(bits: int, pixels: NDArray[Any]) -> bytes:
    head = f"P6 {pixels.shape[1]} {pixels.shape[0]} {2**bits - 1}\n".encode()
    return head + pixels.astype(f">u{bits // 8}").tobytes()


def jpeg2000(bits: int, pixels: NDArray[Any]) -> bytes:
    """What says its depth is changed; the rest is what 8 bits give."""
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, "JPEG2000", no_jp2=True)
    content = bytearray(file.getvalue())
    content[42:51:3] = bytes([bits - 1] * 3)
    return bytes(content)


def avif(bits: int, pixels: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, "AVIF", quality=100, subsampling="4:4:4")
    content = bytearray(file.getvalue())
    if bits > 8:  # 10, which is said twice
        content[content.index(b"av1C") + 6] |= 0x40
        start = content.index(b"pixi") + 9
        content[start : start + 3] = bytes([10] * 3)
    return bytes(content)


WRITTEN = {
    "PNG": lambda bits, pixels: png(bits, 2, pixels),
    "PNG, grey": lambda bits, pixels: png(bits, 0, pixels[..., :1]),
    "PNG, opaque": lambda bits, pixels: png(
        bits, 6, np.dstack([pixels, np.full_like(pixels[..., :1], 2**bits - 1)])
    ),
    "PNG, a little transparent": lambda bits, pixels: png(
        bits, 6, np.dstack([pixels, np.full_like(pixels[..., :1], 65_300)])
    ),
    "TIFF": tiff,
    "SGI": sgi,
    "PPM": ppm,
    "JPEG 2000": jpeg2000,
    "AVIF": avif,
}


@pytest.mark.parametrize("kind", WRITTEN)
def test_pictures_of_16_bits_are_refused_and_not_cut(
    tmp_path: Path, read: Callable[..., RawData], kind: str
) -> None:
    root = fill(tmp_path / "all", each=1)
    pixels = drawn(1, 6, 5, 3).astype(np.uint16)
    path = root / "bee" / "1.png"
    path.write_bytes(WRITTEN[kind](16, pixels * 257))
    with pytest.raises(
        DataError, match=r"has more than 8 bits per channel.*\. Save it with 8"
    ) as raised:
        read(root, channels=3)
    assert str(path) in str(raised.value)
    if kind != "PNG, a little transparent":  # the same file of 8 bits is read
        path.write_bytes(WRITTEN[kind](8, pixels))
        assert len(read(root, channels=3).train_images) == 4


def test_a_bitmap_of_16_bits_a_pixel_is_not_deep(
    tmp_path: Path, read: Callable[..., RawData]
) -> None:
    root = fill(tmp_path / "all", each=1, shape=(4, 6, 3))
    pixels = drawn(1, 4, 6, 2).tobytes()
    header = struct.pack("<IiiHHIIiiII", 40, 6, 4, 1, 16, 3, len(pixels), 0, 0, 0, 0)
    masks = struct.pack("<III", 0xF800, 0x7E0, 0x1F)
    start = struct.pack("<2sIHHI", b"BM", 66 + len(pixels), 0, 0, 66)
    (root / "ant" / "1.bmp").write_bytes(start + header + masks + pixels)
    assert read(root).train_images.shape == (4, 3, 4, 6)


def spoil_tiff(root: Path) -> str:
    """What Pillow raises here, for a second picture without a size, is a TypeError."""
    content = tiff(8, drawn(1, 6, 5, 3))
    second = struct.pack("<I", len(content)) + struct.pack("<HI", 0, 0)
    (root / "train/cat/1.png").write_bytes(content[:-4] + second)
    return f"{root}/train/cat/1.png is broken (Missing dimensions)"


def spoil_gif(root: Path) -> str:
    """What Pillow raises here, for an extension that is too short, is a struct.error."""
    path = root / "train/cat/1.png"
    Image.fromarray(drawn(1, 6, 5)).save(path, "GIF")
    path.write_bytes(path.read_bytes()[:-1] + b"!\xf9\x01\0\0;")
    return f"{path} is broken ("


def spoil_dds(root: Path) -> str:
    """What Pillow raises here is a NotImplementedError."""
    path = root / "train/cat/1.png"
    Image.fromarray(drawn(1, 6, 5, 3)).save(path, "DDS")
    content = bytearray(path.read_bytes())
    content[80:84] = struct.pack("<I", 1_572_864)
    path.write_bytes(content)
    return f"{path} is broken (Unknown pixel format flags"


def spoil_two_spellings(root: Path) -> str:
    fill(root / "Train")
    return f"{root} holds Train and train, which are the same part: keep one of them"


def spoil_one_class(root: Path) -> str:
    for name in ("train", "test"):
        (root / name).rename(root.parent / name)
    (root / "flowers").mkdir()
    for name in ("train", "test"):
        (root.parent / name).rename(root / "flowers" / name)
    return f"{root} holds one class, flowers; at least 2 are needed. Add a folder"


def spoil_class_called_train(root: Path) -> str:
    (root / "test").rename(root / "car")
    return (
        "(train is read as a part of the data set because of its name; if it is a class, rename "
        "its folder)"
    )


def spoil_classes_called_parts(root: Path) -> str:
    for part in ("train", "test"):
        for number, name in enumerate(CLASSES):
            (root / part / name / "0.png").rename(root / part / f"{number}.png")
        for name in CLASSES:
            shutil.rmtree(root / part / name)
    return f"{root}/train holds no folders. Each class needs one, with its pictures. (train is read"


def spoil_grey(root: Path) -> str:
    Image.fromarray(drawn(1, 6, 5)).save(root / "train/cat/1.png")
    return f"{root}/train/cat/1.png is grey, but {root}/train/ant/0.png is in colour. Set data.chan"


def spoil_animated(root: Path) -> str:
    frames = [Image.fromarray(drawn(seed, 6, 5, 3)) for seed in range(2)]
    frames[0].save(root / "train/cat/1.gif", save_all=True, append_images=frames[1:])
    return f"{root}/train/cat/1.gif holds 2 pictures; keep one."


def spoil_class_emptied(root: Path) -> str:
    for path in (root / "test/bee").iterdir():
        path.unlink()
    return f"{root}: class bee of test holds no pictures."


def spoil_class_missing(root: Path) -> str:
    for path in (root / "test/bee").iterdir():
        path.unlink()
    (root / "test/bee").rmdir()
    return f"{root}, test: the folder bee is missing."


def spoil_class_more(root: Path) -> str:
    (root / "test/dog").mkdir()
    (root / "test/dog/1.png").write_bytes((root / "train/ant/0.png").read_bytes())
    return f"{root}, test: dog is not a class of train"


def spoil_train_missing(root: Path) -> str:
    (root / "train").rename(root / "training")
    return f"{root} holds the folders test, training. It must hold either train"


def spoil_name(root: Path) -> str:
    for part in ("train", "test"):
        (root / part / "bee").rename(root / part / "b\x1b[31m")
    return "cannot be a class name"


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
        (lambda _: None, "is not a folder. It must hold a folder of pictures for each class"),
        (lambda path: path.write_text("x"), "is not a folder."),
        (lambda path: path.mkdir(), "holds no folders. Each class needs one"),
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
