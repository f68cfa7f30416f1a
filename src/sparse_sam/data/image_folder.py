"""Pictures in folders, one a class: ``train/cat/1.jpg``, or ``cat/1.jpg`` where all is split."""

import hashlib
import os
import stat
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sparse_sam.data.outer import outer_path
from sparse_sam.data.params import DataParams
from sparse_sam.data.pictures import Pictures, Wanted, gathered
from sparse_sam.data.raw import Images, Labels, RawData, Source
from sparse_sam.errors import DataError

_PARTS = {"train": ("train",), "validation": ("val", "valid", "validation"), "test": ("test",)}
_LARGEST_FILE = 2**28


def read_image_folder(params: DataParams, folder: Path | None = None) -> RawData:
    """The pictures under ``data.folder``, classes in the order of their names.

    Files are taken in the order of their paths, as torchvision's ``ImageFolder`` takes them. Those
    whose names begin with a dot, and those of file managers, are left out, and named.

    The pixels are ``mapped`` in ``folder``.

    Raises:
        DataError: a folder or a class is empty or missing, or a file is no sound picture, a link
            that leads out of the folder, or no file at all. The message names it.
        OSError: the disk does not take the pixels.
    """
    root = outer_path(params.folder or "")
    listed = _list_parts(root)
    classes = tuple(listed["train"])
    for part, found in listed.items():
        _check_classes(root, part, found, classes)
    pictures = Pictures(wanted_by(params))
    arrays = {part: _read(part, found, pictures, folder) for part, found in listed.items()}
    hidden = [path for found in listed.values() for one in found.values() for path in one.hidden]
    if hidden:
        names = ", ".join(path.relative_to(root).as_posix() for path in hidden[:3])
        sys.stderr.write(
            f"note: {len(hidden)} hidden files of {root} are left out: {names}"
            f"{', …' if len(hidden) > 3 else ''}\n"
        )
    parts: dict[str, Any] = {}
    for part, (images, labels, _) in arrays.items():
        parts |= {f"{part}_images": images, f"{part}_labels": labels}
    digests = {part: digest for part, (_, _, digest) in arrays.items()}
    return RawData(params.source, **parts, files=digests, classes=classes)


def wanted_by(params: DataParams) -> Wanted:
    """How pictures become arrays, as the parameters say."""
    side = params.image_size
    return Wanted(params.channels, (side, side) if side else None)


@dataclass(frozen=True)
class _Class:
    """A class's files, in order, and those that are hidden."""

    files: list[Path]
    hidden: list[Path]


_Classes = dict[str, _Class]


def _list_parts(root: Path) -> dict[str, _Classes]:
    names = _folders(root)
    lower = {name.lower(): name for name in names}
    found: dict[str, _Classes] = {}
    for part, spellings in _PARTS.items():
        there = [lower[spelling] for spelling in spellings if spelling in lower]
        if len(there) > 1:
            raise DataError(f"{root} holds {' and '.join(there)}: keep one of them")
        if there:
            found[part] = _list_classes(root, root / there[0])
    if not found:
        return {"train": _list_classes(root, root)}
    others = [name for name in names if name.lower() not in sum(_PARTS.values(), ())]
    if "train" not in found or others:
        raise DataError(
            f"{root} holds the folders {', '.join(names[:6])}{', …' if len(names) > 6 else ''}. It "
            "must hold train (and test, and val), each with a folder a class; or the folders of "
            "the classes alone, of which data.test_fraction is split off."
        )
    return found


def _folders(folder: Path) -> list[str]:
    try:
        if not folder.is_dir():
            raise DataError(
                f"data.folder = {str(folder)!r} is not a folder. It must hold a folder of pictures "
                "for every class, or train/ and test/ with these."
            )
        found = sorted(
            entry.name
            for entry in os.scandir(folder)
            if entry.is_dir() and not entry.name.startswith((".", "__MACOSX"))
        )
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error.strerror}") from None
    if not found:
        raise DataError(f"{folder} holds no folder. Every class needs one, with its pictures.")
    return found


def _list_classes(root: Path, folder: Path) -> _Classes:
    return {name: _list_files(root, folder / name) for name in _folders(folder)}


def _list_files(root: Path, folder: Path) -> _Class:
    files, hidden = [], []
    inside = root.resolve()
    for above, folders, names in sorted(os.walk(folder)):
        folders.sort()
        for name in sorted(names):
            path = Path(above, name)
            if name.startswith(".") or name in {"Thumbs.db", "desktop.ini"}:
                hidden.append(path)
                continue
            if not path.resolve().is_relative_to(inside):
                raise DataError(f"{path} is a link out of {root}. Copy the file there instead.")
            files.append(path)
        for name in folders:
            if Path(above, name).is_symlink():
                raise DataError(
                    f"{Path(above, name)} is a link to a folder. Copy it there instead."
                )
    return _Class(files, hidden)


def _check_classes(root: Path, part: str, found: _Classes, classes: tuple[str, ...]) -> None:
    if set(found) != set(classes):
        where = root if part == "train" else f"{root}, {part}"
        lacking = sorted(set(classes) - set(found))
        unknown = sorted(set(found) - set(classes))
        said = [f"there is no folder {name}" for name in lacking[:3]]
        said += [f"{name} is no class of train" for name in unknown[:3]]
        raise DataError(f"{where}: {'; '.join(said)}. Every part must have the same classes.")
    for name, one in found.items():
        if not one.files:
            raise DataError(
                f"{root}: class {name} of {part} holds no picture. Put some there, or remove the "
                "folder from every part."
            )


def _read(
    part: str, found: _Classes, pictures: Pictures, folder: Path | None
) -> tuple[Images, Labels, str]:
    """A part's images, labels, and SHA-256 of all its files and where they stand."""
    paths = [path for one in found.values() for path in one.files]
    sizes = [len(one.files) for one in found.values()]
    digest = hashlib.sha256()

    def get(place: int) -> Images:
        content = _content(paths[place])
        digest.update(hashlib.sha256(content).digest())
        return pictures.decoded(content, str(paths[place]))

    images = gathered(len(paths), get, part, folder)
    digest.update(
        "\n".join(f"{name} {one}" for name, one in zip(found, sizes, strict=True)).encode()
    )
    return images, np.repeat(np.arange(len(sizes)), sizes), digest.hexdigest()


def _content(path: Path) -> bytes:
    try:
        # Asked before it is opened: a pipe that nobody writes to would be waited for.
        state = path.stat()
        if not stat.S_ISREG(state.st_mode):
            raise DataError(f"{path} is no file that can be read. Remove it.")
        if state.st_size > _LARGEST_FILE:
            raise DataError(f"{path} is of {state.st_size:,} bytes; allowed are {_LARGEST_FILE:,}.")
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None


IMAGE_FOLDER = Source(read_image_folder, reads_folder=True, decodes=True, on_disk=True)
