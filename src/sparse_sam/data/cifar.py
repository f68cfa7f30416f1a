"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009) in their binary form: nothing has to be unpickled.

torchvision reads the form for Python, which is pickled.
"""

import tarfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sparse_sam.data.downloads import fetch
from sparse_sam.data.outer import cache_folder, repository
from sparse_sam.data.params import DataParams
from sparse_sam.data.raw import Images, Labels, RawData, Source
from sparse_sam.errors import DataError
from sparse_sam.files import file_hash

_MIRRORS = ("https://www.cs.toronto.edu/~kriz",)
_SHAPE = (3, 32, 32)
_PIXELS = 3 * 32 * 32


@dataclass(frozen=True)
class Cifar:
    """Which archive, and how it is laid out.

    Attributes:
        archive: its name.
        md5: its digest, from the authors' page.
        folder: where its files are.
        train: the files of the training part.
        test: those of the test part.
        names: the file of the classes' names, a line each.
        labels: how many bytes before the pixels are labels; the last is taken (CIFAR-100: the fine
            one).
    """

    archive: str
    md5: str
    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    names: str
    labels: int

    def read(self, params: DataParams) -> RawData:
        """Download once a user, and read. Raises DataError."""
        folder = cache_folder() / params.source
        mirrors = [params.mirror] if params.mirror else _MIRRORS
        fetch([(self.archive, self.md5)], mirrors, folder, root=repository())
        path = folder / self.archive
        files = self._members(path)
        classes = files[self.names].decode("ascii", "replace").split()
        return RawData(
            params.source,
            *self._part(path, [files[name] for name in self.train]),
            *self._part(path, [files[name] for name in self.test]),
            files={self.archive: file_hash(path, "sha256")},
            classes=tuple(classes),
        )

    def _members(self, path: Path) -> dict[str, bytes]:
        """The files that are needed; nothing is unpacked to disk."""
        wanted = {f"{self.folder}/{name}": name for name in (*self.train, *self.test, self.names)}
        found: dict[str, bytes] = {}
        try:
            with tarfile.open(path, "r:gz") as archive:
                for member in archive:
                    if member.name in wanted and (file := archive.extractfile(member)):
                        found[wanted[member.name]] = file.read()
        except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
            raise DataError(f"{path} is damaged ({error}). Delete it and run again.") from None
        if lacking := [name for name in wanted.values() if name not in found]:
            raise DataError(
                f"{path} is incomplete: it lacks {', '.join(lacking)}. Delete it and run again."
            )
        return found

    def _part(self, path: Path, contents: Sequence[bytes]) -> tuple[Images, Labels]:
        record = self.labels + _PIXELS
        content = b"".join(contents)
        if len(content) % record:
            raise DataError(
                f"{path} is damaged: it does not consist of records of {record} bytes. Delete it "
                "and run again."
            )
        rows = np.frombuffer(content, np.uint8).reshape(-1, record)
        images = np.ascontiguousarray(rows[:, self.labels :]).reshape(-1, *_SHAPE)
        return images, rows[:, self.labels - 1].astype(np.int64)


CIFAR_10 = Source(
    Cifar(
        archive="cifar-10-binary.tar.gz",
        md5="c32a1d4ab5d03f1284b67883e8d87530",
        folder="cifar-10-batches-bin",
        train=tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
        test=("test_batch.bin",),
        names="batches.meta.txt",
        labels=1,
    ).read,
    has_mirrors=True,
)
CIFAR_100 = Source(
    Cifar(
        archive="cifar-100-binary.tar.gz",
        md5="03b5dce01913d631647c71ecec9e9cb8",
        folder="cifar-100-binary",
        train=("train.bin",),
        test=("test.bin",),
        names="fine_label_names.txt",
        labels=2,
    ).read,
    has_mirrors=True,
)
