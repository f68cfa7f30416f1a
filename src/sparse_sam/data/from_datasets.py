"""What a function of one's own gives: data sets of torch's, torchvision's, Hugging Face's, arrays.

None of these packages is needed for it: a data set is whatever has a length and rows.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparse_sam.data.image_folder import wanted_by
from sparse_sam.data.params import DataParams
from sparse_sam.data.pictures import Pictures, gathered
from sparse_sam.data.raw import MOST_CLASSES, Images, Labels, RawData, is_label, named
from sparse_sam.errors import DataError

_PARTS = ("train", "test", "validation")
_IMAGE_KEYS, _LABEL_KEYS = ("image", "img"), ("label", "labels", "fine_label")
_ALLOWED = (
    "RawData; a data set, which has a length and rows; or a mapping with train, and optionally "
    "test, validation and classes"
)


def from_datasets(found: Any, params: DataParams, folder: Path | None = None) -> RawData:
    """A source's data from what a function of one's own gave.

    Args:
        found: a data set, or a mapping of ``train`` (and ``test``, ``validation``) to data sets,
            and of ``classes`` to their names. A data set has a length and rows, (image, label) or
            a mapping with these names; or it is a pair of arrays, images and labels. An image is
            one of Pillow's, or an array of bytes (height, width) or (height, width, channels), or a
            tensor (channels, height, width), of bytes or of n/255; in a pair, a tensor may have
            its channels first or last. Names of classes are taken from
            the data set too, if it has them as torchvision's and Hugging Face's have.
        params: say what pictures are made into.
        folder: where the pixels are ``mapped``.

    Raises:
        DataError: it is something else; the row is named.
        OSError: the disk does not take the pixels.
    """
    parts = found if isinstance(found, Mapping) else {"train": found}
    if found is None:
        raise DataError(f"data.source = {params.source!r} returned None; allowed: {_ALLOWED}")
    unknown = [str(name) for name in parts if name not in {*_PARTS, "classes"}]
    if unknown or parts.get("train") is None:
        wrong = f"the keys {', '.join(unknown[:5])}" if unknown else "no train"
        raise DataError(f"data.source = {params.source!r} returned {wrong}; allowed: {_ALLOWED}")
    pictures = Pictures(wanted_by(params))
    arrays: dict[str, Any] = {}
    for part in _PARTS:
        if parts.get(part) is not None:
            images, labels = _read(f"{params.source}, {part}", parts[part], pictures, folder)
            arrays |= {f"{part}_images": images, f"{part}_labels": labels}
    classes = _given_names(parts.get("classes"), params) or _names_of(parts["train"])
    return RawData(params.source, **arrays, classes=named(classes))


def _read(
    what: str, dataset: Any, pictures: Pictures, folder: Path | None
) -> tuple[Images, Labels]:
    if isinstance(dataset, tuple) and len(dataset) == 2 and not isinstance(dataset[0], tuple):
        images, labels = _images_of_pair(dataset[0]), _array(dataset[1])
        rows: Any = images
        if len(images) != len(labels):
            raise DataError(
                f"{what}: {len(images)} images but {len(labels)} labels; there must be one label "
                "per image"
            )
    else:
        rows, labels = dataset, None
    try:
        count = len(rows)
    except TypeError:
        raise DataError(
            f"data.source: {what} is {type(dataset).__name__}, which has no length; allowed: "
            f"{_ALLOWED}"
        ) from None
    found = np.empty(count, np.int64)

    def get(place: int) -> NDArray[np.uint8]:
        where = f"{what}, row {place}"
        image, label = _row(where, rows[place]) if labels is None else (rows[place], labels[place])
        found[place] = _label(where, label)
        return _pixels(where, image, pictures)

    return gathered(count, get, what, folder), found


def _row(where: str, row: Any) -> tuple[Any, Any]:
    if isinstance(row, Mapping):
        image = [row[key] for key in _IMAGE_KEYS if key in row]
        label = [row[key] for key in _LABEL_KEYS if key in row]
        if len(image) == len(label) == 1:
            return image[0], label[0]
        raise DataError(
            f"{where} has the keys {', '.join(map(str, row))}; it needs exactly one of "
            f"{', '.join(_IMAGE_KEYS)} and one of {', '.join(_LABEL_KEYS)}"
        )
    if isinstance(row, tuple | list) and len(row) == 2:
        return row[0], row[1]
    raise DataError(f"{where} is {type(row).__name__}; allowed: (image, label), or a mapping")


def _label(where: str, label: Any) -> int:
    try:
        number = int(label)
        if number != label or isinstance(label, bool):
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        raise DataError(f"{where}: the label {str(label)[:40]!a} is not a whole number") from None
    if not is_label(number):
        raise DataError(
            f"{where}: the label is {str(label)[:40]}; allowed: 0 to {MOST_CLASSES - 1:,}"
        )
    return number


def _pixels(where: str, image: Any, pictures: Pictures) -> NDArray[np.uint8]:
    from PIL.Image import Image

    if isinstance(image, Image):
        return pictures.of(image, where)
    array = _array(image)
    if hasattr(image, "detach") and array.ndim == 3:  # a tensor has its channels first
        if len(array) not in {1, 3} and array.shape[2] in {1, 3}:
            raise DataError(
                f"{where} is a tensor {array.shape}; allowed: (1 or 3, height, width). "
                "permute(2, 0, 1) puts channels first"
            )
        array = np.moveaxis(array, 0, -1)
    return pictures.of_pixels(_as_bytes(where, array), where)


def _array(given: Any) -> NDArray[Any]:
    """An array of whatever is one; a tensor's memory is shared."""
    array: NDArray[Any] = np.asarray(given.detach().cpu() if hasattr(given, "detach") else given)
    return array


def _images_of_pair(given: Any) -> NDArray[Any]:
    """Images (N, height, width) or (N, height, width, channels), of tensors also channels first."""
    array = _array(given)
    is_first = array.ndim == 4 and array.shape[3] not in {1, 3} and array.shape[1] in {1, 3}
    return np.moveaxis(array, 1, -1) if is_first and hasattr(given, "detach") else array


def _as_bytes(where: str, array: NDArray[Any]) -> NDArray[np.uint8]:
    """Bytes as they are; n/255, as of torchvision's ``ToTensor``, as n."""
    if array.dtype.kind != "f":
        return array
    bytes_: NDArray[np.uint8] = np.clip(np.rint(array * 255), 0, 255).astype(np.uint8)
    if not np.array_equal((bytes_ / 255).astype(array.dtype), array):
        raise DataError(
            f"{where} holds fractions that are not n/255. Return the original pixels, without "
            "normalisation or augmentation: the pipeline standardises them, and augments them "
            "in training."
        )
    return bytes_


def _given_names(given: Any, params: DataParams) -> tuple[Any, ...]:
    """The names under ``classes``, in any list or array of one dimension."""
    try:
        return () if given is None else tuple(getattr(given, "tolist", lambda: given)())
    except TypeError:
        raise DataError(
            f"data.source = {params.source!r} returned {type(given).__name__} as classes; "
            "allowed: a list of their names"
        ) from None


def _names_of(dataset: Any) -> tuple[str, ...]:
    """The classes' names as torchvision's data sets have them, or Hugging Face's."""
    if isinstance(names := getattr(dataset, "classes", None), list | tuple):
        return tuple(names)
    features = getattr(dataset, "features", None)
    if not isinstance(features, Mapping):
        return ()
    for key in _LABEL_KEYS:
        if names := getattr(features.get(key), "names", None):
            return tuple(names)
    return ()
