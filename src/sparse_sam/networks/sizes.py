"""How large what a layer gives is, and how large a network may be asked to be."""

from collections.abc import Sequence
from typing import Annotated

from sparse_sam.errors import ConfigError
from sparse_sam.files import Bounds
from sparse_sam.networks.registry import ImageShape

Width = Annotated[int, Bounds(ge=1, le=1024)]
"""How wide a layer is. The bound is far beyond what a CPU trains, and holds for files too."""
Depth = Annotated[int, Bounds(ge=1, le=100)]


def positions_left(image_shape: ImageShape, layers: Sequence[tuple[int, int, int]]) -> int:
    """How many positions are left after convolution or pooling layers (kernel, stride, padding)."""
    positions = 1
    for side in image_shape[1:]:
        left = side
        for kernel, stride, padding in layers:
            left = (left + 2 * padding - kernel) // stride + 1
        if left < 1:
            raise ConfigError(
                f"images {side} pixels wide or high are too small for this model; use larger "
                "images or another model"
            )
        positions *= left
    return positions
