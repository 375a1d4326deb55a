"""A corpus of hostile bodies: pictures of every format and mode, whole, truncated, mutated at random, and bombs.

The same seed gives the same corpus. Nothing here is stored: Pillow writes the pictures, a fuzzer changes their bytes.
"""

import io
import random
import struct
import zlib
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.servers.small_world import write_origin

SIDE = 7000  # a square of just under the 50 million pixels that are decoded
SCANS = 3000

TIFF_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "I", "I;16", "F")
FORMS: list[tuple[str, str, dict[str, Any]]] = [
    *(("JPEG", mode, {"quality": quality}) for mode in ("RGB", "L", "CMYK") for quality in (1, 90)),
    *(("JPEG", mode, {"progressive": True, "subsampling": 0}) for mode in ("RGB", "L")),
    *(("PNG", mode, {}) for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")),
    ("PNG", "P", {"transparency": 3}),
    ("PNG", "RGB", {"save_all": True}),
    ("GIF", "P", {}),
    ("GIF", "P", {"save_all": True}),
    *(("WEBP", mode, {"lossless": lossless}) for mode in ("RGB", "RGBA") for lossless in (True, False)),
    ("WEBP", "RGBA", {"save_all": True}),
    *(("BMP", mode, {}) for mode in ("1", "L", "P", "RGB", "RGBA")),
    *(("TIFF", mode, {}) for mode in TIFF_MODES),
    *(("TIFF", mode, {"compression": "tiff_lzw"}) for mode in ("L", "P", "RGB", "I;16", "CMYK")),
    *(("TIFF", mode, {"compression": "tiff_deflate"}) for mode in ("RGBA", "F", "I")),
    *(("TIFF", mode, {"compression": "jpeg"}) for mode in ("L", "RGB")),
    ("TIFF", "1", {"compression": "group4"}),
    ("TIFF", "RGB", {"save_all": True}),
    ("AVIF", "RGB", {"speed": 10}),
    ("AVIF", "RGBA", {"speed": 10}),
    *((kind, "RGB", {}) for kind in ("ICO", "PPM", "TGA", "JPEG2000", "PCX", "SGI", "DDS", "IM", "PDF", "EPS")),
    ("XBM", "1", {}),
]
NO_PICTURES = [
    b"",
    b"\xff",
    b"<!doctype html><html><body>moved</body></html>",
    b'<svg xmlns="http://www.w3.org/2000/svg" width="10" height="10"/>',
    b"GIF89a",
    b"\x89PNG\r\n\x1a\n",
    b"RIFF\x10\0\0\0WEBPVP8 ",
    b"\xff\xd8\xff\xe0",
    b"BM",
    b"II*\0",
    b"MM\0*\xff\xff\xff\xff",
    b"\0\0\0\x20ftypavif",
    b"PK\x03\x04" + bytes(60),
]


def random_picture(rng: random.Random) -> bytes:
    """A valid picture of a random format, mode and size, thin ones among them."""
    kind, mode, options = rng.choice(FORMS)
    width, height = rng.choice([(rng.randint(1, 200), rng.randint(1, 200)), (1, 1), (1, 900), (2000, 2)])
    width, height = (32, 32) if kind == "ICO" else (width, height)  # no smaller ones are written
    pixel_rng = np.random.default_rng(rng.getrandbits(32))
    small = pixel_rng.integers(0, 255, (max(1, height // 8), max(1, width // 8), 4), dtype=np.uint8)
    image = convert_mode(Image.fromarray(small, "RGBA").resize((width, height)), mode)
    options = dict(options)
    if options.get("save_all"):
        options["append_images"] = [image.transpose(Image.Transpose.ROTATE_180)] * rng.randint(1, 3)
    if kind in ("JPEG", "WEBP", "PNG", "AVIF") and rng.random() < 0.4:
        exif = Image.Exif()
        exif[0x0112] = rng.choice([*range(10), 65535])
        options["exif"] = exif
    return encode(image, kind, **options)


def convert_mode(image: Image.Image, mode: str) -> Image.Image:
    if mode in ("I", "F"):
        return image.convert("L").convert(mode).point(lambda value: value * 200)
    if mode == "I;16":
        return Image.fromarray(np.asarray(image.convert("L"), np.uint16) * 200)
    if mode == "LAB":
        return Image.frombytes("LAB", image.size, image.convert("RGB").tobytes())
    return image.convert(mode)


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def mutate(body: bytes, other: bytes, rng: random.Random) -> bytes:
    """Change some bytes, mostly near the start, where headers are. Every second PNG gets correct checksums."""
    changed = bytearray(body)
    for _ in range(rng.choice([1, 1, 2, 5, 30])):
        near = rng.choice([0, 8, 8, 30]) + int(rng.expovariate(1 / 60))  # mostly past the mark of the format
        at = min(near, len(changed)) if rng.random() < 0.6 else rng.randint(0, len(changed))
        length = rng.choice([1, 1, 2, 4, 4, 16, 200])
        part = changed[at : at + length]
        change = rng.randrange(7)
        if change == 0:
            changed[at : at + length] = rng.randbytes(length)
        elif change == 1:
            changed[at : at + length] = bytes(byte ^ 1 << rng.randrange(8) for byte in part)
        elif change == 2:
            del changed[at : at + length]
        elif change == 3:
            changed[at:at] = part * rng.choice([1, 50])
        elif change == 4:
            changed[at : at + 4] = rng.choice(
                [b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f"]
            )
        elif change == 5:
            changed[at : at + 2] = rng.choice([b"\0\0", b"\xff\xff", b"\x80\0", b"\0\x01"])
        else:
            start = rng.randint(0, len(other))
            changed[at : at + length] = other[start : start + rng.choice([4, 40, 4000])]
    if body.startswith(b"\x89PNG") and rng.random() < 0.5:
        return with_checksums(bytes(changed))
    return bytes(changed)


def with_checksums(body: bytes) -> bytes:
    fixed, at = bytearray(body[:8]), 8
    while at + 12 <= len(body):
        length = int.from_bytes(body[at : at + 4], "big")
        part = body[at + 4 : at + 8 + length]
        fixed += body[at : at + 4] + part + struct.pack(">I", zlib.crc32(part))
        at += 12 + length
    return bytes(fixed + body[at:])


def png_part(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


@lru_cache(maxsize=8)
def packed_zeros(size: int) -> bytes:
    return zlib.compress(bytes(size), 1)


def png(width: int, height: int, depth: int, colour: int, *extra: bytes, interlaced: int = 0) -> bytes:
    """A valid PNG of zeros; without rows if they would be more than a gigabyte."""
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    size = height * (1 + (width * depth * channels + 7) // 8)
    rows = packed_zeros(size) if size < 1 << 30 else zlib.compress(b"")
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    parts = [png_part(b"IHDR", header), *extra, png_part(b"IDAT", rows), png_part(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def gif(screen: tuple[int, int], frame: tuple[int, int], frames: int = 1) -> bytes:
    head = b"GIF89a" + struct.pack("<HHBBB", *screen, 0x80, 0, 0) + bytes(6)
    block = b"," + struct.pack("<HHHHB", 0, 0, *frame, 0) + b"\x02\x02\x44\x01\0"
    return head + block * frames + b";"


def jpeg_of(width: int, height: int) -> bytes:
    """A small JPEG that claims another size."""
    body = bytearray(encode(Image.new("RGB", (8, 8)), "JPEG"))
    at = body.index(b"\xff\xc0") + 5
    body[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(body)


def jpeg_of_scans(side: int, scans: int) -> bytes:
    """A progressive JPEG whose last scan comes again and again: each goes over all of the picture."""
    body = encode(Image.new("L", (side, side), 90), "JPEG", progressive=True)
    last = body.rindex(b"\xff\xda")
    return body[:-2] + body[last:-2] * scans + body[-2:]


def tiff(tags: dict[int, tuple[int, int, int]], *, following: int = 0, more: bytes = b"") -> bytes:
    """One directory at 8; tags: number → (type, count, value)."""
    entries = b"".join(struct.pack("<HHII", tag, *entry) for tag, entry in sorted(tags.items()))
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + struct.pack("<I", following) + more


def tiff_of_directories(count: int) -> bytes:
    """A small picture whose directories form a long chain."""
    size = 2 + 12 * 8 + 4
    tags = {256: (3, 1, 1), 257: (3, 1, 1), 258: (3, 1, 8), 259: (3, 1, 1), 262: (3, 1, 1), 273: (4, 1, 8)}
    tags |= {278: (3, 1, 1), 279: (4, 1, 1)}
    entries = struct.pack("<H", 8) + b"".join(struct.pack("<HHII", tag, *entry) for tag, entry in sorted(tags.items()))
    chain = (entries + struct.pack("<I", 8 + size * (n + 1) if n + 1 < count else 0) for n in range(count))
    return b"II*\0\x08\0\0\0" + b"".join(chain)


def bmp(width: int, height: int, compression: int = 0, rows: bytes = b"") -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, compression, len(rows), 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + 1024 + len(rows), 0, 0, 54 + 1024) + header + bytes(1024) + rows


def avif_of(width: int, height: int) -> bytes:
    body = bytearray(encode(Image.new("RGB", (16, 16)), "AVIF", speed=10))
    at = body.index(b"ispe") + 8
    body[at : at + 8] = struct.pack(">II", width, height)
    return bytes(body)


def webp_of(width: int, height: int) -> bytes:
    sizes = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBPVP8X" + struct.pack("<I", 10) + b"\x02\0\0\0" + sizes + bytes(40)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def square(mode: str, kind: str, side: int = SIDE, **options: Any) -> bytes:
    return encode(Image.new(mode, (side, side)), kind, **options)


ICC = b"icc\0\0" + zlib.compress(bytes(60_000_000), 1)
BOMBS: dict[str, Callable[[], bytes]] = {
    "png header": partial(png, 2**31 - 1, 2**31 - 1, 8, 2),
    "png 900 million": partial(png, 30_000, 30_000, 1, 0),
    "png thin": partial(png, 5_000_000, 1, 8, 2),
    "png tall": partial(png, 1, 5_000_000, 8, 0),
    "png colour profile": lambda: png(9, 9, 8, 2, png_part(b"iCCP", ICC)),
    "png text": lambda: png(9, 9, 8, 2, png_part(b"zTXt", b"Raw profile type exif\0\0" + ICC[5:])),
    "png rows": lambda: png(9, 9, 8, 2, png_part(b"IDAT", packed_zeros(100_000_000))),
    "png frames": lambda: png(9, 9, 8, 2, png_part(b"acTL", struct.pack(">II", 2**31 - 1, 0))),
    "png texts": lambda: png(9, 9, 8, 2, *[png_part(b"tEXt", b"a\0" + bytes(1000))] * 3000),
    "gif screen": partial(gif, (65535, 65535), (1, 1)),
    "gif frame": partial(gif, (1, 1), (65535, 65535)),
    "gif frames": partial(gif, (50, 50), (50, 50), 30_000),
    "jpeg header": partial(jpeg_of, 65500, 65500),
    "jpeg hollow": partial(jpeg_of, 7000, 7000),
    "webp header": partial(webp_of, 16_000_000, 16_000_000),
    "webp hollow": partial(webp_of, 7000, 7000),
    "tiff header": lambda: tiff({256: (4, 1, 2**32 - 1), 257: (4, 1, 2**32 - 1), 258: (3, 1, 8), 262: (3, 1, 1)}),
    "tiff counts": lambda: tiff({256: (4, 2**31, 8), 257: (4, 1, 9), 273: (4, 2**30, 8), 279: (4, 2**30, 8)}),
    "tiff loop": lambda: tiff({256: (3, 1, 9), 257: (3, 1, 9), 262: (3, 1, 1)}, following=8),
    "tiff directories": partial(tiff_of_directories, 100_000),
    "bmp header": partial(bmp, 2**31 - 1, 2**31 - 1),
    "bmp hollow": partial(bmp, 7000, 7000),
    "bmp runs": lambda: bmp(7000, 7000, 1, b"\x01\x07" * 1_000_000),
    "avif header": partial(avif_of, 2**31 - 1, 2**31 - 1),
    "avif hollow": partial(avif_of, 7000, 7000),
}
HEAVY: dict[str, Callable[[], bytes]] = {  # nothing is known before they are decoded, which takes a second or more each
    "png grey": partial(png, SIDE, SIDE, 8, 0),
    "png colour 16": partial(png, SIDE, SIDE, 16, 2),
    "png alpha 16": partial(png, SIDE, SIDE, 16, 6),
    "png alpha": partial(png, SIDE, SIDE, 8, 6),
    "png grey 16 turned": lambda: png(SIDE, SIDE, 16, 0, png_part(b"eXIf", b"MM\0*\0\0\0\x08" + bytes(6))),
    "png palette": lambda: png(SIDE, SIDE, 8, 3, png_part(b"PLTE", bytes(30)), png_part(b"tRNS", bytes(9))),
    "png interlaced": partial(png, SIDE, SIDE, 8, 2, interlaced=1),
    "gif": partial(square, "P", "GIF"),
    "jpeg progressive": partial(square, "RGB", "JPEG", progressive=True, subsampling=0),
    "jpeg cmyk": partial(square, "CMYK", "JPEG"),
    "jpeg scans": partial(jpeg_of_scans, 6000, SCANS),
    "webp": partial(square, "RGBA", "WEBP", lossless=True, method=0, quality=0),
    "tiff float": partial(square, "F", "TIFF", compression="tiff_deflate"),
    "tiff int": partial(square, "I", "TIFF", compression="tiff_deflate"),
    "tiff 16": partial(square, "I;16", "TIFF", compression="tiff_deflate"),
    "tiff cmyk": partial(square, "CMYK", "TIFF", compression="tiff_deflate"),
    "tiff lab": partial(square, "LAB", "TIFF", compression="tiff_deflate"),
    "tiff alpha": partial(square, "RGBA", "TIFF", compression="tiff_deflate"),
    "bmp runs whole": lambda: bmp(SIDE, SIDE, 1, b"\xff\x07" * (SIDE * SIDE // 255)),
    "avif": partial(square, "RGB", "AVIF", 2500, speed=10),
}


def corpus(count: int, seed: int, heavy: list[str]) -> Iterator[tuple[str, bytes]]:
    """Yield names and bodies: every bomb, the named heavy ones, and others, of which two thirds are mutated."""
    rng = random.Random(seed)
    bombs = [*BOMBS.items(), *((name, HEAVY[name]) for name in heavy)]
    for name, make in bombs:
        yield name, make()
    pool = [random_picture(rng) for _ in range(300)]
    for number in range(count - len(bombs)):
        kind = rng.random()
        if kind < 0.05:
            yield (
                "no picture",
                rng.choice(NO_PICTURES) + rng.randbytes(rng.choice([0, 0, 9, 3000])),
            )
        elif kind < 0.2:
            yield "whole", random_picture(rng)
        elif kind < 0.33:
            body = rng.choice(pool)
            yield "cut", body[: rng.randrange(len(body))]
        else:
            yield f"mutated {number}", mutate(rng.choice(pool), rng.choice(pool), rng)


def write_corpus(folder: Path, count: int, seed: int, heavy: list[str]) -> list[str]:
    """Write a folder for the origin server. Returns the names of the bodies at its paths /0.jpg, /1.jpg, ..."""
    names, pages = [], []
    for number, (name, body) in enumerate(corpus(count, seed, heavy)):
        (folder / f"{number}.jpg").write_bytes(body)
        pages.append((f"/{number}.jpg", f"{number}.jpg", "ok", None))
        names.append(name)
    write_origin(folder, pages)
    return names


def worker_peak(_: int) -> tuple[int, int]:
    """The process id of the worker that runs this, and its peak memory in kB."""
    process_status = Path("/proc/self/status").read_text()
    return int(process_status.partition("\nPid:")[2].split()[0]), int(process_status.partition("VmHWM:")[2].split()[0])
