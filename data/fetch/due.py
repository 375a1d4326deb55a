"""Finds the pairs that are due for fetching: new pairs, transient failures whose wait is over, and old pictures.

When the bytes at a URL change, the new bytes become a new pair. Its column `replaces` names the old pair, and the
`replaced_by` of the attempt that received the bytes names the new pair. So of all pairs that one URL and caption have
had, exactly one is current: the pair whose bytes were received last. If earlier bytes come back, their pair becomes
current again under its old id.
"""

from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pads

from data.lake.sql import query
from data.lake.table import Table

# The part of an attempt that counts if a host backed off and the pair was not requested. It is small but not zero, so
# that pairs of a host that never accepts requests are given up eventually.
SKIPPED_ATTEMPT = 0.1

# Each row: pair `new_id` replaced pair `id` at a time `at`. Two simultaneous builds may replace one pair by different
# bytes. Then the later of the two new pairs also replaces the earlier one.
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

# Pictures that a source stores together with its pairs are read in the order in which they are stored.
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

# Pairs that are not current, and the pair that replaced each of them.
REPLACED = """
    SELECT went.id, went.replaced_by
    FROM (SELECT id, max(events.at) AS at, arg_max(new_id, events.at) AS replaced_by FROM events GROUP BY id) went
    LEFT JOIN (SELECT new_id AS id, max(events.at) AS at FROM events GROUP BY new_id) back USING (id)
    WHERE back.at IS NULL OR went.at >= back.at
"""

# `last_answer`: the last response with the pair's picture; `tries`: the last attempt, and the number of failures since.
# DuckDB's arg_max skips rows whose value is null. A struct is never null.
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
    """Find the pairs of one bucket that are due.

    Args:
        pairs: the table `pairs`.
        images: the table `images`, which shows which pairs have a picture.
        fetches: the table `fetches` of all earlier attempts.
        bucket: the bucket.
        now: the current time.
        refetch_days: age in days at which a picture is requested again; None for never.

    Returns:
        One row per due pair, with the columns that a fetch needs. These include the numbers `attempt` and `failures` so
        far, `picture` (the SHA-256 of the bytes that the pair has), and the validators of the last response. `location`
        is the location of a picture that the source stores, and `earlier_ids` are the ids of pairs for other bytes of
        the same URL.
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
    """Return a cache key that identifies one version of a table."""
    return table.name, table.url, table.version


@lru_cache(maxsize=1)
def _events(*version_keys: Any) -> pa.Table:
    """Read all replacement events of a lake. They are few, and the same for every bucket of a plan."""
    return query(EVENTS, pairs=_dataset(*version_keys[:3]), fetches=_dataset(*version_keys[3:]))


@lru_cache(maxsize=1)
def _replacement_ids(*version_key: Any) -> pa.Table:
    return query(REPLACEMENT_IDS, pairs=_dataset(*version_key))


def _dataset(name: str, url: str, version: int) -> pads.Dataset:
    table = Table.open(name, url, version)
    assert table is not None
    return table.dataset()
