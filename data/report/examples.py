"""A few samples to look at: kept ones and dropped ones for each reason, with thumbnails; few, however large a lake."""

import base64
import io
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from PIL import Image

from data.lake.lake import Lake
from data.lake.reading import id_filter
from data.lake.schemas import bucket_of
from data.lake.sql import query, quote_text
from data.pictures.prepare import decode
from data.report.summary import facts_of
from data.scorers.scorer import UNKNOWN
from data.select.funnel import fell_to, labels_of
from data.select.selection import NOT_FETCHED, Selection

MOST, KEPT, A_REASON = 60, 18, 6
SIDE = 160
CAPTION, URL = 300, 200  # characters shown of each


@dataclass(frozen=True)
class Sample:
    thumbnail: str | None  # as data: URI; none where the picture can't be decoded
    caption: str
    url: str
    reasons: list[str]
    facts: dict[str, float | None]


@dataclass(frozen=True)
class Group:
    """Samples that fell at one step of the funnel, or were kept."""

    step: str
    rows: int
    samples: list[Sample]


def pick(lake: Lake, selection: Selection, facts: list[str]) -> list[Group]:
    """Kept samples, then those of each reason in the order of the funnel; the smallest ids, a draw that is fixed."""
    labels = labels_of(selection)
    found = query(
        f"SELECT step, count(*) AS rows, min(id, {KEPT}) AS ids FROM (SELECT id, {fell_to(labels)} AS step "
        f"FROM verdicts WHERE kept OR NOT starts_with(reasons[1], '{NOT_FETCHED}')) GROUP BY step",
        verdicts=lake.table(selection.table).dataset(),
    ).to_pylist()
    groups = {row["step"]: row for row in found}
    order = [step for step in ["kept", *labels] if step in groups]
    each = max(1, min(A_REASON, (MOST - KEPT) // max(1, len(order) - 1)))
    wanted = {step: groups[step]["ids"][: KEPT if step == "kept" else each] for step in order}
    ids = [id for step in order for id in wanted[step]][:MOST]
    samples = _samples(lake, selection, facts, ids)
    return [Group(step, groups[step]["rows"], [samples[id] for id in wanted[step] if id in samples]) for step in order]


def _samples(lake: Lake, selection: Selection, facts: list[str], ids: list[str]) -> dict[str, Sample]:
    samples: dict[str, Sample] = {}
    buckets = {bucket_of(id, lake.config.buckets) for id in ids}
    images, pairs = lake.table("images"), lake.table("pairs")
    asked = facts_of(lake, selection, facts, "facts.id AS id, reasons")
    for bucket, (sql, tables) in zip(lake.buckets, asked, strict=True):
        if bucket not in buckets:
            continue
        own = sorted(id for id in ids if bucket_of(id, lake.config.buckets) == bucket)
        wanted = id_filter(own)
        said = query(f"{sql} WHERE facts.id IN ({', '.join(map(quote_text, own))})", **tables).to_pylist()
        texts = _by_id(pairs.dataset(bucket).to_table(columns=["id", "url", "caption"], filter=wanted))
        pictures = _by_id(images.dataset(bucket).to_table(columns=["id", "image"], filter=wanted))
        for row in said:
            id = row["id"]
            samples[id] = Sample(
                _thumbnail(pictures[id]["image"]),
                shortened(texts[id]["caption"], CAPTION),
                shortened(texts[id]["url"], URL),
                [shortened(reason, CAPTION) for reason in row["reasons"]],
                {fact: row[fact] for fact in facts},
            )
    return samples


def shortened(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _by_id(rows: pa.Table) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in rows.to_pylist()}


def _thumbnail(picture: bytes) -> str | None:
    try:
        image = decode(picture)
    except (*UNKNOWN, Image.DecompressionBombError):
        return None
    image.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
