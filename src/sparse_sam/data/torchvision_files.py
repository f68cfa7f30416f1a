"""Which files torchvision's data sets have, where, and their checksums."""

from collections.abc import Sequence

from sparse_sam.data.downloads import Resources
from sparse_sam.files import import_torchvision, needed_by


def resources(name: str) -> tuple[Resources, Sequence[str]]:
    """The files of a data set, as ``MNIST``, with their MD5 digests, and the official mirrors."""
    with needed_by(f"the list of {name}'s files"):
        torchvision = import_torchvision()
    dataset = getattr(torchvision.datasets, name)
    return list(dataset.resources), list(dataset.mirrors)
