"""The data set that parameters name, from its source.

Apart from what a data set is: a better reader of pictures trains nothing anew.
"""

from pathlib import Path

from sparse_sam.data.from_datasets import from_datasets
from sparse_sam.data.params import DataParams
from sparse_sam.data.raw import RawData, Source
from sparse_sam.data.registry import SOURCES


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
    if isinstance(found, RawData):
        return found
    return from_datasets(found, params, folder)
