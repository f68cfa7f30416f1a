"""One picture, whatever Pillow reads, as bytes of the shape that a data set has."""

import io
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sparse_sam.data.mapped import mapped
from sparse_sam.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

_MOST_PIXELS = 50_000_000
_GREY = {"1", "L"}
_COLOUR = {"RGB", "P", "CMYK", "YCbCr", "HSV", "LAB"}
_KINDS = {1: "grey", 3: "in colour"}


@dataclass(frozen=True)
class Wanted:
    """How pictures become arrays.

    Attributes:
        channels: 1 makes all grey, 3 all colour; None leaves them as they are.
        size: (height, width): a picture is cropped about its centre to their ratio, and scaled
            (bilinear, antialiased). None leaves them as they are.
    """

    channels: int | None
    size: tuple[int, int] | None


class Pictures:
    """Decodes pictures, all to one shape, which is the first one's.

    Args:
        wanted: what is made of them.
    """

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._first: str | None = None
        self.shape: tuple[int, int, int] | None = None

    def decoded(self, content: bytes, name: str) -> NDArray[np.uint8]:
        """The pixels of a file, uint8 (channels, height, width); ``name`` is said in errors.

        Raises:
            DataError: it is no picture that Pillow reads, is broken or too large, has another
                shape than the first, or transparent or deeper pixels.
        """
        from PIL import Image, UnidentifiedImageError

        if not content:
            raise DataError(f"{name} is empty. Put the picture there again, or remove the file.")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                with Image.open(io.BytesIO(content)) as image:
                    return self.of(image, name)
        except UnidentifiedImageError:
            raise DataError(f"{name} is no picture that Pillow reads. Remove it.") from None
        except Image.DecompressionBombError:
            raise DataError(_too_large(name)) from None
        except (OSError, SyntaxError, ValueError, EOFError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise DataError(
                f"{name} is broken ({reason}). Put a whole picture there, or remove it."
            ) from None

    def of(self, image: "Image", name: str) -> NDArray[np.uint8]:
        """The pixels of an image of Pillow's. Raises as ``decoded``, and what Pillow raises."""
        from PIL import Image, ImageOps

        width, height = image.size
        if width * height > _MOST_PIXELS:
            raise DataError(_too_large(name, f"{width} × {height}"))
        if getattr(image, "n_frames", 1) > 1:
            raise DataError(f"{name} holds {image.n_frames} pictures. Choose one.")  # type: ignore[attr-defined]
        turned = ImageOps.exif_transpose(image)
        picture = _opaque(turned, name)
        if self._wanted.channels:
            picture = picture.convert("L" if self._wanted.channels == 1 else "RGB")
        if self._wanted.size:
            height, width = self._wanted.size
            picture = ImageOps.fit(picture, (width, height), Image.Resampling.BILINEAR)
        return self.checked(np.asarray(picture, np.uint8), name)

    def checked(self, pixels: NDArray[Any], name: str) -> NDArray[np.uint8]:
        """Pixels (height, width) or (height, width, 1 or 3) as (channels, height, width).

        Raises:
            DataError: they are not bytes of such a shape, or of another than the first.
        """
        if pixels.dtype != np.uint8 or pixels.ndim not in {2, 3}:
            raise DataError(
                f"{name} is {pixels.dtype} {pixels.shape}; allowed: bytes (height, width) or "
                "(height, width, 1 or 3)"
            )
        found = pixels[np.newaxis] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
        channels, height, width = found.shape
        if channels not in {1, 3}:
            raise DataError(f"{name} has {channels} channels; allowed are 1 and 3")
        if self.shape is None:
            self.shape, self._first = (channels, height, width), name
        elif channels != self.shape[0]:
            raise DataError(
                f"{name} is {_KINDS[channels]}, and {self._first} is {_KINDS[self.shape[0]]}. Set "
                "data.channels to 1 or 3, and all are made so."
            )
        elif (height, width) != self.shape[1:]:
            raise DataError(
                f"{name} is {width} × {height} pixels, and {self._first} {self.shape[2]} × "
                f"{self.shape[1]}. Set data.image_size, and all are cropped and scaled to it."
            )
        return found


def _opaque(image: "Image", name: str) -> "Image":
    """The picture in mode L or RGB. Raises DataError if pixels are transparent or too deep."""
    if image.mode in {"RGBA", "LA", "PA", "La", "RGBa"} or "transparency" in image.info:
        rgba = image.convert("RGBA")
        if rgba.getchannel("A").getextrema()[0] != 255:
            raise DataError(
                f"{name} has transparent pixels, and what lies behind them is not known. Save it "
                "without transparency."
            )
        return image.convert("L" if image.mode in {"LA", "La", "L"} else "RGB")
    if image.mode in _GREY:
        return image.convert("L")
    if image.mode in _COLOUR:
        return image.convert("RGB")
    raise DataError(
        f"{name} is of mode {image.mode}, of more than 8 bits a channel. Save it with 8."
    )


def _too_large(name: str, size: str = "far more") -> str:
    return (
        f"{name} is of {size} pixels; allowed are {_MOST_PIXELS:,}, so that a small file cannot "
        "take all memory. Scale it down, or remove it."
    )


def gathered(
    count: int, get: Callable[[int], NDArray[np.uint8]], what: str, folder: Path | None
) -> NDArray[np.uint8]:
    """Images (N, channels, height, width), one after the other, with a progress bar.

    They lie in a file, ``mapped`` in ``folder``. Raises DataError if there is none, and OSError.
    """
    from tqdm import tqdm

    shapes: set[tuple[int, ...]] = set()

    def content() -> Iterator[NDArray[np.uint8]]:
        for place in tqdm(range(count), desc=what, unit="image", disable=None, leave=False):
            pixels = get(place)
            shapes.add(pixels.shape)
            yield np.ascontiguousarray(pixels)

    found = mapped(content(), folder)
    if not shapes:
        raise DataError(f"{what}: there is no image")
    (shape,) = shapes  # which the pictures were held to
    return found.reshape(count, *shape)
