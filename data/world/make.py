"""Draw a world: pictures, `pairs.parquet`, what the origin does with each URL, and the labels that no stage reads.

Deterministic in the seed, byte for byte, however many processes draw: every picture has a random generator of its own.
Each pair has one fault or none, in the shares of FAULTS; what is odd but good (ODD) is right in every respect.
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
ODD_SHARE, REDIRECT_SHARE = 0.04, 0.01
ODD = (*(f"exif{n}" for n in range(2, 9)), "png16", "cmyk", "palette", "alpha")
FETCH_FAULTS = (
    *("not_found", "gone", "unavailable", "timeout", "drip", "reset", "truncated", "html", "huge", "bomb"),
    *("redirect_loop", "redirect_private"),
)
HEALS_SHARE = 1 / (len(FETCH_FAULTS) + 1)  # of the fetch faults; it comes at the second try, and so is right
PRIVATE = (
    *("http://10.0.0.7/x.jpg", "http://169.254.169.254/latest/meta-data/", "http://127.0.0.1:9/x.jpg"),
    *("http://[::1]:9/x.jpg", "http://localhost:9/x.jpg", "http://0x7f000001:9/x.jpg", "http://2130706433:9/x.jpg"),
)
UNFINISHED = '{"unfinished": true}\n'  # in the marker's place while a world is drawn, so that it may be drawn again
CHUNK = 25  # pictures a piece of work
TYPES = {"jpg": "image/jpeg", "png": "image/png", "webp": "image/webp"}


@dataclass(frozen=True, slots=True)
class Role:
    """What one pair of the world is to be."""

    number: int
    fault: str | None = None  # of FAULTS
    origin: str = "ok"  # how the origin answers
    odd: str | None = None
    original: int | None = None  # of a duplicate


@dataclass(frozen=True, slots=True)
class Drawn:
    """One pair, its picture written."""

    role: Role
    url: str
    caption: str
    path: str
    file: str | None
    content_type: str
    scene: Scene


def make_world(
    out: Path, pairs: int, seed: int, progress: Callable[[int], None] = lambda done: None, processes: int | None = None
) -> None:
    """Write a whole world into an empty folder, or in the place of an older world."""
    if out.exists() and any(out.iterdir()) and not (out / "world.json").exists():
        raise WorldError(f"{out} is not empty and is no world. Name another folder with --out")
    (out / "pictures").mkdir(parents=True, exist_ok=True)
    (out / "world.json").write_text(UNFINISHED)
    for old in (*out.glob("*.parquet"), *(out / "pictures").iterdir()):
        old.unlink()
    roles = cast_roles(pairs, seed)
    (out / "pictures" / "bomb.png").write_bytes(_bomb())
    (out / "robots.txt").write_text("User-agent: *\nDisallow: /private/\n")
    chunks = [roles[at : at + CHUNK] for at in range(0, pairs, CHUNK)]
    drawn: list[Drawn] = []
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        for done in pool.map(_draw_chunk, [out] * len(chunks), [seed] * len(chunks), chunks):
            drawn += done
            progress(len(done))
    _write_tables(out, drawn)
    (out / "world.json").write_text(json.dumps({"format": FORMAT, "pairs": pairs, "seed": seed}) + "\n")


def same_world(folder: Path, pairs: int, seed: int) -> bool:
    """Whether a folder already holds this world, whole."""
    marker = folder / "world.json"
    return marker.exists() and json.loads(marker.read_text()) == {"format": FORMAT, "pairs": pairs, "seed": seed}


def cast_roles(pairs: int, seed: int) -> list[Role]:
    """Deal out the faults in their exact shares, in random order."""
    rng = np.random.default_rng([seed, 1])
    order = [int(number) for number in rng.permutation(pairs)]
    faulty = [fault for fault, share in FAULTS.items() for _ in range(round(share * pairs))]
    good = order[len(faulty) :]
    odd, redirects = round(ODD_SHARE * pairs), round(REDIRECT_SHARE * pairs)
    roles = {}
    for turn, (number, fault) in enumerate(zip(order, faulty, strict=False)):
        origin, original = "ok", None
        if fault == "fetch":
            every = (*FETCH_FAULTS, "heals")
            origin = every[turn % len(every)]
            fault = "heals" if origin == "heals" else fault
        elif fault == "opt_out":
            origin = "noai"
        elif fault in ("exact_duplicate", "near_duplicate"):
            original = good[int(rng.integers(odd, len(good)))]  # an exact copy has the very same bytes, so none is odd
        roles[number] = Role(number, None if fault == "heals" else fault, origin, None, original)
    for turn, number in enumerate(good):
        kind = ODD[turn % len(ODD)] if turn < odd else None
        roles[number] = Role(number, None, "redirect" if odd <= turn < odd + redirects else "ok", kind)
    return [roles[number] for number in range(pairs)]


def _draw_chunk(out: Path, seed: int, roles: list[Role]) -> list[Drawn]:
    return [_draw_one(out, seed, role) for role in roles]


def _draw_one(out: Path, seed: int, role: Role) -> Drawn:
    source = role.number if role.original is None else role.original
    scene, caption, pixels, kind, quality = _picture(seed, source, role.fault == "extreme_aspect")
    rng = np.random.default_rng([seed, 2, role.number])
    image = Image.fromarray(pixels)
    if role.fault == "near_duplicate":
        image, kind, quality = _nearly(image, rng), "jpg", int(rng.integers(70, 88))
    if role.fault == "too_small":
        side = int(rng.integers(24, 60))
        image = image.resize((side, max(16, round(side * image.height / image.width))), Image.Resampling.LANCZOS)
    kind, content = _encode_odd(image, scene, role.odd) if role.odd else (kind, _encode(image, kind, quality))
    caption = _caption(seed, role, scene, caption, rng)
    name = f"{hashlib.sha256(f'{seed} {role.number}'.encode()).hexdigest()[:16]}.{kind}"
    path = f"/private/{name}" if role.fault == "robots" else f"/p/{name}"
    file: str | None = f"pictures/{name}"
    if role.origin == "bomb":
        file = "pictures/bomb.png"
    else:
        (out / "pictures" / name).write_bytes(content)
    return Drawn(role, f"http://{HOST}{path}", caption, path, file, TYPES[kind], scene)


def _picture(seed: int, number: int, extreme: bool) -> tuple[Scene, str, np.ndarray, str, int]:
    """The picture of a number, the same whoever asks: its duplicates ask too."""
    rng = np.random.default_rng([seed, 0, number])
    width = int(rng.integers(200, 601))
    height = int(np.clip(width * rng.uniform(1 / 1.6, 1.6), 200, 600))
    if extreme:
        width, height = 600, int(600 / rng.uniform(3.3, 4.5))
        width, height = (width, height) if rng.random() < 0.5 else (height, width)
    scene = random_scene(rng, width, height)
    caption = caption_of(scene, rng)
    kind = str(rng.choice(["jpg", "png", "webp"], p=[0.8, 0.12, 0.08]))
    return scene, caption, draw(scene, rng), kind, int(rng.integers(82, 96))


def _caption(seed: int, role: Role, scene: Scene, caption: str, rng: np.random.Generator) -> str:
    if role.fault == "swapped":
        while True:
            other = np.random.default_rng([seed, 3, int(rng.integers(2**40))])
            strange = caption_of(random_scene(other, 400, 400), other)
            claim = claim_of(strange)
            if claim is not None and not is_true(claim, scene.shapes):
                return strange
    if role.fault == "few_words":
        return str(rng.choice(["", "picture", "IMG_2041.jpg", caption.split()[-1], "shapes"]))
    if role.fault == "foreign":
        return str(rng.choice(FOREIGN)) if rng.random() < 0.6 else gibberish(rng)
    return caption


def _nearly(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    cut = rng.uniform(0.004, 0.02, 4)
    width, height = image.size
    image = image.crop(
        (round(cut[0] * width), round(cut[1] * height), round((1 - cut[2]) * width), round((1 - cut[3]) * height))
    )
    scale = rng.uniform(0.6, 0.95)
    size = (max(80, round(image.width * scale)), max(80, round(image.height * scale)))
    return image.resize(size, Image.Resampling.BICUBIC)


def _encode(image: Image.Image, kind: str, quality: int) -> bytes:
    buffer = io.BytesIO()
    if kind == "jpg":
        image.save(buffer, "JPEG", quality=quality)
    elif kind == "png":
        image.save(buffer, "PNG", compress_level=3)
    else:
        image.save(buffer, "WEBP", quality=quality, method=2)
    return buffer.getvalue()


def _encode_odd(image: Image.Image, scene: Scene, odd: str) -> tuple[str, bytes]:
    """The same picture in a form that a careless reader turns, bleaches or inverts."""
    buffer = io.BytesIO()
    if odd.startswith("exif"):
        orientation = int(odd[4:])
        undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[orientation]  # Pillow's transposes, each undone by the reader
        exif = Image.Exif()
        exif[0x0112] = orientation
        image.transpose(Image.Transpose(undo)).save(buffer, "JPEG", quality=92, exif=exif)
        return "jpg", buffer.getvalue()
    if odd == "png16":
        return "png", _png16(np.asarray(image).astype(np.uint16) * 257)
    if odd == "cmyk":
        image.convert("CMYK").save(buffer, "JPEG", quality=95)
        return "jpg", buffer.getvalue()
    if odd == "palette":
        image.quantize(128, Image.Quantize.MEDIANCUT).save(buffer, "PNG")
        return "png", buffer.getvalue()
    clear = Image.fromarray(np.zeros_like(np.asarray(image)))  # what lies under full transparency is black, as often
    shapes = Image.fromarray(silhouette(scene))
    clear.paste(image, mask=shapes)
    clear.putalpha(shapes)
    clear.save(buffer, "PNG", compress_level=3)
    return "png", buffer.getvalue()


def _png16(pixels: np.ndarray) -> bytes:
    """A 16-bit RGB PNG, which Pillow can't write."""
    height, width, _ = pixels.shape
    rows = np.hstack([np.zeros((height, 1), np.uint8), pixels.astype(">u2").view(np.uint8).reshape(height, -1)])
    return _png(width, height, 16, 2, zlib.compress(rows.tobytes(), 3))


