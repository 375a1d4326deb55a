"""From a fetched body to the picture that is kept: upright, 8 bits a channel, by img2dataset's resizer.

Plain pictures go to the resizer as they are and are decoded once, outside the interpreter's lock; of a JPEG of twice
the size wanted or more only a fraction is decoded, in a third of the time. What the resizer would get wrong
(orientation, 16 bits, CMYK, palettes, alpha, animation) is made plain first, some rows at a time. Pixels are counted
from the header; a picture of many pixels is decoded alone, so that memory stays bounded.
"""

import hashlib
import importlib.util
import io
import os
import struct
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import lru_cache, partial
from threading import Lock
from typing import Any, Literal

import cv2
import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
LARGE = 8_000_000  # pixels; above, one picture at a time
PNG_COMPRESSION = 6
PNG_EXIF = (b"eXIf", b"Raw profile type exif", b"tiff:Orientation")
ORIENTATION = 0x0112
SHRINKING = {8: cv2.IMREAD_REDUCED_COLOR_8, 4: cv2.IMREAD_REDUCED_COLOR_4, 2: cv2.IMREAD_REDUCED_COLOR_2}
THREADS = 2  # that make copies
SCANS = 100  # of a JPEG; each goes over the whole picture, and ten are usual
STRIP = 1 << 20  # pixels made plain at once
# By EXIF orientation: the upright picture as seen from the stored one, to be filled in its order.
TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.swapaxes(0, 1),
    6: lambda upright: np.rot90(upright),
    7: lambda upright: upright[::-1, ::-1].swapaxes(0, 1),
    8: lambda upright: np.rot90(upright, -1),
}
_large = Lock()

# Pixels are counted here, against the settings; Pillow's own warning comes at another number.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", module="PIL")
# Blocks of the 16 MB that it takes by itself stay with the C library when they are freed, hundreds of MB of them.
Image.core.set_block_size(64 << 20)
# A broken picture is an error of its own row; the codec's words on stderr would name no URL.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


class PictureError(Exception):
    """A body that gives no picture. `status` is not_an_image, broken_image or too_many_pixels."""

    def __init__(self, status: str, words: str) -> None:
        super().__init__(words)
        self.status = status

    def __reduce__(self) -> tuple[Any, ...]:
        return PictureError, (self.status, str(self))


class PictureSettings(BaseModel):
    """As what pictures are kept."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    image_size: int = Field(512, ge=1, description="pixels of the side that resize_mode means")
    resize_mode: Literal["keep_ratio", "keep_ratio_largest", "center_crop", "border", "no"] = Field(
        "keep_ratio_largest",
        description="keep_ratio: the smaller side becomes image_size; keep_ratio_largest: the larger",
    )
    resize_only_if_bigger: bool = True
    encode_format: Literal["jpg", "png", "webp"] = "jpg"
    encode_quality: int = Field(95, ge=0, le=100, description="of jpg and webp; png keeps all")
    max_pixels: int = Field(
        50_000_000, ge=1, le=150_000_000, description="more are not decoded; those of a 16-bit PNG count twice"
    )


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture as kept, and what it was: `original_width` and `original_height` are those of the upright original."""

    bytes: bytes
    format: str
    width: int
    height: int
    original_width: int
    original_height: int
    original_bytes: int
    sha256: str  # of the body as fetched


def prepare(body: bytes, settings: PictureSettings) -> Picture:
    image = _open(body, settings.max_pixels)
    _check_enlarged(image.width, image.height, settings)
    _check_parts(image, body)
    alone: AbstractContextManager[object] = _large if image.width * image.height > LARGE else nullcontext()
    with alone:
        divisor, plain = 0, body
        if not _is_plain(image, body):
            image.close()
            plain = _made_plain(_open(body, settings.max_pixels), body)  # whose pixels are free when the BMP stands
        elif divisor := _divisor(image, settings):
            plain = _shrunk(body, divisor)
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


def _check_enlarged(width: int, height: int, settings: PictureSettings) -> None:
    """A thin picture whose smaller side is enlarged to the size asked for can become a bomb here."""
    if settings.resize_mode in ("keep_ratio", "center_crop") and not settings.resize_only_if_bigger:
        scale = settings.image_size / min(width, height)
        if width * height * scale**2 > settings.max_pixels:
            raise PictureError("too_many_pixels", f"{width} x {height} pixels would be enlarged {scale:.0f} times")


def _check_parts(image: Image.Image, body: bytes) -> None:
    """What the header does not say: scans by the thousand, and a part that OpenCV would make room for by its word."""
    scans = body.count(b"\xff\xda") if image.format in ("JPEG", "MPO") else 0
    if scans > SCANS:
        raise PictureError("broken_image", f"a JPEG of {scans:,} scans, more than {SCANS}")
    at = 8 if image.format == "PNG" else len(body)
    while at + 12 <= len(body) and body[at + 4 : at + 8] != b"IEND":
        at += 12 + int.from_bytes(body[at : at + 4], "big")
    if at > len(body):
        raise PictureError("broken_image", "a part of the PNG is longer than what came")


