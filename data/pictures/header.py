"""Opens a fetched picture without decoding it, and refuses one whose header or structure is harmful or broken."""

import io
import warnings

from PIL import Image

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
MAX_SCANS = 100  # scans of a JPEG: each is decoded over the whole picture, and ten are usual

# This module compares the number of pixels with the limit in the settings. Pillow would warn at another number.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", module="PIL")
# The C library keeps freed blocks of 16 MB, Pillow's default, hundreds of MB in all. It returns larger blocks.
Image.core.set_block_size(64 << 20)


class PictureError(Exception):
    """Raised for a fetched body that can't be made into a picture.

    Args:
        status: not_an_image, broken_image or too_many_pixels.
        message: What is wrong with the body.
    """

    def __init__(self, status: str, message: str) -> None:
        super().__init__(message)
        self.status = status

    def __reduce__(self) -> tuple[type["PictureError"], tuple[str, str]]:
        return PictureError, (self.status, str(self))


def open_picture(body: bytes, max_pixels: int) -> Image.Image:
    """Open a picture: read its header, but decode no pixels.

    Args:
        max_pixels: The largest allowed number of pixels. Pixels of a 16-bit PNG count twice.

    Raises:
        PictureError: The body is not a picture, its header is broken, or it has too many pixels.
    """
    has_16_bits = body[:8] == b"\x89PNG\r\n\x1a\n" and body[24:25] == b"\x10"
    try:
        width, height = _webp_size(body)
        if width * height <= max_pixels:
            image = Image.open(io.BytesIO(body), formats=FORMATS)
            width, height = image.size
    except Image.UnidentifiedImageError:
        raise PictureError("not_an_image", f"not a picture of a known format but {_describe(body)}") from None
    except Image.DecompressionBombError as error:
        raise PictureError("too_many_pixels", str(error)) from None
    except Exception as error:  # noqa: BLE001 - a parser may raise anything over a hostile header
        raise PictureError("broken_image", f"the header can't be read: {error}") from None
    if width * height * (1 + has_16_bits) > max_pixels:
        depth = " of 16 bits" if has_16_bits else ""
        limit = max_pixels // (1 + has_16_bits)
        raise PictureError("too_many_pixels", f"{width} x {height} pixels{depth}, more than {limit:,}")
    return image


def check_structure(image: Image.Image, body: bytes) -> None:
    """Check the number of scans in a JPEG and the lengths of a PNG's chunks, which the header does not show.

    OpenCV would allocate as much memory as a PNG chunk claims to need.

    Raises:
        PictureError: A JPEG has more than MAX_SCANS scans, or a PNG chunk is longer than the body.
    """
    scans = body.count(b"\xff\xda") if image.format in ("JPEG", "MPO") else 0
    if scans > MAX_SCANS:
        raise PictureError("broken_image", f"a JPEG of {scans:,} scans, more than {MAX_SCANS}")
    position = 8 if image.format == "PNG" else len(body)
    while position + 12 <= len(body) and body[position + 4 : position + 8] != b"IEND":
        position += 12 + int.from_bytes(body[position : position + 4], "big")
    if position > len(body):
        raise PictureError("broken_image", "a chunk of the PNG is longer than the file")


def _webp_size(body: bytes) -> tuple[int, int]:
    """Return the size in a WebP header, or 0, 0 for other formats.

    The size is needed before Pillow opens a WebP file, because opening it allocates memory for all pixels.
    """
    if body[:4] != b"RIFF" or body[8:12] != b"WEBP" or len(body) < 30:
        return 0, 0
    if body[12:16] == b"VP8X":
        return 1 + int.from_bytes(body[24:27], "little"), 1 + int.from_bytes(body[27:30], "little")
    if body[12:16] == b"VP8L":
        bits = int.from_bytes(body[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    return int.from_bytes(body[26:28], "little") & 0x3FFF, int.from_bytes(body[28:30], "little") & 0x3FFF


def _describe(body: bytes) -> str:
    start = body[:512].lstrip().lower()
    if not start:
        return "nothing"
    if start.startswith((b"<!doctype html", b"<html")) or b"<html" in start:
        return "HTML"
    if b"<svg" in start:
        return "SVG"
    return f"bytes that begin with {body[:12]!r}"
