"""Picks example rows with thumbnails for the report: kept rows, and dropped rows for each reason.

There are at most MAX_EXAMPLES examples in total.
"""

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
from data.report.summary import fact_queries
from data.scorers.scorer import SCORER_ERRORS
from data.select.facts import NOT_FETCHED
from data.select.funnel import step_labels, step_sql
from data.select.selection import Selection

MAX_EXAMPLES = 60
MAX_KEPT = 18
MAX_PER_REASON = 6
THUMBNAIL_SIDE = 160  # pixels
CAPTION_LENGTH, URL_LENGTH = 300, 200  # characters; longer texts are truncated


@dataclass(frozen=True)
class Example:
    """One pair in the report."""

    thumbnail: str | None  # a data: URI; None if the picture can't be decoded
    caption: str
    url: str
    reasons: list[str]  # reasons why the pair was dropped
    facts: dict[str, float | None]


@dataclass(frozen=True)
class ExampleGroup:
    """Examples of the kept pairs, or of the pairs that one step of the funnel dropped."""

    step: str
    rows: int  # number of all pairs of the group, including the examples
    samples: list[Example]


def pick_examples(lake: Lake, selection: Selection, facts: list[str]) -> list[ExampleGroup]:
    """Pick kept pairs, then dropped pairs for each step, in the order of the funnel.

    From each group, the pairs with the smallest ids are picked. Ids are hashes, so this is a random sample, but every
    call picks the same one.

    Args:
        lake: the lake to read.
        selection: the selection whose verdicts are used.
        facts: the facts (such as scores) whose values are shown with each pair.
    """
    labels = step_labels(selection)
    rows = query(
        f"SELECT step, count(*) AS rows, min(id, {MAX_KEPT}) AS ids FROM (SELECT id, {step_sql(labels)} AS step "
        f"FROM verdicts WHERE kept OR NOT starts_with(reasons[1], '{NOT_FETCHED}')) GROUP BY step",
        verdicts=lake.table(selection.table).dataset(),
    ).to_pylist()
    row_of_step = {row["step"]: row for row in rows}
    steps = [step for step in ["kept", *labels] if step in row_of_step]
    per_reason = max(1, min(MAX_PER_REASON, (MAX_EXAMPLES - MAX_KEPT) // max(1, len(steps) - 1)))
    ids_of_step = {step: row_of_step[step]["ids"][: MAX_KEPT if step == "kept" else per_reason] for step in steps}
    ids = [id for step in steps for id in ids_of_step[step]][:MAX_EXAMPLES]
    examples = _read_examples(lake, selection, facts, ids)
    groups = []
    for step in steps:
        samples = [examples[id] for id in ids_of_step[step] if id in examples]
        groups.append(ExampleGroup(step, row_of_step[step]["rows"], samples))
    return groups


def _read_examples(lake: Lake, selection: Selection, facts: list[str], ids: list[str]) -> dict[str, Example]:
    """Read the examples, keyed by id."""
    ids_of_bucket: dict[int, list[str]] = {}
    for id in sorted(ids):
        ids_of_bucket.setdefault(bucket_of(id, lake.config.buckets), []).append(id)
    images, pairs = lake.table("images"), lake.table("pairs")
    examples: dict[str, Example] = {}
    queries = fact_queries(lake, selection, facts, "facts.id AS id, reasons")
    for bucket, (sql, tables) in zip(lake.buckets, queries, strict=True):
        bucket_ids = ids_of_bucket.get(bucket)
        if not bucket_ids:
            continue
        has_id = id_filter(bucket_ids)
        rows = query(f"{sql} WHERE facts.id IN ({', '.join(map(quote_text, bucket_ids))})", **tables).to_pylist()
        texts = _by_id(pairs.dataset(bucket).to_table(columns=["id", "url", "caption"], filter=has_id))
        pictures = _by_id(images.dataset(bucket).to_table(columns=["id", "image"], filter=has_id))
        for row in rows:
            id = row["id"]
            examples[id] = Example(
                _thumbnail(pictures[id]["image"]),
                truncate_text(texts[id]["caption"], CAPTION_LENGTH),
                truncate_text(texts[id]["url"], URL_LENGTH),
                [truncate_text(reason, CAPTION_LENGTH) for reason in row["reasons"]],
                {fact: row[fact] for fact in facts},
            )
    return examples


def truncate_text(text: str, length: int) -> str:
    """Return the text, or its start and an ellipsis if it is longer than `length` characters."""
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _by_id(rows: pa.Table) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in rows.to_pylist()}


def _thumbnail(picture: bytes) -> str | None:
    try:
        image = decode(picture)
    except (*SCORER_ERRORS, Image.DecompressionBombError):
        return None
    image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