def shrink_pictures(pictures: Sequence[bytes], settings: PictureSettings) -> list[bytes]:
    """Kept pictures again, at another size; those that have that size or less stay as they are."""
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(partial(_smaller, settings=settings), pictures))


def _smaller(picture: bytes, settings: PictureSettings) -> bytes:
    with Image.open(io.BytesIO(picture)) as image:
        side = min(image.size)
    return picture if side <= settings.image_size else prepare(picture, settings).bytes


def decode(data: bytes) -> Image.Image:
    """The pixels of a kept picture, as RGB."""
    with Image.open(io.BytesIO(data)) as image:
        return image.convert("RGB")


@lru_cache(maxsize=16)
def _resizer(size: int, mode: str, only_if_bigger: bool, encode_format: str, quality: int) -> Any:
    return _resizing().Resizer(size, mode, only_if_bigger, encode_format=encode_format, encode_quality=quality)


@lru_cache(maxsize=1)
def _resizing() -> Any:
    """img2dataset's resizer, by itself: its package imports wandb and pandas, seconds of every worker's start."""
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
    # It points the process's own stdout and stderr at /dev/null for each picture; with threads they stay there.
    module.SuppressStdoutStderr = nullcontext  # type: ignore[attr-defined]
    return module


def _open(body: bytes, max_pixels: int) -> Image.Image:
    """The picture with its header read and no pixel."""
    deep = body[:8] == b"\x89PNG\r\n\x1a\n" and body[24:25] == b"\x10"
    try:
        width, height = _webp_size(body)
        if width * height <= max_pixels:
            image = Image.open(io.BytesIO(body), formats=FORMATS)
            width, height = image.size
    except Image.UnidentifiedImageError:
        raise PictureError("not_an_image", f"no picture of a known format, but {_looks_like(body)}") from None
    except Image.DecompressionBombError as error:
        raise PictureError("too_many_pixels", str(error)) from None
    except Exception as error:  # noqa: BLE001 - a parser may raise anything over a hostile header
        raise PictureError("broken_image", f"the header can't be read: {error}") from None
    if width * height * (1 + deep) > max_pixels:
        words = f"{width} x {height} pixels{' of 16 bits' if deep else ''}, more than {max_pixels // (1 + deep):,}"
        raise PictureError("too_many_pixels", words)
    return image


