"""Whether a picture has more than 8 bits a channel, which Pillow cuts to 8 in colour."""

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image

_DEEP = re.compile(r";(16|32)[A-Z]|SGI16")
"""In the name of a raw mode, "RGB;16B", or of a codec. ("BGR;16" has 16 bits a pixel.)"""
_BITS_PER_SAMPLE = 258
_J2K_SIZE, _J2K_DEPTHS = b"\xff\x4f\xff\x51", 42
_AV1_CONFIGURATION, _AV1_HIGH_BITDEPTH = b"av1C", 0x40


def is_deep(image: "Image", content: bytes) -> bool:
    """Whether a file's channels have more than 8 bits.

    Grey pictures may have a mode of their own (I;16), which says so too, and is not asked here.

    Args:
        image: opened, and not loaded yet: then Pillow says how it will read the file.
        content: the file, of which JPEG 2000 and AVIF must be asked themselves; b"" if not known.
    """
    if image.format == "TIFF":
        bits: Any = image.tag_v2.get(_BITS_PER_SAMPLE, 1)  # type: ignore[attr-defined]
        return bool(max(bits if isinstance(bits, tuple) else (bits,)) > 8)
    if image.format == "JPEG2000":
        return _is_deep_jpeg2000(content)
    if image.format == "AVIF":  # third byte of AV1CodecConfigurationRecord
        _, _, configuration = content.partition(_AV1_CONFIGURATION)
        return any(byte & _AV1_HIGH_BITDEPTH for byte in configuration[2:3])
    return any(_says_deep(tile, image.format) for tile in getattr(image, "tile", ()))


def _says_deep(tile: Any, kind: str | None) -> bool:
    """Whether a part of a file is read from deeper pixels: its raw mode, and a PPM's largest."""
    codec, _, _, arguments = tile
    said = (codec, *(arguments if isinstance(arguments, tuple) else (arguments,)))
    if any(isinstance(one, str) and _DEEP.search(one) for one in said):
        return True
    return kind == "PPM" and isinstance(said[-1], int) and said[-1] > 255


def _is_deep_jpeg2000(content: bytes) -> bool:
    """From the marker SIZ (ISO/IEC 15444-1, A.5.1): 3 bytes a channel, of which one is its bits."""
    start = content.find(_J2K_SIZE)
    if start < 0:
        return False
    first = start + _J2K_DEPTHS
    channels = int.from_bytes(content[first - 2 : first])
    return any((bits & 0x7F) + 1 > 8 for bits in content[first : first + 3 * channels : 3])
