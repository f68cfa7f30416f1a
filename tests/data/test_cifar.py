"""CIFAR's binary archives, from a real server: whole and right, or refused."""

import hashlib
import io
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sparse_sam.data import cifar
from sparse_sam.data.cifar import Cifar
from sparse_sam.data.params import DataParams
from sparse_sam.data.raw import RawData
from sparse_sam.errors import DataError

MakeParams = Callable[..., DataParams]


def archive(path: Path, layout: Cifar, classes: int, each: int = 3, cut: int = 0) -> str:
    """An archive as the authors lay it out, of random pixels; its MD5."""
    dice = np.random.default_rng(0)
    names = "\n".join(f"thing_{number}" for number in range(classes)) + "\n\n"
    contents = {layout.names: names.encode()}
    for name in (*layout.train, *layout.test):
        labels = np.repeat(np.arange(classes), each)
        coarse = [labels // 5] * (layout.labels - 1)
        pixels = dice.integers(0, 256, (len(labels), 3072), np.uint8)
        rows = np.column_stack([*coarse, labels, pixels]).astype(np.uint8)
        contents[name] = rows.tobytes()[: len(rows.tobytes()) - cut]
    with tarfile.open(path, "w:gz") as file:
        for name, content in contents.items():
            member = tarfile.TarInfo(f"{layout.folder}/{name}")
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


LAYOUTS = {"cifar10": (cifar.CIFAR_10, 10), "cifar100": (cifar.CIFAR_100, 100)}


@pytest.mark.parametrize("name", LAYOUTS)
def test_images_labels_and_names_are_read(
    name: str, data_params: MakeParams, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPARSE_SAM_CACHE", str(tmp_path / "cache"))
    source, classes = LAYOUTS[name]
    layout: Cifar = source.read.__self__  # type: ignore[attr-defined]
    (tmp_path / "mirror").mkdir()
    md5 = archive(tmp_path / "mirror" / layout.archive, layout, classes)
    made = replace(layout, md5=md5)
    raw: RawData = made.read(data_params(source=name, mirror=str(tmp_path / "mirror")))
    each = 3 * classes
    assert raw.train_images.shape == (each * len(layout.train), 3, 32, 32)
    assert raw.classes == tuple(f"thing_{number}" for number in range(classes))
    expected = np.tile(np.repeat(np.arange(classes), 3), len(layout.train))
    assert raw.train_labels.tolist() == expected.tolist()
    pixels = np.random.default_rng(0).integers(0, 256, (each, 3072), np.uint8)
    np.testing.assert_array_equal(raw.train_images[:each], pixels.reshape(-1, 3, 32, 32))


@pytest.fixture
def ten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Cifar, Path]:
    """CIFAR-10's layout, and where a mirror has its archive; nothing is cached."""
    monkeypatch.setenv("SPARSE_SAM_CACHE", str(tmp_path / "cache"))
    layout: Cifar = cifar.CIFAR_10.read.__self__  # type: ignore[attr-defined]
    (tmp_path / "mirror").mkdir()
    return layout, tmp_path / "mirror" / layout.archive


def test_another_archive_than_the_authors_is_refused(
    data_params: MakeParams, tmp_path: Path, ten: tuple[Cifar, Path]
) -> None:
    layout, path = ten
    archive(path, layout, 10)
    params = data_params(source="cifar10", mirror=str(tmp_path / "mirror"))
    with pytest.raises(DataError, match="wrong checksum"):
        cifar.CIFAR_10(params)
    assert not (tmp_path / "cache" / "cifar10" / layout.archive).exists()
    with pytest.raises(DataError, match="does not consist of records of 3073 bytes"):
        replace(layout, md5=archive(path, layout, 10, cut=5)).read(params)


def test_an_archive_without_a_file_is_named(
    data_params: MakeParams, tmp_path: Path, ten: tuple[Cifar, Path]
) -> None:
    layout, path = ten
    md5 = archive(path, replace(layout, test=()), 10)
    params = data_params(source="cifar10", mirror=str(tmp_path / "mirror"))
    with pytest.raises(DataError, match=r"lacks test_batch\.bin"):
        replace(layout, md5=md5).read(params)
