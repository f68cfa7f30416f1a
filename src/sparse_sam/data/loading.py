"""The data set that parameters name, from its source.

Apart from what a data set is: a better reader of pictures trains nothing anew.
"""

from pathlib import Path

from sparse_sam.data.from_datasets import from_datasets
from sparse_sam.data.params import DataParams
from sparse_sam.data.raw import RawData, Source
from sparse_sam.data.registry import SOURCES
from sparse_sam.errors import DataError


def load_raw(params: DataParams, folder: Path | None = None) -> RawData:
    """The data set that ``params.source`` names.

    What a function of one's own gives may be ``RawData``, or what ``from_datasets`` takes.

    Args:
        params: say what is read.
        folder: where pixels that need not be in memory are kept, in files without names, for as
            long as somebody holds them; None takes the system's temporary folder.

    Raises:
        ConfigError: the source cannot be imported.
        DataError: it has no sound data, or a function of one's own gives something else.
        OSError: the folder's disk has no room.
    """
    source = SOURCES.load(params.source)
    found = source(params, folder) if isinstance(source, Source) else source(params)
    if not isinstance(found, RawData):
        return from_datasets(found, params, folder)
    _check_made(found, params)
    return found


def _check_made(raw: RawData, params: DataParams) -> None:
    """Raise DataError if arrays are not as the parameters want pictures to be."""
    channels, height, width = raw.train_images.shape[1:]
    for key, wanted, is_so, said in (
        ("channels", params.channels, channels == params.channels, f"{channels} channels"),
        (
            "image_size",
            params.image_size,
            height == width == params.image_size,
            f"{width} × {height} pixels",
        ),
    ):
        if wanted is not None and not is_so:
            raise DataError(
                f"data.{key} = {wanted}: {params.source} returned RawData of {said}, which is "
                "used unchanged; allowed: null. To have images converted, return a data set or "
                "a pair of arrays (docs/data.md)."
            )