def _webp_size(body: bytes) -> tuple[int, int]:
    """The size in a WebP header, else 0, 0: Pillow's reader makes room for all pixels as it opens the file."""
    if body[:4] != b"RIFF" or body[8:12] != b"WEBP" or len(body) < 30:
        return 0, 0
    if body[12:16] == b"VP8X":
        return 1 + int.from_bytes(body[24:27], "little"), 1 + int.from_bytes(body[27:30], "little")
    if body[12:16] == b"VP8L":
        bits = int.from_bytes(body[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    return int.from_bytes(body[26:28], "little") & 0x3FFF, int.from_bytes(body[28:30], "little") & 0x3FFF


def _looks_like(body: bytes) -> str:
    start = body[:512].lstrip().lower()
    if not start:
        return "nothing"
    if start.startswith((b"<!doctype html", b"<html")) or b"<html" in start:
        return "HTML"
    if b"<svg" in start:
        return "SVG"
    return f"bytes that begin with {body[:12]!r}"


def _is_plain(image: Image.Image, body: bytes) -> bool:
    """Whether the resizer gets it right: 8-bit RGB or grey without transparency, upright, one frame."""
    if image.mode not in ("RGB", "L") or image.has_transparency_data:
        return False
    if image.format in ("JPEG", "MPO"):
        return not {"exif", "xmp"} & image.info.keys() or _turn(image) is None
    if image.format not in ("PNG", "WEBP") or getattr(image, "is_animated", False):  # of a TIFF it would count frames
        return False
    if image.format == "PNG":  # its metadata may come after the pixels
        return body[24] == 8 and not any(mark in body for mark in PNG_EXIF)
    return not {"exif", "xmp"} & image.info.keys()


def _divisor(image: Image.Image, settings: PictureSettings) -> int:
    """By what a JPEG may be divided as it is decoded, so that the resizer still makes it smaller; 0 for nothing."""
    if settings.resize_mode == "no" or image.format not in ("JPEG", "MPO") or image.mode != "RGB":
        return 0
    side = (min if settings.resize_mode in ("keep_ratio", "center_crop") else max)(image.size)
    return next((divisor for divisor in SHRINKING if side >= divisor * settings.image_size), 0)


def _shrunk(body: bytes, divisor: int) -> bytes:
    """The same JPEG in a half, a quarter or an eighth of its size as a BMP: fewer of its cosines are computed."""
    pixels = cv2.imdecode(np.frombuffer(body, np.uint8), SHRINKING[divisor])
    if pixels is None:
        raise PictureError("broken_image", "the picture can't be decoded: the data is broken or ends early")
    return cv2.imencode(".bmp", pixels)[1].tobytes()


def _made_plain(image: Image.Image, body: bytes) -> bytes:
    """The same picture upright, flattened on white, in 8-bit RGB, as a BMP: what the resizer reads at little cost."""
    try:
        by_opencv = image.format == "WEBP" or (image.format == "PNG" and body[24] == 16)
        if not by_opencv or (image.format == "PNG" and any(mark in body for mark in PNG_EXIF)):
            image.load()
        turn = _turn(image)
        strips = _strips_by_opencv(body, image) if by_opencv else _strips(image)
        sideways = turn is not None and turn > 4
        width, height = (image.height, image.width) if sideways else image.size
        bitmap, upright = _blank_bitmap(width, height)
        stored, at = TURNS[turn](upright) if turn else upright, 0
        for strip in strips:
            rows = np.asarray(_flattened(strip))[..., ::-1]
            stored[at : at + len(rows)] = rows
            at += len(rows)
        del image, strips, strip, rows
        return bitmap.tobytes()
    except Exception as error:  # noqa: BLE001 - a decoder may raise anything over hostile bytes
        raise PictureError("broken_image", f"the picture can't be decoded: {error}") from None


def _blank_bitmap(width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """A BMP of 24 bits a pixel, and its pixels from the top in blue, green, red."""
    stride = -(-width * 3 // 4) * 4
    header = struct.pack("<2sIIIIiiHHIIiiII", b"BM", 54 + height * stride, 0, 54, 40, width, -height, 1, 24, *[0] * 6)
    bitmap = np.zeros(54 + height * stride, np.uint8)
    bitmap[:54] = np.frombuffer(header, np.uint8)
    return bitmap, bitmap[54:].reshape(height, stride)[:, : width * 3].reshape(height, width, 3)


def _turn(image: Image.Image) -> int | None:
    """The EXIF orientation of a picture that does not stand upright; None when it does."""
    try:
        said = image.getexif().get(ORIENTATION, 1)
        return said if said in TURNS else None
    except Exception:  # noqa: BLE001 - unreadable metadata says nothing; the picture may be good
        return None


def _strips(image: Image.Image) -> Iterator[Image.Image]:
    """A decoded picture from the top, some rows at a time, in 8 bits a channel."""
    range = _range(image)
    for at, end in _cuts(image.size):
        strip = image.crop((0, at, image.width, end))
        if range:
            low, high = range
            values = (np.asarray(strip, np.float32) - low) * (255 / max(high - low, 1e-12))
            strip = Image.fromarray(np.rint(values).astype(np.uint8))
        yield strip


def _strips_by_opencv(body: bytes, image: Image.Image) -> Iterator[Image.Image]:
    """The same of a 16-bit PNG, of which Pillow takes the high byte, and of WebP, for which it takes three times the
    memory.
    """
    deep = cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_UNCHANGED)
    if deep is None or deep.shape[1::-1] != image.size:
        raise ValueError("the data is broken or ends early")
    for at, end in _cuts(image.size):
        pixels = deep[at:end]
        if pixels.dtype == np.uint16:
            pixels = cv2.convertScaleAbs(pixels, alpha=255 / 65535)
        if pixels.ndim == 3:
            pixels = cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGBA if pixels.shape[2] == 4 else cv2.COLOR_BGR2RGB)
        yield Image.fromarray(pixels)


def _cuts(size: tuple[int, int]) -> Iterator[tuple[int, int]]:
    rows = max(1, STRIP // size[0])
    return ((at, min(at + rows, size[1])) for at in range(0, size[1], rows))


def _range(image: Image.Image) -> tuple[float, float] | None:
    """Black and white of grey of more than 8 bits: 16-bit values by their range, others by what is there, as no range
    is agreed on.
    """
    if image.mode.startswith("I;16"):
        return 0.0, 65535.0
    if image.mode != "F" and image.mode != "I":
        return None
    ends = [
        (values.min(), values.max())
        for at, end in _cuts(image.size)
        for values in [np.asarray(image.crop((0, at, image.width, end)), np.float32)]
    ]
    low, high = float(min(low for low, _ in ends)), float(max(high for _, high in ends))
    if not np.isfinite([low, high]).all():
        raise ValueError("its values are not finite")
    return low, high


def _flattened(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    image = image.convert("RGBA")
    white = Image.new("RGB", image.size, "white")
    white.paste(image, mask=image.getchannel("A"))
    return white
