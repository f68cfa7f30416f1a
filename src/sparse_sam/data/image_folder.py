"""Pictures in folders, one a class: ``train/cat/1.jpg``, or ``cat/1.jpg`` where all is split."""

import hashlib
import os
import stat
import sys
import unicodedata
from collections.abc import Iterable, Iterator
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

    Files are taken in the order of their paths, as torchvision's ``ImageFolder`` takes them. Files
    and folders whose names begin with a dot, those of file managers, and files that are in no
    class's folder, are left out, counted and named.

    The pixels are ``mapped`` in ``folder``.

    Raises:
        DataError: a folder or a class is empty or missing, there is one class only, or a file is
            no sound picture, a link that leads out of the folder, or no file at all. The message
            names it.
        OSError: the disk does not take the pixels.
    """
    root = outer_path(params.folder or "")
    left_out: list[Path] = []
    listed = _list_parts(root, left_out)
    classes = tuple(listed["train"])
    if len(classes) < 2:
        inner = root / classes[0]
        or_ = f", or set data.folder to {inner} if the classes are in it" if inner.is_dir() else ""
        raise DataError(
            f"{root} holds one class, {classes[0]}; at least 2 are needed. Add a folder for each "
            f"class{or_}."
        )
    for part, found in listed.items():
        listed[part] = _as_in_train(root, part, found, classes)
        _check_classes(root, part, listed[part], classes)
    pictures = Pictures(wanted_by(params))
    arrays = {part: _read(part, found, pictures, folder) for part, found in listed.items()}
    if left_out:
        names = ", ".join(path.relative_to(root).as_posix() for path in left_out[:3])
        how_many = f"{len(left_out)} {'entry is' if len(left_out) == 1 else 'entries are'}"
        sys.stderr.write(
            f"note: {how_many} left out of {root}, because hidden or not in the folder of a "
            f"class: {names}"
            f"{', …' if len(left_out) > 3 else ''}\n"
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


_Classes = dict[str, list[Path]]
"""The files of every class, in order."""


def _list_parts(root: Path, left_out: list[Path]) -> dict[str, _Classes]:
    """The parts' classes; what is passed over is added to ``left_out``."""
    names = _folders(root, left_out)
    there: dict[str, str] = {}
    for part, spellings in _PARTS.items():
        found = [name for name in names if name.lower() in spellings]
        if len(found) > 1:
            raise DataError(
                f"{root} holds {' and '.join(found)}, which are the same part: keep one of them"
            )
        if found:
            there[part] = found[0]
    if not there:
        return {"train": _list_classes(root, "", left_out, names)}
    others = [name for name in names if name not in there.values()]
    if "train" not in there or others:
        raise DataError(
            f"{root} holds the folders {', '.join(names[:6])}{', …' if len(names) > 6 else ''}. "
            "It must hold either train (and optionally test and val), each with one folder per "
            "class; or only the folders of the classes, from which data.test_fraction splits "
            f"off a test part. ({_taken(there.values())})"
        )
    return {
        part: _list_classes(root, name, left_out, _folders(root / name, left_out, name))
        for part, name in there.items()
    }


def _taken(names: Iterable[str]) -> str:
    one = ", ".join(names)
    return (
        f"{one} is read as a part of the data set because of its name; if it is a class, rename "
        "its folder"
    )


def _folders(folder: Path, left_out: list[Path], part: str = "") -> list[str]:
    found = []
    try:
        if not folder.is_dir():
            raise DataError(
                f"data.folder = {str(folder)!r} is not a folder. It must hold a folder of "
                "pictures for each class, or train/ and test/ with such folders."
            )
        for entry in sorted(os.scandir(folder), key=lambda one: one.name):
            if entry.is_dir() and not _is_hidden(entry.name):
                found.append(entry.name)
            else:
                left_out.append(Path(entry.path))
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error.strerror}") from None
    if not found:
        hint = f" ({_taken([part])})" if part else ""
        raise DataError(
            f"{folder} holds no folders. Each class needs one, with its pictures.{hint}"
        )
    return found


