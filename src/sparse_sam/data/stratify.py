"""From a source's arrays to the parts of a data set, stratified and reproducible."""

import hashlib
import json
from collections.abc import Mapping

import numpy as np
from sklearn.model_selection import train_test_split

from sparse_sam.data.chosen import Chosen
from sparse_sam.data.dataset import PARTS, DataInfo, Dataset, Part
from sparse_sam.data.params import DataParams
from sparse_sam.data.raw import Images, RawData
from sparse_sam.errors import DataError
from sparse_sam.files import Rows, pieces


def build_dataset(raw: RawData, params: DataParams) -> Dataset:
    """Take a fraction of every part, and split off, stratified, the parts that are not there.

    Images are not copied: they are read three times, a few at once, and the last time when the
    data set is written.

    Raises:
        DataError: a class would have too few images to be in every part, or the parameters ask for
            a part that the source has already.
    """
    parts: dict[str, Part] = dict(raw.parts)
    if "test" not in parts:
        parts["train"], parts["test"] = _split_off(parts["train"], "test", params, raw)
    parts = {name: _subset(part, params) for name, part in parts.items()}
    if "validation" in parts and params.validation_fraction:
        raise DataError(
            f"{raw.source} has its own validation part: set data.validation_fraction to 0, not "
            f"to {params.validation_fraction}"
        )
    if params.validation_fraction:
        parts["train"], parts["validation"] = _split_off(parts["train"], "validation", params, raw)
    parts = {name: parts[name] for name in PARTS if name in parts}
    mean, std = _statistics(parts["train"][0])
    if not all(std):
        where = "" if len(std) == 1 else f" of channel {std.index(0.0) + 1}"
        cure = "" if len(std) == 1 else ", or drop that channel (data.channels: 1 converts to grey)"
        raise DataError(
            f"{raw.source}: all pixels{where} of the training images are the same, so they cannot "
            f"be standardised. Use images that differ{cure}."
        )
    info = DataInfo(
        source=raw.source,
        fingerprint=_fingerprint(parts, raw.classes),
        image_shape=_shape(raw.train_images),
        classes=raw.classes,
        mean=mean,
        std=std,
        counts={
            name: np.bincount(labels, minlength=raw.num_classes).tolist()
            for name, (_, labels) in parts.items()
        },
        files=raw.files,
    )
    return Dataset(parts, info)


def _shape(images: Images) -> tuple[int, int, int]:
    _, channels, height, width = images.shape
    return channels, height, width


def _statistics(images: Rows) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of every channel, on the scale from 0 to 1.

    From how often each byte occurs: so they are the same to the bit however images are laid out.
    """
    channels = images.shape[1]
    counts = np.zeros((channels, 256), np.int64)
    for piece in pieces(images):
        for channel in range(channels):
            counts[channel] += np.bincount(piece[:, channel].reshape(-1), minlength=256)
    values = np.arange(256) / 255
    shares = counts / counts.sum(axis=1, keepdims=True)
    means = shares @ values
    deviations = np.sqrt(np.sum(shares * (values - means[:, np.newaxis]) ** 2, axis=1))
    deviations[(counts > 0).sum(axis=1) == 1] = 0.0  # and not a rounding error
    return tuple(means.tolist()), tuple(deviations.tolist())


def _subset(part: Part, params: DataParams) -> Part:
    kept = round(params.fraction * len(part[1]))
    if kept == len(part[1]):
        return part
    what = f"data.fraction = {params.fraction}"
    return _split(part, len(part[1]) - kept, params.split_seed, what)[0]


def _split_off(part: Part, name: str, params: DataParams, raw: RawData) -> tuple[Part, Part]:
    share = params.test_fraction if name == "test" else params.validation_fraction
    what = f"data.{name}_fraction = {share}"
    if not share:
        raise DataError(
            f"{what}: {raw.source} has no {name} part; set a fraction above 0 to split one off"
        )
    return _split(part, round(share * len(part[1])), params.split_seed, what)


def _split(part: Part, second: int, seed: int, what: str) -> tuple[Part, Part]:
    """Split off ``second`` images, stratified; ``what`` names the parameter that asked for it."""
    images, labels = part
    try:
        first_places, second_places = train_test_split(
            np.arange(len(labels)), test_size=second, stratify=labels, random_state=seed
        )
    except ValueError as error:
        raise DataError(
            f"{what}: {len(labels)} images of {len(np.unique(labels))} classes cannot be split "
            f"into {len(labels) - second} and {second} so that both hold every class ({error})"
        ) from None
    return (
        (Chosen.of(images, first_places), labels[first_places]),
        (Chosen.of(images, second_places), labels[second_places]),
    )


def _fingerprint(parts: Mapping[str, Part], classes: tuple[str, ...]) -> str:
    """What is always so is not hashed: published tables name grey digits so."""
    digest = hashlib.sha256()
    if classes != tuple(map(str, range(len(classes)))):
        digest.update(json.dumps(classes).encode())
    for name, (images, labels) in parts.items():
        count, channels, *sides = images.shape
        shape = (count, *sides) if channels == 1 else images.shape
        for rows, said in ((images, shape), (labels, labels.shape)):
            digest.update(f"{name} {rows.dtype} {said} ".encode())
            for piece in pieces(rows):
                digest.update(piece.data)
    return digest.hexdigest()
