"""Makes a built-in world: pictures, `pairs.parquet`, the server's behaviour for each URL, and labels for evaluation.

The same seed gives the same bytes with any number of processes, because each picture has its own random generator. A
pair has at most one fault, and FAULTS gives the share of each fault. A picture in an unusual format (UNUSUAL_FORMATS)
is not a fault.
"""

import hashlib
import io
import json
import struct
import zlib
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from data.errors import WorldError
from data.lake.schemas import pair_id
from data.world.draw import draw, silhouette
from data.world.grammar import FOREIGN, caption_of, claim_of, gibberish
from data.world.scene import Scene, is_true, random_scene

FORMAT = 1
HOST = "shapes.test"
FAULTS = {
    "swapped": 0.20,
    "exact_duplicate": 0.05,
    "near_duplicate": 0.05,
    "too_small": 0.04,
    "extreme_aspect": 0.02,
    "few_words": 0.03,
    "foreign": 0.03,
    "fetch": 0.10,
    "opt_out": 0.02,
    "robots": 0.01,
}
UNUSUAL_SHARE, REDIRECT_SHARE = 0.04, 0.01
UNUSUAL_FORMATS = (*(f"exif{n}" for n in range(2, 9)), "png16", "cmyk", "palette", "alpha")
# The server's behaviours for the fault `fetch`. Each behaviour gets the same number of pairs. The same number of pairs
# also gets `heals`, which is not a fault: the second request returns the picture.
FETCH_FAULTS = (
    *("not_found", "gone", "unavailable", "timeout", "drip", "reset", "truncated", "html", "huge", "bomb"),
    *("redirect_loop", "redirect_private"),
)
PRIVATE_URLS = (
    *("http://10.0.0.7/x.jpg", "http://169.254.169.254/latest/meta-data/", "http://127.0.0.1:9/x.jpg"),
    *("http://[::1]:9/x.jpg", "http://localhost:9/x.jpg", "http://0x7f000001:9/x.jpg", "http://2130706433:9/x.jpg"),
)
UNFINISHED = '{"unfinished": true}\n'  # content of world.json until a world is finished; such a world may be replaced
CHUNK = 25  # pictures that a process draws at a time
CONTENT_TYPES = {"jpg": "image/jpeg", "png": "image/png", "webp": "image/webp"}


@dataclass(frozen=True, slots=True)
class PairSpec:
    """The specification of a pair to make."""

    number: int
    fault: str | None = None  # a key of FAULTS
    behaviour: str = "ok"  # of the server; see BEHAVIOURS in origin.py
    unusual_format: str | None = None  # one of UNUSUAL_FORMATS
    original: int | None = None  # for a duplicate, the number of the pair that it copies


@dataclass(frozen=True, slots=True)
class DrawnPair:
    """A pair whose picture has been written."""

    spec: PairSpec
    url: str
    caption: str
    path: str  # the path in the URL
    file: str | None  # relative to the world's folder
    content_type: str
    scene: Scene


def make_world(
    out: Path,
    pairs: int,
    seed: int,
    on_drawn: Callable[[int], None] = lambda count: None,
    processes: int | None = None,
) -> None:
    """Make a world in an empty folder, or replace another world. The folder counts as a world only when it is finished.

    Args:
        out: the folder, which is made if it does not exist.
        pairs: the number of pairs.
        seed: decides every byte, together with `pairs`.
        on_drawn: called with the number of pictures that were drawn since the last call.
        processes: the number of processes that draw; by default one per core.

    Raises:
        WorldError: the folder contains something else.
    """
    if out.exists() and any(out.iterdir()) and not (out / "world.json").exists():
        raise WorldError(f"{out} is not empty and is not a world. Choose another folder with --out")
    (out / "pictures").mkdir(parents=True, exist_ok=True)
    (out / "world.json").write_text(UNFINISHED)
    for old_file in (*out.glob("*.parquet"), *(out / "pictures").iterdir()):
        old_file.unlink()
    specs = plan_pairs(pairs, seed)
    (out / "pictures" / "bomb.png").write_bytes(_decompression_bomb())
    (out / "robots.txt").write_text("User-agent: *\nDisallow: /private/\n")
    chunks = [specs[start : start + CHUNK] for start in range(0, pairs, CHUNK)]
    drawn: list[DrawnPair] = []
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        for chunk in pool.map(_draw_chunk, [out] * len(chunks), [seed] * len(chunks), chunks):
            drawn += chunk
            on_drawn(len(chunk))
    _write_tables(out, drawn)
    (out / "world.json").write_text(json.dumps({"format": FORMAT, "pairs": pairs, "seed": seed}) + "\n")


def has_world(folder: Path, pairs: int, seed: int) -> bool:
    """Return whether a folder contains the finished world of this size and seed."""
    marker = folder / "world.json"
    return marker.exists() and json.loads(marker.read_text()) == {"format": FORMAT, "pairs": pairs, "seed": seed}


