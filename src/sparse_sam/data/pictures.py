"""One picture, whatever Pillow reads, as bytes of the shape that a data set has."""

import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sparse_sam.data.depth import is_deep
from sparse_sam.data.mapped import mapped
from sparse_sam.errors import DataError
from sparse_sam.terminal import activity

if TYPE_CHECKING:
    from PIL.Image import Image

_MOST_PIXELS = 50_000_000
_GREY = {"1", "L"}
_COLOUR = {"RGB", "P", "CMYK", "YCbCr", "HSV", "LAB"}
_KINDS = {1: "grey", 3: "in colour"}
_TURNS = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
"""What undoes each orientation of EXIF's (JEITA CP-3451, tag 274), as Pillow calls it."""


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
        from PIL import Image

        if not content:
            raise DataError(f"{name} is empty. Replace the picture, or delete the file.")
        with _explained(name), Image.open(io.BytesIO(content)) as image:
            return self.of(image, name, content)

    def of(self, image: "Image", name: str, content: bytes = b"") -> NDArray[np.uint8]:
        """The pixels of an image of Pillow's, read from ``content``. Raises as ``decoded``."""
        width, height = image.size
        if width * height > _MOST_PIXELS:
            raise DataError(_too_large(name, f"{width} × {height}"))
        with _explained(name):
            # A phone's JPEG may hold a smaller one beside it (MPO): the first is the photograph.
            if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
                raise DataError(f"{name} holds {image.n_frames} pictures; keep one.")  # type: ignore[attr-defined]
            if is_deep(image, content):
                raise DataError(_too_deep(name, image.mode))
            return self.checked(np.asarray(self._made(_opaque(_turned(image), name))), name)

    def of_pixels(self, pixels: NDArray[Any], name: str) -> NDArray[np.uint8]:
        """The pixels of an array as ``checked`` takes it, made as is wanted. Raises DataError."""
        from PIL import Image

        found = _channels_first(pixels, name)
        if not (self._wanted.channels or self._wanted.size) or not found.size:
            return self.checked(pixels, name)
        grey_or_colour = found[0] if len(found) == 1 else found.transpose(1, 2, 0)
        picture = Image.fromarray(np.ascontiguousarray(grey_or_colour))
        return self.checked(np.asarray(self._made(picture)), name)

    def _made(self, picture: "Image") -> "Image":
        """A picture in mode L or RGB as it is wanted."""
        from PIL import Image, ImageOps

        if self._wanted.channels:
            picture = picture.convert("L" if self._wanted.channels == 1 else "RGB")
        if self._wanted.size:
            height, width = self._wanted.size
            picture = ImageOps.fit(picture, (width, height), Image.Resampling.BILINEAR)
        return picture

    def checked(self, pixels: NDArray[Any], name: str) -> NDArray[np.uint8]:
        """Pixels (height, width) or (height, width, 1 or 3) as (channels, height, width).

        Raises:
            DataError: they are not bytes of such a shape, or of another than the first.
        """
        found = _channels_first(pixels, name)
        channels, height, width = found.shape
        if self.shape is None:
            self.shape, self._first = (channels, height, width), name
        elif channels != self.shape[0]:
            raise DataError(
                f"{name} is {_KINDS[channels]}, but {self._first} is {_KINDS[self.shape[0]]}. "
                "Set data.channels to 1 or 3 to convert all pictures."
            )
        elif (height, width) != self.shape[1:]:
            raise DataError(
                f"{name} is {width} × {height} pixels, but {self._first} is {self.shape[2]} × "
                f"{self.shape[1]}. Set data.image_size to crop and scale all pictures to one "
                "size."
            )
        return found


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Within it, whatever Pillow raises for a file becomes a DataError that names it.

    What it warns of, a damaged tag or many pixels, names no file, and is either nothing or refused.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (DataError, MemoryError):
        raise
    except UnidentifiedImageError:
        raise DataError(f"{name} is not a picture that Pillow can read. Delete it.") from None
    except Image.DecompressionBombError:
        raise DataError(_too_large(name)) from None
    except Exception as error:  # noqa: BLE001 - a damaged file can bring out anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{name} is broken ({reason}). Replace it, or delete it.") from None


def _channels_first(pixels: NDArray[Any], name: str) -> NDArray[np.uint8]:
    """Pixels (height, width) or (height, width, 1 or 3) as (channels, height, width), a view."""
    if pixels.dtype != np.uint8 or pixels.ndim not in {2, 3}:
        raise DataError(
            f"{name} is {pixels.dtype} {pixels.shape}; allowed: bytes (uint8), (height, width) "
            "or (height, width, 1 or 3)"
        )
    if pixels.ndim == 2:
        return pixels[np.newaxis]
    if pixels.shape[2] not in {1, 3}:
        cure = ". transpose(1, 2, 0) puts them last" if pixels.shape[0] in {1, 3} else ""
        raise DataError(f"{name} has {pixels.shape[2]} channels; allowed: 1 or 3{cure}")
    return pixels.transpose(2, 0, 1)


def _turned(image: "Image") -> "Image":
    """The picture as its camera says that it is to be turned; as it is where it says no sense.

    Not ``ImageOps.exif_transpose``, which writes all tags anew, and fails where one is damaged.
    """
    from PIL import ExifTags, Image

    image.load()
    try:
        method = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # noqa: BLE001 - what a damaged tag brings out; the pixels are sound
        method = None
    return image if method is None else image.transpose(Image.Transpose[method])


def _opaque(image: "Image", name: str) -> "Image":
    """The picture in mode L or RGB. Raises DataError if pixels are transparent or too deep."""
    if image.mode in {"RGBA", "LA", "PA", "La", "RGBa"} or "transparency" in image.info:
        rgba = image.convert("RGBA")
        if rgba.getchannel("A").getextrema()[0] != 255:
            raise DataError(
                f"{name} has transparent pixels, whose colour is not defined. Save it without "
                "transparency."
            )
        return image.convert("L" if image.mode in {"LA", "La", "L"} else "RGB")
    if image.mode in _GREY:
        return image.convert("L")
    if image.mode in _COLOUR:
        return image.convert("RGB")
    raise DataError(_too_deep(name, image.mode))


def _too_deep(name: str, mode: str) -> str:
    of_mode = f" (mode {mode})" if mode not in {"RGB", "RGBA"} else ""
    return f"{name} has more than 8 bits per channel{of_mode}. Save it with 8."


def _too_large(name: str, size: str = "too many") -> str:
    return (
        f"{name} has {size} pixels; at most {_MOST_PIXELS:,} are allowed, so that a small file "
        "cannot fill the memory. Scale it down, or delete it."
    )


def gathered(
    count: int, get: Callable[[int], NDArray[np.uint8]], what: str, folder: Path | None
) -> NDArray[np.uint8]:
    """Images (N, channels, height, width), one after the other, with a progress bar.

    They lie in a file, ``mapped`` in ``folder``. Raises DataError if there is none, and OSError.
    """
    shapes: set[tuple[int, ...]] = set()

    def content() -> Iterator[NDArray[np.uint8]]:
        with activity(f"reading images ({what})", count, "images") as doing:
            for place in range(count):
                pixels = get(place)
                shapes.add(pixels.shape)
                yield np.ascontiguousarray(pixels)
                doing.advance()

    found = mapped(content(), folder)
    if not shapes:
        raise DataError(f"{what}: there are no images")
    (shape,) = shapes  # which the pictures were held to
    return found.reshape(count, *shape)
