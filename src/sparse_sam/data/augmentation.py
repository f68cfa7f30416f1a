"""What is done at random to training images, the same for every arm of a seed.

Padded crops (``shift``), horizontal flips and cutout, in this order. What becomes of an image is a
function of (seed, purpose, epoch, image), like the batch order, so the arms of a seed see the same
pictures, both passes of a SAM step too, and a resumed run sees the ones that it would have seen.
Each of the three has random numbers of its own: one more changes nothing of the others.
"""

import torch
from torch import Tensor

from sparse_sam.data.seeding import derive_seed

Purpose = tuple[str | int, ...]


def random_shifts(count: int, pixels: int, seed: int, *purpose: str | int) -> Tensor:
    """A shift for each of ``count`` images: int64, (count, 2), down and right, on the CPU.

    Every whole number from −``pixels`` to ``pixels`` is as likely as any other, in both directions.
    """
    return torch.randint(-pixels, pixels + 1, (count, 2), generator=_drawn(seed, purpose, "shifts"))


def random_flips(count: int, seed: int, *purpose: str | int) -> Tensor:
    """Which of ``count`` images are flipped, each as likely as not: bool, (count,), on the CPU."""
    return torch.randint(0, 2, (count,), generator=_drawn(seed, purpose, "flips")).bool()


def random_centres(count: int, height: int, width: int, seed: int, *purpose: str | int) -> Tensor:
    """A pixel in each of ``count`` images: int64, (count, 2), row and column, on the CPU.

    Every pixel is as likely as any other.
    """
    generator = _drawn(seed, purpose, "cutout")
    rows = torch.randint(height, (count,), generator=generator)
    return torch.stack([rows, torch.randint(width, (count,), generator=generator)], dim=1)


def shift(images: Tensor, shifts: Tensor, pixels: int, background: float | Tensor) -> Tensor:
    """Move every image by its own shift; what comes in at the edges is ``background``.

    This is the padded crop that CIFAR-10 is trained with (He et al. 2016, arXiv:1512.03385, section
    4.2: ``pixels`` = 4): an image is padded by so many pixels on every side, and a window of its
    own size is cut out at random.

    Args:
        images: (N, channels, height, width).
        shifts: int64, (N, 2), down and right, in pixels, on the same device.
        pixels: the largest of them, in either direction.
        background: the value of an empty pixel, on the scale of ``images``; one for all channels, a
            number or a tensor of no dimension, or one for each, (channels,).

    Returns:
        A new tensor of the same shape.
    """
    count, _, height, width = images.shape
    rows, columns = min(pixels, height), min(pixels, width)  # further, and an image is gone
    padded = images.new_empty(*images.shape[:2], height + 2 * rows, width + 2 * columns)
    padded[:] = torch.as_tensor(background, dtype=images.dtype, device=images.device).view(-1, 1, 1)
    padded[:, :, rows : rows + height, columns : columns + width] = images
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)
    down = shifts[:, 0].clamp(-rows, rows)
    right = shifts[:, 1].clamp(-columns, columns)
    return windows[torch.arange(count, device=images.device), :, rows - down, columns - right]


def flip(images: Tensor, flips: Tensor) -> Tensor:
    """Mirror the images, (N, channels, height, width), where ``flips``, bool (N,), left to right.

    Returns:
        A new tensor of the same shape.
    """
    return torch.where(flips.view(-1, 1, 1, 1), images.flip(3), images)


def cutout(images: Tensor, centres: Tensor, side: int) -> Tensor:
    """Set a square in every image to 0, the mean of standardised pixels, in all channels alike.

    DeVries and Taylor 2017 (arXiv:1708.04552, section 3.2): the centre may lie anywhere, so that
    what is cut away at an edge is less than the square. On CIFAR-10 they take a side of 16, on
    CIFAR-100 one of 8. (For an odd side their code cuts a pixel less; here it is as it is said.)

    Args:
        images: (N, channels, height, width), standardised.
        centres: int64, (N, 2), row and column, on the same device.
        side: of the square, in pixels; of an even one the centre is the pixel right below and
            right of the middle.

    Returns:
        A new tensor of the same shape.
    """
    height, width = images.shape[2:]
    first = centres - side // 2
    rows = torch.arange(height, device=images.device) - first[:, :1]
    columns = torch.arange(width, device=images.device) - first[:, 1:]
    rows, columns = ((place >= 0) & (place < side) for place in (rows, columns))
    return images.masked_fill((rows[:, :, None] & columns[:, None])[:, None], 0.0)


class Augmentation:
    """What becomes of the images of one epoch.

    Args:
        images: all training images, (N, channels, height, width): how many, how large, and where;
            not what is in them.
        background: of an empty pixel, as for ``shift``.
        shift_pixels: the largest shift; 0 moves nothing.
        flip: whether half of the images are mirrored.
        cutout_pixels: the side of the square that is cut out; 0 cuts nothing.
        seed: gives all of it, together with ``purpose``.
        purpose: what the epoch is for, and which it is.
    """

    def __init__(
        self,
        images: Tensor,
        background: float | Tensor,
        *,
        shift_pixels: int,
        flip: bool,
        cutout_pixels: int,
        seed: int,
        purpose: Purpose,
    ) -> None:
        count, _, height, width = images.shape
        self._pixels, self._side = shift_pixels, cutout_pixels
        self._background = torch.as_tensor(background, device=images.device)
        self._shifts = self._flips = self._centres = None
        if shift_pixels:
            self._shifts = random_shifts(count, shift_pixels, seed, *purpose).to(images.device)
        if flip:
            self._flips = random_flips(count, seed, *purpose).to(images.device)
        if cutout_pixels:
            centres = random_centres(count, height, width, seed, *purpose)
            self._centres = centres.to(images.device)

    def __call__(self, images: Tensor, places: Tensor) -> Tensor:
        """Augment a batch: images, and where among all they stand, int64 (N,)."""
        if self._shifts is not None:
            images = shift(images, self._shifts[places], self._pixels, self._background)
        if self._flips is not None:
            images = flip(images, self._flips[places])
        if self._centres is not None:
            images = cutout(images, self._centres[places], self._side)
        return images


def _drawn(seed: int, purpose: Purpose, what: str) -> torch.Generator:
    return torch.Generator().manual_seed(derive_seed(seed, *purpose, what))