def _bomb(side: int = 30_000) -> bytes:
    """A PNG of a hundred kilobytes that unpacks to nearly a gigapixel."""
    packer = zlib.compressobj(9)
    row = bytes(1 + (side + 7) // 8)
    packed = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    return _png(side, side, 1, 0, packed)


def _png(width: int, height: int, depth: int, colour: int, packed: bytes) -> bytes:
    def part(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", header) + part(b"IDAT", packed) + part(b"IEND", b"")


def _write_tables(out: Path, drawn: list[Drawn]) -> None:
    url = {one.role.number: one.url for one in drawn}
    pq.write_table(
        pa.table({"url": [d.url for d in drawn], "caption": [d.caption for d in drawn]}), out / "pairs.parquet"
    )
    labels = [
        {
            "id": pair_id(one.url, one.caption),
            "url": one.url,
            "caption": one.caption,
            "fault": one.role.fault,
            "origin": one.role.origin,
            "format": one.role.odd,
            "right": one.role.fault is None,
            "duplicate_of": url[one.role.original] if one.role.original is not None else None,
            "scene": json.dumps(asdict(one.scene)),
        }
        for one in drawn
    ]
    pq.write_table(pa.Table.from_pylist(labels, LABELS), out / "labels.parquet")
    answers: list[tuple[str | None, ...]] = []
    for one in drawn:
        location: str | None = None
        if one.role.origin == "redirect_private":
            location = PRIVATE[one.role.number % len(PRIVATE)]
        elif one.role.origin == "redirect":
            location = one.path.replace("/p/", "/moved/")
            answers.append((location, one.file, "ok", None, one.content_type))
        answers.append((one.path, one.file, one.role.origin, location, one.content_type))
    columns = dict(
        zip(("path", "file", "behaviour", "location", "content_type"), zip(*answers, strict=True), strict=True)
    )
    pq.write_table(
        pa.table({name: pa.array(column, pa.string()) for name, column in columns.items()}), out / "origin.parquet"
    )


LABELS = pa.schema(
    [(name, pa.string()) for name in ("id", "url", "caption", "fault", "origin", "format")]
    + [("right", pa.bool_()), ("duplicate_of", pa.string()), ("scene", pa.string())]
)
