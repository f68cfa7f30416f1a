"""The data set as every stage sees it: split, typed, with its provenance.

Pixels stay the bytes that they are in the file, which is mapped into memory and not read: a batch
is standardised when it is taken. So a data set may be larger than memory, and all processes of a
machine share one copy.

Training stages load ``TrainingData``, which has no test part, and ``evaluate`` loads ``TestData``,
which has no other. So no code that trains or chooses can look at the test set.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sparse_sam.data.dataset import KIND, PARTS, VERSION, DataInfo
from sparse_sam.data.raw import is_class_name
from sparse_sam.data.split import Scale, Split
from sparse_sam.errors import DataError
from sparse_sam.files import load_tensors

_LONGEST_TEXT = 200
_CURE = "Run `dvc repro download`, or `dvc checkout` to restore it."


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
            raise ValueError(f"it holds {sorted(tensors)}, but its header names {sorted(expected)}")
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
        raise ValueError(f"mean {info.mean!a} or standard deviation {info.std!a} is not valid")
    if not all(map(is_class_name, info.classes)):
        raise ValueError("a class name is not valid")
    for name in ("source", "fingerprint"):
        text = getattr(info, name)
        if not (isinstance(text, str) and text.isprintable() and 0 < len(text) <= _LONGEST_TEXT):
            raise ValueError(f"{name} must be text of up to {_LONGEST_TEXT} characters")
    # Of so many classes a table is made, before any label is compared.
    if any(len(counts) != info.num_classes for counts in info.counts.values()):
        raise ValueError(f"its counts are not those of {info.num_classes!a} classes")
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
        raise ValueError(f"{name}.labels do not match the counts in the header")
    return split
