"""``obs`` without its stages, to see what they give; params.yaml names it as one's own criterion.

(Its statistic, its update and its training images are those of ``obs``.)
"""

from dataclasses import dataclass
from typing import ClassVar

from sparse_sam.pruning import OBS


@dataclass(frozen=True)
class SingleStage(OBS):
    """All weights go at once, by one statistic; then one update."""

    first: float = 0.0
    name: ClassVar[str] = "obs in a single stage"
