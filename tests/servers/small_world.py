"""A folder of a few pages, one for each behaviour of the origin server, drawn for the tests of fetching."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

BEHAVIOURS = [
    "not_found",
    "gone",
    "heals",
    "unavailable",
    "timeout",
    "drip",
    "reset",
    "truncated",
    "html",
    "huge",
    "redirect_loop",
    "noai",
]


def jpeg(width: int = 64, height: int = 48, seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def make_small_world(folder: Path, private: str = "http://127.0.0.1:9/", pictures: int = 30) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "a.jpg").write_bytes(jpeg())
    (folder / "robots.txt").write_text("User-agent: *\nDisallow: /closed/\n")
    rows = [(f"/p/ok{n}.jpg", "ok", None) for n in range(pictures)]
    rows += [(f"/p/{name}.jpg", name, None) for name in BEHAVIOURS]
    rows += [(f"/p/drip{n}.jpg", "drip", None) for n in range(8)]
    rows += [("/p/redirect.jpg", "redirect", "/p/ok0.jpg"), ("/p/redirect_private.jpg", "redirect_private", private)]
    rows += [("/p/to_file.jpg", "redirect", "file:///etc/passwd"), ("/closed/a.jpg", "ok", None)]
    write_origin(folder, [(path, "a.jpg", kind, to) for path, kind, to in rows])
    return folder


def write_origin(folder: Path, pages: list[tuple[str, str | None, str, str | None]]) -> None:
    """What an origin serves: path, file, behaviour and location of each page."""
    names = ("path", "file", "behaviour", "location")
    table = [{**dict(zip(names, page, strict=True)), "content_type": "image/jpeg"} for page in pages]
    schema = pa.schema([(name, pa.string()) for name in (*names, "content_type")])
    pq.write_table(pa.Table.from_pylist(table, schema), folder / "origin.parquet")
