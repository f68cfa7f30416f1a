"""The data set that parameters name, from its source.

Apart from what a data set is: a better reader of pictures trains nothing anew.
"""

from sparse_sam.data.from_datasets import from_datasets
from sparse_sam.data.params import DataParams
from sparse_sam.data.raw import RawData
from sparse_sam.data.registry import SOURCES


def load_raw(params: DataParams) -> RawData:
    """The data set that ``params.source`` names.

    What a function of one's own gives may be ``RawData``, or what ``from_datasets`` takes.

    Raises:
        ConfigError: the source cannot be imported.
        DataError: it has no sound data, or a function of one's own gives something else.
    """
    found = SOURCES.load(params.source)(params)
    if isinstance(found, RawData):
        return found
    return from_datasets(found, params)
