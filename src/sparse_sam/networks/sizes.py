"""How large what a layer gives is."""

from collections.abc import Sequence

from sparse_sam.errors import ConfigError
from sparse_sam.networks.registry import ImageShape


def positions_left(image_shape: ImageShape, layers: Sequence[tuple[int, int, int]]) -> int:
    """How many positions are left after convolution or pooling layers (kernel, stride, padding)."""
    positions = 1
    for side in image_shape[1:]:
        left = side
        for kernel, stride, padding in layers:
            left = (left + 2 * padding - kernel) // stride + 1
        if left < 1:
            raise ConfigError(f"images of {side} pixels a side are too small for this model")
        positions *= left
    return positions
