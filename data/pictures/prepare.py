"""Turns a fetched body into the picture that is stored: upright, 8 bits per channel, resized by img2dataset's resizer.

Most pictures go to the resizer as fetched. It decodes them once and releases the interpreter's lock. A JPEG of at least
twice the wanted size is decoded at reduced size, in a third of the time. Pictures that the resizer would handle wrongly
are converted first (bitmap.py). To limit memory, the size is read from the header before decoding (header.py), and
large pictures are decoded one at a time.
"""

import hashlib
import importlib.util
import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import lru_cache, partial
from threading import Lock
from typing import Any, Literal

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from data.pictures.bitmap import REDUCED, decode_reduced, is_plain, to_bitmap
from data.pictures.header import PictureError, check_structure, open_picture

LARGE = 8_000_000  # pixels; larger pictures are decoded one at a time
PNG_COMPRESSION = 6
THREADS = 2  # for resizing stored pictures
_large_picture = Lock()


class PictureSettings(BaseModel):
    """The size and format in which pictures are stored."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    image_size: int = Field(512, ge=1, description="size in pixels of the side that resize_mode names")
    resize_mode: Literal["keep_ratio", "keep_ratio_largest", "center_crop", "border", "no"] = Field(
        "keep_ratio_largest",
        description="keep_ratio: the smaller side becomes image_size; keep_ratio_largest: the larger",
    )
    resize_only_if_bigger: bool = True
    encode_format: Literal["jpg", "png", "webp"] = "jpg"
    encode_quality: int = Field(95, ge=0, le=100, description="quality of jpg and webp; png is lossless")
    max_pixels: int = Field(
        50_000_000, ge=1, le=150_000_000, description="most pixels that are decoded; those of a 16-bit PNG count twice"
    )


@dataclass(frozen=True, slots=True)
class Picture:
    """A stored picture, with the size and hash of its original. The original size is that of the upright original."""

    bytes: bytes
    format: str
    width: int
    height: int
    original_width: int
    original_height: int
    original_bytes: int
    sha256: str  # hash of the body as fetched


def prepare(body: bytes, settings: PictureSettings) -> Picture:
    """Check, decode, resize and encode a fetched picture.

    Raises:
        PictureError: The body is not a picture, is broken, or has too many pixels.
    """
    image = open_picture(body, settings.max_pixels)
    _check_enlarged_size(image.width, image.height, settings)
    check_structure(image, body)
    is_large = image.width * image.height > LARGE
    guard: AbstractContextManager[object] = _large_picture if is_large else nullcontext()
    with guard:
        divisor, plain = 0, body
        if not is_plain(image, body):
            image.close()
            plain = to_bitmap(open_picture(body, settings.max_pixels), body)  # frees its pixels on return
        elif divisor := _jpeg_divisor(image, settings):
            plain = decode_reduced(body, divisor)
        resize = _resizer(
            settings.image_size,
            settings.resize_mode,
            settings.resize_only_if_bigger,
            settings.encode_format,
            PNG_COMPRESSION if settings.encode_format == "png" else settings.encode_quality,
        )
        data, width, height, original_width, original_height, error = resize(io.BytesIO(plain))
    if error:
        raise PictureError("broken_image", f"the picture can't be decoded: {error}")
    if divisor:
        original_width, original_height = image.size
    sha256 = hashlib.sha256(body).hexdigest()
    return Picture(data, settings.encode_format, width, height, original_width, original_height, len(body), sha256)


def shrink_pictures(pictures: Sequence[bytes], settings: PictureSettings) -> list[bytes]:
    """Resize stored pictures. Those whose smaller side is at most `image_size` are returned unchanged."""
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(partial(_shrink, settings=settings), pictures))


def _shrink(picture: bytes, settings: PictureSettings) -> bytes:
    with Image.open(io.BytesIO(picture)) as image:
        side = min(image.size)
    return picture if side <= settings.image_size else prepare(picture, settings).bytes


def decode(data: bytes) -> Image.Image:
    """Decode a stored picture to RGB."""
    with Image.open(io.BytesIO(data)) as image:
        return image.convert("RGB")


def _check_enlarged_size(width: int, height: int, settings: PictureSettings) -> None:
    """Refuse a narrow picture that would have too many pixels after its smaller side is enlarged."""
    if settings.resize_mode in ("keep_ratio", "center_crop") and not settings.resize_only_if_bigger:
        scale = settings.image_size / min(width, height)
        if width * height * scale**2 > settings.max_pixels:
            raise PictureError("too_many_pixels", f"{width} x {height} pixels would be enlarged {scale:.0f} times")


def _jpeg_divisor(image: Image.Image, settings: PictureSettings) -> int:
    """Return the largest divisor by which a JPEG can be reduced and not be smaller than wanted. 0 if there is none."""
    if settings.resize_mode == "no" or image.format not in ("JPEG", "MPO") or image.mode != "RGB":
        return 0
    by_smaller_side = settings.resize_mode in ("keep_ratio", "center_crop")
    side = min(image.size) if by_smaller_side else max(image.size)
    divisors = [divisor for divisor in REDUCED if side >= divisor * settings.image_size]
    return max(divisors, default=0)


@lru_cache(maxsize=16)
def _resizer(size: int, mode: str, only_if_bigger: bool, encode_format: str, quality: int) -> Any:
    return _resizer_module().Resizer(size, mode, only_if_bigger, encode_format=encode_format, encode_quality=quality)


@lru_cache(maxsize=1)
def _resizer_module() -> Any:
    """Load only img2dataset's resizer. Its package imports wandb and pandas, which takes seconds in each worker."""
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    package = importlib.util.find_spec("img2dataset")
    if package is None or not package.submodule_search_locations:
        raise ImportError("img2dataset is not installed")
    path = os.path.join(package.submodule_search_locations[0], "resizer.py")
    spec = importlib.util.spec_from_file_location("img2dataset_resizer", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    # The resizer redirects stdout and stderr to /dev/null for each picture. With threads, they would stay there.
    module.SuppressStdoutStderr = nullcontext  # type: ignore[attr-defined]
    return module
