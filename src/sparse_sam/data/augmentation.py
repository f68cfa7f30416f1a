"""Random shifts of training images, the same for every arm of a seed.

An image's shift is a function of (seed, purpose, epoch, image), like the batch order, so the arms
of a seed see the same pictures, both passes of a SAM step too, and a resumed run sees the ones
that it would have seen.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

from sparse_sam.data.seeding import derive_seed


def random_shifts(count: int, pixels: int, seed: int, *purpose: str | int) -> Tensor:
    """A shift for each of ``count`` images: int64, (count, 2), down and right, on the CPU.

    Every whole number from −``pixels`` to ``pixels`` is as likely as any other, in both directions.
    """
    generator = torch.Generator().manual_seed(derive_seed(seed, *purpose, "shifts"))
    return torch.randint(-pixels, pixels + 1, (count, 2), generator=generator)


def shift(images: Tensor, shifts: Tensor, pixels: int, background: float) -> Tensor:
    """Move every image by its own shift; what comes in at the edges is ``background``.

    Args:
        images: (N, channels, height, width).
        shifts: int64, (N, 2), down and right, in pixels, on the same device.
        pixels: the largest of them, in either direction.
        background: the value of an empty pixel, on the scale of ``images``.

    Returns:
        A new tensor of the same shape.
    """
    count, _, height, width = images.shape
    rows, columns = min(pixels, height), min(pixels, width)  # further, and an image is gone
    padded = pad(images, (columns, columns, rows, rows), value=background)
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)
    down = shifts[:, 0].clamp(-rows, rows)
    right = shifts[:, 1].clamp(-columns, columns)
    return windows[torch.arange(count, device=images.device), :, rows - down, columns - right]