def _is_hidden(name: str) -> bool:
    return name.startswith((".", "__MACOSX")) or name in {"Thumbs.db", "desktop.ini"}


def _list_classes(root: Path, part: str, left_out: list[Path], names: list[str]) -> _Classes:
    return {name: _list_files(root, root / part / name, left_out) for name in names}


def _list_files(root: Path, folder: Path, left_out: list[Path]) -> list[Path]:
    files = []
    inside = root.resolve()
    for above, folders, names in sorted(_visible(folder, left_out)):
        for name in names:
            path = Path(above, name)
            if not path.resolve().is_relative_to(inside):
                raise DataError(
                    f"{path} is a link to a place outside {root}. Replace it by a copy of the file."
                )
            files.append(path)
        for name in folders:
            if Path(above, name).is_symlink():
                raise DataError(
                    f"{Path(above, name)} is a link to a folder. Replace it by a copy of the "
                    "folder."
                )
    return files


def _visible(folder: Path, left_out: list[Path]) -> Iterator[tuple[str, list[str], list[str]]]:
    """What ``os.walk`` gives, without what is hidden, and in the order of names."""
    for above, folders, names in os.walk(folder):
        hidden = filter(_is_hidden, sorted([*folders, *names]))
        left_out += [Path(above, name) for name in hidden]
        folders[:] = sorted(name for name in folders if not _is_hidden(name))  # walked further
        yield above, folders, sorted(name for name in names if not _is_hidden(name))


def _as_in_train(root: Path, part: str, found: _Classes, classes: tuple[str, ...]) -> _Classes:
    """The part's classes, called as in train where the same letters are written otherwise.

    Unicode has two forms of "é", and a folder that was copied from a Mac may have the other one.
    """
    spelled = {unicodedata.normalize("NFC", name): name for name in classes}
    others = {
        name: spelled[normal]
        for name in found
        if name not in classes and (normal := unicodedata.normalize("NFC", name)) in spelled
    }
    renamed = {others.get(name, name): files for name, files in found.items()}
    if not others or len(renamed) < len(found) or set(renamed) != set(classes):
        return found
    sys.stderr.write(
        f"note: {root}, {part}: {', '.join(others)} {'is' if len(others) == 1 else 'are'} encoded "
        "differently in train (NFC and NFD, two forms of Unicode); read as the same\n"
    )
    return {name: renamed[name] for name in classes}


def _check_classes(root: Path, part: str, found: _Classes, classes: tuple[str, ...]) -> None:
    if set(found) != set(classes):
        where = root if part == "train" else f"{root}, {part}"
        lacking = sorted(set(classes) - set(found))
        unknown = sorted(set(found) - set(classes))
        said = [f"the folder {name} is missing" for name in lacking[:3]]
        said += [f"{name} is not a class of train" for name in unknown[:3]]
        raise DataError(f"{where}: {'; '.join(said)}. Every part must have the same classes.")
    for name, files in found.items():
        if not files:
            raise DataError(
                f"{root}: class {name} of {part} holds no pictures. Add some, or delete this "
                "folder from every part."
            )


def _read(
    part: str, found: _Classes, pictures: Pictures, folder: Path | None
) -> tuple[Images, Labels, str]:
    """A part's images, labels, and SHA-256 of all its files and where they stand."""
    paths = [path for files in found.values() for path in files]
    sizes = [len(files) for files in found.values()]
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
            raise DataError(f"{path} is not a regular file. Delete it.")
        if state.st_size > _LARGEST_FILE:
            raise DataError(
                f"{path} has {state.st_size:,} bytes; at most {_LARGEST_FILE:,} are allowed."
            )
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None


IMAGE_FOLDER = Source(read_image_folder, reads_folder=True, decodes=True, on_disk=True)
