"""SQL expressions for the facts that are not scores: columns of pairs and pictures, and counts of equal captions.

A fact is a value of a row that a criterion can use.
"""

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
# How often a caption occurs in the lake, for each caption that occurs more than once.
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
    """Compute the tables over the whole lake that are needed for the facts of any single bucket.

    Args:
        inputs: the tables of `Selection.inputs`.
        facts: the facts that are used. Captions are counted only if one of these facts is a count.

    Returns:
        Two tables keyed by their names in SQL. `replaced` has the pairs that another pair has replaced, and `often` has
        the number of occurrences of each repeated caption.
    """
    pairs = inputs["pairs"].dataset()
    replaced = query(REPLACED, events=query(EVENTS, pairs=pairs, fetches=inputs["fetches"].dataset()))
    counts = NO_CAPTION_COUNTS
    if "caption_seen" in facts:
        counts = query(CAPTION_COUNTS, pairs=pairs, replaced=replaced)
    return {"replaced": replaced, "often": counts}


def extra_sql(fact: str) -> str:
    """Return a SQL expression for a column of the source, which the column `extra` of a pair stores as text."""
    key = fact.removeprefix(EXTRA_PREFIX).replace('"', '\\"')
    return "json_extract_string(pairs.extra, " + quote_text(f'$."{key}"') + ")"
