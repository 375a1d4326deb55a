"""SQL for the facts that criteria can use besides scores: columns of pairs and pictures, counts of captions."""

from collections.abc import Iterable, Mapping

import pyarrow as pa

from data.fetch.due import EVENTS, REPLACED
from data.lake.sql import query, quote_text
from data.lake.table import Table
from data.select.criteria import EXTRA_PREFIX

FACTS = {
    "source": "pairs.source",
    "words": "len(regexp_extract_all(pairs.caption, '\\S+'))",
    "characters": "length(trim(pairs.caption))",
    "width": "original_width",
    "height": "original_height",
    "side": "least(original_width, original_height)",
    "aspect": "greatest(original_width, original_height) / least(original_width, original_height)",
    "bytes": "original_bytes",
    "caption": "pairs.caption",
    "caption_seen": "coalesce(often.times, 1)",
    "fetch_status": "coalesce(last.status, 'ok')",
}
# How often each caption occurs in the lake, of those that occur more than once.
CAPTION_COUNTS = (
    "SELECT md5(caption) AS digest, count(*) AS times FROM pairs WHERE id NOT IN (SELECT id FROM replaced) "
    "GROUP BY ALL HAVING times > 1"
)
NO_CAPTION_COUNTS = pa.table({"digest": pa.array([], pa.string()), "times": pa.array([], pa.int64())})
NOT_FETCHED = "not fetched"  # begins the reason of every pair without a picture
FETCH_REASON = (
    "CASE WHEN replaced_by IS NOT NULL THEN 'replaced by ' || replaced_by "
    f"WHEN sha256 IS NULL THEN '{NOT_FETCHED}: ' || coalesce(status, 'pending') END"
)
NORMALIZED_CAPTION = "trim(lower(regexp_replace(caption, '[^\\p{L}\\p{N}]+', ' ', 'g')))"


def read_whole_lake(inputs: Mapping[str, Table], facts: Iterable[str]) -> dict[str, pa.Table]:
    """The tables over all buckets that the facts of a single bucket need, by their names in SQL.

    Args:
        inputs: the tables of `Selection.inputs`.
        facts: the facts that are used; captions are counted only if one of them needs it.

    Returns:
        `replaced`, the pairs that another pair has replaced; and `often`, how often captions occur.
    """
    pairs = inputs["pairs"].dataset()
    replaced = query(REPLACED, events=query(EVENTS, pairs=pairs, fetches=inputs["fetches"].dataset()))
    counts = NO_CAPTION_COUNTS
    if "caption_seen" in facts:
        counts = query(CAPTION_COUNTS, pairs=pairs, replaced=replaced)
    return {"replaced": replaced, "often": counts}


def extra_sql(fact: str) -> str:
    """SQL for a column of the source that is kept in a pair's `extra`, as text."""
    key = fact.removeprefix(EXTRA_PREFIX).replace('"', '\\"')
    return "json_extract_string(pairs.extra, " + quote_text(f'$."{key}"') + ")"
