"""Converts pictures that the resizer would handle wrongly to upright 8-bit RGB, as an uncompressed BMP.

This covers orientation, 16 bits, CMYK, palettes, transparency and animation. Rows are converted in strips, so that
memory use stays close to the size of one decoded picture.
"""

import struct
from collections.abc import Callable, Iterator

import cv2
import numpy as np
from PIL import Image

from data.pictures.header import PictureError

PNG_EXIF = (b"eXIf", b"Raw profile type exif", b"tiff:Orientation")
ORIENTATION = 0x0112
REDUCED = {8: cv2.IMREAD_REDUCED_COLOR_8, 4: cv2.IMREAD_REDUCED_COLOR_4, 2: cv2.IMREAD_REDUCED_COLOR_2}
STRIP = 1 << 20  # pixels converted at once
# EXIF orientation → the view of an upright array into which the stored rows are copied in their order.
TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.swapaxes(0, 1),
    6: lambda upright: np.rot90(upright),
    7: lambda upright: upright[::-1, ::-1].swapaxes(0, 1),
    8: lambda upright: np.rot90(upright, -1),
}

# A broken picture is reported as the error of its row. The codec's messages on stderr would not name the URL.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def is_plain(image: Image.Image, body: bytes) -> bool:
    """Return whether the resizer can handle a picture: 8-bit RGB or grey, no transparency, upright, one frame."""
    if image.mode not in ("RGB", "L") or image.has_transparency_data:
        return False
    if image.format in ("JPEG", "MPO"):
        return not {"exif", "xmp"} & image.info.keys() or _orientation(image) is None
    if image.format not in ("PNG", "WEBP") or getattr(image, "is_animated", False):  # a TIFF would count its frames
        return False
    if image.format == "PNG":  # its metadata may come after the pixels
        return body[24] == 8 and not any(mark in body for mark in PNG_EXIF)
    return not {"exif", "xmp"} & image.info.keys()


def decode_reduced(body: bytes, divisor: int) -> bytes:
    """Decode a JPEG at 1/2, 1/4 or 1/8 of its size to a BMP. This is faster than decoding it in full.

    Raises:
        PictureError: The picture can't be decoded.
    """
    pixels = cv2.imdecode(np.frombuffer(body, np.uint8), REDUCED[divisor])
    if pixels is None:
        raise PictureError("broken_image", "the picture can't be decoded: the data is broken or ends early")
    return cv2.imencode(".bmp", pixels)[1].tobytes()


def to_bitmap(image: Image.Image, body: bytes) -> bytes:
    """Convert a picture to a BMP that is upright and 8-bit RGB, with transparent pixels on white.

    Args:
        image: The opened picture.
        body: The fetched bytes of the same picture.

    Raises:
        PictureError: The picture can't be decoded.
    """
    try:
        by_opencv = image.format == "WEBP" or (image.format == "PNG" and body[24] == 16)
        if not by_opencv or (image.format == "PNG" and any(mark in body for mark in PNG_EXIF)):
            image.load()
        orientation = _orientation(image)
        strips = _strips_by_opencv(body, image) if by_opencv else _strips(image)
        sideways = orientation is not None and orientation > 4
        width, height = (image.height, image.width) if sideways else image.size
        bitmap, upright = _blank_bitmap(width, height)
        stored, row = TURNS[orientation](upright) if orientation else upright, 0
        for strip in strips:
            pixels = np.asarray(_flattened(strip))[..., ::-1]
            stored[row : row + len(pixels)] = pixels
            row += len(pixels)
        del image, strips, strip, pixels
        return bitmap.tobytes()
    except Exception as error:  # noqa: BLE001 - a decoder may raise anything over hostile bytes
        raise PictureError("broken_image", f"the picture can't be decoded: {error}") from None


def _blank_bitmap(width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a blank 24-bit BMP, and a view of its pixels: height × width × (blue, green, red), top row first."""
    stride = -(-width * 3 // 4) * 4
    header = struct.pack("<2sIIIIiiHHIIiiII", b"BM", 54 + height * stride, 0, 54, 40, width, -height, 1, 24, *[0] * 6)
    bitmap = np.zeros(54 + height * stride, np.uint8)
    bitmap[:54] = np.frombuffer(header, np.uint8)
    return bitmap, bitmap[54:].reshape(height, stride)[:, : width * 3].reshape(height, width, 3)


def _orientation(image: Image.Image) -> int | None:
    """Return the EXIF orientation of a picture that is not upright, or None if it is upright."""
    try:
        orientation = image.getexif().get(ORIENTATION, 1)
        return orientation if orientation in TURNS else None
    except Exception:  # noqa: BLE001 - metadata that can't be read says nothing; the picture may be good
        return None


def _strips(image: Image.Image) -> Iterator[Image.Image]:
    """Yield a decoded picture in strips of rows from the top, with 8 bits per channel."""
    value_range = _value_range(image)
    for start, end in _row_ranges(image.size):
        strip = image.crop((0, start, image.width, end))
        if value_range:
            low, high = value_range
            values = (np.asarray(strip, np.float32) - low) * (255 / max(high - low, 1e-12))
            strip = Image.fromarray(np.rint(values).astype(np.uint8))
        yield strip


def _strips_by_opencv(body: bytes, image: Image.Image) -> Iterator[Image.Image]:
    """Yield strips like `_strips`, but decode the picture with OpenCV.

    Pillow reads only the high byte of a 16-bit PNG, and needs three times as much memory for WebP.
    """
    decoded = cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_UNCHANGED)
    if decoded is None or decoded.shape[1::-1] != image.size:
        raise ValueError("the data is broken or ends early")
    for start, end in _row_ranges(image.size):
        pixels = decoded[start:end]
        if pixels.dtype == np.uint16:
            pixels = cv2.convertScaleAbs(pixels, alpha=255 / 65535)
        if pixels.ndim == 3:
            pixels = cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGBA if pixels.shape[2] == 4 else cv2.COLOR_BGR2RGB)
        yield Image.fromarray(pixels)


def _row_ranges(size: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """Yield the first row of each strip of a picture, and the row after its last one."""
    width, height = size
    rows = max(1, STRIP // width)
    return ((start, min(start + rows, height)) for start in range(0, height, rows))


def _value_range(image: Image.Image) -> tuple[float, float] | None:
    """Return the values that become black and white in a grey picture of more than 8 bits. None for other pictures.

    For 16 bits, these are the ends of the range. 32-bit integers and floats have no standard range, so the smallest and
    the largest value in the picture are used.
    """
    if image.mode.startswith("I;16"):
        return 0.0, 65535.0
    if image.mode != "F" and image.mode != "I":
        return None
    lows, highs = [], []
    for start, end in _row_ranges(image.size):
        values = np.asarray(image.crop((0, start, image.width, end)), np.float32)
        lows.append(values.min())
        highs.append(values.max())
    low, high = float(min(lows)), float(max(highs))
    if not np.isfinite([low, high]).all():
        raise ValueError("its values are not finite")
    return low, high


def _flattened(image: Image.Image) -> Image.Image:
    """Convert the picture to RGB, with transparent pixels on white."""
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    image = image.convert("RGBA")
    white = Image.new("RGB", image.size, "white")
    white.paste(image, mask=image.getchannel("A"))
    return white
