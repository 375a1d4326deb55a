"""Which pairs are due for fetching: new ones, transient failures whose wait is over, and pictures that are too old.

When the bytes at a URL change, the new bytes become a new pair that `replaces` the old one, and the attempt that got
them names the new pair in `replaced_by`. So of all the pairs that one URL and caption have had, one is current: the one
whose bytes came last. If earlier bytes come back, their pair becomes current again under its old id.
"""

from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pads

from data.lake.sql import query
from data.lake.table import Table

# How much of an attempt counts when the host backed off and the pair was not requested: little, but not nothing, so
# that the pairs of a host which never accepts requests come to an end.
SKIPPED_ATTEMPT = 0.1

# Which pair (`new_id`) took the place of which (`id`), and when. Two builds at once may replace one pair by different
# bytes: then the later of the two replaces the earlier as well.
EVENTS = """
    WITH replacements AS MATERIALIZED (SELECT id, replaces, first_seen FROM pairs WHERE replaces IS NOT NULL)
    SELECT replaces AS id, id AS new_id, first_seen AS at,
           NULL::VARCHAR AS etag, NULL::VARCHAR AS last_modified, NULL::VARCHAR AS final_url FROM replacements
    UNION ALL
    SELECT earlier.id, later.id, later.first_seen, NULL, NULL, NULL
    FROM replacements earlier JOIN replacements later USING (replaces)
    WHERE (earlier.first_seen, earlier.id) < (later.first_seen, later.id)
    UNION ALL
    SELECT id, replaced_by, fetches.at, etag, last_modified, final_url FROM fetches WHERE replaced_by IS NOT NULL
"""

# Pictures that came with their pairs are read in the order in which they are stored.
FILE_ORDER = """
    coalesce(location->>'$.tar', location->>'$.parquet'),
    coalesce((location->>'$.offset')::BIGINT, (location->>'$.row_group')::BIGINT), id
"""

NO_EVENTS = pa.table(
    {
        name: pa.array([], pa.timestamp("us", tz="UTC") if name == "at" else pa.string())
        for name in ("id", "new_id", "at", "etag", "last_modified", "final_url")
    }
)

# Pairs that are not current, and the pair that took the place of each.
REPLACED = """
    SELECT went.id, went.replaced_by
    FROM (SELECT id, max(events.at) AS at, arg_max(new_id, events.at) AS replaced_by FROM events GROUP BY id) went
    LEFT JOIN (SELECT new_id AS id, max(events.at) AS at FROM events GROUP BY new_id) back USING (id)
    WHERE back.at IS NULL OR went.at >= back.at
"""

# `last_answer`: the last response that had the pair's picture; `tries`: the last attempt, and how many failed since.
# DuckDB's arg_max skips rows whose value is null, which a struct never is.
LAST_FETCHES = f"""
    WITH answers AS (
        SELECT id, fetches.at, etag, last_modified, final_url FROM fetches WHERE status IN ('ok', 'unchanged')
        UNION ALL SELECT new_id, events.at, etag, last_modified, final_url FROM events),
    last_answer AS (
        SELECT id, max(answers.at) AS at,
               arg_max(struct_pack(etag, last_modified, final_url), answers.at)
                   FILTER (WHERE final_url IS NOT NULL) AS validators
        FROM answers GROUP BY id),
    tries AS (
        SELECT fetches.id,
               arg_max(struct_pack(at := fetches.at, attempt, status, transient, retry_after), attempt) AS last,
               sum(CASE WHEN status IN ('rate_limited', 'server_error') AND http_status IS NULL
                        THEN {SKIPPED_ATTEMPT} ELSE 1 END)
                   FILTER (WHERE last_answer.at IS NULL OR fetches.at > last_answer.at) AS failures
        FROM fetches LEFT JOIN last_answer USING (id) GROUP BY fetches.id)
"""

