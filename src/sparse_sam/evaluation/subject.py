"""What results are of: those of other data, or of another network, are no better and no worse."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

SUMMARY = "metrics/summary.json"
_DOWNLOAD, _COMPRESSION = "metrics/download.json", "metrics/compression.json"
IDENTITY = frozenset({_DOWNLOAD, SUMMARY, _COMPRESSION})
"""The files that say what results are of."""


@dataclass(frozen=True)
class Subject:
    """What results are of, as far as they say it: "" where they do not.

    Attributes:
        data: fingerprint of the data set.
        source: its name.
        network: its name.
        size: its multiply-adds, dense.
    """

    data: str
    source: str
    network: str
    size: str

    @classmethod
    def of(cls, contents: Mapping[str, Any]) -> Self:
        """Read it from the content of files by name."""
        return cls(
            _said(contents, _DOWNLOAD, "fingerprint"),
            _said(contents, SUMMARY, "dataset"),
            _said(contents, SUMMARY, "model"),
            _said(contents, _COMPRESSION, "multiply_adds", "dense"),
        )

    @property
    def sized_network(self) -> str:
        """The network's name, and how large it is: what ``accept`` names."""
        return f"{self.network} ({self.size} multiply-adds)" if self.size else self.network

    def is_that_of(self, other: Self) -> bool:
        """Whether results of both can be compared."""
        return self.is_of_data(other) and self.is_of_network(other)

    def is_of_data(self, other: Self) -> bool:
        """Whether both are of the same data."""
        return (self.data, self.source) == (other.data, other.source)

    def is_of_network(self, other: Self) -> bool:
        """Whether both are of the same network; a size that was not measured is no difference."""
        sizes = {self.size, other.size} - {""}
        return self.network == other.network and len(sizes) < 2


def _said(contents: Mapping[str, Any], file: str, *keys: str) -> str:
    content = contents.get(file)
    for key in keys:
        content = content.get(key) if isinstance(content, dict) else None
    return "" if content is None else str(content)
