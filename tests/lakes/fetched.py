"""A lake whose pictures are fetched already: its builds score, select and publish in seconds, without a network."""

import io
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from data.build.build import BuildResult, build
from data.build.recipe import Recipe, parse_recipe
from data.lake.lake import Lake
from data.lake.schemas import FETCHES, IMAGES, bucket_of, pair_id
from data.lake.shard_file import write_file
from tests.engines import InProcessEngine

RECIPE = """
name: small
sources:
  - path: {source}
scores:
  picture:
select:
  - words: {{min: 2}}
  - picture_brightness: {{min: {threshold}}}
"""


def add_fetched_pairs(
    lake: Lake,
    source: Path,
    pairs: list[tuple[str, str]],
    missing: int = 2,
    broken: int = 0,
    pictures: list[bytes] | None = None,
) -> None:
    """Write pairs to a source file, and their pictures to the lake: each is brighter than the one before.

    Args:
        missing: how many of the last pairs have a picture that could not be fetched
        broken: how many of the first pairs have an empty picture
        pictures: the pictures to store instead of grey ones
    """
    pq.write_table(pa.table({"url": [url for url, _ in pairs], "caption": [caption for _, caption in pairs]}), source)
    rows = []
    for number, (url, caption) in enumerate(pairs):
        grey = 255 * number // max(1, len(pairs) - 1)
        rows.append(
            {
                "id": pair_id(url, caption),
                "image": b"" if number < broken else pictures[number] if pictures else noisy_jpeg(grey, number),
                "format": "jpg",
                "sha256": url,
            }
        )
        size = {"width": 40, "height": 30, "original_width": 40 + number, "original_height": 30}
        rows[-1] |= {**size, "original_bytes": 1000}
    fetched = len(rows) - missing
    gone = {"attempt": 1, "at": datetime.now(UTC), "status": "gone", "error": "410", "transient": False}
    _fill(lake, "images", rows[:fetched], IMAGES)
    _fill(lake, "fetches", [{"id": row["id"], **gone} for row in rows[fetched:]], FETCHES)


def noisy_jpeg(grey: int, seed: int) -> bytes:
    """A JPEG of 40 × 30 grey pixels with some noise."""
    pixels = np.clip(np.random.default_rng(seed).normal(grey, 9, (30, 40, 3)), 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def numbered_pairs(count: int) -> list[tuple[str, str]]:
    """Pairs with captions of three words, every tenth of one word."""
    return [(f"http://small.test/{n}.jpg", f"picture number {n}" if n % 10 else "one") for n in range(count)]


def small_recipe(source: Path, threshold: float = 0.2, more: str = "") -> Recipe:
    """A recipe that keeps pictures of a brightness; `more` is YAML to append."""
    return parse_recipe(RECIPE.format(source=source, threshold=threshold) + more, "small.yaml")


def build_in_process(lake: Lake, recipe: Recipe) -> BuildResult:
    """Build in the process of the test."""
    return build(lake, recipe, InProcessEngine())


def _fill(lake: Lake, name: str, rows: list[dict[str, object]], schema: pa.Schema) -> None:
    key = ("id", "attempt") if name == "fetches" else ("id",)
    table = lake.table_or_make(name, schema, key)
    files = []
    for bucket in lake.buckets:
        part = [row for row in rows if bucket_of(str(row["id"]), lake.config.buckets) == bucket]
        files += [write_file(table.url, bucket, pa.Table.from_pylist(part, schema))] if part else []
    table.append(files)
