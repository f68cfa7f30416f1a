"""From a source's arrays to the parts of a data set, stratified and reproducible."""

import hashlib
from collections.abc import Mapping

import numpy as np
from sklearn.model_selection import train_test_split

from sparse_sam.data.dataset import PARTS, DataInfo, Dataset, Part
from sparse_sam.data.params import DataParams
from sparse_sam.data.raw import RawData
from sparse_sam.errors import DataError


def build_dataset(raw: RawData, params: DataParams) -> Dataset:
    """Take a fraction of training and test set, and hold out a validation part, stratified.

    Raises:
        DataError: a class would have too few images to be in every part.
    """
    train = _subset((raw.train_images, raw.train_labels), params)
    test = _subset((raw.test_images, raw.test_labels), params)
    parts = {"train": train, "test": test}
    if params.validation_fraction:
        held_out = round(params.validation_fraction * len(train[1]))
        what = f"data.validation_fraction = {params.validation_fraction}"
        parts["train"], parts["validation"] = _split(train, held_out, params.split_seed, what)
    parts = {name: parts[name] for name in PARTS if name in parts}
    pixels = parts["train"][0].astype(np.float64) / 255
    std = float(pixels.std())
    if std == 0:
        raise DataError(f"{raw.source}: every pixel of the training images is the same")
    info = DataInfo(
        source=raw.source,
        fingerprint=_fingerprint(parts),
        image_shape=(1, *raw.train_images.shape[1:]),
        num_classes=raw.num_classes,
        mean=float(pixels.mean()),
        std=std,
        counts={
            name: np.bincount(labels, minlength=raw.num_classes).tolist()
            for name, (_, labels) in parts.items()
        },
        files=raw.files,
    )
    return Dataset(parts, info)


def _subset(part: Part, params: DataParams) -> Part:
    kept = round(params.fraction * len(part[1]))
    if kept == len(part[1]):
        return part
    what = f"data.fraction = {params.fraction}"
    return _split(part, len(part[1]) - kept, params.split_seed, what)[0]


def _split(part: Part, second: int, seed: int, what: str) -> tuple[Part, Part]:
    """Split off ``second`` images, stratified; ``what`` names the parameter that asked for it."""
    images, labels = part
    try:
        first_images, second_images, first_labels, second_labels = train_test_split(
            images, labels, test_size=second, stratify=labels, random_state=seed
        )
    except ValueError as error:
        raise DataError(
            f"{what}: {len(labels)} images of {len(np.unique(labels))} classes cannot be split "
            f"into {len(labels) - second} and {second} with every class in both ({error})"
        ) from None
    return (first_images, first_labels), (second_images, second_labels)


def _fingerprint(parts: Mapping[str, Part]) -> str:
    digest = hashlib.sha256()
    for name, arrays in parts.items():
        for array in arrays:
            digest.update(f"{name} {array.dtype} {array.shape} ".encode())
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
