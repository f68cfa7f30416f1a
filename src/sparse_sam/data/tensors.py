"""The data set as every stage sees it: split, typed, with its provenance.

Pixels stay the bytes that they are in the file, which is mapped into memory and not read: a batch
is standardised when it is taken. So a data set may be larger than memory, and all processes of a
machine share one copy.

Training stages load ``TrainingData``, which has no test part, and ``evaluate`` loads ``TestData``,
which has no other. So no code that trains or chooses can look at the test set.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparse_sam.data.dataset import KIND, PARTS, VERSION, DataInfo
from sparse_sam.data.raw import is_class_name
from sparse_sam.errors import DataError
from sparse_sam.files import load_tensors

_LONGEST_TEXT = 200
_CURE = "Run `dvc repro download`, or `dvc checkout` to restore it."


@dataclass(frozen=True)
class Scale:
    """How pixels are standardised: (x/255 − mean)/std, in each channel.

    Attributes:
        mean: float32, (channels, 1, 1), on the scale from 0 to 1.
        std: likewise.
        black: what byte 0 becomes, likewise.
    """

    mean: Tensor
    std: Tensor
    black: Tensor

    @classmethod
    def of(cls, mean: Sequence[float], std: Sequence[float]) -> "Scale":
        """Of a mean and a standard deviation for each channel."""
        black = [-one / by for one, by in zip(mean, std, strict=True)]
        values = (torch.tensor(one, dtype=torch.float32) for one in (mean, std, black))
        return cls(*(one.view(-1, 1, 1) for one in values))

    def standardised(self, pixels: Tensor) -> Tensor:
        """Bytes as float32, a new tensor."""
        return pixels.to(torch.float32).div_(255).sub_(self.mean).div_(self.std)

    def to(self, device: torch.device) -> "Scale":
        """The same on another device."""
        return Scale(*(one.to(device) for one in (self.mean, self.std, self.black)))


@dataclass(frozen=True)
class Split:
    """One part of a data set.

    Attributes:
        images: (N, channels, height, width): uint8 where ``scale`` says how they are standardised,
            and otherwise float32, as networks take them. They may lie in a file: a process that
            writes to them is ended by the system.
        labels: int64, (N,), 0 to num_classes − 1.
        scale: that of the training part, or None.

    Raises:
        DataError: the tensors are of another type, or do not belong together.
    """

    images: Tensor
    labels: Tensor
    scale: Scale | None = None

    def __post_init__(self) -> None:
        expected = torch.uint8 if self.scale else torch.float32
        if self.images.dtype != expected or self.images.dim() != 4:
            raise DataError(
                "images must be (N, channels, height, width), uint8 with a scale or float32 without"
            )
        if self.labels.dtype != torch.int64 or self.labels.shape != self.images.shape[:1]:
            raise DataError("labels must be int64, one an image")
        if not len(self.labels):
            raise DataError("a part of a data set must hold an image")

    def __len__(self) -> int:
        return len(self.labels)

    def taken(self, places: Tensor | slice) -> Tensor:
        """Images as networks take them, standardised float32: a new tensor, to do anything with.

        Args:
            places: int64, (n,), on the same device; or a slice.
        """
        images = self.images[places]
        if self.scale:
            return self.scale.standardised(images)
        return images.clone() if isinstance(places, slice) else images

    def batches(self, size: int) -> Iterator[Tensor]:
        """All images in order, as ``taken`` gives them, so many at once."""
        for start in range(0, len(self), size):
            yield self.taken(slice(start, start + size))

    def part(self, places: Tensor) -> "Split":
        """A part of the part, standardised and in memory."""
        return Split(self.taken(places), self.labels[places])

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        _, channels, height, width = self.images.shape
        return channels, height, width

    def to(self, device: torch.device) -> "Split":
        """The same part on another device."""
        scale = self.scale.to(device) if self.scale else None
        return Split(self.images.to(device), self.labels.to(device), scale)


@dataclass(frozen=True)
class TrainingData:
    """What training may see; ``validation`` is None when none was held out."""

    train: Split
    validation: Split | None
    info: DataInfo

    def to(self, device: torch.device) -> "TrainingData":
        """The same data on another device."""
        validation = None if self.validation is None else self.validation.to(device)
        return TrainingData(self.train.to(device), validation, self.info)


@dataclass(frozen=True)
class TestData:
    """What the final evaluation sees."""

    __test__ = False  # not a test case, whatever pytest makes of its name

    test: Split
    info: DataInfo

    def to(self, device: torch.device) -> "TestData":
        """The same data on another device."""
        return TestData(self.test.to(device), self.info)


def load_training_data(path: Path) -> TrainingData:
    """The training and validation part; the test part is not read.

    Raises:
        TensorFileError: the file is missing, damaged or of another kind.
        DataError: its content does not fit together.
    """
    splits, info = _load(path, "train", "validation")
    return TrainingData(splits["train"], splits.get("validation"), info)


def load_test_data(path: Path) -> TestData:
    """The test part alone. Raises what ``load_training_data`` raises."""
    splits, info = _load(path, "test")
    return TestData(splits["test"], info)


def _load(path: Path, *names: str) -> tuple[dict[str, Split], DataInfo]:
    prefixes = [f"{name}." for name in names]
    tensors, header = load_tensors(
        path, kind=KIND, version=VERSION, cure=_CURE, prefixes=prefixes, mapped=True
    )
    try:
        info = _info(header)
        parts = [name for name in names if name in info.counts]
        expected = {f"{name}.{what}" for name in parts for what in ("images", "labels")}
        if tensors.keys() != expected:
            raise ValueError(f"it holds {sorted(tensors)}, and its header names {sorted(expected)}")
        splits = {
            name: _checked(name, tensors[f"{name}.images"], tensors[f"{name}.labels"], info)
            for name in parts
        }
    except (AttributeError, KeyError, TypeError, ValueError, DataError) as error:
        raise DataError(f"{path} is damaged ({error}). {_CURE}") from None
    return splits, info


def _info(header: Mapping[str, Any]) -> DataInfo:
    """What a file says of itself, if it can be so. Raises TypeError or ValueError."""
    given = header.get("info") or {}
    lacking = [field.name for field in fields(DataInfo) if field.name not in given]
    if lacking:
        raise ValueError(f"its header lacks {', '.join(lacking)}")
    info = DataInfo.from_json(given)
    if not {"train", "test"} <= info.counts.keys() <= set(PARTS):
        raise ValueError(f"its parts are {sorted(info.counts)}")
    if any(type(side) is not int for side in info.image_shape):
        raise ValueError("image_shape must be whole numbers")
    scales_fit = len(info.mean) == len(info.std) == info.image_shape[0]
    if not (scales_fit and all(map(_is_finite, info.mean)) and all(map(_is_scale, info.std))):
        raise ValueError(f"mean {info.mean!a} and standard deviation {info.std!a} cannot be")
    if not all(map(is_class_name, info.classes)):
        raise ValueError("a class has no name that can be one")
    for name in ("source", "fingerprint"):
        text = getattr(info, name)
        if not (isinstance(text, str) and text.isprintable() and 0 < len(text) <= _LONGEST_TEXT):
            raise ValueError(f"{name} must be text, of up to {_LONGEST_TEXT} characters")
    # Of so many classes a table is made, before any label is compared.
    if any(len(counts) != info.num_classes for counts in info.counts.values()):
        raise ValueError(f"its counts are not of {info.num_classes!a} classes")
    return info


def _is_finite(value: Any) -> bool:
    # (A whole number may be larger than any float.)
    return type(value) is float and math.isfinite(value)


def _is_scale(value: Any) -> bool:
    return _is_finite(value) and value > 0


def _checked(name: str, images: Tensor, labels: Tensor, info: DataInfo) -> Split:
    if images.dtype != torch.uint8 or tuple(images.shape[1:]) != info.image_shape:
        raise ValueError(f"{name}.images must be bytes of shape {info.image_shape}")
    split = Split(images, labels, Scale.of(info.mean, info.std))
    if labels.min() < 0 or labels.max() >= info.num_classes:
        raise ValueError(f"{name}.labels must be 0 to {info.num_classes - 1}")
    if torch.bincount(labels, minlength=info.num_classes).tolist() != info.counts[name]:
        raise ValueError(f"{name}.labels are not as many of each class as its header says")
    return split