def plan_pairs(pairs: int, seed: int) -> list[PairSpec]:
    """Assign faults, unusual formats and redirects to pairs, in exact shares and random order."""
    rng = np.random.default_rng([seed, 1])
    order = [int(number) for number in rng.permutation(pairs)]
    faults = [fault for fault, share in FAULTS.items() for _ in range(round(share * pairs))]
    good = order[len(faults) :]
    unusual, redirects = round(UNUSUAL_SHARE * pairs), round(REDIRECT_SHARE * pairs)
    specs = {}
    for index, (number, fault) in enumerate(zip(order, faults, strict=False)):
        behaviour, original = "ok", None
        if fault == "fetch":
            behaviours = (*FETCH_FAULTS, "heals")
            behaviour = behaviours[index % len(behaviours)]
        elif fault == "opt_out":
            behaviour = "noai"
        elif fault in ("exact_duplicate", "near_duplicate"):
            # An exact duplicate copies the bytes, so the first pairs, with unusual formats, can't be its original.
            original = good[int(rng.integers(unusual, len(good)))]
        specs[number] = PairSpec(number, None if behaviour == "heals" else fault, behaviour, None, original)
    for index, number in enumerate(good):
        unusual_format = UNUSUAL_FORMATS[index % len(UNUSUAL_FORMATS)] if index < unusual else None
        behaviour = "redirect" if unusual <= index < unusual + redirects else "ok"
        specs[number] = PairSpec(number, None, behaviour, unusual_format)
    return [specs[number] for number in range(pairs)]


def _draw_chunk(out: Path, seed: int, specs: list[PairSpec]) -> list[DrawnPair]:
    return [_draw_pair(out, seed, spec) for spec in specs]


def _draw_pair(out: Path, seed: int, spec: PairSpec) -> DrawnPair:
    """Draw one pair and write its picture."""
    number = spec.number if spec.original is None else spec.original
    scene, caption, pixels, format, quality = _draw_picture(seed, number, spec.fault == "extreme_aspect")
    rng = np.random.default_rng([seed, 2, spec.number])
    image = Image.fromarray(pixels)
    if spec.fault == "near_duplicate":
        image, format, quality = _near_duplicate(image, rng), "jpg", int(rng.integers(70, 88))
    if spec.fault == "too_small":
        side = int(rng.integers(24, 60))
        image = image.resize((side, max(16, round(side * image.height / image.width))), Image.Resampling.LANCZOS)
    if spec.unusual_format:
        format, content = _encode_unusual(image, scene, spec.unusual_format)
    else:
        content = _encode(image, format, quality)
    caption = _choose_caption(seed, spec, scene, caption, rng)
    name = f"{hashlib.sha256(f'{seed} {spec.number}'.encode()).hexdigest()[:16]}.{format}"
    path = f"/private/{name}" if spec.fault == "robots" else f"/p/{name}"
    file: str | None = f"pictures/{name}"
    if spec.behaviour == "bomb":
        file = "pictures/bomb.png"
    else:
        (out / "pictures" / name).write_bytes(content)
    return DrawnPair(spec, f"http://{HOST}{path}", caption, path, file, CONTENT_TYPES[format], scene)


def _draw_picture(seed: int, number: int, extreme: bool) -> tuple[Scene, str, np.ndarray, str, int]:
    """Return a picture's scene, caption, pixels, format and quality.

    They depend only on the seed and the number, so that duplicates can be made from them.
    """
    rng = np.random.default_rng([seed, 0, number])
    width = int(rng.integers(200, 601))
    height = int(np.clip(width * rng.uniform(1 / 1.6, 1.6), 200, 600))
    if extreme:
        width, height = 600, int(600 / rng.uniform(3.3, 4.5))
        width, height = (width, height) if rng.random() < 0.5 else (height, width)
    scene = random_scene(rng, width, height)
    caption = caption_of(scene, rng)
    format = str(rng.choice(["jpg", "png", "webp"], p=[0.8, 0.12, 0.08]))
    return scene, caption, draw(scene, rng), format, int(rng.integers(82, 96))


def _choose_caption(seed: int, spec: PairSpec, scene: Scene, true_caption: str, rng: np.random.Generator) -> str:
    """Return the true caption, or a wrong caption if that is the pair's fault."""
    if spec.fault == "swapped":
        while True:
            other = np.random.default_rng([seed, 3, int(rng.integers(2**40))])
            caption = caption_of(random_scene(other, 400, 400), other)
            claim = claim_of(caption)
            if claim is not None and not is_true(claim, scene.shapes):
                return caption
    if spec.fault == "few_words":
        return str(rng.choice(["", "picture", "IMG_2041.jpg", true_caption.split()[-1], "shapes"]))
    if spec.fault == "foreign":
        return str(rng.choice(FOREIGN)) if rng.random() < 0.6 else gibberish(rng)
    return true_caption


