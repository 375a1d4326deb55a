"""Bytes from the web become a picture that is safe to keep: upright, 8-bit RGB, resized and encoded by img2dataset.

img2dataset's Resizer drops EXIF orientation and bleaches 16-bit PNG, both silently. So whatever is not plain 8-bit with
the right side up is decoded by Pillow first and handed on without loss. Pixels are counted before any are decoded.
"""

import hashlib
import io
import os
import warnings
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from pydantic import BaseModel, ConfigDict, Field

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
PNG_DEPTH_AT = 24  # the byte of a PNG's header that says bits per channel
ORIENTATION = 0x0112
END = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}  # near the last byte of a whole file


Image.init()  # else Pillow knows only the commonest formats by name


class PictureSettings(BaseModel):
    """As what pictures are kept. The modes are img2dataset's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    image_size: int = Field(512, ge=16, description="pixels: of the side that resize_mode names")
    resize_mode: Literal["no", "keep_ratio", "keep_ratio_largest", "center_crop", "border"] = "keep_ratio_largest"
    resize_only_if_bigger: bool = True
    encode_format: Literal["jpg", "png", "webp"] = "jpg"
    encode_quality: int = Field(95, ge=0, le=100, description="of jpg and webp; png: compression, 0 to 9")
    max_pixels: int = Field(50_000_000, ge=1, description="more is refused before a pixel is decoded")


@dataclass(frozen=True, slots=True)
class Picture:
    bytes: bytes
    format: str
    width: int
    height: int
    original_width: int  # upright
    original_height: int
    sha256: str  # of the bytes that were fetched


class PictureError(Exception):
    """What came is no picture that can be kept."""

    def __init__(self, status: Literal["not_an_image", "broken_image", "too_many_pixels"], words: str) -> None:
        super().__init__(words)
        self.status = status


def prepare(body: bytes, settings: PictureSettings) -> Picture:
    """The picture that a body holds, upright, resized and encoded."""
    opened = _open(body, settings.max_pixels)
    try:
        source = body if _is_plain(opened, body) else _flattened(opened)
    except (OSError, ValueError, SyntaxError, MemoryError, Image.DecompressionBombError) as error:
        raise PictureError("broken_image", f"{opened.format} can't be decoded: {error}") from None
    content, width, height, original_width, original_height, failure = _resizer(settings)(io.BytesIO(source))
    if failure is not None:
        raise PictureError("broken_image", f"{opened.format} can't be decoded: {failure}")
    digest = hashlib.sha256(body).hexdigest()
    return Picture(content, settings.encode_format, width, height, original_width, original_height, digest)


def decode(data: bytes) -> Image.Image:
    """A kept picture, as RGB."""
    return Image.open(io.BytesIO(data)).convert("RGB")


def _open(body: bytes, max_pixels: int) -> Image.Image:
    """Read the header alone."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # max_pixels decides
            opened = Image.open(io.BytesIO(body), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise PictureError("too_many_pixels", str(error)) from None
    except UnidentifiedImageError:
        raise PictureError("not_an_image", f"no picture of a known format; it begins {body[:24]!r}") from None
    except (OSError, ValueError, SyntaxError) as error:
        raise PictureError("broken_image", f"the header is broken: {error}") from None
    if opened.width * opened.height > max_pixels:
        size = f"{opened.width} x {opened.height}"
        raise PictureError("too_many_pixels", f"{size} pixels are more than {max_pixels:,}")
    return opened


def _is_plain(opened: Image.Image, body: bytes) -> bool:
    """Whether img2dataset reads it right: whole, 8-bit, without alpha, the right side up, one frame."""
    if opened.format not in ("JPEG", "PNG", "WEBP") or opened.mode not in ("RGB", "L"):
        return False
    if "transparency" in opened.info or getattr(opened, "is_animated", False):
        return False
    if opened.format == "PNG" and body[PNG_DEPTH_AT] > 8:
        return False
    if opened.getexif().get(ORIENTATION, 1) != 1:
        return False
    if opened.format == "WEBP":
        return len(body) >= int.from_bytes(body[4:8], "little") + 8
    return END[opened.format] in body[-64:]  # else it is cut off, or ends in something strange: Pillow shall say


def _flattened(opened: Image.Image) -> bytes:
    """Any picture as an upright 8-bit RGB bitmap, what is transparent on white."""
    opened.seek(0)
    opened.load()
    image: Image.Image = ImageOps.exif_transpose(opened)
    if image.mode.startswith("I") or image.mode == "F":
        image = Image.fromarray(_eight_bit(np.asarray(image)))
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    bitmap = io.BytesIO()
    image.convert("RGB").save(bitmap, "BMP")
    return bitmap.getvalue()


def _eight_bit(values: np.ndarray) -> np.ndarray:
    """Grey of 16 or 32 bits, or floats of 0 to 1, in 8 bits."""
    if values.dtype.kind == "f":
        values = np.nan_to_num(values) * (255.0 if values.max(initial=0) <= 1 else 1.0)
    elif values.dtype.itemsize > 2:
        values = values >> 8 if values.max(initial=0) > 255 else values
    else:
        values = values >> 8
    return values.clip(0, 255).astype(np.uint8)


@lru_cache(maxsize=8)
def _resizer(settings: PictureSettings) -> Any:
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # its dependency would ask the internet for news
    from img2dataset.resizer import Resizer

    return Resizer(
        image_size=settings.image_size,
        resize_mode=settings.resize_mode,
        resize_only_if_bigger=settings.resize_only_if_bigger,
        encode_format=settings.encode_format,
        encode_quality=settings.encode_quality,
    )
