"""Random shifts of training images, the same for every arm of a seed.

An image's shift is a function of (seed, purpose, epoch, image), like the batch order, so the arms
of a seed see the same pictures, both passes of a SAM step too, and a resumed run sees the ones
that it would have seen.
"""

import torch
from torch import Tensor

from sparse_sam.seeding import derive_seed


def random_shifts(count: int, pixels: int, seed: int, *purpose: str | int) -> Tensor:
    """A shift for each of ``count`` images: int64, (count, 2), down and right, on the CPU.

    Every whole number from −``pixels`` to ``pixels`` is as likely as any other, in both directions.
    """
    generator = torch.Generator().manual_seed(derive_seed(seed, *purpose, "shifts"))
    return torch.randint(-pixels, pixels + 1, (count, 2), generator=generator)


def shift(images: Tensor, shifts: Tensor, background: float) -> Tensor:
    """Move every image by its own shift; what comes in at the edges is ``background``.

    Args:
        images: (N, channels, height, width).
        shifts: int64, (N, 2), down and right, in pixels, on the same device.
        background: the value of an empty pixel, on the scale of ``images``.

    Returns:
        A new tensor of the same shape.
    """
    count, channels, height, width = images.shape
    rows = torch.arange(height, device=images.device) - shifts[:, :1]
    columns = torch.arange(width, device=images.device) - shifts[:, 1:]
    # Where every pixel comes from, clamped, so that what lies outside can be put in afterwards.
    places = rows.clamp(0, height - 1)[:, :, None] * width + columns.clamp(0, width - 1)[:, None]
    flat = places.view(count, 1, -1).expand(count, channels, -1)
    moved = images.flatten(2).gather(2, flat).view_as(images)
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[
        :, None
    ]
    return moved.masked_fill_(~inside[:, None], background)