def _near_duplicate(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Crop the edges of an image by up to 2 %, and make it smaller."""
    margins = rng.uniform(0.004, 0.02, 4)
    width, height = image.size
    left, top = round(margins[0] * width), round(margins[1] * height)
    right, bottom = round((1 - margins[2]) * width), round((1 - margins[3]) * height)
    image = image.crop((left, top, right, bottom))
    scale = rng.uniform(0.6, 0.95)
    size = (max(80, round(image.width * scale)), max(80, round(image.height * scale)))
    return image.resize(size, Image.Resampling.BICUBIC)


def _encode(image: Image.Image, format: str, quality: int) -> bytes:
    buffer = io.BytesIO()
    if format == "jpg":
        image.save(buffer, "JPEG", quality=quality)
    elif format == "png":
        image.save(buffer, "PNG", compress_level=3)
    else:
        image.save(buffer, "WEBP", quality=quality, method=2)
    return buffer.getvalue()


def _encode_unusual(image: Image.Image, scene: Scene, unusual_format: str) -> tuple[str, bytes]:
    """Return file extension and bytes of a picture that a careless decoder shows rotated, washed out or inverted."""
    buffer = io.BytesIO()
    if unusual_format.startswith("exif"):
        orientation = int(unusual_format[4:])
        inverse = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[orientation]  # Pillow's transpose that a decoder undoes
        exif = Image.Exif()
        exif[0x0112] = orientation
        image.transpose(Image.Transpose(inverse)).save(buffer, "JPEG", quality=92, exif=exif)
        return "jpg", buffer.getvalue()
    if unusual_format == "png16":
        return "png", _png16(np.asarray(image).astype(np.uint16) * 257)
    if unusual_format == "cmyk":
        image.convert("CMYK").save(buffer, "JPEG", quality=95)
        return "jpg", buffer.getvalue()
    if unusual_format == "palette":
        image.quantize(128, Image.Quantize.MEDIANCUT).save(buffer, "PNG")
        return "png", buffer.getvalue()
    transparent = Image.fromarray(np.zeros_like(np.asarray(image)))  # black where fully transparent, as is common
    shapes = Image.fromarray(silhouette(scene))
    transparent.paste(image, mask=shapes)
    transparent.putalpha(shapes)
    transparent.save(buffer, "PNG", compress_level=3)
    return "png", buffer.getvalue()


def _png16(pixels: np.ndarray) -> bytes:
    """Encode a 16-bit RGB PNG, which Pillow can't write."""
    height, width, _ = pixels.shape
    rows = np.hstack([np.zeros((height, 1), np.uint8), pixels.astype(">u2").view(np.uint8).reshape(height, -1)])
    return _png(width, height, 16, 2, zlib.compress(rows.tobytes(), 3))


def _decompression_bomb(side: int = 30_000) -> bytes:
    """Make a PNG of a hundred kilobytes that decompresses to nearly a gigapixel."""
    compressor = zlib.compressobj(9)
    row = bytes(1 + (side + 7) // 8)
    compressed = b"".join(compressor.compress(row) for _ in range(side)) + compressor.flush()
    return _png(side, side, 1, 0, compressed)


def _png(width: int, height: int, depth: int, colour_type: int, compressed: bytes) -> bytes:
    """Make a PNG file from compressed rows."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", compressed) + chunk(b"IEND", b"")


def _write_tables(out: Path, drawn: list[DrawnPair]) -> None:
    """Write the tables of pairs, of their labels and of the server's pages."""
    pairs = {"url": [pair.url for pair in drawn], "caption": [pair.caption for pair in drawn]}
    pq.write_table(pa.table(pairs), out / "pairs.parquet")
    url_of = {pair.spec.number: pair.url for pair in drawn}
    labels = [
        {
            "id": pair_id(pair.url, pair.caption),
            "url": pair.url,
            "caption": pair.caption,
            "fault": pair.spec.fault,
            "origin": pair.spec.behaviour,
            "format": pair.spec.unusual_format,
            "right": pair.spec.fault is None,
            "duplicate_of": None if pair.spec.original is None else url_of[pair.spec.original],
            "scene": json.dumps(asdict(pair.scene)),
        }
        for pair in drawn
    ]
    pq.write_table(pa.Table.from_pylist(labels, LABELS), out / "labels.parquet")
    pages = [page for pair in drawn for page in _pages_of(pair)]
    pq.write_table(pa.Table.from_pylist(pages, PAGES), out / "origin.parquet")


def _pages_of(pair: DrawnPair) -> list[dict[str, str | None]]:
    """Return the server's page for a pair's URL. If this page is a redirect, its target page comes first."""
    page = {"path": pair.path, "file": pair.file, "behaviour": pair.spec.behaviour, "content_type": pair.content_type}
    if pair.spec.behaviour == "redirect_private":
        return [{**page, "location": PRIVATE_URLS[pair.spec.number % len(PRIVATE_URLS)]}]
    if pair.spec.behaviour == "redirect":
        target = pair.path.replace("/p/", "/moved/")
        return [{**page, "path": target, "behaviour": "ok"}, {**page, "location": target}]
    return [page]


LABELS = pa.schema(
    [(name, pa.string()) for name in ("id", "url", "caption", "fault", "origin", "format")]
    + [("right", pa.bool_()), ("duplicate_of", pa.string()), ("scene", pa.string())]
)
PAGES = pa.schema([(name, pa.string()) for name in ("path", "file", "behaviour", "location", "content_type")])