WITHOUT_PICTURE = """
    SELECT pairs.id AS id, url, caption, source, extra, pairs.sha256 AS sha256, replaces,
           coalesce(last.attempt, 0) AS attempt, coalesce(failures, 0)::DOUBLE AS failures,
           NULL::VARCHAR AS picture, NULL::VARCHAR AS etag, NULL::VARCHAR AS last_modified, NULL::VARCHAR AS final_url,
           extra->'$._at' AS location
    FROM pairs ANTI JOIN images USING (id) LEFT JOIN tries USING (id)
    WHERE tries.id IS NULL OR last.status IN ('ok', 'unchanged') OR last.retry_after <= '{now}'
"""

OLD_PICTURE = """
    SELECT pairs.id AS id, url, caption, source, extra, pairs.sha256 AS sha256, replaces,
           coalesce(last.attempt, 0) AS attempt, coalesce(failures, 0)::DOUBLE AS failures,
           images.sha256 AS picture, validators.etag, validators.last_modified, validators.final_url, NULL AS location
    FROM pairs JOIN images USING (id) LEFT JOIN tries USING (id) LEFT JOIN last_answer USING (id)
    WHERE pairs.id NOT IN (SELECT id FROM replaced) AND url ILIKE 'http%' AND (extra->'$._at') IS NULL AND
          CASE WHEN last.at > coalesce(last_answer.at, first_seen)
               THEN last.retry_after <= '{now}' OR (last.transient AND last.at <= '{before}')
               ELSE coalesce(last_answer.at, first_seen) <= '{before}' END
"""

REPLACEMENT_IDS = "SELECT url, caption, list(id) AS earlier_ids FROM pairs WHERE replaces IS NOT NULL GROUP BY ALL"


def due_pairs(
    pairs: Table, images: Table, fetches: Table, bucket: int, now: datetime, refetch_days: float | None
) -> pa.Table:
    """The pairs of one bucket that are due.

    Args:
        pairs: the table of that name, as are `images` and `fetches`.
        images: tells which pairs have a picture.
        fetches: all earlier attempts.
        bucket: the bucket.
        now: the current time.
        refetch_days: age at which a picture is requested again; None for never.

    Returns:
        The columns of each pair that a fetch needs, with `attempt` and `failures` so far, `picture` (the sha256 of the
        bytes that it has), the validators of its last response, `location` (of a picture that came with it) and
        `earlier_ids` (of pairs that other bytes at its URL have had).
    """
    events, due, before = NO_EVENTS, WITHOUT_PICTURE, now
    if refetch_days is not None and min(pairs.version, fetches.version) >= 0:
        events, before = _events(*_version_key(pairs), *_version_key(fetches)), now - timedelta(days=refetch_days)
        due = f"{WITHOUT_PICTURE} UNION ALL BY NAME {OLD_PICTURE}"
    due = due.format(now=now.isoformat(), before=before.isoformat())
    rows = query(
        f"{LAST_FETCHES}, replaced AS ({REPLACED}) {due} ORDER BY {FILE_ORDER}",
        pairs=pairs.dataset(bucket),
        images=images.dataset(bucket),
        fetches=fetches.dataset(bucket),
        events=events,
    )
    if rows["picture"].null_count == rows["replaces"].null_count == rows.num_rows:
        return rows.append_column("earlier_ids", pa.nulls(rows.num_rows, pa.list_(pa.string())))
    return query(
        f"SELECT rows.*, earlier_ids FROM rows LEFT JOIN replacement_ids USING (url, caption) ORDER BY {FILE_ORDER}",
        rows=rows,
        replacement_ids=_replacement_ids(*_version_key(pairs)),
    )


def _version_key(table: Table) -> tuple[str, str, int]:
    """What identifies one version of a table, as a cache's key."""
    return table.name, table.url, table.version


@lru_cache(maxsize=1)
def _events(*version_keys: Any) -> pa.Table:
    """All replacement events of a lake: few, and the same for every bucket of a plan."""
    return query(EVENTS, pairs=_dataset(*version_keys[:3]), fetches=_dataset(*version_keys[3:]))


@lru_cache(maxsize=1)
def _replacement_ids(*version_key: Any) -> pa.Table:
    return query(REPLACEMENT_IDS, pairs=_dataset(*version_key))


def _dataset(name: str, url: str, version: int) -> pads.Dataset:
    table = Table.open(name, url, version)
    assert table is not None
    return table.dataset()
