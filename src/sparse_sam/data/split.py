"""One part of a data set, and how its pixels are standardised, with torch alone."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sparse_sam.errors import DataError


@dataclass(frozen=True)
class Scale:
    """How pixels are standardised: (x/255 − mean)/std, in each channel.

    Attributes:
        mean: float32, (channels, 1, 1), on the scale from 0 to 1.
        std: likewise.
        black: what byte 0 becomes, likewise.
    """

    mean: Tensor
    std: Tensor
    black: Tensor

    @classmethod
    def of(cls, mean: Sequence[float], std: Sequence[float]) -> "Scale":
        """Of a mean and a standard deviation for each channel."""
        black = [-one / by for one, by in zip(mean, std, strict=True)]
        values = (torch.tensor(one, dtype=torch.float32) for one in (mean, std, black))
        return cls(*(one.view(-1, 1, 1) for one in values))

    def standardised(self, pixels: Tensor) -> Tensor:
        """Bytes as float32, a new tensor."""
        return pixels.to(torch.float32).div_(255).sub_(self.mean).div_(self.std)

    def to(self, device: torch.device) -> "Scale":
        """The same on another device."""
        return Scale(*(one.to(device) for one in (self.mean, self.std, self.black)))


@dataclass(frozen=True)
class Split:
    """One part of a data set.

    Attributes:
        images: uint8, (N, channels, height, width), where ``scale`` says how they are standardised;
            otherwise float32 as networks take them, (N, …). They may lie in a file: a process that
            writes to them is ended by the system.
        labels: int64, (N,), 0 to num_classes − 1.
        scale: that of the training part, or None.

    Raises:
        DataError: the tensors are of another type, or do not belong together.
    """

    images: Tensor
    labels: Tensor
    scale: Scale | None = None

    def __post_init__(self) -> None:
        if self.scale:
            if self.images.dtype != torch.uint8 or self.images.dim() != 4:
                raise DataError("images with a scale must be uint8, (N, channels, height, width)")
        elif self.images.dtype != torch.float32 or self.images.dim() < 2:
            raise DataError(
                "images without a scale must be float32, as the network takes them, with the "
                f"examples first (N, …), not {self.images.dtype} of shape "
                f"{tuple(self.images.shape)}"
            )
        if self.labels.dtype != torch.int64 or self.labels.shape != self.images.shape[:1]:
            raise DataError("labels must be int64, one per image")
        if not len(self.labels):
            raise DataError("a part of a data set must hold at least one image")

    def __len__(self) -> int:
        return len(self.labels)

    def taken(self, places: Tensor | slice) -> Tensor:
        """Images as networks take them, standardised float32: a new tensor, to do anything with.

        Args:
            places: int64, (n,), on the same device; or a slice.
        """
        images = self.images[places]
        if self.scale:
            return self.scale.standardised(images)
        return images.clone() if isinstance(places, slice) else images

    def batches(self, size: int) -> Iterator[Tensor]:
        """All images in order, as ``taken`` gives them, so many at once."""
        for start in range(0, len(self), size):
            yield self.taken(slice(start, start + size))

    def part(self, places: Tensor) -> "Split":
        """A part of the part, standardised and in memory."""
        return Split(self.taken(places), self.labels[places])

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Of one example: (channels, height, width) of an image."""
        return tuple(self.images.shape[1:])

    def to(self, device: torch.device) -> "Split":
        """The same part on another device."""
        scale = self.scale.to(device) if self.scale else None
        return Split(self.images.to(device), self.labels.to(device), scale)
