"""The study's images: ``data.source`` of its tasks.

Training images are a part of those there are, since two cores train on no more in a day; others of
them validate, and so many that a choice is not one of noise. All test images test.
"""

from dataclasses import replace

from sklearn.model_selection import train_test_split

from sparse_sam.data import DataParams, RawData, load_raw

VALIDATION = 5_000
COLOUR, DIGITS = 4_352, 10_240
"""Training images: 34 and 80 whole batches of 128."""


def colour(params: DataParams) -> RawData:
    """Photographs of 32 × 32 pixels in class folders, ``train`` and ``test``."""
    return _part(load_raw(params.model_copy(update={"source": "image-folder"})), COLOUR)


def whole(params: DataParams) -> RawData:
    """The same, all of them but those that are held out."""
    raw = load_raw(params.model_copy(update={"source": "image-folder"}))
    return _part(raw, len(raw.train_labels) - VALIDATION)


def digits(params: DataParams) -> RawData:
    """MNIST, in a folder of its four idx files or downloaded."""
    source = "idx" if params.folder else "mnist"
    return _part(load_raw(params.model_copy(update={"source": source})), DIGITS)


def _part(raw: RawData, images: int) -> RawData:
    """So many training images and as many others to validate on, stratified; every test image."""
    train, others, train_labels, other_labels = train_test_split(
        raw.train_images,
        raw.train_labels,
        train_size=images,
        test_size=VALIDATION,
        stratify=raw.train_labels,
        random_state=0,
    )
    return replace(
        raw,
        train_images=train,
        train_labels=train_labels,
        validation_images=others,
        validation_labels=other_labels,
    )
